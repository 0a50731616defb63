//! The random numbers of one sample: which transforms fire, and with which parameters.

use crate::elastic::displacements;
use crate::spatial::{Warp, rotation};
use artifact::recipe::{Augmentation, Range};
use ndarray::{Array4, s};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How the spatial transforms of a patch shape work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// In three dimensions.
    Volume,
    /// In the plane across this axis, the same for all slices; nothing is interpolated along it.
    Slices(usize),
}

impl Frame {
    /// 2D patches (depth 1) and patches whose largest edge exceeds the smallest more than `slice_by_slice_above` times
    /// are transformed slice by slice, across the shortest axis (the first of equals).
    pub fn of(patch: [usize; 3], slice_by_slice_above: f64) -> Self {
        let shortest = (0..3).min_by_key(|&a| patch[a]).unwrap_or(0);
        let longest = patch.iter().copied().max().unwrap_or(1);
        let ratio = longest as f64 / patch[shortest] as f64;
        if patch[0] == 1 {
            Self::Slices(0)
        } else if ratio > slice_by_slice_above {
            Self::Slices(shortest)
        } else {
            Self::Volume
        }
    }

    /// Axes in the order in which the transforms see them: the slices' axis first.
    pub fn axes(self) -> [usize; 3] {
        match self {
            Self::Volume | Self::Slices(0) => [0, 1, 2],
            Self::Slices(1) => [1, 0, 2],
            Self::Slices(_) => [2, 0, 1],
        }
    }
}

/// A recipe's augmentation, resolved for one patch shape.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Volume or slices.
    pub frame: Frame,
    /// Patch shape.
    pub patch: [usize; 3],
    /// Angle about each axis, or in the plane.
    pub rotation_degrees: Range,
    /// Elastic magnitude.
    pub elastic_alpha: Range,
    /// Everything else.
    pub recipe: Augmentation,
}

impl Settings {
    /// Resolves the 2D and 3D ranges.
    pub fn new(recipe: &Augmentation, patch: [usize; 3]) -> Self {
        let frame = Frame::of(patch, recipe.slice_by_slice_above);
        let (long, short) = (patch[1].max(patch[2]) as f64, patch[1].min(patch[2]) as f64);
        let rotation_degrees = match frame {
            Frame::Volume => recipe.rotation_degrees_3d,
            Frame::Slices(_) if patch[0] == 1 && long / short > recipe.elongated_above => {
                recipe.rotation_degrees_2d_elongated
            }
            Frame::Slices(_) => recipe.rotation_degrees_2d,
        };
        let elastic_alpha = match frame {
            Frame::Volume => recipe.elastic_alpha_3d,
            Frame::Slices(_) => recipe.elastic_alpha_2d,
        };
        Self { frame, patch, rotation_degrees, elastic_alpha, recipe: recipe.clone() }
    }
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

/// All random numbers of one sample; `None` where a transform does not fire.
#[derive(Debug, Clone, PartialEq)]
pub struct Draws {
    /// Elastic deformation.
    pub elastic: Option<Elastic>,
    /// Radians about axes 0, 1, 2; in slices, the first one is the angle in the plane and the others are 0.
    pub angles: Option<[f64; 3]>,
    /// Factor on the sampling coordinates.
    pub scale: Option<f64>,
    /// Exponent per channel.
    pub gamma: Option<Vec<f64>>,
    /// Flip per axis; never along an axis of one voxel.
    pub mirror: [bool; 3],
}

impl Draws {
    /// Nothing fires.
    pub fn none() -> Self {
        Self { elastic: None, angles: None, scale: None, gamma: None, mirror: [false; 3] }
    }

    /// Draws every parameter of a sample with this many channels.
    pub fn draw(rng: &mut impl rand::Rng, settings: &Settings, channels: usize) -> Self {
        let recipe = &settings.recipe;
        let elastic = fires(rng, recipe.elastic_probability).then(|| Elastic {
            alpha: uniform(rng, settings.elastic_alpha),
            sigma: uniform(rng, recipe.elastic_sigma),
            noise: rng.random(),
        });
        let angles = fires(rng, recipe.rotation_probability).then(|| {
            let count = if settings.frame == Frame::Volume { 3 } else { 1 };
            let mut angles = [0.0; 3];
            for angle in &mut angles[..count] {
                *angle = uniform(rng, settings.rotation_degrees).to_radians();
            }
            angles
        });
        let scale = fires(rng, recipe.scaling_probability)
            .then(|| below_or_above_one(rng, recipe.scaling_factor));
        let gamma = fires(rng, recipe.gamma_probability)
            .then(|| (0..channels).map(|_| below_or_above_one(rng, recipe.gamma)).collect());
        let mut mirror = [false; 3];
        for &axis in &recipe.mirror_axes {
            mirror[axis] = fires(rng, recipe.mirror_probability) && settings.patch[axis] > 1;
        }
        Self { elastic, angles, scale, gamma, mirror }
    }

    /// The spatial transforms as one map for the patch that begins at case voxel `lower`, in the axes of
    /// [`Frame::axes`]; `None` if none fires.
    pub fn warp(&self, settings: &Settings, lower: [i64; 3]) -> Option<Warp> {
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
            displacement: self.elastic.map(|e| e.displacement(patch, planes)),
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
        let mut rng = ChaCha8Rng::seed_from_u64(self.noise);
        let mut noise = Array4::zeros((3, if planes { 1 } else { nz }, ny, nx));
        for v in noise.slice_mut(s![usize::from(planes).., .., .., ..]) {
            *v = 2.0 * rng.random::<f32>() - 1.0;
        }
        noise
    }
}

fn fires(rng: &mut impl rand::Rng, probability: f64) -> bool {
    rng.random::<f64>() < probability
}

fn uniform(rng: &mut impl rand::Rng, [low, high]: Range) -> f64 {
    rng.random_range(low..=high)
}

/// With equal chance uniform below or above 1, where the range has both sides; plainly uniform otherwise.
fn below_or_above_one(rng: &mut impl rand::Rng, [low, high]: Range) -> f64 {
    if low >= 1.0 || high <= 1.0 {
        uniform(rng, [low, high])
    } else if rng.random::<bool>() {
        uniform(rng, [low, 1.0])
    } else {
        uniform(rng, [1.0, high])
    }
}
