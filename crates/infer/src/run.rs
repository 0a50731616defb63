//! All cases of a call: a failed one is named and doesn't stop the others.

use crate::ensemble::Ensemble;
use crate::predict::{Predictor, Took};
use crate::prepare::{Job, Next, Prepared, prefetch};
use crate::units::{self, Unit};
use net::Device;
use stage::{Error, Exit, Result, Run};
use std::path::PathBuf;
use std::time::Duration;

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Folders that `nnu-train` wrote.
    pub models: Vec<PathBuf>,
    /// What to predict.
    pub input: Input,
    /// Replaces the plan's `inference.step`.
    pub step: Option<f64>,
    /// Average over flips, if the plan does.
    pub mirroring: bool,
    /// Write probabilities too.
    pub probabilities: bool,
    /// `auto`, `cpu`, `cuda:N`.
    pub device: String,
    /// Folder of the predictions.
    pub out: PathBuf,
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
    let device = Device::open(&request.device).map_err(|e| Error::usage(e.to_string()))?;
    run.info(format!("device {}", device.describe()));
    let ensemble = Ensemble::load(&request.models)?;
    let units = find(&request.input, &ensemble)?;
    let window = ensemble.window(request.step, request.mirroring);
    let mut provenance = run
        .provenance()
        .device(device.kind())
        .option("configuration", ensemble.name.as_str())
        .option("step", window.step)
        .option("mirroring", !window.mirror_axes.is_empty())
        .option("probabilities", request.probabilities)
        .input("plan", ensemble.plan_hash.as_str());
    for member in &ensemble.members {
        provenance = provenance.input("weights", member.hash.as_str());
    }
    let job = Job {
        plan: ensemble.plan.clone(),
        configuration: ensemble.name.clone(),
        out: request.out.clone(),
        provenance,
        force: run.force(),
    };
    let models = ensemble.members.len();
    run.info(format!(
        "{models} model{} of {}, {} case{}",
        s(models),
        ensemble.name,
        units.len(),
        s(units.len())
    ));
    let predictor = Predictor::new(ensemble, window, request.probabilities, &device)?;
    all(run, job, units, predictor)
}

fn s(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// The cases asked for.
fn find(input: &Input, ensemble: &Ensemble) -> Result<Vec<Unit>> {
    Ok(match input {
        Input::Files { files, id } => vec![units::from_files(files, id.as_deref())],
        Input::Images { folder, only } => {
            let all = units::from_folder(folder, ensemble.plan.channels.len())?;
            if only.is_empty() { all } else { units::select(all, folder, only)? }
        }
        Input::Cases { folder, only, validation } => {
            let mut found = units::from_cases(folder)?;
            if *validation {
                let [member] = &ensemble.members[..] else {
                    return Err(Error::usage(format!(
                        "--validation with {} models, expected one",
                        ensemble.members.len()
                    ))
                    .hint("each fold's validation cases were seen in training by the other folds' models"));
                };
                found = units::select(found, folder, &member.validation)?;
            }
            if only.is_empty() { found } else { units::select(found, folder, only)? }
        }
    })
}

fn all(run: &Run, job: Job, units: Vec<Unit>, mut predictor: Predictor) -> Result<()> {
    let total = units.len();
    let mut failed = Vec::new();
    let record = |unit: &Unit| job.out.join(&unit.id).join("prediction.toml");
    let records: Vec<PathBuf> = units.iter().map(record).collect();
    let nexts = prefetch(job, units);
    for record in records {
        let Next { unit, result } =
            nexts.recv().map_err(|_| Error::failed("the thread that reads cases ended early"))?;
        run.check_stop()?;
        let ended = match result {
            Ok(None) => {
                run.info(format!("{} is up to date", record.display()));
                continue;
            }
            Ok(Some(prepared)) => one(run, &unit, prepared, &mut predictor),
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => {}
            Err(error) if error.exit == Exit::Interrupted => return Err(error),
            Err(error) if total == 1 => return Err(error.context(&unit.id)),
            Err(error) => {
                run.report(&error.clone().context(&unit.id));
                failed.push((unit.id, error.exit));
            }
        }
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

fn one(run: &Run, unit: &Unit, prepared: Prepared, predictor: &mut Predictor) -> Result<()> {
    let (read, preprocess) = (prepared.read, prepared.preprocess);
    let Took { network, export } = predictor.predict(run, &unit.id, prepared)?;
    let ms = |d: Duration| d.as_millis();
    run.info(format!(
        "{}: read {} ms, preprocess {} ms, network {} ms, export {} ms",
        unit.id,
        ms(read),
        ms(preprocess),
        ms(network),
        ms(export)
    ));
    Ok(())
}
