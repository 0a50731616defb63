//! Everything about one case: its files are read once, checked, hashed and measured.

use crate::distribution::{Histogram, Moments};
use crate::problem::{Class, Problem};
use artifact::crop::{bounding_box, nonzero_mask};
use artifact::dataset::{Dataset, DatasetCase, Stack};
use artifact::fingerprint::MeasuredCase;
use artifact::image::folder::{Linked, linked};
use artifact::image::{self, Geometry, Volume};
use artifact::plan::Normalisation;
use artifact::{Result, hash_bytes};
use ndarray::{ArrayView3, ArrayView4, Axis, s};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What one case gave.
#[derive(Debug, Default)]
pub(crate) struct Inspected {
    pub problems: Vec<Problem>,
    /// Hash per file read.
    pub hashes: BTreeMap<PathBuf, String>,
    /// Only if the case has no errors.
    pub measured: Option<Measured>,
}

/// A sound case's numbers.
#[derive(Debug)]
pub(crate) struct Measured {
    pub case: MeasuredCase,
    /// Foreground intensities per channel.
    pub moments: Vec<Moments>,
    pub histograms: Vec<Histogram>,
}

/// Reads and measures one case of the data set in `folder`.
pub(crate) fn inspect(folder: &Path, dataset: &Dataset, case: &DatasetCase) -> Inspected {
    let mut look = Look { folder, dataset, case, found: Inspected::default() };
    let image = look.image();
    let label = look.label(image.as_ref().map(|i| &i.geometry));
    if let (Some(image), Some((label, class_voxels))) = (image, label)
        && crate::error_count(&look.found.problems) == 0
    {
        look.found.measured = Some(measure(dataset, case, &image, &label, class_voxels));
    }
    look.found
}

/// Looks at the headers and ends of a test case's files: training needs none of them, so that all that is found is a warning.
/// `label` is the case's label map, where there is one.
pub(crate) fn inspect_test(
    folder: &Path,
    dataset: &Dataset,
    case: &DatasetCase,
    label: Option<&Path>,
) -> Vec<Problem> {
    let mut look = Look { folder, dataset, case, found: Inspected::default() };
    let image = look.test_image();
    if let Some(label) = label {
        look.test_label(label, image);
    }
    look.found.problems
}

struct Look<'a> {
    folder: &'a Path,
    dataset: &'a Dataset,
    case: &'a DatasetCase,
    found: Inspected,
}

impl<'a> Look<'a> {
    fn problem(&mut self, class: Class, path: &Path, detail: impl Into<String>) {
        let subject = crate::relative(self.folder, path);
        self.found.problems.push(Problem::new(class, subject, detail));
    }

    fn linked_channels(&mut self) {
        for Linked { file, other } in linked(&self.case.images) {
            let other = crate::relative(self.folder, &other);
            self.problem(Class::LinkedChannels, &file, format!("is the same file as {other}"));
        }
    }

    /// All channels, if every file is there, readable and on the same grid.
    fn image(&mut self) -> Option<Volume> {
        self.linked_channels();
        let mut stack = Stack::new(self.dataset.channels.len(), self.dataset.reader);
        let mut complete = true;
        let mut first: Option<(&Path, Geometry)> = None;
        let mut constant = Vec::new();
        let mut channels = 0;
        for path in &self.case.images {
            let Some(volume) = self.read(path) else {
                complete = false;
                continue;
            };
            constant.extend(self.check_values(path, volume.channels.view()));
            channels += volume.channels.len_of(Axis(0));
            match &first {
                None => first = Some((path, volume.geometry.clone())),
                Some((other, first)) => {
                    let geometry = self.axes_of(&volume.geometry, first);
                    complete &= self.meets((path, &geometry), (other, first), Class::Place);
                }
            }
            complete = complete && stack.push(path, volume).is_ok();
        }
        if complete && !constant.is_empty() && constant.len() == channels {
            let value = format!("all voxels are {}", constant[0].1);
            self.problem(Class::BlankImage, &constant[0].0.clone(), value);
        } else {
            for (path, value) in constant {
                self.problem(Class::ConstantChannel, &path, format!("all voxels are {value}"));
            }
        }
        if !complete {
            return None;
        }
        match stack.finish() {
            Ok(volume) => {
                self.check_ranges(&volume);
                Some(volume)
            }
            Err(found) => {
                self.wrong_count(Class::ChannelCount, found);
                None
            }
        }
    }

    fn wrong_count(&mut self, class: Class, found: usize) {
        let (files, declared) = (&self.case.images, &self.dataset.channels);
        let found = image::count(files, found);
        let detail = format!("{found}, expected {}: {}", declared.len(), declared.join(", "));
        let path = files.first().cloned().unwrap_or_else(|| self.case.id.clone().into());
        self.problem(class, &path, detail);
    }

    /// First file and its geometry, if all are there, readable and on the same grid.
    fn test_image(&mut self) -> Option<(&'a Path, Geometry)> {
        self.linked_channels();
        let mut first: Option<(&Path, Geometry)> = None;
        let (mut complete, mut channels) = (true, 0);
        let case = self.case;
        for path in &case.images {
            let Some((geometry, count)) = self.header(path, Class::TestImage) else {
                complete = false;
                continue;
            };
            channels += count;
            match &first {
                None => first = Some((path, geometry)),
                Some((other, expected)) => {
                    let geometry = self.axes_of(&geometry, expected);
                    complete &=
                        self.test_meets((path, &geometry), (other, expected), Class::TestImage);
                }
            }
        }
        if complete && channels != self.dataset.channels.len() {
            self.wrong_count(Class::TestImage, channels);
        }
        first
    }

    fn test_label(&mut self, path: &Path, image: Option<(&Path, Geometry)>) {
        let class = Class::TestLabel;
        let Some((geometry, count)) = self.header(path, class) else { return };
        if count != 1 {
            let found = image::count(&[path.into()], count);
            self.problem(class, path, format!("label has {found}, expected 1"));
        }
        if let Some((file, expected)) = image {
            let geometry = self.axes_of(&geometry, &expected);
            self.test_meets((path, &geometry), (file, &expected), class);
        }
    }

    /// Geometry and channels of a test case's file, if it seems to be whole.
    fn header(&mut self, path: &Path, class: Class) -> Option<(Geometry, usize)> {
        let reader = self.dataset.reader;
        let read = || {
            let found = reader.read_header(path)?;
            // Whoever reads it whole, as looking at its length may, needs so much.
            stage::memory::require(image::reading_bytes(&[path.into()]))
                .map_err(|e| artifact::Error::input(path, e.message))?;
            reader.check_length(path)?;
            Ok(found)
        };
        match read() {
            Ok(found) => Some(found),
            Err(artifact::Error { message, .. }) => {
                let detail = if path.exists() { message } else { not_there(path) };
                self.problem(class, path, detail);
                None
            }
        }
    }

    fn test_meets(
        &mut self,
        (path, found): (&Path, &Geometry),
        (other, expected): (&Path, &Geometry),
        class: Class,
    ) -> bool {
        let problems = self.found.problems.len();
        let meets = self.meets((path, found), (other, expected), Class::Place);
        for problem in &mut self.found.problems[problems..] {
            if !problem.class.is_warning() {
                problem.class = class;
            }
        }
        meets
    }

    /// Label values and voxels per class, if every value is a class.
    fn label(&mut self, image: Option<&Geometry>) -> Option<(Volume, Vec<u64>)> {
        let Some(path) = &self.case.label else {
            let case = self.case.id.clone();
            self.found.problems.push(Problem::new(Class::MissingFile, case, "no label listed"));
            return None;
        };
        let mut volume = self.read(path)?;
        if let (Some(image), Some(file)) = (image, self.case.images.first()) {
            let turn = self.dataset.reader.turn_like(&volume.geometry, image);
            volume = volume.turned(turn);
            self.meets((path, &volume.geometry), (file, image), Class::TurnedLabel);
        }
        if let Err(error) = image::check_label(path, &volume) {
            self.problem(Class::ChannelCount, path, error.message);
            return None;
        }
        let counts = self.count_classes(path, volume.channels.index_axis(Axis(0), 0))?;
        if counts.iter().skip(1).all(|n| *n == 0) {
            self.problem(Class::NoForeground, path, "all voxels are background");
        }
        Some((volume, counts))
    }

    fn read(&mut self, path: &Path) -> Option<Volume> {
        match self.try_read(path) {
            Ok(volume) => Some(volume),
            Err(error) => {
                let class = if path.exists() { Class::UnreadableFile } else { Class::MissingFile };
                let detail = if path.exists() { error.message } else { not_there(path) };
                self.problem(class, path, detail);
                None
            }
        }
    }

    fn try_read(&mut self, path: &Path) -> Result<Volume> {
        stage::memory::require(image::reading_bytes(&[path.into()]))
            .map_err(|e| artifact::Error::input(path, e.message))?;
        let mut contents = Vec::new();
        for file in image::files_of(path)? {
            let bytes = artifact::file::read(&file, "read")?;
            self.found.hashes.insert(file, hash_bytes(&bytes));
            contents.push(bytes);
        }
        self.dataset.reader.decode(path, contents)
    }

    /// A file's geometry in the axes of another one.
    fn axes_of(&self, geometry: &Geometry, other: &Geometry) -> Geometry {
        geometry.turned(self.dataset.reader.turn_like(geometry, other))
    }

    /// Whether a file lies on the grid of another one; where it lies elsewhere in space is said, as `turned` if its axes
    /// point elsewhere.
    fn meets(
        &mut self,
        (path, found): (&Path, &Geometry),
        (other, expected): (&Path, &Geometry),
        turned: Class,
    ) -> bool {
        if let Err(detail) = found.same_grid(expected) {
            let class = if found.shape == expected.shape { Class::Spacing } else { Class::Shape };
            let other = crate::relative(self.folder, other);
            self.problem(class, path, format!("{detail} as in {other}"));
            return false;
        }
        if let Ok(Some(apart)) = image::meet((path, found), (other, expected)) {
            let other = crate::relative(self.folder, other);
            let class = if apart.turned { turned } else { Class::Place };
            self.problem(class, path, format!("{} as in {other}", apart.detail));
        }
        true
    }

    /// Reports channels that their normalisation refuses.
    fn check_ranges(&mut self, image: &Volume) {
        let names = self.dataset.channels.iter();
        for (index, (name, channel)) in names.zip(image.channels.outer_iter()).enumerate() {
            let start = (f32::INFINITY, f32::NEG_INFINITY);
            let scheme = Normalisation::of_channel(name, false);
            if scheme != Normalisation::RgbTo01 {
                continue;
            }
            let (low, high) = channel.fold(start, |(low, high), &v| (low.min(v), high.max(v)));
            if let Err(detail) = scheme.check_range(low, high) {
                let files = &self.case.images;
                let path = files.get(index).or(files.first()).cloned().unwrap_or_default();
                self.problem(Class::Range, &path, format!("channel {name}: {detail}"));
            }
        }
    }

    /// Reports voxels that are no numbers; returns the channels that hold one value only.
    fn check_values(&mut self, path: &Path, channels: ArrayView4<'_, f32>) -> Vec<(PathBuf, f32)> {
        let bad = channels.iter().filter(|v| !v.is_finite()).count();
        if bad > 0 {
            self.problem(Class::NonFinite, path, format!("{bad} of {} voxels", channels.len()));
        }
        let one_value = |channel: ArrayView3<'_, f32>| {
            let value = *channel.first()?;
            channel.iter().all(|&v| v == value).then_some((path.to_path_buf(), value))
        };
        channels.outer_iter().filter_map(one_value).collect()
    }

    fn count_classes(&mut self, path: &Path, label: ArrayView3<'_, f32>) -> Option<Vec<u64>> {
        let labels = &self.dataset.labels;
        // Values are at most 32767: a table finds the class of each.
        let ignore = self.dataset.ignore.as_ref();
        let most = labels.iter().chain(ignore).map(|l| l.value).max().unwrap_or(0);
        let mut class_of = vec![usize::MAX; usize::try_from(most).unwrap_or(0) + 1];
        for (class, label) in labels.iter().chain(ignore).enumerate() {
            class_of[usize::try_from(label.value).unwrap_or(0)] = class;
        }
        // Additions to one count wait for each other, and neighbours are mostly of one class: several counts by turns.
        const TURNS: usize = 4;
        let mut counts = vec![[0u64; TURNS]; labels.len() + usize::from(ignore.is_some())];
        let (mut strange, mut broken) = (BTreeSet::new(), 0u64);
        let mut example = 0.0;
        for (turn, &value) in label.iter().enumerate() {
            // A negative or fractional value never equals its own index.
            let index = value as usize;
            match class_of.get(index) {
                Some(&class) if class != usize::MAX && index as f32 == value => {
                    counts[class][turn % TURNS] += 1;
                }
                _ if value.fract() == 0.0 => _ = strange.insert(value as i64),
                _ => (broken, example) = (broken + 1, value),
            }
        }
        if broken > 0 {
            let detail = format!("{broken} voxels, such as {example}");
            self.problem(Class::NonIntegerLabel, path, detail);
        }
        if !strange.is_empty() {
            let declared: Vec<_> =
                labels.iter().chain(ignore).map(|l| l.value.to_string()).collect();
            let found: Vec<_> = strange.iter().take(8).map(i64::to_string).collect();
            let more = if strange.len() > 8 { ", …" } else { "" };
            let detail = format!("{}{more}, expected {}", found.join(", "), shorten(&declared));
            self.problem(Class::UndeclaredLabel, path, detail);
        }
        counts.truncate(labels.len());
        let counts = counts.iter().map(|turns| turns.iter().sum()).collect();
        (broken == 0 && strange.is_empty()).then_some(counts)
    }
}

/// That a file is missing, and which one beside it may be meant; of a link where it leads.
fn not_there(path: &Path) -> String {
    if let Some(link) = artifact::file::broken_link(path) {
        return link;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = image::split_ending(&name).map_or(&*name, |(stem, _)| stem);
    let others = path.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    let others = others.into_iter().flatten().flatten();
    let mut others: Vec<String> = others
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|other| other.strip_prefix(stem).is_some_and(|end| end.starts_with('.')))
        .collect();
    others.sort();
    match others.first() {
        Some(other) => format!("not there, but {other} is"),
        None => "not there".into(),
    }
}

/// The first eight of a list.
fn shorten(list: &[String]) -> String {
    let more = if list.len() > 8 { ", …" } else { "" };
    format!("{}{more}", list[..list.len().min(8)].join(", "))
}

fn measure(
    dataset: &Dataset,
    case: &DatasetCase,
    image: &Volume,
    label: &Volume,
    class_voxels: Vec<u64>,
) -> Measured {
    let bounds = bounding_box(&nonzero_mask(image.channels.view()));
    let [z, y, x] = bounds.clone();
    let runs = foreground_runs(label.channels.slice(s![0, z.clone(), y.clone(), x.clone()]));
    let inside = image.channels.slice(s![.., z, y, x]);
    let (mut moments, mut histograms) = (Vec::new(), Vec::new());
    for channel in inside.outer_iter() {
        let row = |run: &Run| channel.slice_move(s![run.row[0], run.row[1], run.x.clone()]);
        let foreground = || runs.iter().flat_map(|run| row(run).into_iter().copied());
        let mut histogram = Histogram::default();
        foreground().for_each(|v| histogram.add(v));
        moments.push(Moments::of(foreground()));
        histograms.push(histogram);
    }
    let cropped_shape = bounds.map(|Range { start, end }| end - start);
    let voxels = |shape: [usize; 3]| shape.iter().product::<usize>() as f64;
    let geometry = &image.geometry;
    let turn = dataset.reader.turn(geometry);
    let case = MeasuredCase {
        id: case.id.clone(),
        shape: turn.order(geometry.shape),
        spacing_mm: turn.order(geometry.spacing_mm),
        cropped_shape: turn.order(cropped_shape),
        relative_size: voxels(cropped_shape) / voxels(geometry.shape),
        class_voxels,
    };
    Measured { case, moments, histograms }
}

/// Neighbours along x in row `[z, y]`.
struct Run {
    row: [usize; 2],
    x: Range<usize>,
}

/// Maximal runs of voxels above 0, in the order of the voxels.
fn foreground_runs(label: ArrayView3<'_, f32>) -> Vec<Run> {
    let mut runs = Vec::new();
    for (z, plane) in label.outer_iter().enumerate() {
        for (y, row) in plane.outer_iter().enumerate() {
            let values = row.to_slice().expect("x is the fastest axis");
            // Most rows have none: asked of all voxels at once, not one by one.
            if !values.iter().fold(false, |any, &v| any | (v > 0.0)) {
                continue;
            }
            let mut end = 0;
            while let Some(next) = values[end..].iter().position(|&v| v > 0.0) {
                let start = end + next;
                let length = values[start..].iter().position(|&v| v <= 0.0);
                end = length.map_or(values.len(), |n| start + n);
                runs.push(Run { row: [z, y], x: start..end });
            }
        }
    }
    runs
}
