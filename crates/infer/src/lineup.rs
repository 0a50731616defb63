//! Which networks predict a case, and in what order: one configuration, or two whose probabilities are averaged, each
//! after the first stage that it reads.

use crate::ensemble::Ensemble;
use crate::export::Decoding;
use artifact::model::PLAN;
use artifact::plan::Plan;
use artifact::postprocessing::Postprocessing;
use artifact::selection::{Selected, SelectedModel, Selection};
use artifact::{Error, Record, Result, hash_file};
use net::sliding_window::Window;
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// All networks of a call.
#[derive(Debug)]
pub struct Lineup {
    /// The plan that images are preprocessed by.
    pub plan: Plan,
    /// In the order in which they run: first stages before those that read them.
    pub stages: Vec<Stage>,
    /// What is done to the label maps.
    pub postprocessing: Option<Postprocessing>,
}

/// The models of one configuration.
#[derive(Debug)]
pub struct Stage {
    /// The models.
    pub ensemble: Ensemble,
    /// How tiles are laid; mirroring is restricted further by each image's anatomy.
    pub window: Window,
    /// What outputs mean.
    pub decoding: Decoding,
    /// Where the previous stage's classes come from.
    pub previous: Previous,
    /// Its probabilities are part of the result; otherwise it only serves a later stage.
    pub counts: bool,
}

/// Where the previous stage's classes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Previous {
    /// The network reads none.
    None,
    /// From predictions on the disk.
    Given,
    /// From this stage of the lineup.
    Stage(usize),
}

/// How a first stage is to be had.
#[derive(Debug, Clone, Default)]
pub struct FirstStage {
    /// Folders with its predictions.
    pub predictions: Vec<PathBuf>,
    /// Its models; none: those beside the second stage's.
    pub models: Vec<PathBuf>,
    /// The images are at hand, so that it can run.
    pub can_run: bool,
}

/// Options of the sliding window.
#[derive(Debug, Clone, Copy)]
pub struct Tiling {
    /// Replaces the plan's `inference.step`.
    pub step: Option<f64>,
    /// Average over flips, if the plan does.
    pub mirroring: bool,
}

impl Lineup {
    /// Models of one configuration, and of its previous stage if it has one and no predictions are given.
    ///
    /// # Errors
    /// If models are broken, don't fit each other, or those of the previous stage aren't there.
    pub fn of_models(models: &[PathBuf], first: &FirstStage, tiling: Tiling) -> Result<Self> {
        let ensemble = Ensemble::load(models)?;
        let plan = ensemble.plan.clone();
        let mut lineup = Self { plan, stages: Vec::new(), postprocessing: None };
        let previous = match &ensemble.configuration.previous_stage {
            None => Previous::None,
            Some(_) if !first.predictions.is_empty() => Previous::Given,
            Some(name) => {
                if !first.can_run {
                    return Err(Error::input(
                        &models[0],
                        format!("{} reads the prediction of {name}, which preprocessed cases don't hold", ensemble.name),
                    )
                    .hint("give --previous DIR with CASE/previous.toml, which nnu-infer --next-stage writes, or predict from --images"));
                }
                let folders = if first.models.is_empty() {
                    beside(models, name, &ensemble.name)?
                } else {
                    first.models.clone()
                };
                let before = Ensemble::load(&folders)?;
                lineup.push_first(before, &folders[0], name, &ensemble.name, tiling)?;
                Previous::Stage(0)
            }
        };
        lineup.push(ensemble, previous, true, tiling);
        Ok(lineup)
    }

    /// Everything that `selection.toml` names.
    ///
    /// # Errors
    /// If a model isn't there, was changed since, or doesn't fit the selection.
    pub fn of_selection(path: &Path, tiling: Tiling) -> Result<Self> {
        let selection = Record::<Selection>::load(path)?.body;
        let Selected { configurations: chosen, .. } = &selection.selection;
        let mut lineup: Option<Self> = None;
        let Some(any) = selection.models.first() else {
            return Err(Error::input(path, "names no models"));
        };
        let plan = Record::<Plan>::load(&base(path).join(&any.folder).join(PLAN))?.body;
        let mut names: Vec<&String> = Vec::new();
        for name in chosen {
            let configuration = plan.configurations.get(name);
            let before = configuration.and_then(|c| c.previous_stage.as_ref());
            names.extend(before.into_iter().chain([name]));
        }
        let mut seen = BTreeSet::new();
        for name in names.into_iter().filter(|name| seen.insert(name.as_str())) {
            let (ensemble, folder) = load_selected(path, &selection, name)?;
            let lineup = lineup.get_or_insert_with(|| Self {
                plan: ensemble.plan.clone(),
                stages: Vec::new(),
                postprocessing: Some(selection.postprocessing.clone()),
            });
            lineup.check_fit(&ensemble, &folder)?;
            if (&ensemble.plan.labels, &ensemble.plan.regions)
                != (&selection.labels, &selection.regions)
            {
                return Err(Error::input(
                    path,
                    format!("has other labels than {}", folder.join(PLAN).display()),
                )
                .hint("run nnu-postprocess select again"));
            }
            let previous = match &ensemble.configuration.previous_stage {
                None => Previous::None,
                Some(first) => lineup
                    .stages
                    .iter()
                    .position(|s| s.ensemble.name == *first)
                    .map_or(Previous::None, Previous::Stage),
            };
            lineup.push(ensemble, previous, chosen.contains(name), tiling);
        }
        lineup.ok_or_else(|| Error::input(path, "selects no configuration"))
    }

    fn push_first(
        &mut self,
        first: Ensemble,
        folder: &Path,
        expected: &str,
        reader: &str,
        tiling: Tiling,
    ) -> Result<()> {
        if first.name != expected {
            return Err(Error::input(
                &folder.join("model.toml"),
                format!(
                    "model.configuration = \"{}\", expected \"{expected}\", the previous stage of {reader}",
                    first.name
                ),
            )
            .hint(format!("name models of {expected} by --previous-model")));
        }
        if let Some(other) = &first.configuration.previous_stage {
            return Err(Error::input(
                &folder.join(PLAN),
                format!(
                    "{expected} reads the prediction of {other} itself, expected a stage that reads images only"
                ),
            ));
        }
        self.check_fit(&first, folder)?;
        self.push(first, Previous::None, false, tiling);
        Ok(())
    }

    fn check_fit(&self, ensemble: &Ensemble, folder: &Path) -> Result<()> {
        ensemble.fits(&self.plan).map_err(|e| {
            Error::input(
                &folder.join(PLAN),
                format!("is another plan than that of the other models: {e}"),
            )
            .hint(format!("train {} with the same plan.toml", ensemble.name))
        })
    }

    fn push(&mut self, ensemble: Ensemble, previous: Previous, counts: bool, tiling: Tiling) {
        let window = ensemble.window(tiling.step, tiling.mirroring);
        let decoding = ensemble.decoding();
        self.stages.push(Stage { ensemble, window, decoding, previous, counts });
    }

    /// Configurations whose preprocessed cases are read, each once.
    pub fn cases(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for stage in &self.stages {
            let name = stage.ensemble.cases();
            if !names.iter().any(|n| n == name) {
                names.push(name.into());
            }
        }
        names
    }

    /// The configurations that the result is made of, such as `2d + 3d_fullres`.
    pub fn name(&self) -> String {
        let counting = self.stages.iter().filter(|s| s.counts);
        counting.map(|s| s.ensemble.name.as_str()).collect::<Vec<_>>().join(" + ")
    }

    /// How many configurations are averaged.
    pub fn counting(&self) -> usize {
        self.stages.iter().filter(|s| s.counts).count()
    }
}

/// The models of one configuration that a selection names, unchanged since; the first one's folder.
fn load_selected(path: &Path, selection: &Selection, name: &str) -> Result<(Ensemble, PathBuf)> {
    let models: Vec<&SelectedModel> =
        selection.models.iter().filter(|m| m.configuration == name).collect();
    let folders: Vec<PathBuf> = models.iter().map(|m| base(path).join(&m.folder)).collect();
    for (model, folder) in models.iter().zip(&folders) {
        let record = folder.join("model.toml");
        if hash_file(&record)? != model.hash {
            return Err(Error::input(
                &record,
                format!("was changed after {} was written", path.display()),
            )
            .hint("run nnu-postprocess select again"));
        }
    }
    let Some(first) = folders.first() else {
        return Err(Error::input(
            path,
            format!("names no model of {name}, which the selected configurations need"),
        )
        .hint("run nnu-postprocess select again with the models of every stage"));
    };
    let ensemble = Ensemble::load(&folders)?;
    if ensemble.name != name {
        return Err(Error::input(
            &first.join("model.toml"),
            format!(
                "model.configuration = \"{}\", but {} says \"{name}\"",
                ensemble.name,
                path.display()
            ),
        )
        .hint("run nnu-postprocess select again"));
    }
    Ok((ensemble, first.clone()))
}

/// The folder that a selection's paths start from.
fn base(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// All folds of `first` beside the second stage's models: `MODEL/../../FIRST/fold_K`.
fn beside(models: &[PathBuf], first: &str, reader: &str) -> Result<Vec<PathBuf>> {
    let places: BTreeSet<PathBuf> = models.iter().map(|m| grandparent(m).join(first)).collect();
    let mut folders = Vec::new();
    for place in &places {
        let Ok(entries) = std::fs::read_dir(place) else { continue };
        for entry in entries {
            let path = entry.map_err(|e| Error::io(place, "read this folder", &e))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with("fold_") && path.join("model.toml").is_file() {
                folders.push(path);
            }
        }
    }
    folders.sort();
    if folders.is_empty() {
        let place = places.into_iter().next().unwrap_or_default();
        return Err(Error::input(
            &place,
            format!("holds no fold_K/model.toml, but {reader} reads the prediction of {first}"),
        )
        .hint(format!("train {first}, or name its models by --previous-model, or its predictions by --previous")));
    }
    Ok(folders)
}

/// Two folders up, without looking at the disk where the path itself says it.
fn grandparent(folder: &Path) -> PathBuf {
    let mut parts: Vec<Component<'_>> = folder.components().collect();
    let plain = |part: Option<&Component<'_>>| matches!(part, Some(Component::Normal(_)));
    for _ in 0..2 {
        if !plain(parts.last()) {
            return folder.join("../..");
        }
        parts.pop();
    }
    parts.into_iter().collect()
}
