//! A recipe's augmentation, resolved for one patch shape.

use artifact::recipe::{Augmentation, Range, SliceAxis};

/// How the spatial transforms of a patch shape work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// In three dimensions.
    Volume,
    /// In the plane across this axis, the same for all slices; nothing is interpolated along it.
    Slices(usize),
}

impl Frame {
    /// 2D patches (depth 1) are transformed slice by slice, and so are patches that are flat by the recipe's rule:
    ///
    /// - [`SliceAxis::Shortest`]: the largest edge exceeds the smallest more than `slice_by_slice_above` times; the
    ///   slices lie across the shortest axis (the first of equals). The 2018 paper's rule, with 2.
    /// - [`SliceAxis::First`]: the largest edge exceeds the first more than `slice_by_slice_above` times; the slices
    ///   lie across axis 0, the plan's coarsest. nnU-Net's rule, with 3.
    pub fn of(patch: [usize; 3], recipe: &Augmentation) -> Self {
        let across = match recipe.slice_by_slice_axis {
            SliceAxis::First => 0,
            SliceAxis::Shortest => (0..3).min_by_key(|&a| patch[a]).unwrap_or(0),
        };
        let longest = patch.iter().copied().max().unwrap_or(1);
        let ratio = longest as f64 / patch[across] as f64;
        if patch[0] == 1 {
            Self::Slices(0)
        } else if ratio > recipe.slice_by_slice_above {
            Self::Slices(across)
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

    /// The axis that nothing is interpolated along.
    pub fn across(self) -> Option<usize> {
        match self {
            Self::Volume => None,
            Self::Slices(axis) => Some(axis),
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
        let frame = Frame::of(patch, recipe);
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
