//! The random numbers of one sample: which transforms fire, and with which parameters.
//!
//! Every transform draws from a stream of its own, so that its numbers depend on no other transform's probability.

use crate::counter;
use crate::elastic::displacements;
use crate::previous::{Morphology, Operation, Removal};
use crate::settings::{Frame, Settings};
use crate::spatial::{Warp, rotation};
use artifact::recipe::{Draw, Range};
use ndarray::Array4;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

/// What a random stream is for. The numbers are part of the stream's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
#[expect(missing_docs, reason = "the names are those of the recipe's keys")]
pub enum Stream {
    Placement,
    Elastic,
    Rotation,
    Scaling,
    Noise,
    Blur,
    Brightness,
    Contrast,
    LowResolution,
    InvertedGamma,
    Gamma,
    Mirror,
    PreviousMorphology,
    PreviousRemoval,
}

/// Parameters of an elastic deformation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Elastic {
    /// Magnitude before smoothing, voxels.
    pub alpha: f64,
    /// Width of the smoothing Gaussian, voxels.
    pub sigma: f64,
    /// Seed of the noise.
    pub noise: u64,
}

/// Parameters of the Gaussian noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// Standard deviation, the same in all channels.
    pub sigma: f64,
    /// Seed of the values.
    pub seed: u64,
}

/// All random numbers of one sample; `None` where a transform does not fire. Vectors have an entry per image channel.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Draws {
    /// Elastic deformation.
    pub elastic: Option<Elastic>,
    /// Radians about axes 0, 1, 2; in slices, the first one is the angle in the plane and the others are 0.
    pub angles: Option<[f64; 3]>,
    /// Factor on the sampling coordinates.
    pub scale: Option<f64>,
    /// Gaussian noise.
    pub noise: Option<Noise>,
    /// Width of the Gaussian along each axis, voxels; `None` for channels that stay sharp.
    pub blur: Option<Vec<Option<[f64; 3]>>>,
    /// Factor on the intensities.
    pub brightness: Option<Vec<f64>>,
    /// Factor on the distance from the mean.
    pub contrast: Option<Vec<f64>>,
    /// Share of the voxels per axis that is left in between; `None` for channels that stay as they are.
    pub low_resolution: Option<Vec<Option<f64>>>,
    /// Exponent for the negated channel.
    pub inverted_gamma: Option<Vec<f64>>,
    /// Exponent.
    pub gamma: Option<Vec<f64>>,
    /// Flip per axis; never along an axis of one voxel.
    pub mirror: [bool; 3],
    /// Changes of the previous stage's classes, in this order.
    pub morphology: Vec<Morphology>,
    /// Components that vanish from the previous stage's classes, in this order.
    pub removal: Vec<Removal>,
}

impl Draws {
    /// Nothing fires.
    pub fn none() -> Self {
        Self::default()
    }

    /// Draws every parameter of a sample with this many image channels and, in a cascade, foreground classes of the
    /// previous stage. `stream` gives the random stream of each transform; only `mirror_axes` are flipped.
    pub fn draw<R: Rng>(
        stream: impl Fn(Stream) -> R,
        settings: &Settings,
        channels: usize,
        previous_classes: usize,
        mirror_axes: &[usize],
    ) -> Self {
        let mut draws = Self::none();
        draws.draw_spatial(&stream, settings);
        draws.draw_intensities(&stream, settings, channels);
        draws.mirror = mirror(&mut stream(Stream::Mirror), settings, mirror_axes);
        draws.draw_previous(&stream, settings, previous_classes);
        draws
    }

    fn draw_spatial<R: Rng>(&mut self, stream: &impl Fn(Stream) -> R, settings: &Settings) {
        let recipe = &settings.recipe;
        self.elastic = when(stream(Stream::Elastic), recipe.elastic_probability, |rng| Elastic {
            alpha: uniform(rng, settings.elastic_alpha),
            sigma: uniform(rng, recipe.elastic_sigma),
            noise: rng.random(),
        });
        self.angles = when(stream(Stream::Rotation), recipe.rotation_probability, |rng| {
            let count = if settings.frame == Frame::Volume { 3 } else { 1 };
            let mut angles = [0.0; 3];
            for angle in &mut angles[..count] {
                *angle = uniform(rng, settings.rotation_degrees).to_radians();
            }
            angles
        });
        self.scale = when(stream(Stream::Scaling), recipe.scaling_probability, |rng| match recipe
            .scaling_draw
        {
            Draw::Uniform => uniform(rng, recipe.scaling_factor),
            Draw::EitherSide => either_side_of_one(rng, recipe.scaling_factor),
        });
    }

    fn draw_intensities<R: Rng>(
        &mut self,
        stream: &impl Fn(Stream) -> R,
        settings: &Settings,
        channels: usize,
    ) {
        let recipe = &settings.recipe;
        let per_channel = |what, probability, range| {
            when(stream(what), probability, |rng| {
                (0..channels).map(|_| either_side_of_one(rng, range)).collect::<Vec<f64>>()
            })
        };
        self.noise = when(stream(Stream::Noise), recipe.noise_probability, |rng| Noise {
            sigma: uniform(rng, recipe.noise_sigma),
            seed: rng.random(),
        });
        self.blur = when(stream(Stream::Blur), recipe.blur_probability, |rng| {
            let widths = |rng: &mut R| [0; 3].map(|_| uniform(rng, recipe.blur_sigma));
            some_channels(rng, channels, recipe.blur_channel_probability, widths)
        });
        let (p, range) = (recipe.brightness_probability, recipe.brightness_factor);
        self.brightness = per_channel(Stream::Brightness, p, range);
        self.contrast =
            per_channel(Stream::Contrast, recipe.contrast_probability, recipe.contrast_factor);
        let p = recipe.low_resolution_probability;
        self.low_resolution = when(stream(Stream::LowResolution), p, |rng| {
            let zoom = |rng: &mut R| uniform(rng, recipe.low_resolution_zoom);
            some_channels(rng, channels, recipe.low_resolution_channel_probability, zoom)
        });
        let p = recipe.inverted_gamma_probability;
        self.inverted_gamma = per_channel(Stream::InvertedGamma, p, recipe.gamma);
        self.gamma = per_channel(Stream::Gamma, recipe.gamma_probability, recipe.gamma);
    }

    fn draw_previous<R: Rng>(
        &mut self,
        stream: &impl Fn(Stream) -> R,
        settings: &Settings,
        classes: usize,
    ) {
        let recipe = &settings.recipe;
        let p = recipe.previous_morphology_probability;
        let changes =
            when(stream(Stream::PreviousMorphology), p, |rng| morphology(rng, settings, classes));
        let p = recipe.previous_removal_probability;
        let removals =
            when(stream(Stream::PreviousRemoval), p, |rng| removal(rng, settings, classes));
        self.morphology = changes.unwrap_or_default();
        self.removal = removals.unwrap_or_default();
    }

    /// The spatial transforms as one map for the patch that begins at case voxel `lower`, in the axes of
    /// [`Frame::axes`]; `None` if none fires.
    pub fn warp(&self, settings: &Settings, lower: [i64; 3]) -> Option<Warp> {
        let mut warp = self.rigid(settings, lower)?;
        warp.displacement = self.elastic.map(|e| e.displacement(warp.patch, warp.planes));
        Some(warp)
    }

    /// [`Self::warp`] without its displacement.
    pub(crate) fn rigid(&self, settings: &Settings, lower: [i64; 3]) -> Option<Warp> {
        if self.elastic.is_none() && self.angles.is_none() && self.scale.is_none() {
            return None;
        }
        let axes = settings.frame.axes();
        let patch = axes.map(|a| settings.patch[a]);
        let planes = settings.frame != Frame::Volume;
        let scale = self.scale.unwrap_or(1.0);
        let mut matrix =
            rotation(self.angles.unwrap_or([0.0; 3])).map(|row| row.map(|v| v * scale));
        if planes {
            matrix[0] = [1.0, 0.0, 0.0];
        }
        Some(Warp {
            patch,
            centre: axes.map(|a| lower[a] as f64 + 0.5 * (settings.patch[a] as f64 - 1.0)),
            matrix,
            displacement: None,
            planes,
        })
    }
}

impl Elastic {
    /// Displacements `[axis, z, y, x]`; in slices one plane `[axis, 1, y, x]` without a component along axis 0.
    pub fn displacement(&self, patch: [usize; 3], planes: bool) -> Array4<f32> {
        let noise = self.noise(patch, planes);
        let axes: &[usize] = if planes { &[1, 2] } else { &[0, 1, 2] };
        displacements(noise, axes, self.alpha as f32, self.sigma)
    }

    /// White noise in the displacement's shape, uniform in −1..1.
    pub fn noise(&self, [nz, ny, nx]: [usize; 3], planes: bool) -> Array4<f32> {
        let mut noise = Array4::zeros((3, if planes { 1 } else { nz }, ny, nx));
        for (axis, mut component) in noise.outer_iter_mut().enumerate().skip(usize::from(planes)) {
            let values = component.as_slice_mut().expect("a new array is in standard layout");
            counter::uniform(values, self.noise, axis);
        }
        noise
    }
}

/// What `parameters` draws, with this probability.
fn when<R: Rng, T>(
    mut rng: R,
    probability: f64,
    parameters: impl FnOnce(&mut R) -> T,
) -> Option<T> {
    fires(&mut rng, probability).then(|| parameters(&mut rng))
}

fn some_channels<R: Rng, T>(
    rng: &mut R,
    channels: usize,
    probability: f64,
    mut parameters: impl FnMut(&mut R) -> T,
) -> Vec<Option<T>> {
    (0..channels).map(|_| fires(rng, probability).then(|| parameters(rng))).collect()
}

/// A number is drawn for every axis, so that a case's forbidden axes don't change the others.
fn mirror(rng: &mut impl Rng, settings: &Settings, axes: &[usize]) -> [bool; 3] {
    [0, 1, 2].map(|axis| {
        let flip = fires(rng, settings.recipe.mirror_probability);
        flip && axes.contains(&axis) && settings.patch[axis] > 1
    })
}

/// Foreground classes in random order, each with this probability.
fn some_classes(rng: &mut impl Rng, classes: usize, probability: f64) -> Vec<i16> {
    let mut order: Vec<i16> = (1..).take(classes).collect();
    order.shuffle(rng);
    order.retain(|_| fires(rng, probability));
    order
}

fn morphology(rng: &mut impl Rng, settings: &Settings, classes: usize) -> Vec<Morphology> {
    let recipe = &settings.recipe;
    let [low, high] = recipe.previous_morphology_radius;
    let (low, high) = (low.ceil() as usize, high.floor() as usize);
    some_classes(rng, classes, recipe.previous_morphology_label_probability)
        .into_iter()
        .map(|class| Morphology {
            class,
            operation: Operation::ALL[rng.random_range(0..Operation::ALL.len())],
            radius: rng.random_range(low..=high.max(low)),
        })
        .collect()
}

fn removal(rng: &mut impl Rng, settings: &Settings, classes: usize) -> Vec<Removal> {
    let probability = settings.recipe.previous_removal_label_probability;
    some_classes(rng, classes, probability)
        .into_iter()
        .map(|class| Removal { class, which: rng.random() })
        .collect()
}

fn fires(rng: &mut impl Rng, probability: f64) -> bool {
    rng.random::<f64>() < probability
}

fn uniform(rng: &mut impl Rng, [low, high]: Range) -> f64 {
    rng.random_range(low..=high)
}

/// With equal chance uniform below or above 1, where the range has both sides; plainly uniform otherwise.
fn either_side_of_one(rng: &mut impl Rng, [low, high]: Range) -> f64 {
    if low >= 1.0 || high <= 1.0 {
        uniform(rng, [low, high])
    } else if rng.random::<bool>() {
        uniform(rng, [low, 1.0])
    } else {
        uniform(rng, [1.0, high])
    }
}
