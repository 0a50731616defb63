//! One case through all models, back to its own grid, onto the disk.

use crate::average::Average;
use crate::ensemble::Member;
use crate::export::{EachOutput, Grid, Outputs, into_image, write_f16};
use crate::lineup::{Lineup, Previous, Stage};
use crate::maps::Maps;
use crate::memory;
use crate::prepare::Prepared;
use artifact::case::Case;
use artifact::prediction::{PROBABILITIES, Prediction, PredictionInfo};
use artifact::recipe::Averaged;
use artifact::{Commit, image, npy, previous};
use half::f16;
use ndarray::Array3;
use net::sliding_window::{Activation, Means, Sums, Window, views};
use net::{Device, UNet};
use postprocess::decision::Decision;
use postprocess::largest;
use stage::{Error, Result, Run};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Models, ready to predict.
#[derive(Debug)]
pub struct Predictor {
    lineup: Lineup,
    probabilities: bool,
    device: Device,
    loaded: Option<Loaded>,
}

/// The network in memory, and whose weights it holds.
#[derive(Debug)]
struct Loaded {
    stage: usize,
    member: usize,
    net: UNet,
}

/// How long the parts of a case took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Took {
    /// All tiles and views of all models.
    pub network: Duration,
    /// Back to the original grid, and writing.
    pub export: Duration,
}

impl Predictor {
    /// Tries every model's weights.
    ///
    /// # Errors
    /// If weights don't fit the plan's network.
    pub fn new(lineup: Lineup, probabilities: bool, device: Device) -> Result<Self> {
        let mut predictor = Self { lineup, probabilities, device, loaded: None };
        for stage in 0..predictor.lineup.stages.len() {
            for member in 0..predictor.lineup.stages[stage].ensemble.members.len() {
                predictor.load(stage, member)?;
            }
        }
        Ok(predictor)
    }

    /// The network of a stage with a member's weights. Only one network is in memory at a time.
    fn load(&mut self, stage: usize, member: usize) -> Result<&mut UNet> {
        let ensemble = &self.lineup.stages[stage].ensemble;
        let loaded = match self.loaded.take().filter(|l| l.stage == stage) {
            Some(loaded) if loaded.member == member => loaded,
            other => {
                let mut net = match other {
                    Some(loaded) => loaded.net,
                    None => UNet::new(&ensemble.configuration.network, &self.device)
                        .map_err(|e| Error::input(e.to_string()))?,
                };
                let Member { weights, parameters, .. } = &ensemble.members[member];
                net.set_parameters(parameters).map_err(|e| {
                    Error::input(format!("{}: {e}", weights.display())).hint(
                        "weights and plan.toml of a model belong together; train this fold again",
                    )
                })?;
                Loaded { stage, member, net }
            }
        };
        Ok(&mut self.loaded.insert(loaded).net)
    }

    /// Predicts a case and writes its record with label map and, if asked for, probabilities.
    ///
    /// # Errors
    /// If a signal asked to stop, the network gives no numbers, or something can't be written.
    pub fn predict(&mut self, run: &Run, id: &str, mut prepared: Prepared) -> Result<Took> {
        self.announce(run, id, &prepared)?;
        let mut took = Took::default();
        // A place that can't be written to is better found before the network runs.
        let mut commit = Some(Commit::begin(&prepared.record)?);
        let folder = prepared.record.parent().unwrap_or(Path::new("")).to_path_buf();
        let mut average = Average::default();
        let mut left = self.lineup.counting();
        // By the stage that reads them.
        let mut classes: Vec<Option<Array3<i16>>> = vec![None; self.lineup.stages.len()];
        for at in 0..self.lineup.stages.len() {
            let given = match self.lineup.stages[at].previous {
                Previous::None => None,
                Previous::Given => prepared.previous.take(),
                Previous::Stage(_) => classes[at].take(),
            };
            let begun = Instant::now();
            let means = self.means(run, id, at, &prepared, given)?;
            took.network += begun.elapsed();
            let begun = Instant::now();
            let Stage { ensemble, decoding, counts, .. } = &self.lineup.stages[at];
            let case = &prepared.grid(ensemble.cases()).case;
            let mut maps = Maps::new(means, case, decoding);
            for (reader, stage) in self.lineup.stages.iter().enumerate() {
                if stage.previous == Previous::Stage(at) {
                    let grid = Grid::of(&prepared.grid(stage.ensemble.cases()).case);
                    classes[reader] = Some(maps.classes(grid)?);
                }
            }
            if let Some(target) = &prepared.next {
                let folds = ensemble.members.iter().map(|m| m.fold).collect();
                target.write(&ensemble.name, folds, maps.classes(target.grid())?.view())?;
            }
            left -= usize::from(*counts);
            match (counts, left, &mut commit) {
                (true, 0, commit @ Some(_)) => {
                    if let Some(commit) = commit.take() {
                        self.write(commit, &prepared, id, case, &mut maps, &mut average)?;
                    }
                }
                (true, ..) => {
                    let (outputs, grid) = (maps.outputs()?, Grid::original(&case.original));
                    average.add(outputs, grid, &folder).map_err(|e| {
                        Error::failed(format!(
                            "cannot write a temporary file in {}: {e}",
                            folder.display()
                        ))
                    })?;
                }
                _ => {}
            }
            took.export += begun.elapsed();
        }
        if !self.probabilities {
            // An earlier call's: it isn't this record's any more.
            let _ = std::fs::remove_file(prepared.record.with_file_name(PROBABILITIES));
        }
        if prepared.next.is_none() {
            // An earlier call's too, and perhaps of other models: record first, so that nothing is half there.
            for name in [previous::RECORD, previous::ARRAY] {
                let _ = std::fs::remove_file(prepared.record.with_file_name(name));
            }
        }
        Ok(took)
    }

    fn announce(&self, run: &Run, id: &str, prepared: &Prepared) -> Result<()> {
        let last = self.lineup.stages.last().map(|s| s.ensemble.cases()).unwrap_or_default();
        let [z, y, x] = prepared.grid(last).case.case.shape;
        let count: usize = self
            .lineup
            .stages
            .iter()
            .map(|stage| {
                let case = &prepared.grid(stage.ensemble.cases()).case;
                stage.ensemble.members.len() * views(case.case.shape, &window(stage, case))
            })
            .sum();
        let bytes = memory::bytes(&self.lineup, &self.device, prepared, self.probabilities)?;
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        let card = match bytes.card {
            0 => String::new(),
            bytes => format!(", {} MB on the card", megabytes(bytes)),
        };
        run.info(format!(
            "{id}: {z} × {y} × {x} voxels, {count} patches, about {} MB of memory{card}",
            megabytes(bytes.host)
        ));
        Ok(())
    }

    /// What the models of a stage give on the preprocessed grid, averaged: `[output, z, y, x]`.
    fn means(
        &mut self,
        run: &Run,
        id: &str,
        at: usize,
        prepared: &Prepared,
        previous: Option<Array3<i16>>,
    ) -> Result<Means> {
        let stage = &self.lineup.stages[at];
        let grid = prepared.grid(stage.ensemble.cases());
        let classes = self.lineup.plan.labels.len();
        let own;
        let image = match previous {
            None => grid.image(),
            Some(map) => {
                own = previous::input(grid.image(), map.view(), classes);
                own.view()
            }
        };
        let window = window(stage, &grid.case);
        let members = stage.ensemble.members.len();
        let several = self.lineup.stages.len() > 1;
        let name = if several {
            format!("{id}: {} patches", stage.ensemble.name)
        } else {
            format!("{id}: patches")
        };
        let progress = run.progress(&name, members * views(grid.case.case.shape, &window));
        let mut sums = Sums::new(self.load(at, 0)?, image, &window)?;
        if matches!((&self.device, &sums), (Device::Cuda(_), Sums::Host(_))) {
            run.info(format!(
                "{id}: the card hasn't the memory for the whole case; patches go there one by one"
            ));
        }
        for member in 0..members {
            sums.add(self.load(at, member)?, image, &mut |done| {
                progress.add(done);
                run.check_stop()
            })?;
        }
        finite(sums.means()?)
    }

    fn write(
        &self,
        mut commit: Commit,
        prepared: &Prepared,
        id: &str,
        case: &Case,
        maps: &mut Maps<'_>,
        average: &mut Average,
    ) -> Result<()> {
        let plan = &self.lineup.plan;
        let original = &case.original;
        let mut classes = Array3::zeros((0, 0, 0));
        if self.probabilities {
            let [z, y, x] = original.geometry.shape;
            let outputs = maps.outputs()?;
            let count = outputs.maps.dim().0;
            let background = outputs.decoding.activation == Activation::Softmax;
            commit.stream(PROBABILITIES, |out| {
                out.write_all(&npy::encode_header::<f16>(&[count, z, y, x]))?;
                classes = decide(outputs, case, average, &mut |output, map| {
                    // Nothing was seen outside the crop box: background, and in no region.
                    let outside = if background && output == 0 { 1.0 } else { 0.0 };
                    write_f16(out, map, original, outside)
                })?;
                Ok(())
            })?;
        } else if average.is_empty() {
            classes = maps.classes(Grid::original(original))?;
        } else {
            let decided = decide(maps.outputs()?, case, average, &mut |_, _| Ok(()));
            classes = decided.map_err(|e| Error::failed(e.to_string()))?;
        }
        let mut classes = into_image(classes, original);
        if let Some(rules) = &self.lineup.postprocessing {
            largest::apply(rules, &mut classes);
        }
        let mut class_voxels = vec![0u64; plan.labels.len()];
        let values: Vec<i32> = plan.labels.iter().map(|l| l.value).collect();
        let labels = classes.map(|class| {
            // Class indices are positions in the labels, whose values are at most 32767.
            let class = usize::from(class.unsigned_abs());
            class_voxels[class] += 1;
            u16::try_from(values[class]).unwrap_or(0)
        });
        // Pairs of header and voxels come back as one file.
        let ending = match plan.dataset.file_ending.as_str() {
            ending @ (".nii" | ".png") => ending,
            _ => ".nii.gz",
        };
        let name = &format!("segmentation{ending}");
        commit.bytes(name, &image::encode_labels(labels.view(), &original.geometry, ending)?)?;
        let info = PredictionInfo {
            case: id.into(),
            segmentation: name.into(),
            shape: original.geometry.shape,
            spacing_mm: original.geometry.spacing_mm,
            class_voxels,
        };
        let body = Prediction {
            prediction: info,
            labels: plan.labels.clone(),
            regions: plan.regions.clone(),
        };
        Ok(commit.finish(&prepared.provenance, &body)?)
    }
}

/// The stage's tiling for this image: some axes of the body may be forbidden to mirror.
pub(crate) fn window(stage: &Stage, case: &Case) -> Window {
    let never = &stage.ensemble.plan.recipe.augmentation.never_mirror;
    let mirror_axes = case.original.mirror_axes(&stage.window.mirror_axes, never);
    Window { mirror_axes, ..stage.window.clone() }
}

fn finite(means: Means) -> Result<Means> {
    match means.finite() {
        true => Ok(means),
        false => Err(Error::failed("the network's output holds NaN or infinity").hint(
            "look at this case's intensities and at the training's history for a diverged loss",
        )),
    }
}

/// Class indices in the crop box at the image's spacing, from the last configuration's outputs and the earlier ones'
/// probabilities, if there are any; `each` is told every output's probabilities.
fn decide(
    outputs: Outputs<'_>,
    case: &Case,
    average: &mut Average,
    each: &mut EachOutput<'_>,
) -> io::Result<Array3<i16>> {
    let grid = Grid::original(&case.original);
    if average.is_empty() {
        return outputs.probabilities(grid, each);
    }
    let rule = outputs.decoding.rule(Averaged::Probabilities);
    let mut decision = Decision::new(grid.shape, &rule);
    outputs.probabilities(grid, &mut |output, map| {
        let mean = average.mean(output, map)?;
        decision.see(output, mean.view());
        each(output, mean.view())
    })?;
    Ok(decision.into_classes())
}
