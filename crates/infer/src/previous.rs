//! The previous stage of a cascade: its predictions as a network's input, and as a file for the next stage.

use crate::export::Grid;
use artifact::case::{Case, Original};
use artifact::image::{Apart, meet};
use artifact::plan::Plan;
use artifact::prediction::{Prediction, class_indices};
use artifact::previous::{ARRAY, OpenPrevious, Previous, PreviousInfo};
use artifact::{Commit, Error, Provenance, Record, Result, hash_file, prediction, previous};
use ndarray::{Array3, ArrayView3, s};
use std::path::{Path, PathBuf};

/// Predictions of a first stage that lie on the disk.
#[derive(Debug, Clone)]
pub struct Given {
    /// Folders that are searched for a case.
    pub folders: Vec<PathBuf>,
    /// The first stage's configuration.
    pub configuration: String,
}

impl Given {
    /// The file that holds a case's prediction: `CASE/previous.toml`, else `CASE/prediction.toml` or an image `CASE`.
    ///
    /// # Errors
    /// If the case is in none of the folders, or twice.
    pub fn find(&self, case: &str) -> Result<PathBuf> {
        let mut found = Vec::new();
        for folder in &self.folders {
            let record = previous::path(folder, case);
            if record.is_file() {
                found.push(record);
            } else if let Some(one) = prediction::find_case(folder, case)? {
                found.push(one.record.unwrap_or(one.segmentation));
            }
        }
        match &found[..] {
            [one] => Ok(one.clone()),
            [] => Err(Error::input(
                &self.folders[0],
                format!("has no prediction of {} for case {case}, expected {case}/previous.toml", self.configuration),
            )
            .hint("nnu-infer --next-stage writes it for preprocessed cases; name the folder by --previous")),
            [one, other, ..] => Err(Error::input(
                one,
                format!("is there twice, also as {}", other.display()),
            )
            .hint("each case must be in one of the folders of --previous only")),
        }
    }

    /// The files that a case's prediction may be read from.
    pub fn files(&self, case: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for folder in &self.folders {
            let record = previous::path(folder, case);
            files.extend([record.with_file_name(ARRAY), record]);
            // What is broken fails with its case.
            let found = prediction::find_case(folder, case).ok().flatten();
            files.extend(found.iter().flat_map(prediction::Found::files));
        }
        files
    }

    /// Class indices `[z, y, x]` on the grid of `case`, plan axes, `outside` as for [`onto_grid`]; whether they lie elsewhere
    /// in space than `image`.
    ///
    /// # Errors
    /// If the prediction isn't the first stage's, or doesn't fit the case.
    pub fn read(
        &self,
        path: &Path,
        case: &Case,
        image: &Path,
        outside: Option<&Array3<bool>>,
        plan: &Plan,
    ) -> Result<(Array3<i16>, Option<Apart>)> {
        if path.ends_with(previous::RECORD) {
            return Ok((self.read_previous(path, case, plan)?, None));
        }
        let mut map = path.to_path_buf();
        if path.ends_with("prediction.toml") {
            let record = Record::<Prediction>::load(path)?;
            record.verify(path)?;
            map = path.with_file_name(record.body.prediction.segmentation);
        }
        let reader = plan.dataset.reader;
        let on = (image, &case.original.geometry);
        let (volume, apart) = reader.lay(&map, reader.read(&map)?, on)?;
        let classes = class_indices(&map, &volume, &plan.labels, None)?;
        let Original { crop_lower: lower, crop_upper: upper, .. } = &case.original;
        let classes = case.original.turn().view(classes);
        let range = |axis: usize| lower[axis]..upper[axis];
        let crop = classes.slice(s![range(0), range(1), range(2)]);
        Ok((onto_grid(crop.to_owned(), outside, case, plan), apart))
    }

    fn read_previous(&self, path: &Path, case: &Case, plan: &Plan) -> Result<Array3<i16>> {
        let found = OpenPrevious::open(path)?;
        found.record.verify(path)?;
        let wrong = |message: String| {
            let hint =
                "predict it again: nnu-infer --next-stage with the cases and models of this plan";
            Err(Error::input(path, message).hint(hint))
        };
        let info = &found.record.body.previous;
        let names = [
            ("configuration", &info.configuration, &self.configuration),
            ("grid", &info.grid, &case.case.configuration),
            ("case", &info.case, &case.case.id),
        ];
        for (field, found, expected) in names {
            if found != expected {
                return wrong(format!("previous.{field} = \"{found}\", expected \"{expected}\""));
            }
        }
        let rules =
            plan.preprocessing_hash(&self.configuration).map_err(|e| Error::input(path, e))?;
        let made_by =
            found.record.provenance.inputs.iter().find(|i| i.name == previous::PREPROCESSING);
        if made_by.is_some_and(|input| input.hash != rules) {
            return wrong("was predicted by models of another plan".into());
        }
        if info.classes != plan.labels.len() {
            let expected = plan.labels.len();
            return wrong(format!("previous.classes = {}, expected {expected}", info.classes));
        }
        if info.shape != case.case.shape {
            return wrong(format!(
                "previous.shape = {:?}, but the case's is {:?}",
                info.shape, case.case.shape
            ));
        }
        Ok(found.classes().to_owned())
    }
}

/// A first stage's classes in the crop box, at the image's spacing, on a preprocessed case's grid, as labels are
/// preprocessed: where there is no class, `outside` of the nonzero mask is another label than background, −1, and takes
/// part in the vote.
pub fn onto_grid(
    mut classes: Array3<i16>,
    outside: Option<&Array3<bool>>,
    case: &Case,
    plan: &Plan,
) -> Array3<i16> {
    if let Some(outside) = outside {
        classes.zip_mut_with(outside, |class, outside| {
            if *class == 0 && *outside {
                *class = -1;
            }
        });
    }
    preprocess::resample::resample_label(
        classes.view(),
        case.original.transposed_spacing_mm(),
        case.case.spacing_mm,
        case.case.shape,
        (&plan.recipe.preprocessing).into(),
    )
}

/// Where the outputs of a network on a case's grid are wanted for a later stage's case. As in nnU-Net, the first stage's
/// spacing alone decides whether a coarse axis goes by itself.
pub fn straight_to(next: &Case, from: &Case) -> Grid {
    Grid { shape: next.case.shape, spacing_mm: from.case.spacing_mm }
}

/// Where predictions go for a configuration that reads them.
#[derive(Debug, Clone)]
pub struct NextStage {
    /// Folder of that configuration's preprocessed cases.
    pub folder: PathBuf,
    /// Configurations whose cases are possible.
    pub configurations: Vec<String>,
}

/// A case of the next stage.
#[derive(Debug)]
pub struct Target {
    /// `OUT/CASE/previous.toml`.
    pub record: PathBuf,
    /// Of that record.
    pub provenance: Provenance,
    /// The case.
    pub case: Case,
}

impl NextStage {
    /// For predictions of `configuration`.
    ///
    /// # Errors
    /// If nothing in the plan reads them.
    pub fn new(folder: &Path, plan: &Plan, configuration: &str) -> Result<Self> {
        let reads = |(name, c): (&String, &artifact::plan::Configuration)| {
            let yes = c.previous_stage.as_deref() == Some(configuration);
            yes.then(|| c.cases_from.clone().unwrap_or_else(|| name.clone()))
        };
        let configurations: Vec<String> = plan.configurations.iter().filter_map(reads).collect();
        if configurations.is_empty() {
            return Err(Error::input(
                folder,
                format!("is no next stage: no planned configuration reads the prediction of {configuration}"),
            )
            .hint("leave --next-stage away, or predict with the models of a cascade's first stage"));
        }
        Ok(Self { folder: folder.into(), configurations })
    }

    /// The case with this id; `like` is the same case of the stage that predicts. Also whether both were made from images
    /// that lie elsewhere in space.
    ///
    /// # Errors
    /// If it isn't there, is of another plan or configuration, or was cropped to another box.
    pub fn target(
        &self,
        id: &str,
        like: &Case,
        plan: &Plan,
        out: &Path,
        provenance: &Provenance,
    ) -> Result<(Target, Option<Apart>)> {
        let path = self.folder.join(id).join("case.toml");
        let names = self.configurations.join(" or ");
        let hint =
            format!("preprocess this case for {names} with the plan.toml in the model's folder");
        let record = Record::<Case>::load(&path).map_err(|e| e.hint(hint.as_str()))?;
        let wrong = |message: String| Err(Error::input(&path, message).hint(hint.as_str()));
        let name = &record.body.case.configuration;
        if !self.configurations.contains(name) {
            return wrong(format!("case.configuration = \"{name}\", expected \"{names}\""));
        }
        let rules = plan.preprocessing_hash(name).map_err(|e| Error::input(&path, e))?;
        let made_by = record.provenance.inputs.iter().find(|i| i.name == "plan");
        if made_by.is_some_and(|plan| plan.hash != rules) {
            return wrong("was preprocessed by another plan than the model's".into());
        }
        let case = record.body;
        let (found, expected) = (&case.original, &like.original);
        if found.turn() != expected.turn()
            || found.crop_lower != expected.crop_lower
            || found.crop_upper != expected.crop_upper
            || found.geometry.shape != expected.geometry.shape
        {
            return wrong(format!(
                "crop box is {:?} to {:?}, but {:?} to {:?} in the case that is predicted",
                found.crop_lower, found.crop_upper, expected.crop_lower, expected.crop_upper
            ));
        }
        let image = PathBuf::from(format!("the image of case {id}"));
        let apart = meet((&path, &found.geometry), (&image, &expected.geometry))?;
        let first = plan.preprocessing_hash(&like.case.configuration);
        let provenance = provenance
            .clone()
            .input(previous::PREPROCESSING, first.map_err(|e| Error::input(&path, e))?)
            .input("next_stage", hash_file(&path)?);
        Ok((Target { record: previous::path(out, id), provenance, case }, apart))
    }
}

impl Target {
    /// Writes the record with class indices on the grid of [`Self::case`], beside the prediction that is in the making.
    ///
    /// # Errors
    /// If something can't be written.
    pub fn write(
        &self,
        prediction: &Commit,
        configuration: &str,
        folds: Vec<usize>,
        classes: ArrayView3<'_, i16>,
    ) -> Result<()> {
        let info = &self.case.case;
        let previous = PreviousInfo {
            case: info.id.clone(),
            configuration: configuration.into(),
            folds,
            grid: info.configuration.clone(),
            classes: info.classes,
            shape: info.shape,
        };
        let mut commit = prediction.beside(previous::RECORD);
        commit.npy(ARRAY, &classes)?;
        commit.finish(&self.provenance, &Previous { previous })
    }
}
