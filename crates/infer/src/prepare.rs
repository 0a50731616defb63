//! From a unit of work to what the networks read; runs on a thread of its own while the network is at the case before.

use crate::previous::{Given, NextStage, Target};
use crate::units::{Source, Unit};
use artifact::case::{Case, IMAGE, OpenCase};
use artifact::dataset::Stack;
use artifact::image::{self, Apart, Volume};
use artifact::plan::Plan;
use artifact::prediction::Prediction;
use artifact::{Provenance, hash_bytes, hash_file, previous};
use ndarray::{Array3, Array4, ArrayView4};
use stage::{Error, Outputs, Result, memory};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// What all cases of a call have in common.
#[derive(Debug, Clone)]
pub struct Job {
    /// The models' plan.
    pub plan: Plan,
    /// Configurations whose preprocessed cases the networks read.
    pub configurations: Vec<String>,
    /// Some network reads the prediction of another.
    pub cascade: bool,
    /// Predictions of a first stage, where the networks read them from the disk.
    pub given: Option<Given>,
    /// Where predictions go for a configuration that reads them.
    pub next: Option<NextStage>,
    /// Folder of the predictions.
    pub out: PathBuf,
    /// Models and options; each case adds its image.
    pub provenance: Provenance,
    /// What may be replaced.
    pub outputs: Outputs,
}

/// A case that the networks can read.
#[derive(Debug)]
pub struct Prepared {
    /// The record to write: `OUT/CASE/prediction.toml`.
    pub record: PathBuf,
    /// Of the prediction.
    pub provenance: Provenance,
    /// One per configuration.
    grids: Vec<Grid>,
    /// Voxels of the crop box, plan axes and the image's spacing, that lie outside the nonzero mask, if there are any and a
    /// first stage's classes will be resampled.
    pub outside: Option<Array3<bool>>,
    /// Class indices of the first stage, where they were given.
    pub previous: Option<Array3<i16>>,
    /// Where the prediction also goes.
    pub next: Option<Target>,
    /// What may be replaced.
    outputs: Outputs,
    /// Files that lie elsewhere in space than those that they are laid over.
    pub apart: Vec<Apart>,
    /// Reading and hashing.
    pub read: Duration,
    /// Preprocessing; zero for cases that were preprocessed before.
    pub preprocess: Duration,
}

/// The case as one configuration reads it.
#[derive(Debug)]
pub struct Grid {
    /// How to get back to the original grid.
    pub case: Case,
    image: Image,
}

#[derive(Debug)]
enum Image {
    Mapped(Box<OpenCase>),
    Made(Array4<f32>),
}

impl Grid {
    /// `[channel, z, y, x]`.
    pub fn image(&self) -> ArrayView4<'_, f32> {
        match &self.image {
            Image::Mapped(case) => case.image(),
            Image::Made(image) => image.view(),
        }
    }
}

impl Prepared {
    /// The case as preprocessed for a configuration.
    ///
    /// # Panics
    /// If the job didn't name this configuration.
    pub fn grid(&self, configuration: &str) -> &Grid {
        let mut grids = self.grids.iter();
        let grid = grids.find(|g| g.case.case.configuration == configuration);
        grid.expect("the job names every configuration that a network reads")
    }

    /// All grids.
    pub fn grids(&self) -> &[Grid] {
        &self.grids
    }

    /// Whether the outputs are there by now.
    ///
    /// # Errors
    /// If there is something that this stage didn't make.
    pub fn is_done(&self) -> Result<bool> {
        is_done(&self.outputs, &self.record, &self.provenance, self.next.as_ref())
    }

    /// The image is a file of a preprocessed case.
    pub fn is_mapped(&self) -> bool {
        self.grids.iter().any(|grid| matches!(grid.image, Image::Mapped(_)))
    }

    /// Gives back the memory of images that no network will look at any more.
    pub fn forget_images(&mut self) {
        for grid in &mut self.grids {
            if let Image::Made(image) = &mut grid.image {
                *image = Array4::zeros((0, 0, 0, 0));
            }
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
            Source::Unnamed(error) => Err(error.clone().into()),
        }
    }

    fn is_done(&self, unit: &Unit, provenance: &Provenance) -> Result<bool> {
        is_done(&self.outputs, &self.record(unit), provenance, None)
    }

    fn read_images(&self, unit: &Unit, files: &[PathBuf]) -> Result<Option<Prepared>> {
        let begun = Instant::now();
        memory::require(image::reading_bytes(files))?;
        let mut provenance = self.provenance.clone();
        let mut stored = Vec::new();
        for (channel, file) in files.iter().enumerate() {
            let contents = self.contents(&unit.id, channel, file)?;
            for bytes in &contents {
                provenance = provenance.input("image", hash_bytes(bytes));
            }
            stored.push(contents);
        }
        let given = self.find_given(unit, &mut provenance)?;
        // With a next stage its record may be missing still, which only the preprocessed case can tell.
        if self.is_done(unit, &provenance)? && self.next.is_none() {
            return Ok(None);
        }
        let (volume, mut apart) = self.stack(files, stored)?;
        let mut volume = Some(volume);
        let read = begun.elapsed();
        let begun = Instant::now();
        let (mut grids, mut outside) = (Vec::new(), None);
        for (i, name) in self.configurations.iter().enumerate() {
            let last = i + 1 == self.configurations.len();
            let image = if last { volume.take() } else { volume.clone() };
            let image = image.ok_or_else(|| Error::failed("no configuration to preprocess for"))?;
            let made = preprocess::preprocess(&unit.id, image, None, &self.plan, name)?;
            grids.push(Grid { case: made.case, image: Image::Made(made.image) });
            outside = made.outside.filter(|_| self.cascade);
        }
        let given = (given, files.first());
        self.finish(unit, provenance, (grids, outside), given, &mut apart, (read, begun))
    }

    /// Adds what a first stage predicted, and where the prediction goes beside its record.
    fn finish(
        &self,
        unit: &Unit,
        provenance: Provenance,
        (grids, outside): (Vec<Grid>, Option<Array3<bool>>),
        (given, image): (Option<PathBuf>, Option<&PathBuf>),
        apart: &mut Vec<Apart>,
        (read, begun): (Duration, Instant),
    ) -> Result<Option<Prepared>> {
        let case = &grids[0].case;
        let next = match &self.next {
            None => None,
            Some(next) => {
                let (target, found) =
                    next.target(&unit.id, case, &self.plan, &self.out, &provenance)?;
                apart.extend(found);
                Some(target)
            }
        };
        let record = self.record(unit);
        let outputs = self.outputs.clone();
        if next.is_some() && is_done(&outputs, &record, &provenance, next.as_ref())? {
            return Ok(None);
        }
        let previous = match (&self.given, given) {
            (Some(from), Some(path)) => {
                let image = image.map_or(Path::new("the image"), PathBuf::as_path);
                let (map, found) = from.read(&path, case, image, outside.as_ref(), &self.plan)?;
                apart.extend(found);
                Some(map)
            }
            _ => None,
        };
        let apart = std::mem::take(apart);
        let preprocess = begun.elapsed();
        Ok(Some(Prepared {
            record,
            provenance,
            grids,
            outside,
            previous,
            next,
            outputs,
            apart,
            read,
            preprocess,
        }))
    }

    /// The first stage's prediction of a unit; its hash is one of the inputs.
    fn find_given(&self, unit: &Unit, provenance: &mut Provenance) -> Result<Option<PathBuf>> {
        let Some(given) = &self.given else { return Ok(None) };
        let path = given.find(&unit.id)?;
        *provenance = provenance.clone().input("previous", hash_file(&path)?);
        Ok(Some(path))
    }

    /// The files' contents as one image with the plan's channels.
    fn stack(&self, files: &[PathBuf], stored: Vec<Vec<Vec<u8>>>) -> Result<(Volume, Vec<Apart>)> {
        let names: Vec<&str> = self.plan.channels.iter().map(|c| c.name.as_str()).collect();
        let reader = self.plan.dataset.reader;
        let mut stack = Stack::new(names.len(), reader);
        let mut apart = Vec::new();
        for (file, bytes) in files.iter().zip(stored) {
            apart.extend(stack.push(file, reader.decode(file, bytes)?)?);
        }
        let volume = stack.finish().map_err(|found| {
            let (count, names) = (names.len(), names.join(", "));
            let found = image::count(files, found);
            let message = format!("image has {found}, the model expects {count}: {names}");
            artifact::Error::input(&files[0], message).hint(
                "one file per channel in this order, or one 4D file or picture with all of them",
            )
        })?;
        Ok((volume, apart))
    }

    /// The bytes of an image's files.
    fn contents(&self, id: &str, channel: usize, file: &Path) -> Result<Vec<Vec<u8>>> {
        if !file.exists() {
            let name = self.plan.channels.get(channel).map_or("", |c| c.name.as_str());
            let how = artifact::file::broken_link(file).unwrap_or_else(|| "is not there".into());
            let message = format!("{how}: channel {channel} ({name}) of case {id}");
            return Err(artifact::Error::input(file, message).into());
        }
        let files = image::files_of(file)?;
        let read = files.iter().map(|path| artifact::file::read(path, "read this image"));
        Ok(read.collect::<artifact::Result<_>>()?)
    }

    fn open_case(&self, unit: &Unit, path: &Path) -> Result<Option<Prepared>> {
        let begun = Instant::now();
        let case = OpenCase::open(path)?;
        self.check(path, &case)?;
        case.record.verify(path)?;
        let image = path.with_file_name(IMAGE);
        let hash = case.record.header.files.get(IMAGE).filter(|h| !h.is_empty()).cloned();
        let hash = hash.map_or_else(|| hash_file(&image), Ok)?;
        let mut provenance =
            self.provenance.clone().input("case", hash_file(path)?).input("image", hash);
        let given = self.find_given(unit, &mut provenance)?;
        if self.is_done(unit, &provenance)? && self.next.is_none() {
            return Ok(None);
        }
        let grid = Grid { case: case.record.body.clone(), image: Image::Mapped(Box::new(case)) };
        let read = begun.elapsed();
        // Its nonzero mask on the image's grid is lost.
        let grids = (vec![grid], None);
        self.finish(unit, provenance, grids, (given, None), &mut Vec::new(), (read, Instant::now()))
    }

    /// The case was made for this configuration of this plan.
    fn check(&self, path: &Path, case: &OpenCase) -> Result<()> {
        let info = &case.record.body.case;
        let wrong = |message: String| {
            let hint = "preprocess this case with the plan.toml in the model's folder";
            Err(artifact::Error::input(path, message).hint(hint).into())
        };
        // Preprocessed cases are of one configuration, and so is what reads them.
        let configuration = &self.configurations[0];
        if info.configuration != *configuration {
            return wrong(format!(
                "case.configuration = \"{}\", but the model's is \"{configuration}\"",
                info.configuration
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
        let rules = self.plan.preprocessing_hash(configuration).map_err(Error::input)?;
        let made_by = case.record.provenance.inputs.iter().find(|i| i.name == "plan");
        match made_by.filter(|plan| plan.hash != rules) {
            None => Ok(()),
            Some(_) => wrong("was preprocessed by another plan than the model's".into()),
        }
    }
}

/// Whether a prediction, and what goes to the next stage, are what this call would write.
fn is_done(
    outputs: &Outputs,
    record: &Path,
    provenance: &Provenance,
    next: Option<&Target>,
) -> Result<bool> {
    let sent = |to: &Target| outputs.up_to_date::<previous::Previous>(&to.record, &to.provenance);
    let sent = next.map(sent).transpose()?.unwrap_or(true);
    Ok(outputs.up_to_date::<Prediction>(record, provenance)? && sent)
}

/// What the thread hands over, in the order of the units.
#[derive(Debug)]
pub struct Next {
    /// Which case.
    pub unit: Unit,
    /// None: up to date.
    pub result: Result<Option<Prepared>>,
}

/// All units in order, each prepared while the one before is predicted.
#[derive(Debug)]
pub enum Prefetch {
    /// By a thread, which writes nothing, and ends when this is dropped or the process ends.
    Ahead(Receiver<Next>),
    /// When it is asked for: no thread could be started.
    Here(Box<Job>, std::vec::IntoIter<Unit>),
}

impl Prefetch {
    /// Begins with the first unit.
    pub fn new(job: Job, units: Vec<Unit>) -> Self {
        // Without a buffer: the thread holds one finished case until it is taken, and no second.
        let (sender, receiver) = sync_channel(0);
        let (ahead, all) = (job.clone(), units.clone());
        let thread = stage::threads::beside(move || {
            for unit in all {
                let result = stage::contain(|| ahead.prepare(&unit));
                if sender.send(Next { unit, result }).is_err() {
                    return;
                }
            }
        });
        match thread {
            Some(_) => Self::Ahead(receiver),
            None => Self::Here(Box::new(job), units.into_iter()),
        }
    }
}

impl Iterator for Prefetch {
    type Item = Next;

    /// The next unit; none if there is no more.
    fn next(&mut self) -> Option<Next> {
        match self {
            Self::Ahead(receiver) => receiver.recv().ok(),
            Self::Here(job, units) => {
                let unit = units.next()?;
                let result = stage::contain(|| job.prepare(&unit));
                Some(Next { unit, result })
            }
        }
    }
}
