//! From network outputs on the preprocessed grid to class indices or probabilities on another grid.
//!
//! Undoes preprocessing backwards: resample, put into the crop box, transpose. Where only classes are asked for, they
//! are made plane by plane ([`crate::planes`]). Where probabilities are, outputs are resampled one after the other and
//! only what decides so far is kept, so that memory at full resolution holds a few volumes however many outputs there
//! are. Logits are resampled as logits; their softmax takes two passes over the outputs.

use crate::planes;
use artifact::case::{Case, Original};
use artifact::image::Turn;
use artifact::recipe::Averaged;
use half::f16;
use ndarray::{Array3, ArrayView3, ArrayView4, Axis, CowArray, Ix3, Slice, Zip};
use net::sliding_window::Activation;
use postprocess::decision::{Decision, Rule};
use preprocess::resample::{Linear, linear};
use std::io::{self, Write};

/// What a network's outputs mean, and how they reach another grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoding {
    /// How outputs become probabilities.
    pub activation: Activation,
    /// What the maps hold: probabilities, or logits.
    pub averaged: Averaged,
    /// With regions: the class index that each shows as, in the order of the outputs; otherwise unused.
    pub region_classes: Vec<i16>,
    /// Spline order of the interpolation: 0 or 1.
    pub order: u8,
    /// The same along the coarse axis of an anisotropic case.
    pub order_coarse_axis: u8,
    /// Spacing ratio above which an axis counts as coarse.
    pub anisotropy_threshold: f64,
}

impl Decoding {
    /// How outputs reach another grid; none if splines of a higher order are asked for.
    pub(crate) fn linear(&self, from: Grid, to: Grid) -> Option<Linear> {
        let order = (self.order, self.order_coarse_axis);
        let (spacing, threshold) = ((from.spacing_mm, to.spacing_mm), self.anisotropy_threshold);
        linear(from.shape, spacing.0, spacing.1, to.shape, order.0, order.1, threshold)
    }

    /// How values of a kind become a class.
    pub fn rule(&self, values: Averaged) -> Rule {
        match (self.activation, values) {
            (Activation::Softmax, _) => Rule::Largest,
            (Activation::Sigmoid, Averaged::Probabilities) => {
                Rule::Above { threshold: 0.5, classes: self.region_classes.clone() }
            }
            // sigmoid(x) > ½ where x > 0.
            (Activation::Sigmoid, Averaged::Logits) => {
                Rule::Above { threshold: 0.0, classes: self.region_classes.clone() }
            }
        }
    }
}

/// A grid over the crop box, plan axes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Voxels (z, y, x).
    pub shape: [usize; 3],
    /// Spacing (z, y, x).
    pub spacing_mm: [f64; 3],
}

impl Grid {
    /// The image's own grid within the crop box.
    pub fn original(original: &Original) -> Self {
        Self { shape: original.cropped_shape(), spacing_mm: original.transposed_spacing_mm() }
    }

    /// The grid of a preprocessed case.
    pub fn of(case: &Case) -> Self {
        Self { shape: case.case.shape, spacing_mm: case.case.spacing_mm }
    }
}

/// Told every output's probabilities in turn, on the target grid, plan axes.
pub type EachOutput<'a> = dyn FnMut(usize, ArrayView3<'_, f32>) -> io::Result<()> + 'a;

/// Network outputs of one case.
#[derive(Debug, Clone, Copy)]
pub struct Outputs<'a> {
    /// `[output, z, y, x]`, plan axes.
    pub maps: ArrayView4<'a, f32>,
    /// Where they lie.
    pub spacing_mm: [f64; 3],
    /// What they mean.
    pub decoding: &'a Decoding,
}

impl Outputs<'_> {
    /// Class indices `[z, y, x]` on a grid, plan axes.
    pub fn classes(&self, grid: Grid) -> Array3<i16> {
        let rule = self.decoding.rule(self.decoding.averaged);
        let (_, z, y, x) = self.maps.dim();
        let from = Grid { shape: [z, y, x], spacing_mm: self.spacing_mm };
        match self.decoding.linear(from, grid).and_then(planes::Taps::new) {
            Some(taps) => taps.classes(self.maps, &rule),
            None => self.classes_of_whole_outputs(grid, &rule),
        }
    }

    /// The same, every output on the grid before it counts: what the fast way is held against, and what splines and an
    /// odd coarse axis take.
    fn classes_of_whole_outputs(&self, grid: Grid, rule: &Rule) -> Array3<i16> {
        let mut decision = Decision::new(grid.shape, rule);
        for (output, map) in self.maps.outer_iter().enumerate() {
            decision.see(output, self.resampled(map, grid).view());
        }
        decision.into_classes()
    }

    /// The same, and tells `each` the probabilities of every output.
    ///
    /// # Errors
    /// Those of `each`.
    pub fn probabilities(&self, grid: Grid, each: &mut EachOutput<'_>) -> io::Result<Array3<i16>> {
        let Decoding { averaged, activation, .. } = *self.decoding;
        let rule = self.decoding.rule(averaged);
        let mut decision = Decision::new(grid.shape, &rule);
        if averaged == Averaged::Logits && activation == Activation::Softmax {
            let mut sum = Array3::<f32>::zeros(grid.shape);
            for (output, map) in self.maps.outer_iter().enumerate() {
                let map = self.resampled(map, grid);
                // Σ exp(logit − largest so far), corrected whenever a larger one comes.
                Zip::from(&mut sum).and(decision.best()).and(&map).par_for_each(
                    |sum, &best, &x| {
                        *sum = if x > best {
                            *sum * (best - x).exp() + 1.0
                        } else {
                            *sum + (x - best).exp()
                        };
                    },
                );
                decision.see(output, map.view());
            }
            for (output, map) in self.maps.outer_iter().enumerate() {
                let mut map = self.resampled(map, grid).into_owned();
                Zip::from(&mut map).and(decision.best()).and(&sum).par_for_each(|x, best, sum| {
                    *x = (*x - best).exp() / sum;
                });
                each(output, map.view())?;
            }
            return Ok(decision.into_classes());
        }
        for (output, map) in self.maps.outer_iter().enumerate() {
            let mut map = self.resampled(map, grid);
            decision.see(output, map.view());
            if averaged == Averaged::Logits {
                map.par_mapv_inplace(|x| 1.0 / (1.0 + (-x).exp()));
            }
            each(output, map.view())?;
        }
        Ok(decision.into_classes())
    }

    /// One output on a grid; the map itself where the shape is the same.
    fn resampled<'a>(&self, map: ArrayView3<'a, f32>, grid: Grid) -> CowArray<'a, f32, Ix3> {
        if map.shape() == grid.shape {
            return map.into();
        }
        let d = self.decoding;
        preprocess::resample::resample(
            map,
            self.spacing_mm,
            grid.spacing_mm,
            grid.shape,
            d.order,
            d.order_coarse_axis,
            d.anisotropy_threshold,
        )
        .into()
    }
}

/// Puts class indices of the crop (plan axes) into a volume of background in image axes.
pub fn into_image(crop: Array3<i16>, original: &Original) -> Array3<i16> {
    if crop.shape() == original.geometry.shape && original.turn() == Turn::NONE {
        return crop;
    }
    let mut image = Array3::zeros(original.geometry.shape);
    let mut target = original.turn().view(image.view_mut());
    for axis in 0..3 {
        let range = original.crop_lower[axis]..original.crop_upper[axis];
        target.slice_axis_inplace(Axis(axis), Slice::from(range));
    }
    target.assign(&crop);
    image
}

/// Writes one class's probabilities as f16 on the image's grid and axes; `outside` beyond the crop box.
///
/// # Errors
/// If writing fails.
pub fn write_f16(
    out: &mut dyn Write,
    crop: ArrayView3<'_, f32>,
    original: &Original,
    outside: f32,
) -> io::Result<()> {
    let back = original.turn().inverse();
    let crop = back.view(crop);
    let edge = original.transposed_shape();
    // Of an axis that runs the other way the box's last voxel comes first.
    let mut lower = [0; 3];
    for (image, &plan) in back.axes.iter().enumerate() {
        lower[image] = match back.flip[image] {
            false => original.crop_lower[plan],
            true => edge[plan] - original.crop_upper[plan],
        };
    }
    let [depth, height, width] = original.geometry.shape;
    let outside = f16::from_f32(outside).to_le_bytes();
    let mut slice = vec![0; 2 * height * width];
    for z in 0..depth {
        slice.as_chunks_mut::<2>().0.fill(outside);
        if let Some(inside) = z.checked_sub(lower[0]).filter(|z| *z < crop.dim().0) {
            let rows = crop.index_axis(Axis(0), inside);
            for (line, row) in
                slice.chunks_exact_mut(2 * width).skip(lower[1]).zip(rows.outer_iter())
            {
                let line = line[2 * lower[2]..].as_chunks_mut::<2>().0;
                for (bytes, p) in line.iter_mut().zip(row) {
                    *bytes = f16::from_f32(*p).to_le_bytes();
                }
            }
        }
        out.write_all(&slice)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use artifact::case::CaseInfo;
    use artifact::nifti::Geometry;
    use ndarray::{Array4, s};

    /// Image 5×6×7 with its axes turned by the plan, cropped, at half the resolution along two axes.
    fn case(shape: [usize; 3], spacing_mm: [f64; 3]) -> Case {
        let geometry = Geometry::plain([5, 6, 7], [1.0, 2.0, 3.0]);
        let original = Original {
            transpose: [2, 0, 1],
            flip: [false, true, true],
            crop_lower: [1, 0, 2],
            crop_upper: [7, 4, 6],
            geometry,
        };
        let info = CaseInfo {
            id: "a".into(),
            configuration: "3d_fullres".into(),
            channels: 1,
            classes: 3,
            regions: 0,
            ignore: false,
            shape,
            spacing_mm,
            labelled: false,
        };
        Case { case: info, original }
    }

    fn decoding(averaged: Averaged, activation: Activation) -> Decoding {
        Decoding {
            activation,
            averaged,
            region_classes: vec![2, 1, 2],
            order: 1,
            order_coarse_axis: 0,
            anisotropy_threshold: 3.0,
        }
    }

    /// Every combination of what maps hold and how they become probabilities.
    fn decodings() -> Vec<Decoding> {
        let mut all = Vec::new();
        for averaged in [Averaged::Probabilities, Averaged::Logits] {
            for activation in [Activation::Softmax, Activation::Sigmoid] {
                all.push(decoding(averaged, activation));
            }
        }
        all
    }

    fn maps(shape: [usize; 3]) -> Array4<f32> {
        let [z, y, x] = shape;
        Array4::from_shape_fn((3, z, y, x), |(k, z, y, x)| {
            (((k * 7 + z * 5 + y * 3 + x * 11) * 2654435761) % 1009) as f32 / 1009.0
        })
    }

    /// What the module promises, voxel by voxel, in f64: every output in full, then classes and probabilities.
    fn expected(case: &Case, outputs: Outputs<'_>) -> (Array3<i16>, Array4<f32>) {
        let o = &case.original;
        let grid = Grid::original(o);
        let d = outputs.decoding;
        let maps: Vec<_> =
            outputs.maps.outer_iter().map(|m| outputs.resampled(m, grid).into_owned()).collect();
        let softmax = d.activation == Activation::Softmax;
        let mut full = Array4::zeros((3, 5, 6, 7));
        let mut classes = Array3::zeros((5, 6, 7));
        for ((z, y, x), class) in classes.indexed_iter_mut() {
            let plan = [0, 1, 2].map(|axis| {
                let image = o.transpose[axis];
                let voxel = [z, y, x][image];
                if o.flip[axis] { o.geometry.shape[image] - 1 - voxel } else { voxel }
            });
            let mut p = full.slice_mut(s![.., z, y, x]);
            if (0..3).any(|a| plan[a] < o.crop_lower[a] || plan[a] >= o.crop_upper[a]) {
                p[0] = if softmax { 1.0 } else { 0.0 };
                continue;
            }
            let at = [0, 1, 2].map(|a| plan[a] - o.crop_lower[a]);
            let values: Vec<f64> = maps.iter().map(|m| f64::from(m[at])).collect();
            let sum: f64 = values.iter().map(|v| v.exp()).sum();
            for (k, &v) in values.iter().enumerate() {
                let probability = match (d.averaged, softmax) {
                    (Averaged::Probabilities, _) => v,
                    (Averaged::Logits, true) => v.exp() / sum,
                    (Averaged::Logits, false) => 1.0 / (1.0 + (-v).exp()),
                };
                p[k] = probability as f32;
                if !softmax && probability > 0.5 {
                    *class = d.region_classes[k];
                }
            }
            if softmax {
                let largest = |a: &usize, b: &usize| values[*a].total_cmp(&values[*b]);
                *class = (0..3).rev().max_by(largest).unwrap() as i16;
            }
        }
        (classes, full)
    }

    #[test]
    fn classes_and_probabilities_return_to_the_images_axes() {
        for (shape, spacing) in [([6, 4, 4], [3.0, 1.0, 2.0]), ([3, 4, 2], [6.0, 1.0, 4.0])] {
            for decoding in decodings() {
                let case = case(shape, spacing);
                let logits = decoding.averaged == Averaged::Logits;
                let maps = maps(shape).mapv(|v| if logits { 9.0 * v - 4.0 } else { v });
                let outputs =
                    Outputs { maps: maps.view(), spacing_mm: spacing, decoding: &decoding };
                let (classes, full) = expected(&case, outputs);
                let grid = Grid::original(&case.original);
                let softmax = decoding.activation == Activation::Softmax;
                let mut bytes = Vec::new();
                let found = outputs.probabilities(grid, &mut |output, map| {
                    let outside = if softmax && output == 0 { 1.0 } else { 0.0 };
                    write_f16(&mut bytes, map, &case.original, outside)
                });
                let found = into_image(found.unwrap(), &case.original);
                assert_eq!(found, classes, "{decoding:?}");
                assert_eq!(into_image(outputs.classes(grid), &case.original), classes);
                for (half, p) in bytes.as_chunks::<2>().0.iter().zip(&full) {
                    // One rounding to f16 (2⁻¹² below 1), a few to f32 in exp, sum and quotient.
                    let half = f16::from_le_bytes(*half).to_f32();
                    assert!((half - p).abs() <= 1.0 / 4096.0 + 1e-6, "{half}, {p}: {decoding:?}");
                }
                assert_eq!(bytes.len(), 2 * full.len());
                let wins = |k| classes.iter().any(|c| *c == k);
                assert!((0..3).all(wins), "a class never wins: {decoding:?}");
            }
        }
    }

    #[test]
    fn classes_on_another_grid_are_those_of_resampled_outputs() {
        let decoding = decoding(Averaged::Logits, Activation::Softmax);
        let maps = maps([6, 4, 4]);
        let outputs =
            Outputs { maps: maps.view(), spacing_mm: [3.0, 1.0, 2.0], decoding: &decoding };
        let grid = Grid { shape: [9, 7, 5], spacing_mm: [2.0, 4.0 / 7.0, 1.6] };
        let found = outputs.classes(grid);
        let full: Vec<_> =
            maps.outer_iter().map(|m| outputs.resampled(m, grid).into_owned()).collect();
        for (at, class) in found.indexed_iter() {
            let largest = full.iter().map(|m| m[at]).fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(full[*class as usize][at], largest, "{at:?}");
        }
        assert_eq!(found.dim(), (9, 7, 5));
    }

    #[test]
    fn classes_made_plane_by_plane_are_those_of_whole_outputs() {
        let grids = [
            ([6, 5, 7], [1.0; 3], [6, 5, 7]),
            ([6, 5, 7], [1.0; 3], [11, 9, 15]),
            ([12, 10, 9], [1.0; 3], [7, 6, 5]),
            ([6, 5, 7], [1.0; 3], [6, 13, 7]),
            ([5, 6, 7], [4.0, 1.0, 1.0], [12, 9, 11]),
            ([5, 6, 7], [4.0, 1.0, 1.0], [5, 9, 11]),
            ([5, 6, 7], [1.0, 1.0, 4.0], [8, 9, 11]),
        ];
        for (shape, spacing_mm, to) in grids {
            for (mut decoding, order_coarse_axis) in
                decodings().into_iter().flat_map(|d| [(d.clone(), 0), (d, 1)])
            {
                decoding.order_coarse_axis = order_coarse_axis;
                let logits = decoding.averaged == Averaged::Logits;
                let maps = maps(shape).mapv(|v| if logits { 9.0 * v - 4.0 } else { v });
                let outputs = Outputs { maps: maps.view(), spacing_mm, decoding: &decoding };
                let spacing_mm = [0, 1, 2].map(|a| spacing_mm[a] * shape[a] as f64 / to[a] as f64);
                let grid = Grid { shape: to, spacing_mm };
                let rule = decoding.rule(decoding.averaged);
                let expected = outputs.classes_of_whole_outputs(grid, &rule);
                assert_eq!(outputs.classes(grid), expected, "{shape:?} {to:?} {decoding:?}");
                let most = expected.iter().copied().max();
                assert!(most > Some(0), "background everywhere: {decoding:?}");
            }
        }
    }

    #[test]
    fn of_equal_classes_the_first_wins_and_errors_pass_through() {
        let case = case([6, 4, 4], [3.0, 1.0, 2.0]);
        let even = Array4::from_elem((3, 6, 4, 4), 0.25);
        let grid = Grid::original(&case.original);
        for decoding in decodings() {
            let outputs = Outputs { maps: even.view(), spacing_mm: [1.0; 3], decoding: &decoding };
            let first = match (decoding.averaged, decoding.activation) {
                // Above 0, so that every region shows; the last one on top.
                (Averaged::Logits, Activation::Sigmoid) => 2,
                _ => 0,
            };
            assert!(outputs.classes(grid).iter().all(|c| *c == first), "{decoding:?}");
            let full = outputs.probabilities(grid, &mut |_, _| Err(io::Error::other("full")));
            assert_eq!(full.unwrap_err().to_string(), "full");
        }
    }
}
