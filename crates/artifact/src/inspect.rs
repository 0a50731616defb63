//! Looking at a record without knowing its kind beforehand, and holding everything about it against the specification.

use crate::case::OpenCase;
use crate::fingerprint::Fingerprint;
use crate::model::{self, History, Model};
use crate::plan::Plan;
use crate::postprocessing::Postprocessing;
use crate::prediction::{self, Prediction};
use crate::previous::{OpenPrevious, Previous};
use crate::record::{self, Header, Provenance, Record};
use crate::selection::Selection;
use crate::splits::Splits;
use crate::summary::Summary;
use crate::{Error, Kind, Result, batch, image, npy, npz};
use ndarray::{Axis, Ix4};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Kinds that one stage writes for itself alone; only header and hashes are checked.
const PRIVATE_KINDS: [&str; 1] = ["checkpoint"];

/// A record of any kind.
#[derive(Debug, Clone, PartialEq)]
pub struct AnyRecord {
    /// `[artifact]`.
    pub header: Header,
    /// `[provenance]`.
    pub provenance: Provenance,
    /// The other tables.
    pub body: toml::Table,
}

impl AnyRecord {
    /// Reads a record; its body isn't checked.
    ///
    /// # Errors
    /// If it isn't TOML with an `[artifact]` table.
    pub fn load(path: &Path) -> Result<Self> {
        let text = crate::file::text(path, "read this record")?;
        let (header, provenance) = record::load_header(path, &text)?;
        let mut body: toml::Table = text.parse().map_err(|e| record::syntax(path, &text, &e))?;
        body.remove("artifact");
        body.remove("provenance");
        Ok(Self { header, provenance, body })
    }

    /// Paths of the siblings that the header lists.
    ///
    /// # Errors
    /// If a name isn't that of a file beside the record.
    pub fn siblings(&self, path: &Path) -> Result<Vec<PathBuf>> {
        self.header.files.keys().map(|name| record::sibling(path, name)).collect()
    }
}

/// Everything that is wrong with a record and its siblings: kind, version, fields, hashes, arrays.
pub fn verify(path: &Path) -> Vec<Error> {
    let header = match AnyRecord::load(path) {
        Ok(record) => record.header,
        Err(error) => return vec![error],
    };
    let faults = match header.kind.as_str() {
        Fingerprint::KIND => check::<Fingerprint>(path, |_| Ok(())),
        Plan::KIND => check::<Plan>(path, |_| Ok(())),
        Splits::KIND => check::<Splits>(path, |_| Ok(())),
        crate::case::Case::KIND => {
            check(path, |_: &crate::case::Case| OpenCase::open(path).map(drop))
        }
        batch::Batch::KIND => check(path, |_: &batch::Batch| batch::read(path).map(drop)),
        Previous::KIND => check(path, |_: &Previous| OpenPrevious::open(path).map(drop)),
        Model::KIND => check(path, |model| check_model(path, model)),
        History::KIND => check::<History>(path, |_| Ok(())),
        Prediction::KIND => {
            check(path, |prediction| check_prediction(path, prediction, &header.files))
        }
        Selection::KIND => check::<Selection>(path, |_| Ok(())),
        Summary::KIND => check::<Summary>(path, |_| Ok(())),
        Postprocessing::KIND => check::<Postprocessing>(path, |_| Ok(())),
        kind if PRIVATE_KINDS.contains(&kind) => Vec::new(),
        kind => vec![Error::input(
            path,
            format!("artifact.kind = \"{kind}\", expected a kind of the specification"),
        )],
    };
    // A missing or changed sibling explains what the arrays' checks found.
    let hashes = record::sibling_faults(path, &header);
    if hashes.is_empty() { faults } else { hashes }
}

fn check<T: Kind>(path: &Path, contents: impl FnOnce(&T) -> Result<()>) -> Vec<Error> {
    let checked = Record::<T>::load(path).and_then(|record| contents(&record.body));
    checked.err().into_iter().collect()
}

/// A model's folder is complete by itself.
fn check_model(path: &Path, model: &Model) -> Result<()> {
    let plan = path.with_file_name(model::PLAN);
    let configurations = Record::<Plan>::load(&plan)?.body.configurations;
    let name = &model.model.configuration;
    if !configurations.contains_key(name) {
        return Err(Error::input(
            &plan,
            format!("has no configuration {name}, which {} names", path.display()),
        ));
    }
    let weights = path.with_file_name(model::WEIGHTS);
    for (array, values) in npz::read(&weights)? {
        npy::check_numbers(&weights, &values.view(), f32::MAX)
            .map_err(|e| Error::input(&weights, format!("{array}: {}", e.message)))?;
    }
    Ok(())
}

fn check_prediction(
    path: &Path,
    prediction: &Prediction,
    files: &BTreeMap<String, String>,
) -> Result<()> {
    let info = &prediction.prediction;
    let segmentation = record::sibling(path, &info.segmentation)?;
    // Only the shape is looked at, and records that name no reader may be of any.
    let volume = if info.reader.is_default() {
        image::read_by_any(&segmentation)?
    } else {
        info.reader.read(&segmentation)?
    };
    let [z, y, x] = volume.geometry.shape;
    if volume.geometry.shape != info.shape {
        return Err(Error::input(
            &segmentation,
            format!("has shape {:?}, but {} says {:?}", [z, y, x], path.display(), info.shape),
        ));
    }
    let classes = prediction::class_indices(&segmentation, &volume, &prediction.labels, None)?;
    let mut voxels = vec![0u64; prediction.labels.len()];
    for &class in &classes {
        voxels[usize::try_from(class).unwrap_or(0)] += 1;
    }
    if voxels != info.class_voxels {
        return Err(Error::input(
            &segmentation,
            format!(
                "has {voxels:?} voxels per class, but {} says {:?}",
                path.display(),
                info.class_voxels
            ),
        ));
    }
    let probabilities = path.with_file_name(prediction::PROBABILITIES);
    // Without a list of files it's the file's presence that counts.
    let listed = files.is_empty() || files.contains_key(prediction::PROBABILITIES);
    if !(listed && probabilities.is_file()) {
        return Ok(());
    }
    let values = npy::read_f16::<Ix4>(&probabilities)?;
    let regions = prediction.regions.len();
    let expected = [if regions > 0 { regions } else { prediction.labels.len() }, z, y, x];
    if values.shape() != expected {
        return Err(Error::input(
            &probabilities,
            format!("has shape {:?}, expected {expected:?}", values.shape()),
        ));
    }
    if regions > 0 {
        return match values.iter().find(|p| !(0.0..=1.0).contains(*p)) {
            None => Ok(()),
            Some(p) => Err(Error::input(&probabilities, format!("holds {p}, expected 0 to 1"))),
        };
    }
    let sums = values.sum_axis(Axis(0));
    // Each of the summands is rounded to a part in 2¹¹ of itself; they add up to 1.
    let is_one = |sum: f32| (sum - 1.0).abs() <= 1.0 / 1024.0;
    match sums.iter().find(|s| !is_one(**s)) {
        None => Ok(()),
        Some(sum) => {
            Err(Error::input(&probabilities, format!("adds up to {sum} in a voxel, expected 1")))
        }
    }
}
