//! All cases of a call: a failed one is named and doesn't stop the others.

use crate::lineup::{FirstStage, Lineup, Previous, Tiling};
use crate::predict::{Predictor, Took};
use crate::prepare::{Job, Next, Prefetch, Prepared};
use crate::previous::{Given, NextStage};
use crate::units::{self, Source, Unit};
use artifact::case::IMAGE;
use artifact::image::folder::linked;
use artifact::{Provenance, hash_bytes, image, prediction, previous};
use net::DeviceArgs;
use preprocess::Extent;
use stage::threads::Beside;
use stage::{CaseFiles, Error, Exit, Result, Run};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// What predicts.
    pub models: Models,
    /// What to predict.
    pub input: Input,
    /// Replaces the plan's `inference.step`.
    pub step: Option<f64>,
    /// Average over flips, if the plan does.
    pub mirroring: bool,
    /// Write probabilities too.
    pub probabilities: bool,
    /// What to run on.
    pub device: DeviceArgs,
    /// Folder of the predictions.
    pub out: PathBuf,
}

/// What predicts.
#[derive(Debug, Clone)]
pub enum Models {
    /// Models of one configuration.
    Folders {
        /// Folders that `nnu-train` wrote.
        models: Vec<PathBuf>,
        /// Folders with predictions of the configuration's previous stage.
        previous: Vec<PathBuf>,
        /// Models of the previous stage.
        previous_models: Vec<PathBuf>,
        /// Folder of preprocessed cases of the configuration that reads these predictions.
        next_stage: Option<PathBuf>,
    },
    /// What `selection.toml` says.
    Selection(PathBuf),
}

/// What to predict.
#[derive(Debug, Clone)]
pub enum Input {
    /// The files of one case.
    Files {
        /// One file per channel, or one 4D file.
        files: Vec<PathBuf>,
        /// Case id; otherwise the first file's name.
        id: Option<String>,
    },
    /// All images of a folder.
    Images {
        /// The folder.
        folder: PathBuf,
        /// Only these cases; none: all.
        only: Vec<String>,
    },
    /// Preprocessed cases of a folder.
    Cases {
        /// The folder.
        folder: PathBuf,
        /// Only these cases; none: all.
        only: Vec<String>,
        /// Only the cases that the model was validated on.
        validation: bool,
    },
}

/// Predicts every case that isn't up to date.
///
/// # Errors
/// If models don't fit each other or the cases, or any case failed: its own error if it's the only case, otherwise how
/// many, after each was reported.
pub fn run(request: &Request, run: &Run) -> Result<()> {
    let device = request.device.open(run)?;
    let lineup = line_up(request)?;
    let units = find(&request.input, &lineup)?;
    if let Input::Files { files, .. } = &request.input {
        units::misnamed(files).iter().for_each(|line| run.warn(line));
    }
    let job = job(request, &lineup, run, device.kind())?;
    keep_inputs(&units, &job)?;
    let models: usize = lineup.stages.iter().map(|s| s.ensemble.members.len()).sum();
    run.info(format!(
        "{models} model{} of {}, {} case{}",
        s(models),
        lineup.stages.iter().map(|s| s.ensemble.name.as_str()).collect::<Vec<_>>().join(", "),
        units.len(),
        s(units.len())
    ));
    let records = units.iter().map(|unit| job.record(unit)).collect();
    // The first case is read while the weights are.
    let nexts = Prefetch::new(job, units);
    let predictor = Predictor::new(lineup, request.probabilities, device)?;
    all(run, records, nexts, predictor)
}

fn line_up(request: &Request) -> Result<Lineup> {
    let tiling = Tiling { step: request.step, mirroring: request.mirroring };
    match &request.models {
        Models::Selection(path) => Ok(Lineup::of_selection(path, tiling)?),
        Models::Folders { models, previous, previous_models, .. } => {
            let first = FirstStage {
                predictions: previous.clone(),
                models: previous_models.clone(),
                can_run: !matches!(request.input, Input::Cases { .. }),
            };
            let lineup = Lineup::of_models(models, &first, tiling)?;
            let asked = !previous.is_empty() || !previous_models.is_empty();
            match lineup.stages.last() {
                Some(last) if asked && last.previous == Previous::None => {
                    Err(Error::usage(format!(
                        "--previous: {} reads no prediction of another configuration",
                        last.ensemble.name
                    )))
                }
                _ => Ok(lineup),
            }
        }
    }
}

/// What all cases have in common.
fn job(request: &Request, lineup: &Lineup, run: &Run, device: &str) -> Result<Job> {
    let mirroring = lineup.stages.iter().any(|s| !s.window.mirror_axes.is_empty());
    let mut provenance = run
        .provenance()
        .device(device)
        .option("configuration", lineup.name())
        .option("mirroring", mirroring)
        .option("probabilities", request.probabilities);
    for stage in &lineup.stages {
        let role = |name: &str| if stage.counts { name.into() } else { format!("previous_{name}") };
        let step = if stage.counts { "step" } else { "previous_step" };
        provenance = provenance
            .option(step, stage.window.step)
            .input(role("plan"), stage.ensemble.plan_hash.as_str());
        for member in &stage.ensemble.members {
            provenance = provenance.input(role("weights"), member.hash.as_str());
        }
    }
    if let Some(rules) = &lineup.postprocessing {
        let text = artifact::text(&Provenance::default(), rules).map_err(Error::failed)?;
        provenance = provenance.input("postprocessing", hash_bytes(text.as_bytes()));
    }
    let (mut given, mut next) = (None, None);
    if let Models::Folders { previous, next_stage, .. } = &request.models {
        let reader = lineup.stages.iter().find(|s| s.previous == Previous::Given);
        given = reader
            .and_then(|s| s.ensemble.configuration.previous_stage.clone())
            .map(|configuration| Given { folders: previous.clone(), configuration });
        if let (Some(folder), Some(last)) = (next_stage, lineup.stages.last()) {
            next = Some(NextStage::new(folder, &lineup.plan, &last.ensemble.name)?);
        }
    }
    Ok(Job {
        plan: lineup.plan.clone(),
        configurations: lineup.cases(),
        cascade: lineup.stages.iter().any(|s| s.previous != Previous::None),
        given,
        next,
        out: request.out.clone(),
        provenance,
        outputs: run.outputs(),
    })
}

fn s(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// The cases asked for.
fn find(input: &Input, lineup: &Lineup) -> Result<Vec<Unit>> {
    Ok(match input {
        Input::Files { files, id } => vec![units::from_files(files, id.as_deref())?],
        Input::Images { folder, only } => {
            units::from_folder(folder, lineup.plan.channels.len(), only)?
        }
        Input::Cases { folder, only, validation } => {
            let mut found = units::from_cases(folder)?;
            if *validation {
                let members = || lineup.stages.iter().flat_map(|s| &s.ensemble.members);
                let (Some(member), 1) = (members().next(), members().count()) else {
                    return Err(Error::usage(format!(
                        "--validation with {} models, expected one",
                        members().count()
                    ))
                    .hint("each fold's validation cases were seen in training by the other folds' models"));
                };
                found = units::select(found, folder, &member.validation)?;
            }
            if only.is_empty() { found } else { units::select(found, folder, only)? }
        }
    })
}

/// Whether no case's prediction would replace what is read for any.
fn keep_inputs(units: &[Unit], job: &Job) -> Result<()> {
    let mut files = CaseFiles::default();
    let named = |unit: &&Unit| !matches!(unit.source, Source::Unnamed(_));
    for unit in units.iter().filter(named) {
        files.writes("--out", prediction::outputs(&job.out, &unit.id));
        let record = previous::path(&job.out, &unit.id);
        files.writes("--out", [record.with_file_name(previous::ARRAY), record]);
        match &unit.source {
            Source::Images(images) => {
                let of = |image: &PathBuf| {
                    // What can't be read fails with its case.
                    image::files_of(image).unwrap_or_else(|_| vec![image.clone()])
                };
                files.reads("an image", images.iter().flat_map(of));
            }
            Source::Case(record) => {
                files.reads("--cases", [record.clone(), record.with_file_name(IMAGE)]);
            }
            Source::Unnamed(_) => {}
        }
        if let Some(given) = &job.given {
            files.reads("--previous", given.files(&unit.id));
        }
    }
    files.check()
}

fn all(
    run: &Run,
    records: Vec<PathBuf>,
    mut nexts: Prefetch,
    mut predictor: Predictor,
) -> Result<()> {
    let total = records.len();
    let mut failed = Vec::new();
    let mut ended = |id: String, result: Result<()>| match result {
        Ok(()) => Ok(()),
        Err(error) if error.exit == Exit::Interrupted => Err(error),
        Err(error) if total == 1 => Err(error.context(&id)),
        Err(error) => {
            run.report(&error.clone().context(&id));
            failed.push((id, error.exit));
            Ok(())
        }
    };
    // At most one case is being written; whatever happens, it is waited for.
    let mut writing: Option<Writing> = None;
    for record in records {
        let Next { unit, result } =
            nexts.next().ok_or_else(|| Error::failed("the thread that reads cases ended early"))?;
        run.check_stop()?;
        let result = match result {
            Ok(None) => {
                run.info(format!("{} is up to date", record.display()));
                continue;
            }
            Ok(Some(prepared)) => one(run, &unit, prepared, &mut predictor),
            Err(error) => Err(error),
        };
        if let Ok(None) = result {
            run.info(format!("{} is up to date", record.display()));
        }
        if let Some(before) = writing.take() {
            before.end(run, &mut ended)?;
        }
        match result {
            Ok(now) => writing = now,
            Err(error) => ended(unit.id, Err(error))?,
        }
    }
    if let Some(last) = writing.take() {
        last.end(run, &mut ended)?;
    }
    if failed.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = failed.iter().map(|(id, _)| id.as_str()).collect();
    let message = format!("{} of {total} cases failed: {}", failed.len(), names.join(", "));
    // The inputs' fault only if nothing else went wrong.
    let inputs = failed.iter().all(|(_, exit)| *exit == Exit::Input);
    Err(if inputs { Error::input(message) } else { Error::failed(message) })
}

/// A case whose label map is being written.
#[derive(Debug)]
struct Writing {
    id: String,
    read: Duration,
    preprocess: Duration,
    took: Took,
    written: Option<Beside<Result<Duration>>>,
}

impl Writing {
    /// Waits for the file, and says how the case ended.
    fn end(
        mut self,
        run: &Run,
        ended: &mut dyn FnMut(String, Result<()>) -> Result<()>,
    ) -> Result<()> {
        let ended_early = || Error::failed("the thread that writes the label map ended early");
        let written = self.written.take().and_then(Beside::join);
        let result = written.unwrap_or_else(|| Err(ended_early()));
        let id = std::mem::take(&mut self.id);
        let result = result.map(|write| {
            let ms = |d: Duration| d.as_millis();
            run.info(format!(
                "{id}: read {} ms, preprocess {} ms, network {} ms, export {} ms",
                ms(self.read),
                ms(self.preprocess),
                ms(self.took.network),
                ms(self.took.export + write)
            ));
        });
        ended(id, result)
    }
}

impl Drop for Writing {
    /// Nothing is left half-written behind a call that ends early.
    fn drop(&mut self) {
        // The error that ends the call is told; this case is made again next time if it failed.
        let _ = self.written.take().and_then(Beside::join);
    }
}

/// None if another program has predicted the case meanwhile.
fn one(
    run: &Run,
    unit: &Unit,
    prepared: Prepared,
    predictor: &mut Predictor,
) -> Result<Option<Writing>> {
    let (read, preprocess) = (prepared.read, prepared.preprocess);
    if let Source::Images(files) = &unit.source {
        linked(files).iter().for_each(|linked| run.warn(linked));
    }
    prepared.apart.iter().for_each(|apart| run.warn(apart));
    if let Some(strange) = prepared.grids().iter().find_map(|g| Extent::of_case(&g.case).strange())
    {
        run.warn(format!("{}: {strange}", unit.id));
    }
    let Some((took, segmentation)) = predictor.contained(run, &unit.id, prepared)? else {
        return Ok(None);
    };
    let written = Beside::run(segmentation, |segmentation| {
        let begun = Instant::now();
        stage::contain(|| segmentation.write()).map(|()| begun.elapsed())
    });
    Ok(Some(Writing { id: unit.id.clone(), read, preprocess, took, written: Some(written) }))
}
