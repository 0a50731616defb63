//! The models of one prediction: read, held against each other, in an order of their own.

use artifact::model::{Model, PLAN, WEIGHTS};
use artifact::npz::Named;
use artifact::plan::{Configuration, Plan};
use artifact::recipe::Inference;
use artifact::{Error, Record, Result, hash_file, npz};
use net::sliding_window::Window;
use std::path::{Path, PathBuf};

/// Models that are averaged: same plan, same configuration.
#[derive(Debug)]
pub struct Ensemble {
    /// The plan that all of them were trained for.
    pub plan: Plan,
    /// Hash of the plan's file.
    pub plan_hash: String,
    /// Name of the configuration.
    pub name: String,
    /// The configuration.
    pub configuration: Configuration,
    /// By fold, then by weights: the order on the command line changes no bit.
    pub members: Vec<Member>,
}

/// One trained network.
#[derive(Debug)]
pub struct Member {
    /// Its weights file.
    pub weights: PathBuf,
    /// Hash of the weights file.
    pub hash: String,
    /// Fold.
    pub fold: usize,
    /// Cases that it was validated on.
    pub validation: Vec<String>,
    /// The weights.
    pub parameters: Named,
}

impl Ensemble {
    /// Reads the folders that `nnu-train` wrote (`model.toml`, `weights.npz`, `plan.toml`).
    ///
    /// # Errors
    /// If a file is missing or broken, was changed after its record was written, or models don't belong together.
    pub fn load(folders: &[PathBuf]) -> Result<Self> {
        let mut loaded = folders.iter().map(|folder| Self::load_one(folder));
        let mut ensemble = loaded.next().ok_or_else(|| {
            Error::input(Path::new("--model"), "no model, expected at least one")
        })??;
        for (other, folder) in loaded.zip(&folders[1..]) {
            ensemble.join(other?, folder, &folders[0])?;
        }
        ensemble.members.sort_by(|a, b| (a.fold, &a.hash).cmp(&(b.fold, &b.hash)));
        Ok(ensemble)
    }

    fn load_one(folder: &Path) -> Result<Self> {
        let path = folder.join("model.toml");
        let record = Record::<Model>::load(&path)?;
        record.verify(&path)?;
        let info = record.body.model;
        let plan_path = folder.join(PLAN);
        let plan = Record::<Plan>::load(&plan_path)?.body;
        let configuration = plan
            .configuration(&info.configuration)
            .map_err(|e| Error::input(&plan_path, e))?
            .clone();
        check_network(&plan_path, &plan, &info.configuration, &configuration)?;
        let weights = folder.join(WEIGHTS);
        let member = Member {
            hash: hash_file(&weights)?,
            parameters: npz::read(&weights)?,
            weights,
            fold: info.fold,
            validation: info.validation,
        };
        let plan_hash = hash_file(&plan_path)?;
        Ok(Self { plan, plan_hash, name: info.configuration, configuration, members: vec![member] })
    }

    fn join(&mut self, other: Self, folder: &Path, first: &Path) -> Result<()> {
        let path = folder.join("model.toml");
        if other.name != self.name {
            return Err(Error::input(
                &path,
                format!(
                    "model.configuration = \"{}\", expected \"{}\" as in {}",
                    other.name,
                    self.name,
                    first.display()
                ),
            )
            .hint("predict with each configuration by itself"));
        }
        if other.plan_hash != self.plan_hash {
            return Err(Error::input(
                &folder.join(PLAN),
                format!("is another plan than that of {}", first.display()),
            )
            .hint("only models of one plan are averaged; train this fold again with the same plan.toml"));
        }
        self.members.extend(other.members);
        Ok(())
    }

    /// How tiles are laid, by the plan and the command line.
    pub fn window(&self, step: Option<f64>, mirroring: bool) -> Window {
        let Inference { step: planned, gaussian_sigma, mirroring: mirror, averaged, .. } =
            self.plan.recipe.inference;
        let axes = &self.plan.recipe.augmentation.mirror_axes;
        Window {
            patch: self.configuration.patch_shape,
            step: step.unwrap_or(planned),
            gaussian_sigma,
            mirror_axes: if mirroring && mirror { axes.clone() } else { Vec::new() },
            averaged,
            tile_batch: 1,
        }
    }
}

/// The network takes the plan's channels, gives its labels, and needs nothing that isn't there.
fn check_network(
    path: &Path,
    plan: &Plan,
    name: &str,
    configuration: &Configuration,
) -> Result<()> {
    if let Some(previous) = &configuration.previous_stage {
        return Err(Error::input(
            path,
            format!("configuration {name} takes the prediction of {previous} as input, which nnu-infer doesn't do"),
        )
        .hint("predict with a model of 3d_fullres, 3d_lowres or 2d"));
    }
    let net = &configuration.network;
    let counts = [
        ("input_channels", net.input_channels, plan.channels.len(), "channels"),
        ("output_channels", net.output_channels, plan.labels.len(), "labels"),
    ];
    for (field, found, expected, what) in counts {
        if found != expected {
            return Err(Error::input(
                path,
                format!(
                    "configurations.{name}.network.{field} = {found}, expected {expected}, one per entry of {what}"
                ),
            ));
        }
    }
    Ok(())
}
