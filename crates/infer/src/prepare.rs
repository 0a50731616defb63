//! From a unit of work to what the network reads; runs on a thread of its own while the network is at the case before.

use crate::units::{Source, Unit};
use artifact::case::{Case, IMAGE, OpenCase};
use artifact::dataset::Stack;
use artifact::nifti::{self, Volume};
use artifact::plan::Plan;
use artifact::prediction::Prediction;
use artifact::{Provenance, hash_bytes, hash_file, up_to_date};
use ndarray::{Array4, ArrayView4};
use stage::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What all cases of a call have in common.
#[derive(Debug, Clone)]
pub struct Job {
    /// The models' plan.
    pub plan: Plan,
    /// Their configuration.
    pub configuration: String,
    /// Folder of the predictions.
    pub out: PathBuf,
    /// Models and options; each case adds its image.
    pub provenance: Provenance,
    /// Predict again even if the output is up to date.
    pub force: bool,
}

/// A case that the network can read.
#[derive(Debug)]
pub struct Prepared {
    /// The record to write: `OUT/CASE/prediction.toml`.
    pub record: PathBuf,
    /// Of the prediction.
    pub provenance: Provenance,
    /// How to get back to the original grid.
    pub case: Case,
    image: Image,
    /// Reading and hashing.
    pub read: Duration,
    /// Preprocessing; zero for cases that were preprocessed before.
    pub preprocess: Duration,
}

#[derive(Debug)]
enum Image {
    Mapped(Box<OpenCase>),
    Made(Array4<f32>),
}

impl Prepared {
    /// `[channel, z, y, x]`.
    pub fn image(&self) -> ArrayView4<'_, f32> {
        match &self.image {
            Image::Mapped(case) => case.image(),
            Image::Made(image) => image.view(),
        }
    }
}

impl Job {
    /// The record of a unit's prediction.
    pub fn record(&self, unit: &Unit) -> PathBuf {
        self.out.join(&unit.id).join("prediction.toml")
    }

    /// Reads and preprocesses a unit; none if its prediction is up to date.
    ///
    /// # Errors
    /// If a file is missing or broken, or doesn't fit the plan.
    pub fn prepare(&self, unit: &Unit) -> Result<Option<Prepared>> {
        match &unit.source {
            Source::Images(files) => self.read_images(unit, files),
            Source::Case(record) => self.open_case(unit, record),
        }
    }

    fn is_done(&self, unit: &Unit, provenance: &Provenance) -> bool {
        let key = provenance.key::<Prediction>();
        !self.force && up_to_date::<Prediction>(&self.record(unit), &key)
    }

    fn read_images(&self, unit: &Unit, files: &[PathBuf]) -> Result<Option<Prepared>> {
        let begun = Instant::now();
        let mut provenance = self.provenance.clone();
        let mut stored = Vec::new();
        for file in files {
            let contents = contents(file)?;
            for bytes in &contents {
                provenance = provenance.input("image", hash_bytes(bytes));
            }
            stored.push(contents);
        }
        if self.is_done(unit, &provenance) {
            return Ok(None);
        }
        let volume = self.stack(files, stored)?;
        let read = begun.elapsed();
        let begun = Instant::now();
        let made = preprocess::preprocess(&unit.id, volume, None, &self.plan, &self.configuration)?;
        Ok(Some(Prepared {
            record: self.record(unit),
            provenance,
            case: made.case,
            image: Image::Made(made.image),
            read,
            preprocess: begun.elapsed(),
        }))
    }

    /// The files' contents as one image with the plan's channels.
    fn stack(&self, files: &[PathBuf], stored: Vec<Vec<Vec<u8>>>) -> Result<Volume> {
        let names: Vec<&str> = self.plan.channels.iter().map(|c| c.name.as_str()).collect();
        let mut stack = Stack::new(names.len());
        for (file, bytes) in files.iter().zip(stored) {
            stack.push(file, nifti::decode(file, bytes)?)?;
        }
        stack.finish().map_err(|found| {
            let (count, names) = (names.len(), names.join(", "));
            let message = format!("image has {found} channels, the model expects {count}: {names}");
            artifact::Error::input(&files[0], message)
                .hint("one file per channel in this order, or one 4D file")
                .into()
        })
    }

    fn open_case(&self, unit: &Unit, path: &Path) -> Result<Option<Prepared>> {
        let begun = Instant::now();
        let case = OpenCase::open(path)?;
        self.check(path, &case)?;
        case.record.verify(path)?;
        let image = path.with_file_name(IMAGE);
        let hash = case.record.header.files.get(IMAGE).filter(|h| !h.is_empty()).cloned();
        let hash = hash.map_or_else(|| hash_file(&image), Ok)?;
        let provenance =
            self.provenance.clone().input("case", hash_file(path)?).input("image", hash);
        if self.is_done(unit, &provenance) {
            return Ok(None);
        }
        Ok(Some(Prepared {
            record: self.record(unit),
            provenance,
            case: case.record.body.clone(),
            image: Image::Mapped(Box::new(case)),
            read: begun.elapsed(),
            preprocess: Duration::ZERO,
        }))
    }

    /// The case was made for this configuration of this plan.
    fn check(&self, path: &Path, case: &OpenCase) -> Result<()> {
        let info = &case.record.body.case;
        let wrong = |message: String| {
            let hint = "preprocess this case with the plan.toml in the model's folder";
            Err(artifact::Error::input(path, message).hint(hint).into())
        };
        if info.configuration != self.configuration {
            return wrong(format!(
                "case.configuration = \"{}\", but the model's is \"{}\"",
                info.configuration, self.configuration
            ));
        }
        let counts = [
            ("channels", info.channels, self.plan.channels.len()),
            ("classes", info.classes, self.plan.labels.len()),
        ];
        for (field, found, expected) in counts {
            if found != expected {
                return wrong(format!(
                    "case.{field} = {found}, but the model's plan has {expected}"
                ));
            }
        }
        let rules = self.plan.preprocessing_hash(&self.configuration).map_err(Error::input)?;
        let made_by = case.record.provenance.inputs.iter().find(|i| i.name == "plan");
        match made_by.filter(|plan| plan.hash != rules) {
            None => Ok(()),
            Some(_) => wrong("was preprocessed by another plan than the model's".into()),
        }
    }
}

/// The bytes of an image's files.
fn contents(file: &Path) -> artifact::Result<Vec<Vec<u8>>> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|e| artifact::Error::io(path, "read this image", &e))
    };
    nifti::files_of(file)?.iter().map(read).collect()
}

/// What the thread hands over, in the order of the units.
#[derive(Debug)]
pub struct Next {
    /// Which case.
    pub unit: Unit,
    /// None: up to date.
    pub result: Result<Option<Prepared>>,
}

/// Prepares all units, one ahead of the receiver. The thread ends when the receiver is dropped or the process ends; it
/// writes nothing.
pub fn prefetch(job: Job, units: Vec<Unit>) -> std::sync::mpsc::Receiver<Next> {
    // Without a buffer: the thread holds one finished case until it is taken, and no second.
    let (sender, receiver) = std::sync::mpsc::sync_channel(0);
    std::thread::spawn(move || {
        for unit in units {
            let result = job.prepare(&unit);
            if sender.send(Next { unit, result }).is_err() {
                return;
            }
        }
    });
    receiver
}
