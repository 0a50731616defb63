//! A data set as people have it: a folder with `dataset.json` and NIfTI files or PNG pictures.
//!
//! Two layouts are read. The Medical Segmentation Decathlon's: `modality`, `labels` number → name, a `training` list of
//! `{image, label}`, channels in a 4D file. nnU-Net v2's: `channel_names`, `labels` name → number, `file_ending`, files
//! `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, or an explicit table `dataset` of `{CASE: {images, label}}`.
//!
//! Loading looks at names only: missing or broken files are found by whoever reads them, all in one go.

mod json;

use crate::image::folder::{Folder, case_bytes, check_distinct, split_channel};
use crate::image::{self, Apart, Geometry, Reader, Volume, split_ending};
use crate::{Error, Label, Region, Result, file};
use json::Description;
use ndarray::Array4;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Name of the description in the data set's folder.
pub const DESCRIPTION: &str = "dataset.json";

/// A data set's description and its cases.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// `name` in `dataset.json`, else the folder's name.
    pub name: String,
    /// Channel names in channel order.
    pub channels: Vec<String>,
    /// Classes by rising value, background first.
    pub labels: Vec<Label>,
    /// Regions in the order of `dataset.json`, which is the order of a network's outputs; none for most data sets.
    pub regions: Vec<Region>,
    /// The label of voxels that nobody annotated.
    pub ignore: Option<Label>,
    /// `.nii.gz`, `.nii`, …
    pub file_ending: String,
    /// How images are read.
    pub reader: Reader,
    /// `numTraining`, where `dataset.json` has it.
    pub declared_training: Option<usize>,
    /// Case ids that occur more than once in `dataset.json`; only their first entry is in `training`.
    pub duplicate_ids: Vec<String>,
    /// Cases with labels, sorted by id.
    pub training: Vec<DatasetCase>,
    /// Cases without labels, sorted by id.
    pub test: Vec<DatasetCase>,
    /// Training cases that nothing can be made of, because their files' names aren't UTF-8: one error each.
    pub faults: Vec<Error>,
    /// Likewise test cases, or why these couldn't be looked for; training needs none.
    pub test_faults: Vec<Error>,
}

/// Channel numbers by id.
type Numbered = BTreeMap<String, Vec<usize>>;

/// One case: its files, whether they exist or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetCase {
    /// File name without ending and channel number.
    pub id: String,
    /// One file per channel in channel order, or one 4D file.
    pub images: Vec<PathBuf>,
    /// Label map; none for test cases.
    pub label: Option<PathBuf>,
}

/// What a `dataset.json` says by itself, whether its images are there or not, and of whatever format they are.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetJson {
    /// `name`.
    pub name: Option<String>,
    /// Channel names in channel order.
    pub channels: Vec<String>,
    /// Classes by rising value, background first.
    pub labels: Vec<Label>,
    /// Regions in the order of the file.
    pub regions: Vec<Region>,
    /// The label of voxels that nobody annotated.
    pub ignore: Option<Label>,
    /// `file_ending`.
    pub file_ending: Option<String>,
    /// `numTraining`.
    pub training_cases: Option<usize>,
    /// Ids of the training cases, where the file lists them, sorted.
    pub ids: Option<Vec<String>>,
    /// nnU-Net's class that reads the images, where the file names one.
    pub image_reader: Option<String>,
    /// How images are read, where the file says it.
    pub reader: Option<Reader>,
}

impl DatasetJson {
    /// Reads the file.
    ///
    /// # Errors
    /// If it's missing or broken: the key, what was found, what was expected.
    pub fn load(path: &Path) -> Result<Self> {
        let text = file::json(path, "read this description of the data set")?;
        let read = Description::parse(&text).map_err(|e| Error::input(path, e))?;
        let listed = read.training.as_ref().or(read.table.as_ref());
        let ids = listed.map(|entries| {
            let id = |e: &json::Entry| {
                e.id.clone().or_else(|| e.images.first().map(|file| case_id(file)))
            };
            let ids: BTreeSet<String> = entries.iter().filter_map(id).collect();
            ids.into_iter().collect()
        });
        Ok(Self {
            name: read.name,
            channels: read.channels,
            labels: read.labels,
            regions: read.regions,
            ignore: read.ignore,
            file_ending: read.file_ending,
            training_cases: read.declared_training,
            ids,
            reader: read.reader.as_ref().map(|(_, reader)| *reader),
            image_reader: read.reader.map(|(class, _)| class),
        })
    }
}

impl Dataset {
    /// Reads `dataset.json` in `folder` and finds the cases.
    ///
    /// # Errors
    /// If `dataset.json` is missing or broken: the key, what was found, what was expected. Not for missing images.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(DESCRIPTION);
        let text = file::json(&path, "read this description of the data set").map_err(|e| {
            // Only where nothing is there: the file's own faults have ways out of their own.
            match path.exists() {
                true => e,
                false => e.hint("give the folder that holds dataset.json, imagesTr and labelsTr"),
            }
        })?;
        let invalid = |e: String| Error::input(&path, e);
        let description = Description::parse(&text).map_err(invalid)?;
        description.check_ending().map_err(invalid)?;
        let mut dataset = Self {
            name: description.name.clone().unwrap_or_else(|| folder_name(folder)),
            channels: description.channels.clone(),
            labels: description.labels.clone(),
            regions: description.regions.clone(),
            ignore: description.ignore.clone(),
            file_ending: description.file_ending.clone().unwrap_or_default(),
            reader: description.reader.as_ref().map(|r| r.1).unwrap_or_default(),
            declared_training: description.declared_training,
            duplicate_ids: Vec::new(),
            training: Vec::new(),
            test: Vec::new(),
            faults: Vec::new(),
            test_faults: Vec::new(),
        };
        if let Some(training) = &description.training {
            dataset.add_listed(folder, training, &description.test);
        } else if let Some(table) = &description.table {
            dataset.add_listed(folder, table, &[]);
            dataset.file_ending_from_files();
            dataset.add_folder_tests(folder);
        } else {
            dataset.file_ending_from_folder(folder)?;
            dataset.add_folders(folder)?;
        }
        dataset.file_ending_from_files();
        dataset.training.sort_by(|a, b| a.id.cmp(&b.id));
        dataset.test.sort_by(|a, b| a.id.cmp(&b.id));
        if dataset.training.is_empty() && dataset.test.is_empty() {
            if let Some(fault) = dataset.faults.first() {
                return Err(fault.clone());
            }
            return Err(dataset.no_cases(folder, &description)?);
        }
        let cases = dataset.training.iter().chain(&dataset.test);
        let files = cases.flat_map(|case| case.images.iter().chain(&case.label));
        description.check_files(files.map(PathBuf::as_path)).map_err(invalid)?;
        dataset.check_training_names()?;
        Ok(dataset)
    }

    /// Why there are none.
    fn no_cases(&self, folder: &Path, description: &Description) -> Result<Error> {
        let lists = [("training", &description.training), ("dataset", &description.table)];
        if let Some((key, _)) = lists.iter().find(|(_, list)| list.is_some()) {
            let message = format!("{key} lists no cases, expected at least one");
            let hint =
                format!("leave {key} out: then cases are the files in imagesTr and labelsTr");
            return Ok(Error::input(&folder.join(DESCRIPTION), message).hint(hint));
        }
        let hint = format!("expected imagesTr/CASE_0000{0} and labelsTr/CASE{0}", self.file_ending);
        let images = folder.join("imagesTr");
        let names = files_in(&images)?;
        let message = match names.first() {
            None if images.is_dir() => "is empty, and dataset.json lists no cases".into(),
            None => "is not there, and dataset.json lists no cases".into(),
            Some(name) => format!(
                "has {} files, such as {name}, but none that ends in _NNNN{}",
                names.len(),
                self.file_ending
            ),
        };
        Ok(Error::input(&images, message).hint(hint))
    }

    /// The training or test case with this id.
    pub fn case(&self, id: &str) -> Option<&DatasetCase> {
        let find = |cases: &'_ [DatasetCase]| cases.binary_search_by(|c| c.id.as_str().cmp(id));
        find(&self.training)
            .map(|i| &self.training[i])
            .or_else(|_| find(&self.test).map(|i| &self.test[i]))
            .ok()
    }

    /// All channels of a case as one volume, on the first file's geometry.
    ///
    /// # Errors
    /// If a file can't be read, channels are missing or too many, or shape or spacing differ between channels.
    pub fn read_image(&self, case: &DatasetCase) -> Result<Volume> {
        Ok(self.read_image_with(case, |path| self.reader.read(path))?.0)
    }

    /// [`Self::read_image`] for callers that need the files' bytes themselves too: `read` does what the reader's does. Also
    /// gives the channels that lie elsewhere in space than the first.
    ///
    /// # Errors
    /// As there, and what `read` returns.
    pub fn read_image_with(
        &self,
        case: &DatasetCase,
        mut read: impl FnMut(&Path) -> Result<Volume>,
    ) -> Result<(Volume, Vec<Apart>)> {
        let mut stack = Stack::new(self.channels.len(), self.reader);
        let mut apart = Vec::new();
        for path in &case.images {
            apart.extend(stack.push(path, read(path)?)?);
        }
        let volume = stack.finish().map_err(|found| {
            let first = case.images.first().map_or(Path::new(&case.id), PathBuf::as_path);
            let (count, names) = (self.channels.len(), self.channels.join(", "));
            let found = image::count(&case.images, found);
            let message = format!("case {} has {found}, expected {count}: {names}", case.id);
            Error::input(first, message).hint(
                "one file per channel, CASE_0000, CASE_0001, …, or one 4D file or picture with all of them",
            )
        })?;
        Ok((volume, apart))
    }

    /// A case's label map: one channel of label values, its axes as stored; [`Reader::lay`] lays it over its image.
    ///
    /// # Errors
    /// If the case has no label, or the file can't be read or has several channels.
    pub fn read_label(&self, case: &DatasetCase) -> Result<Volume> {
        self.read_label_with(case, |path| self.reader.read(path))
    }

    /// [`Self::read_label`] as [`Self::read_image_with`].
    ///
    /// # Errors
    /// As there, and what `read` returns.
    pub fn read_label_with(
        &self,
        case: &DatasetCase,
        mut read: impl FnMut(&Path) -> Result<Volume>,
    ) -> Result<Volume> {
        let Some(path) = &case.label else {
            return Err(Error::input(Path::new(&case.id), "this case has no label"));
        };
        let volume = read(path)?;
        image::check_label(path, &volume)?;
        Ok(volume)
    }

    /// Cases whose files `dataset.json` lists. Without labels they are test cases.
    fn add_listed(&mut self, folder: &Path, cases: &[json::Entry], tests: &[json::Entry]) {
        let resolve = |file: &String| folder.join(file.strip_prefix("./").unwrap_or(file));
        let mut seen = BTreeSet::new();
        for (entry, labelled) in
            cases.iter().map(|c| (c, true)).chain(tests.iter().map(|t| (t, false)))
        {
            if entry.images.iter().any(|f| is_sidecar(f)) {
                continue;
            }
            let id = entry.id.clone().unwrap_or_else(|| case_id(&entry.images[0]));
            if !seen.insert(id.clone()) {
                self.duplicate_ids.push(id);
                continue;
            }
            let images = self.split_channels(entry.images.iter().map(resolve).collect());
            let label = entry.label.as_ref().filter(|_| labelled).map(resolve);
            let list = if labelled { &mut self.training } else { &mut self.test };
            list.push(DatasetCase { id, images, label });
        }
    }

    /// nnU-Net's first version listed `CASE.nii.gz` for files that are named `CASE_0000.nii.gz`, …
    fn split_channels(&self, images: Vec<PathBuf>) -> Vec<PathBuf> {
        let [image] = &images[..] else { return images };
        let Some(folder) = image.parent().filter(|_| !image.exists()) else { return images };
        let name = image.to_string_lossy();
        let ending = ending_of(&name);
        let file = |channel| folder.join(format!("{}_{channel:04}{ending}", case_id(&name)));
        if file(0).exists() { (0..self.channels.len()).map(file).collect() } else { images }
    }

    /// Cases by the files in `imagesTr`, `labelsTr` and `imagesTs`.
    fn add_folders(&mut self, folder: &Path) -> Result<()> {
        let labels = folder.join("labelsTr");
        let images = folder.join("imagesTr");
        let (mut cases, unnamed) = self.channel_files(&images)?;
        let label_maps = Folder::read_if_there(&labels)?;
        // A label without image is a case whose image is missing.
        for name in label_maps.names() {
            if labels.join(format!("{name}{}", self.file_ending)).exists() {
                cases.entry(name.into()).or_default();
            }
        }
        for (id, numbers) in cases {
            let label = labels.join(format!("{id}{}", self.file_ending));
            let case = self.case_in(&images, id, &numbers, Some(label));
            self.training.push(case);
        }
        let images: BTreeSet<Vec<u8>> = unnamed.iter().map(|e| case_bytes(&e.path)).collect();
        let alone = |e: &Error| !images.contains(&case_bytes(&e.path));
        self.faults.extend(unnamed);
        self.faults.extend(label_maps.unnamed().into_iter().filter(alone));
        self.add_folder_tests(folder);
        Ok(())
    }

    fn add_folder_tests(&mut self, folder: &Path) {
        let images = folder.join("imagesTs");
        let broken = file::broken_link(&images).map(|link| Error::input(&images, link));
        match broken.map_or_else(|| self.channel_files(&images), Err) {
            Ok((cases, unnamed)) => {
                self.test_faults.extend(unnamed);
                for (id, numbers) in cases {
                    let case = self.case_in(&images, id, &numbers, None);
                    self.test.push(case);
                }
            }
            Err(fault) => self.test_faults.push(fault),
        }
    }

    /// The case's expected files. Channels beyond the declared ones are listed too, to be complained about. A lone first
    /// file of several channels is all there is, be they enough or not.
    fn case_in(
        &self,
        images: &Path,
        id: String,
        numbers: &[usize],
        label: Option<PathBuf>,
    ) -> DatasetCase {
        let declared = self.channels.len();
        let file = |channel: usize| images.join(format!("{id}_{channel:04}{}", self.file_ending));
        let alone = declared > 1 && *numbers == [0];
        if alone && image::stands_alone(self.reader, &file(0)) {
            return DatasetCase { images: vec![file(0)], label, id };
        }
        let surplus = numbers.iter().copied().filter(|&channel| channel >= declared);
        let images = (0..declared).chain(surplus).map(file).collect();
        DatasetCase { images, label, id }
    }

    /// Ids of files named `ID_NNNN.ending`, with their channel numbers, and the cases that have no id.
    fn channel_files(&self, folder: &Path) -> Result<(Numbered, Vec<Error>)> {
        let mut found = Numbered::new();
        let images = Folder::read_if_there(folder)?;
        for name in images.names() {
            let there = || folder.join(format!("{name}{}", self.file_ending)).exists();
            if let Some((id, channel)) = split_channel(name).filter(|_| there()) {
                found.entry(id.into()).or_default().push(channel);
            }
        }
        Ok((found, images.unnamed()))
    }

    /// The cases of which a file has a twin that other stages, which look at names alone, would take for it, or that
    /// consist of one file twice; each with its error. Loading has refused such training cases.
    pub fn check_names<'a>(
        &self,
        cases: impl IntoIterator<Item = &'a DatasetCase>,
    ) -> Vec<(&'a DatasetCase, Error)> {
        let mut folders = BTreeMap::new();
        let check = |case| Some((case, check_names(case, &mut folders).err()?));
        cases.into_iter().filter_map(check).collect()
    }

    fn check_training_names(&self) -> Result<()> {
        let mut folders = BTreeMap::new();
        self.training.iter().try_for_each(|case| check_names(case, &mut folders))?;
        // Scores and postprocessing take all label maps of a folder, also those that dataset.json doesn't list.
        let labels = self.training.iter().filter_map(|case| case.label.as_deref()?.parent());
        for folder in labels.collect::<BTreeSet<_>>().into_iter().filter_map(|l| folders.get(l)) {
            folder.names().try_for_each(|name| folder.image(name).map(drop))?;
        }
        Ok(())
    }

    fn file_ending_from_files(&mut self) {
        if self.file_ending.is_empty() {
            let first = self.training.iter().chain(&self.test).find_map(|c| c.images.first());
            self.file_ending = first.map_or(".nii.gz", |f| ending_of(&f.to_string_lossy())).into();
        }
    }

    fn file_ending_from_folder(&mut self, folder: &Path) -> Result<()> {
        if self.file_ending.is_empty() {
            let names = files_in(&folder.join("imagesTr"))?;
            self.file_ending = names.first().map_or(".nii.gz", |f| ending_of(f)).into();
        }
        Ok(())
    }
}

/// See [`Dataset::check_names`]; `folders` are those that were listed already.
fn check_names(case: &DatasetCase, folders: &mut BTreeMap<PathBuf, Folder>) -> Result<()> {
    check_distinct(&case.images)?;
    for file in case.images.iter().chain(&case.label) {
        let place = file.parent().unwrap_or(Path::new(""));
        if !folders.contains_key(place) {
            folders.insert(place.to_path_buf(), Folder::read_if_there(place)?);
        }
        let folder = &folders[place];
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let Some((name, _)) = split_ending(&name) else { continue };
        folder.image(name)?;
        // Where labels lie among the images, `ID` may be the label of `ID_0000`.
        let apart = case.label.as_ref().is_none_or(|l| l.parent() != Some(place));
        if apart && case.label.as_ref() != Some(file) {
            folder.case(split_channel(name).map_or(name, |(case, _)| case))?;
        }
    }
    Ok(())
}

/// Channels of one case from one file after another, without ever holding them twice.
#[derive(Debug)]
pub struct Stack {
    declared: usize,
    reader: Reader,
    found: usize,
    /// The first file and its geometry, and the channels so far.
    first: Option<(PathBuf, Geometry, Vec<f32>)>,
}

impl Stack {
    /// Waits for `declared` channels.
    pub fn new(declared: usize, reader: Reader) -> Self {
        Self { declared, reader, found: 0, first: None }
    }

    /// Adds all channels of a file, in the first file's axes; whether it lies elsewhere in space.
    ///
    /// # Errors
    /// If its shape or spacing isn't the first file's.
    pub fn push(&mut self, path: &Path, volume: Volume) -> Result<Option<Apart>> {
        let (volume, apart) = match &self.first {
            None => (volume, None),
            Some((first, geometry, _)) => self.reader.lay(path, volume, (first, geometry))?,
        };
        let Volume { geometry, channels } = volume;
        let (count, z, y, x) = channels.dim();
        self.found += count;
        let values = match channels.is_standard_layout() {
            true => channels.into_raw_vec_and_offset().0,
            false => channels.iter().copied().collect(),
        };
        let Some((.., whole)) = &mut self.first else {
            let mut values = values;
            values.reserve_exact(self.declared.saturating_sub(count) * z * y * x);
            self.first = Some((path.into(), geometry, values));
            return Ok(None);
        };
        // Surplus channels are only counted: `finish` refuses them.
        if self.found <= self.declared {
            whole.extend_from_slice(&values);
        }
        Ok(apart)
    }

    /// The geometry of the first file.
    pub fn geometry(&self) -> Option<&Geometry> {
        self.first.as_ref().map(|(_, geometry, _)| geometry)
    }

    /// The whole volume, on the first file's geometry.
    ///
    /// # Errors
    /// The number of channels found, if it isn't the declared one.
    pub fn finish(self) -> std::result::Result<Volume, usize> {
        let complete = self.first.filter(|_| self.found == self.declared);
        let (_, geometry, values) = complete.ok_or(self.found)?;
        let [z, y, x] = geometry.shape;
        let channels = Array4::from_shape_vec((self.declared, z, y, x), values);
        Ok(Volume { geometry, channels: channels.map_err(|_| self.found)? })
    }
}

/// Whether a case may have this id: later stages name a folder by it, and leave hidden ones alone.
///
/// # Errors
/// One line: found, expected.
pub fn check_id(id: &str) -> std::result::Result<(), String> {
    if id.is_empty() || id.starts_with('.') || id.contains(['/', '\0']) {
        let id = id.escape_debug();
        return Err(format!(
            "the id \"{id}\" can't be a folder's name, expected one without / that doesn't begin with a point"
        ));
    }
    Ok(())
}

fn folder_name(folder: &Path) -> String {
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.into());
    absolute.file_name().map_or_else(|| "data set".into(), |n| n.to_string_lossy().into_owned())
}

/// `._NAME`: what macOS leaves beside files on foreign disks and in archives.
fn is_sidecar(file: &str) -> bool {
    file.rsplit('/').next().is_some_and(|name| name.starts_with("._"))
}

/// Names in a folder that are text, sorted; none if there's no such folder.
fn files_in(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(folder, "list this folder", &e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io(folder, "list this folder", &e))?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.extend(name.into_string().ok());
        }
    }
    names.sort();
    Ok(names)
}

fn ending_of(name: &str) -> &'static str {
    split_ending(name).map_or(".nii.gz", |(_, ending)| ending)
}

/// A file's name without folder and ending.
fn case_id(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    split_ending(name).map_or(name, |(stem, _)| stem).into()
}
