//! Batches for training and validation.

use crate::draws::{Draws, Frame, Settings};
use crate::intensity::gamma;
use crate::sampling::{ClassRows, box_around, class_rows, first_forced, free_box};
use crate::spatial::{OUTSIDE, crop, mirror, sample_image, sample_label};
use artifact::case::OpenCase;
use artifact::plan::Configuration;
use artifact::recipe::Recipe;
use ndarray::{Array3, Array4, Array5, ArrayViewMut3, ArrayViewMut4, Axis};
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
    cases: Vec<OpenCase>,
    /// Per case.
    rows: Vec<Vec<ClassRows>>,
    settings: Settings,
    channels: usize,
    batch_size: usize,
    first_forced: usize,
    masked_channels: Vec<bool>,
    mode: Mode,
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
    /// The class that the box was centred on, if it had to show foreground.
    pub class: Option<usize>,
}

impl Loader {
    /// A loader over labelled cases of one configuration.
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
        check_cases(&cases, configuration)?;
        check_augmentation(&recipe.augmentation)?;
        Ok(Self {
            rows: cases.iter().map(class_rows).collect(),
            settings: Settings::new(&recipe.augmentation, configuration.patch_shape),
            channels: configuration.network.input_channels,
            batch_size: configuration.batch_size,
            first_forced: first_forced(
                configuration.batch_size,
                recipe.sampling.foreground_fraction,
            ),
            masked_channels: vec![false; configuration.network.input_channels],
            cases,
            mode,
            seed,
        })
    }

    /// Channels that were normalised inside the nonzero mask: outside of it (label −1) they are set back to 0 after
    /// the transforms, which would otherwise move the zeros.
    ///
    /// # Panics
    /// If the number of channels differs from the configuration's.
    #[must_use]
    pub fn with_masked_channels(mut self, masked: &[bool]) -> Self {
        assert_eq!(masked.len(), self.channels, "one flag per channel");
        self.masked_channels = masked.to_vec();
        self
    }

    /// Batch number `index` of the whole training, a function of (seed, mode, index) alone.
    pub fn batch(&self, index: u64) -> SampledBatch {
        let [z, y, x] = self.settings.patch;
        let n = self.batch_size;
        let mut image = Array5::zeros((n, self.channels, z, y, x));
        let mut label = Array4::zeros((n, z, y, x));
        let cases = image
            .axis_iter_mut(Axis(0))
            .into_par_iter()
            .zip(label.axis_iter_mut(Axis(0)))
            .enumerate()
            .map(|(sample, (image, label))| {
                let placement = self.placement(index, sample);
                self.render(&placement, &self.draws(index, sample), image, label);
                placement.case
            })
            .collect();
        SampledBatch { image, label, cases }
    }

    /// Id of a case.
    pub fn case_id(&self, case: usize) -> &str {
        &self.cases[case].record.body.case.id
    }

    /// The resolved augmentation.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Samples per batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Input channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    fn stream(&self, purpose: u64, index: u64, sample: usize) -> impl rand::Rng + use<> {
        stage::rng(self.seed, &[AUGMENT, purpose, self.mode as u64, index, sample as u64])
    }

    /// Where sample `sample` of batch `index` lies.
    pub fn placement(&self, index: u64, sample: usize) -> Placement {
        let mut rng = self.stream(0, index, sample);
        let case = rng.random_range(0..self.cases.len());
        let shape = self.cases[case].record.body.case.shape;
        let patch = self.settings.patch;
        let rows = &self.rows[case];
        let locations = self.cases[case].foreground();
        let (Some(locations), false, true) =
            (locations, rows.is_empty(), sample >= self.first_forced)
        else {
            return Placement { case, lower: free_box(&mut rng, shape, patch), class: None };
        };
        let class = rows[rng.random_range(0..rows.len())];
        let row = locations.row(class.first + rng.random_range(0..class.count));
        let voxel = [1, 2, 3].map(|i| usize::try_from(row[i]).expect("checked when opened"));
        Placement { case, lower: box_around(voxel, shape, patch), class: Some(class.class) }
    }

    /// The random numbers of sample `sample` of batch `index`; none in validation.
    pub fn draws(&self, index: u64, sample: usize) -> Draws {
        match self.mode {
            Mode::Training => {
                let mut rng = self.stream(1, index, sample);
                Draws::draw(&mut rng, &self.settings, self.channels)
            }
            Mode::Validation => Draws::none(),
        }
    }

    /// Fills `image` `[channel, z, y, x]` and `label` `[z, y, x]`: spatial transforms, then gamma, then mirroring.
    pub fn render(
        &self,
        placement: &Placement,
        draws: &Draws,
        mut image: ArrayViewMut4<'_, f32>,
        mut label: ArrayViewMut3<'_, i16>,
    ) {
        self.read(placement, draws, &mut image, &mut label);
        if let Some(exponents) = &draws.gamma {
            let retain = self.settings.recipe.gamma_retain_statistics;
            for (channel, &exponent) in image.outer_iter_mut().zip(exponents) {
                gamma(channel, exponent, retain);
            }
        }
        for (axis, _) in draws.mirror.iter().enumerate().filter(|(_, flip)| **flip) {
            mirror(&mut image, Axis(axis + 1));
            mirror(&mut label, Axis(axis));
        }
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
    }

    /// The patch after the spatial transforms, in one pass from the case.
    fn read(
        &self,
        placement: &Placement,
        draws: &Draws,
        image: &mut ArrayViewMut4<'_, f32>,
        label: &mut ArrayViewMut3<'_, i16>,
    ) {
        let case = &self.cases[placement.case];
        let classes = case.label().expect("cases are labelled, as checked in new");
        let Some(warp) = draws.warp(&self.settings, placement.lower) else {
            for (channel, out) in case.image().outer_iter().zip(image.outer_iter_mut()) {
                crop(channel, placement.lower, 0.0, out);
            }
            crop(classes, placement.lower, OUTSIDE, label.view_mut());
            return;
        };
        let (axes, recipe) = (self.settings.frame.axes(), &self.settings.recipe);
        for (channel, out) in case.image().outer_iter().zip(image.outer_iter_mut()) {
            let out = out.permuted_axes(axes);
            sample_image(channel.permuted_axes(axes), &warp, recipe.image_order, out);
        }
        let out = label.view_mut().permuted_axes(axes);
        sample_label(classes.permuted_axes(axes), &warp, recipe.label_order, out);
    }

    /// A sample by itself: image `[channel, z, y, x]` and label `[z, y, x]`.
    pub fn sample(&self, placement: &Placement, draws: &Draws) -> (Array4<f32>, Array3<i16>) {
        let [z, y, x] = self.settings.patch;
        let mut image = Array4::zeros((self.channels, z, y, x));
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

fn check_cases(cases: &[OpenCase], configuration: &Configuration) -> Result<(), Error> {
    let Some(first) = cases.first() else {
        return Err(Error::input("no case to draw patches from, expected at least one"));
    };
    let made_for = &first.record.body.case.configuration;
    let network = &configuration.network;
    for case in cases {
        let info = &case.record.body.case;
        let wrong = |field: &str, found: &dyn std::fmt::Display, expected: String| {
            Error::input(format!("case {}: {field} = {found}, expected {expected}", info.id))
                .hint("this case was preprocessed for another plan; re-run nnu-preprocess for it")
        };
        if !info.labelled {
            return Err(wrong("labelled", &false, "a case with a label".into())
                .hint("only cases with a label can be trained on; leave it out of splits.toml"));
        }
        if info.channels != network.input_channels {
            let expected = format!("{} (network.input_channels)", network.input_channels);
            return Err(wrong("channels", &info.channels, expected));
        }
        if info.classes != network.output_channels {
            let expected = format!("{} (network.output_channels)", network.output_channels);
            return Err(wrong("classes", &info.classes, expected));
        }
        if info.configuration != *made_for {
            let expected = format!("{made_for} as case {}", first.record.body.case.id);
            return Err(wrong("configuration", &info.configuration, expected));
        }
    }
    Ok(())
}

fn check_augmentation(a: &artifact::recipe::Augmentation) -> Result<(), Error> {
    let orders = [
        ("image_order", a.image_order, "0, 1 or 3", !matches!(a.image_order, 0 | 1 | 3)),
        ("label_order", a.label_order, "0 or 1", !matches!(a.label_order, 0 | 1)),
    ];
    for (key, found, expected, wrong) in orders {
        if wrong {
            return Err(Error::input(format!(
                "recipe.augmentation.{key} = {found}, expected {expected}"
            )));
        }
    }
    if !a.elastic_sigma[0].is_normal() && a.elastic_probability > 0.0 {
        return Err(Error::input(format!(
            "recipe.augmentation.elastic_sigma = {:?}, expected a positive width",
            a.elastic_sigma
        )));
    }
    Ok(())
}
