//! From class probabilities on the preprocessed grid to a label map on the image's own grid.
//!
//! Undoes preprocessing backwards: resample, put into the crop box, transpose. Classes are resampled one after the
//! other and only the largest value so far is kept, so that memory at full resolution holds three volumes however many
//! classes there are.

use artifact::case::{Case, Original};
use half::f16;
use ndarray::{Array3, ArrayView3, ArrayView4, Axis, CowArray, Ix3, Slice, Zip};
use std::io::{self, Write};

/// Orders of the interpolation, and when the coarse axis gets its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interpolation {
    /// Spline order: 0 or 1.
    pub order: u8,
    /// The same along the coarse axis of an anisotropic case.
    pub order_coarse_axis: u8,
    /// Spacing ratio above which an axis counts as coarse.
    pub anisotropy_threshold: f64,
}

/// Told every class's probabilities in turn, in the crop box `[z, y, x]`, plan axes.
pub type EachClass<'a> = dyn FnMut(usize, ArrayView3<'_, f32>) -> io::Result<()> + 'a;

/// Class indices `[z, y, x]` in image axes, from probabilities `[class, z, y, x]` in plan axes. The largest probability
/// wins, of equals the first; outside the crop box is background.
///
/// # Errors
/// Those of `each`.
pub fn segment(
    probabilities: ArrayView4<'_, f32>,
    case: &Case,
    interpolation: Interpolation,
    each: &mut EachClass<'_>,
) -> io::Result<Array3<u16>> {
    let mut best: Array3<f32> = Array3::from_elem(case.original.cropped_shape(), f32::NEG_INFINITY);
    let mut winner = Array3::<u16>::zeros(best.dim());
    for (class, map) in probabilities.outer_iter().enumerate() {
        let map = resampled(map, case, interpolation);
        each(class, map.view())?;
        let class = u16::try_from(class).expect("a plan's labels are at most 32768");
        Zip::from(&mut best).and(&mut winner).and(&map).par_for_each(|best, winner, &p| {
            if p > *best {
                (*best, *winner) = (p, class);
            }
        });
    }
    drop(best);
    Ok(into_image(&winner, &case.original))
}

/// One class at the image's spacing; the map itself where the shape is the same.
fn resampled<'a>(
    map: ArrayView3<'a, f32>,
    case: &Case,
    interpolation: Interpolation,
) -> CowArray<'a, f32, Ix3> {
    let shape = case.original.cropped_shape();
    if map.shape() == shape {
        return map.into();
    }
    preprocess::resample::resample(
        map,
        case.case.spacing_mm,
        case.original.transposed_spacing_mm(),
        shape,
        interpolation.order,
        interpolation.order_coarse_axis,
        interpolation.anisotropy_threshold,
    )
    .into()
}

/// Puts a crop (plan axes) into a volume of zeros in image axes.
fn into_image(crop: &Array3<u16>, original: &Original) -> Array3<u16> {
    if crop.shape() == original.geometry.shape && original.transpose == [0, 1, 2] {
        return crop.to_owned();
    }
    let mut image = Array3::zeros(original.geometry.shape);
    let mut target = image.view_mut().permuted_axes(original.transpose);
    for axis in 0..3 {
        let range = original.crop_lower[axis]..original.crop_upper[axis];
        target.slice_axis_inplace(Axis(axis), Slice::from(range));
    }
    target.assign(crop);
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
    let mut plan_axis = [0; 3];
    for (plan, &image) in original.transpose.iter().enumerate() {
        plan_axis[image] = plan;
    }
    let crop = crop.permuted_axes(plan_axis);
    let lower = plan_axis.map(|axis| original.crop_lower[axis]);
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

    const LINEAR: Interpolation =
        Interpolation { order: 1, order_coarse_axis: 0, anisotropy_threshold: 3.0 };

    fn maps(shape: [usize; 3]) -> Array4<f32> {
        let [z, y, x] = shape;
        Array4::from_shape_fn((3, z, y, x), |(k, z, y, x)| {
            (((k * 7 + z * 5 + y * 3 + x * 11) * 2654435761) % 1009) as f32 / 1009.0
        })
    }

    /// What the module promises, voxel by voxel: every class in full, then the largest.
    fn expected(case: &Case, maps: &Array4<f32>) -> (Array3<u16>, Array4<f32>) {
        let o = &case.original;
        let full = Array4::from_shape_fn((3, 5, 6, 7), |(k, z, y, x)| {
            let image = [z, y, x];
            let plan = o.transpose.map(|axis| image[axis]);
            if (0..3).any(|a| plan[a] < o.crop_lower[a] || plan[a] >= o.crop_upper[a]) {
                return if k == 0 { 1.0 } else { 0.0 };
            }
            let map = resampled(maps.slice(s![k, .., .., ..]), case, LINEAR);
            map[[0, 1, 2].map(|a| plan[a] - o.crop_lower[a])]
        });
        let classes = Array3::from_shape_fn((5, 6, 7), |(z, y, x)| {
            let column = full.slice(s![.., z, y, x]);
            (0..3u16)
                .rev()
                .max_by(|a, b| column[usize::from(*a)].total_cmp(&column[usize::from(*b)]))
                .unwrap()
        });
        (classes, full)
    }

    #[test]
    fn classes_and_probabilities_return_to_the_images_axes() {
        for (shape, spacing) in [([6, 4, 4], [3.0, 1.0, 2.0]), ([3, 4, 2], [6.0, 1.0, 4.0])] {
            let case = case(shape, spacing);
            let maps = maps(shape);
            let (classes, full) = expected(&case, &maps);
            let mut bytes = Vec::new();
            let found = segment(maps.view(), &case, LINEAR, &mut |class, map| {
                let outside = if class == 0 { 1.0 } else { 0.0 };
                write_f16(&mut bytes, map, &case.original, outside)
            });
            assert_eq!(found.unwrap(), classes);
            let halves: Vec<u8> =
                full.iter().flat_map(|p| f16::from_f32(*p).to_le_bytes()).collect();
            assert!(bytes == halves, "f16 bytes differ");
            assert!((0..3).all(|k| classes.iter().any(|c| *c == k)), "a class never wins");
        }
    }

    #[test]
    fn of_equal_classes_the_first_wins_and_errors_pass_through() {
        let case = case([6, 4, 4], [3.0, 1.0, 2.0]);
        let even = Array4::from_elem((3, 6, 4, 4), 0.25);
        let classes = segment(even.view(), &case, LINEAR, &mut |_, _| Ok(())).unwrap();
        assert!(classes.iter().all(|c| *c == 0));
        let full = segment(even.view(), &case, LINEAR, &mut |_, _| Err(io::Error::other("full")));
        assert_eq!(full.unwrap_err().to_string(), "full");
    }
}
