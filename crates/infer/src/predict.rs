//! One case through all models, back to its own grid, onto the disk.

use crate::average::Average;
use crate::ensemble::{Ensemble, Member};
use crate::export::{EachOutput, Grid, Outputs, write_f16};
use crate::lineup::{Lineup, Previous, Stage};
use crate::maps::Maps;
use crate::memory::{self, Bytes};
use crate::prepare::Prepared;
use crate::previous::{onto_grid, straight_to};
use crate::write::{Rules, Segmentation};
use artifact::case::Case;
use artifact::npz::Named;
use artifact::prediction::{PROBABILITIES, Prediction};
use artifact::recipe::{Averaged, FirstStage};
use artifact::{Commit, check_replaceable, npy, previous};
use half::f16;
use ndarray::Array3;
use net::sliding_window::{Activation, Means, Sums, Window, views};
use net::{Device, UNet};
use postprocess::decision::Decision;
use stage::{Error, Result, Run};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BELONG_TOGETHER: &str =
    "weights and plan.toml of a model belong together; train this fold again";

/// Models, ready to predict.
#[derive(Debug)]
pub struct Predictor {
    lineup: Lineup,
    rules: Arc<Rules>,
    /// By stage and member; of a single network none, as it holds them itself.
    weights: Vec<Vec<Named>>,
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
    /// Back to the original grid.
    pub export: Duration,
}

impl Predictor {
    /// Reads and tries every model's weights.
    ///
    /// # Errors
    /// If weights can't be read or don't fit the plan's network.
    pub fn new(lineup: Lineup, probabilities: bool, device: Device) -> Result<Self> {
        let mut weights = Vec::new();
        for stage in &lineup.stages {
            let Ensemble { members, configuration, .. } = &stage.ensemble;
            let read = members.iter().map(|member| {
                net::weights::read(&member.weights, &configuration.network).map_err(|e| {
                    let hint = e.hint.clone().unwrap_or_else(|| BELONG_TOGETHER.into());
                    e.hint(hint)
                })
            });
            weights.push(read.collect::<artifact::Result<Vec<Named>>>()?);
        }
        let rules =
            Rules { plan: lineup.plan.clone(), postprocessing: lineup.postprocessing.clone() };
        let rules = Arc::new(rules);
        let mut predictor = Self { lineup, rules, weights, probabilities, device, loaded: None };
        let members: Vec<usize> = predictor.weights.iter().map(Vec::len).collect();
        for (stage, &members) in members.iter().enumerate() {
            for member in 0..members {
                predictor.load(stage, member)?;
            }
        }
        if members == [1] {
            predictor.weights[0][0].clear();
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
                let Member { weights, .. } = &ensemble.members[member];
                net.set_parameters(&self.weights[stage][member]).map_err(|e| {
                    Error::input(format!("{}: {e}", weights.display())).hint(BELONG_TOGETHER)
                })?;
                Loaded { stage, member, net }
            }
        };
        Ok(&mut self.loaded.insert(loaded).net)
    }

    /// [`Self::predict`]; after a panic in it the models are as good as new.
    ///
    /// # Errors
    /// As there; also if it panicked.
    pub fn contained(
        &mut self,
        run: &Run,
        id: &str,
        prepared: Prepared,
    ) -> Result<Option<(Took, Segmentation)>> {
        let mut ended = false;
        let result = stage::contain(|| {
            let result = self.predict(run, id, prepared);
            ended = true;
            result
        });
        if !ended {
            self.load_again()?;
        }
        result
    }

    /// Puts a network that may be in the middle of anything aside, and reads the weights that only it held.
    fn load_again(&mut self) -> Result<()> {
        self.loaded = None;
        if let [members] = &mut self.weights[..]
            && let [weights] = &mut members[..]
            && weights.is_empty()
        {
            let Ensemble { members, configuration, .. } = &self.lineup.stages[0].ensemble;
            *weights = net::weights::read(&members[0].weights, &configuration.network)?;
            self.load(0, 0)?;
            self.weights[0][0].clear();
        }
        Ok(())
    }

    /// Predicts a case; writes its probabilities, if asked for, and leaves the rest to be written. None if another program
    /// has predicted it meanwhile.
    ///
    /// # Errors
    /// If a signal asked to stop, the network gives no numbers, or something can't be written.
    pub fn predict(
        &mut self,
        run: &Run,
        id: &str,
        mut prepared: Prepared,
    ) -> Result<Option<(Took, Segmentation)>> {
        check_replaceable::<Prediction>(&prepared.record)?;
        // A place that can't be written to is better found before the network runs.
        let mut commit = Some(Commit::begin(&prepared.record)?);
        if prepared.is_done()? {
            return Ok(None);
        }
        self.announce(run, id, &prepared)?;
        let mut took = Took::default();
        let mut segmentation = None;
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
            if at + 1 == self.lineup.stages.len() {
                prepared.forget_images();
            }
            let Stage { ensemble, decoding, counts, .. } = &self.lineup.stages[at];
            let case = &prepared.grid(ensemble.cases()).case;
            let mut maps = Maps::new(means, case, decoding);
            for (reader, stage) in self.lineup.stages.iter().enumerate() {
                if stage.previous == Previous::Stage(at) {
                    let next = &prepared.grid(stage.ensemble.cases()).case;
                    classes[reader] = Some(match self.lineup.plan.recipe.inference.first_stage {
                        FirstStage::Straight => maps.classes(straight_to(next, case))?,
                        FirstStage::ByImage => {
                            let found = maps.classes(Grid::original(&case.original))?;
                            onto_grid(found, prepared.outside.as_ref(), next, &self.lineup.plan)
                        }
                    });
                }
            }
            if let (Some(target), Some(commit)) = (&prepared.next, &commit) {
                let folds = ensemble.members.iter().map(|m| m.fold).collect();
                let found = maps.classes(straight_to(&target.case, case))?;
                target.write(commit, &ensemble.name, folds, found.view())?;
            }
            left -= usize::from(*counts);
            match (counts, left, commit.take_if(|_| *counts && left == 0)) {
                (true, 0, Some(mut commit)) => {
                    let original = case.original.clone();
                    let classes = self.decide(&mut commit, case, maps, &mut average)?;
                    segmentation = Some(Segmentation {
                        rules: self.rules.clone(),
                        id: id.into(),
                        classes,
                        original,
                        commit,
                        provenance: prepared.provenance.clone(),
                        probabilities: self.probabilities,
                        next: prepared.next.is_some(),
                    });
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
        segmentation
            .map(|segmentation| Some((took, segmentation)))
            .ok_or_else(|| Error::failed("no configuration makes the result"))
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
        let weights = self.weights.iter().flatten().flatten().map(|(_, a)| 4 * a.len() as u64);
        let bytes = memory::bytes(&self.lineup, &self.device, prepared, self.probabilities)?;
        let bytes = Bytes { host: bytes.host + weights.sum::<u64>(), ..bytes };
        let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
        let card = match bytes.card {
            0 => String::new(),
            bytes => format!(", {} MB on the card", megabytes(bytes)),
        };
        run.info(format!(
            "{id}: {z} × {y} × {x} voxels, {count} patches, about {} MB of memory{card}",
            megabytes(bytes.host)
        ));
        stage::memory::require(bytes.host as f64)
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

    /// Class indices in the crop box from the averages; the probabilities go to the disk, if asked for.
    fn decide(
        &self,
        commit: &mut Commit,
        case: &Case,
        mut maps: Maps<'_>,
        average: &mut Average,
    ) -> Result<Array3<i16>> {
        let original = &case.original;
        if self.probabilities {
            let [z, y, x] = original.geometry.shape;
            let outputs = maps.outputs()?;
            let count = outputs.maps.dim().0;
            let background = outputs.decoding.activation == Activation::Softmax;
            let mut classes = Array3::zeros((0, 0, 0));
            commit.stream(PROBABILITIES, |out| {
                out.write_all(&npy::encode_header::<f16>(&[count, z, y, x]))?;
                classes = decide(outputs, case, average, &mut |output, map| {
                    // Nothing was seen outside the crop box: background, and in no region.
                    let outside = if background && output == 0 { 1.0 } else { 0.0 };
                    write_f16(out, map, original, outside)
                })?;
                Ok(())
            })?;
            return Ok(classes);
        }
        if average.is_empty() {
            return maps.classes(Grid::original(original));
        }
        decide(maps.outputs()?, case, average, &mut |_, _| Ok(()))
            .map_err(|e| Error::failed(e.to_string()))
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
