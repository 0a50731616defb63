//! Batches for training and validation.

use crate::check::{check_augmentation, check_cases, check_previous};
use crate::draws::{Draws, Stream};
use crate::intensity;
use crate::previous::{change, remove};
use crate::resample::{sample_image, sample_label};
use crate::sampling::{Aim, Locations, box_around, first_forced, free_box};
use crate::settings::{Frame, Settings};
use crate::spatial::{OUTSIDE, Warp, crop, mirror};
use artifact::case::OpenCase;
use artifact::plan::Configuration;
use artifact::previous::{OpenPrevious, one_hot};
use artifact::recipe::Recipe;
use ndarray::{Array3, Array4, Array5, ArrayView3, ArrayViewMut3, ArrayViewMut4, Axis};
use rand::RngExt;
use rayon::prelude::*;
use stage::Error;

/// What the batches are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Augmented.
    Training,
    /// Plain crops; foreground is oversampled as in training.
    Validation,
}

/// Everything that a training or validation loader needs; shared between threads.
#[derive(Debug)]
pub struct Loader {
    pub(crate) cases: Vec<OpenCase>,
    /// Per case.
    locations: Vec<Locations>,
    /// Per case: axes that may be flipped.
    mirror_axes: Vec<Vec<usize>>,
    /// Per case, in a cascade.
    pub(crate) previous: Vec<OpenPrevious>,
    previous_stage: Option<String>,
    pub(crate) settings: Settings,
    /// Of the image, and of the previous stage.
    pub(crate) channels: [usize; 2],
    batch_size: usize,
    first_forced: usize,
    pub(crate) masked_channels: Vec<bool>,
    pub(crate) mode: Mode,
    seed: u64,
}

/// One batch.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledBatch {
    /// `[sample, channel, z, y, x]`.
    pub image: Array5<f32>,
    /// `[sample, z, y, x]`: class indices ≥ 0.
    pub label: Array4<i16>,
    /// Case of each sample: its index in the list that [`Loader::new`] got; [`Loader::case_id`] has the name.
    pub cases: Vec<usize>,
}

/// Which box of which case a sample shows, before any transform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Index of the case.
    pub case: usize,
    /// First voxel of the box, z, y, x; may lie outside of the case.
    pub lower: [i64; 3],
    /// What the box was centred on.
    pub aim: Aim,
}

/// Refuses a batch, f32 images and i16 labels, for which the machine hasn't the memory.
fn admit(configuration: &Configuration) -> Result<(), Error> {
    let voxels = configuration.patch_shape.iter().map(|&edge| edge as f64).product::<f64>();
    let each = (4 * configuration.network.input_channels + 2) as f64;
    stage::memory::require(configuration.batch_size as f64 * voxels * each).map_err(|e| {
        Error::input(format!("a batch {}", e.message))
            .hint("plan again with a smaller batch_size or patch_shape, or use a larger machine")
    })
}

impl Loader {
    /// A loader over labelled cases of one configuration. For the second stage of a cascade,
    /// [`Self::with_previous`] completes it.
    ///
    /// # Errors
    /// One line if there is no case, a case has no label, or channels, classes or configuration disagree.
    pub fn new(
        cases: Vec<OpenCase>,
        configuration: &Configuration,
        recipe: &Recipe,
        mode: Mode,
        seed: u64,
    ) -> Result<Self, Error> {
        let channels = check_cases(&cases, configuration)?;
        let augmentation = &recipe.augmentation;
        check_augmentation(augmentation)?;
        admit(configuration)?;
        let mirror_axes = |case: &OpenCase| {
            let original = &case.record.body.original;
            original.mirror_axes(&augmentation.mirror_axes, &augmentation.never_mirror)
        };
        Ok(Self {
            locations: cases.iter().map(Locations::of).collect(),
            mirror_axes: cases.iter().map(mirror_axes).collect(),
            previous: Vec::new(),
            previous_stage: configuration.previous_stage.clone(),
            settings: Settings::new(augmentation, configuration.patch_shape),
            channels,
            batch_size: configuration.batch_size,
            first_forced: first_forced(configuration.batch_size, &recipe.sampling),
            masked_channels: vec![false; channels[0]],
            cases,
            mode,
            seed,
        })
    }

    /// The previous stage's predictions, one per case in the cases' order. Batches then hold
    /// `[image channels, one channel of 0 and 1 per foreground class]`.
    ///
    /// # Errors
    /// One line if the configuration has no previous stage, or a prediction is of another case, stage or grid.
    pub fn with_previous(mut self, previous: Vec<OpenPrevious>) -> Result<Self, Error> {
        check_previous(&self.cases, self.previous_stage.as_deref(), &previous)?;
        self.previous = previous;
        Ok(self)
    }

    /// Channels that were normalised inside the nonzero mask: outside of it (label −1) they are set back to 0 after
    /// the transforms, which would otherwise move the zeros. One flag per image channel.
    ///
    /// # Panics
    /// If the number of image channels differs from the cases'.
    #[must_use]
    pub fn with_masked_channels(mut self, masked: &[bool]) -> Self {
        assert_eq!(masked.len(), self.channels[0], "one flag per image channel");
        self.masked_channels = masked.to_vec();
        self
    }

    /// Batch number `index` of the whole training, a function of (seed, mode, index) alone.
    ///
    /// # Panics
    /// If the configuration has a previous stage and [`Self::with_previous`] was not called.
    pub fn batch(&self, index: u64) -> SampledBatch {
        let [z, y, x] = self.settings.patch;
        let n = self.batch_size;
        let mut batch = SampledBatch {
            image: Array5::zeros((n, self.channels(), z, y, x)),
            label: Array4::zeros((n, z, y, x)),
            cases: Vec::new(),
        };
        self.refill(index, &mut batch);
        batch
    }

    /// Makes batch number `index` of an earlier one: fresh memory costs as much as some transforms.
    ///
    /// # Panics
    /// As [`Self::batch`], and if `batch` is another loader's, of another shape.
    pub fn refill(&self, index: u64, batch: &mut SampledBatch) {
        let SampledBatch { image, label, cases } = batch;
        assert_eq!(image.dim().0, self.batch_size, "a batch of this loader");
        *cases = image
            .axis_iter_mut(Axis(0))
            .into_par_iter()
            .zip(label.axis_iter_mut(Axis(0)))
            .enumerate()
            .map(|(sample, (image, label))| {
                let placement = self.placement(index, sample);
                let draws = self.draws(placement.case, index, sample);
                self.render(&placement, &draws, image, label);
                placement.case
            })
            .collect();
    }

    /// Id of a case.
    pub fn case_id(&self, case: usize) -> &str {
        &self.cases[case].record.body.case.id
    }

    /// What foreground boxes are centred on: `class`, or `region` in a data set with regions.
    pub fn foreground_name(&self) -> &'static str {
        if self.cases[0].record.body.case.regions > 0 { "region" } else { "class" }
    }

    /// The resolved augmentation.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Samples per batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Input channels of the network: of the image, and one per foreground class of the previous stage.
    pub fn channels(&self) -> usize {
        self.channels[0] + self.channels[1]
    }

    /// Channels of the image.
    pub fn image_channels(&self) -> usize {
        self.channels[0]
    }

    fn stream(&self, what: Stream, index: u64, sample: usize) -> impl rand::Rng + use<> {
        stage::rng(self.seed, &[AUGMENT, what as u64, self.mode as u64, index, sample as u64])
    }

    /// Where sample `sample` of batch `index` lies.
    pub fn placement(&self, index: u64, sample: usize) -> Placement {
        let mut rng = self.stream(Stream::Placement, index, sample);
        let case = rng.random_range(0..self.cases.len());
        let shape = self.cases[case].record.body.case.shape;
        let patch = self.settings.patch;
        let forced = sample >= self.first_forced;
        let centre = self.locations[case].draw(&mut rng, forced);
        let (Some((row, aim)), Some(rows)) = (centre, self.cases[case].foreground()) else {
            return Placement { case, lower: free_box(&mut rng, shape, patch), aim: Aim::Anywhere };
        };
        let voxel = [1, 2, 3]
            .map(|i| usize::try_from(rows[[row, i]]).expect("checked when the case was opened"));
        Placement { case, lower: box_around(voxel, shape, patch), aim }
    }

    /// The random numbers of sample `sample` of batch `index`, which shows this case; none in validation.
    pub fn draws(&self, case: usize, index: u64, sample: usize) -> Draws {
        match self.mode {
            Mode::Training => Draws::draw(
                |what| self.stream(what, index, sample),
                &self.settings,
                self.channels[0],
                self.channels[1],
                &self.mirror_axes[case],
            ),
            Mode::Validation => Draws::none(),
        }
    }

    /// Fills `image` `[channel, z, y, x]` and `label` `[z, y, x]`: spatial transforms, then intensities, then
    /// mirroring; in a cascade the previous stage's channels last.
    ///
    /// # Panics
    /// As [`Self::batch`].
    pub fn render(
        &self,
        placement: &Placement,
        draws: &Draws,
        image: ArrayViewMut4<'_, f32>,
        mut label: ArrayViewMut3<'_, i16>,
    ) {
        let case = &self.cases[placement.case];
        let warp = draws.warp(&self.settings, placement.lower);
        let (mut image, mut channels) = image.split_at(Axis(0), self.channels[0]);
        for (source, out) in case.image().outer_iter().zip(image.outer_iter_mut()) {
            self.read_image(source, warp.as_ref(), placement, out);
        }
        let classes = case.label().expect("cases are labelled, as checked in new");
        self.read_classes(classes, warp.as_ref(), placement, label.view_mut());
        intensity::apply(draws, &self.settings, &mut image);
        for channel in image.outer_iter_mut() {
            mirror(channel, draws.mirror);
        }
        mirror(label.view_mut(), draws.mirror);
        for (mut channel, _) in
            image.outer_iter_mut().zip(&self.masked_channels).filter(|(_, masked)| **masked)
        {
            channel.zip_mut_with(&label, |v, &class| {
                if class < 0 {
                    *v = 0.0;
                }
            });
        }
        label.mapv_inplace(|class| class.max(0));
        if self.previous_stage.is_some() {
            self.append_previous(placement, draws, warp.as_ref(), &mut channels);
        }
    }

    /// Fills `channels` `[class − 1, z, y, x]` with the previous stage's classes.
    fn append_previous(
        &self,
        placement: &Placement,
        draws: &Draws,
        warp: Option<&Warp>,
        channels: &mut ArrayViewMut4<'_, f32>,
    ) {
        let previous = self.previous.get(placement.case).expect("with_previous was called");
        let mut classes = Array3::zeros(self.settings.patch);
        self.read_classes(previous.classes(), warp, placement, classes.view_mut());
        mirror(classes.view_mut(), draws.mirror);
        let max_fraction = self.settings.recipe.previous_removal_max_fraction;
        draws.morphology.iter().for_each(|&m| change(&mut classes.view_mut(), m));
        draws.removal.iter().for_each(|&r| remove(&mut classes.view_mut(), r, max_fraction));
        one_hot(classes.view(), channels);
    }

    /// A channel of the patch after the spatial transforms, in one pass from the case.
    fn read_image(
        &self,
        source: ArrayView3<'_, f32>,
        warp: Option<&Warp>,
        placement: &Placement,
        out: ArrayViewMut3<'_, f32>,
    ) {
        let Some(warp) = warp else { return crop(source, placement.lower, 0.0, out) };
        let axes = self.settings.frame.axes();
        let order = self.settings.recipe.image_order;
        sample_image(source.permuted_axes(axes), warp, order, out.permuted_axes(axes));
    }

    /// The same for class indices.
    fn read_classes(
        &self,
        source: ArrayView3<'_, i16>,
        warp: Option<&Warp>,
        placement: &Placement,
        out: ArrayViewMut3<'_, i16>,
    ) {
        let Some(warp) = warp else { return crop(source, placement.lower, OUTSIDE, out) };
        let axes = self.settings.frame.axes();
        let order = self.settings.recipe.label_order;
        sample_label(source.permuted_axes(axes), warp, order, out.permuted_axes(axes));
    }

    /// A sample by itself: image `[channel, z, y, x]` and label `[z, y, x]`.
    pub fn sample(&self, placement: &Placement, draws: &Draws) -> (Array4<f32>, Array3<i16>) {
        let [z, y, x] = self.settings.patch;
        let mut image = Array4::zeros((self.channels(), z, y, x));
        let mut label = Array3::zeros((z, y, x));
        self.render(placement, draws, image.view_mut(), label.view_mut());
        (image, label)
    }

    /// Whether patches are transformed slice by slice.
    pub fn frame(&self) -> Frame {
        self.settings.frame
    }
}

/// First word of this crate's random streams, so that no other stage draws the same numbers from the same seed.
const AUGMENT: u64 = 0x6175_676d_656e_7400;
