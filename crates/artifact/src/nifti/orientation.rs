//! Where an image lies in space, by ITK's rule, so that data sets look as they do to nnU-Net and 3D Slicer.
//!
//! Spacing always comes from `pixdim`. Origin and direction come from the sform if it is orthonormal and either
//! trusted (code 1), alone, or the same as the qform; otherwise from the qform; with neither, the image starts at 0 with
//! identity direction. Coordinates are LPS (x and y negated against the file), as ITK reports them.
//! Source of the rule: itk::NiftiImageIO of ITK 5.4. Where a data set is read by nnU-Net's nibabel readers, nibabel's rule
//! holds instead ([`place_by`]).

use super::header::{Header, SIZE_1};
use crate::image::Reader;

/// The rule's result.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Placement {
    /// Along image axes x, y, z.
    pub spacing: [f64; 3],
    /// LPS x, y, z.
    pub origin: [f64; 3],
    /// LPS; column `j` is the direction of image axis `j`.
    pub direction: [[f64; 3]; 3],
}

type Affine = [[f64; 4]; 3];

/// ITK compares single-precision entries of matrices that should be equal; both bounds are ITK's own.
const ORTHONORMAL: f64 = 1e-4;
const SIMILAR: f64 = 1e-4;

/// Where the image lies to a reader; axes as stored.
pub(super) fn place_by(reader: Reader, header: &Header) -> Result<Placement, String> {
    let planar = header.dim.len() == 2;
    if planar && reader.turns() {
        return Err("has two axes, expected three: its reader turns images to RAS".into());
    }
    if planar || !reader.is_nibabel() { place(header) } else { place_by_nibabel(reader, header) }
}

/// nibabel's rule: the sform if it has a known code, else the qform, else x runs to the left and the centre is at 0. Sheared axes
/// are taken as they are, units of length are not looked at. Spacing is `pixdim`; an image that is turned has the lengths
/// of its affine's columns instead, in the precision of the header.
fn place_by_nibabel(reader: Reader, header: &Header) -> Result<Placement, String> {
    let sizes = [1, 2, 3].map(|axis| size(header.pixdim[axis]));
    // nibabel sets codes that it doesn't know to 0 as it loads a file.
    let known = |code: i32| if (0..=5).contains(&code) { code } else { 0 };
    let affine = match (known(header.sform_code), known(header.qform_code)) {
        (0, 0) => {
            let [x, y, z] = header.extents().0.map(|n| (n as f64 - 1.0) / 2.0);
            let [sx, sy, sz] = sizes;
            [[-sx, 0.0, 0.0, sx * x], [0.0, sy, 0.0, -sy * y], [0.0, 0.0, sz, -sz * z]]
        }
        (0, _) => {
            let [b, c, d] = header.quaternion;
            let a = (1.0 - (b * b + c * c + d * d)).max(0.0).sqrt();
            let length = (a * a + b * b + c * c + d * d).sqrt();
            let rotation = rotation([a, b, c, d].map(|v| v / length));
            let qfac = if header.pixdim[0] == -1.0 { -1.0 } else { 1.0 };
            scaled(rotation, [sizes[0], sizes[1], sizes[2] * qfac], header.qoffset)
        }
        _ => header.srow,
    };
    if affine.iter().flatten().any(|v| !v.is_finite()) {
        return Err(format!("affine = {affine:?}, expected finite numbers"));
    }
    let mut placement =
        Placement { spacing: sizes, origin: [0.0; 3], direction: normalised_columns(&affine) };
    if reader.turns() && determinant(&placement.direction).abs() < INDEPENDENT {
        return Err(format!("affine = {affine:?}, expected three axes in different directions"));
    }
    for (row, sign) in [-1.0, -1.0, 1.0].into_iter().enumerate() {
        placement.origin[row] = sign * affine[row][3] + 0.0;
        placement.direction[row] = placement.direction[row].map(|v| sign * v + 0.0);
    }
    let closest = crate::image::closest_by_nibabel(&placement.direction);
    // Along x to the right, y to anterior, z to superior: nothing to turn.
    if reader.turns() && closest != [(0, false), (1, false), (2, true)] {
        let length = |axis: usize| (0..3).map(|row| affine[row][axis].powi(2)).sum::<f64>().sqrt();
        let wide = header.bytes.len() > SIZE_1;
        let stored = |length: f64| if wide { length } else { f64::from(length as f32) };
        placement.spacing = [0, 1, 2].map(|axis| stored(length(axis)));
    }
    Ok(placement)
}

/// Axes whose unit vectors span less than this part of a cube lie in one plane.
const INDEPENDENT: f64 = 1e-6;

fn determinant(m: &[[f64; 3]; 3]) -> f64 {
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
        - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
}

/// The format's own library takes 1 for a size that isn't one.
fn size(pixdim: f64) -> f64 {
    if pixdim == 0.0 || !pixdim.is_finite() { 1.0 } else { pixdim.abs() }
}

fn place(header: &Header) -> Result<Placement, String> {
    let planar = header.dim.len() == 2;
    let mut sizes = [1.0; 3];
    let mut flips = [1.0; 3];
    for axis in 0..if planar { 2 } else { 3 } {
        let pixdim = header.pixdim[axis + 1];
        sizes[axis] = size(pixdim);
        flips[axis] = if pixdim < 0.0 && pixdim.is_finite() { -1.0 } else { 1.0 };
    }
    let affine = choose(header, sizes, flips)?;
    if let Some(affine) = affine.filter(|a| a.iter().flatten().any(|v| !v.is_finite())) {
        return Err(format!(
            "places the image by {affine:?}, expected finite numbers (qform_code {}, sform_code {})",
            header.qform_code, header.sform_code
        ));
    }
    let mut origin = [0.0; 3];
    let mut direction = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    if let Some(mut affine) = affine {
        if planar {
            affine[2] = [0.0; 4];
        }
        let lps = [-1.0, -1.0, 1.0];
        let columns = normalised_columns(&affine);
        for row in 0..3 {
            origin[row] = lps[row] * affine[row][3] * header.unit_mm;
            for column in 0..3 {
                direction[row][column] = lps[row] * columns[row][column];
            }
        }
    }
    for row in &mut direction {
        for (value, flip) in row.iter_mut().zip(flips) {
            // `+ 0.0` turns −0 into 0.
            *value = *value * flip + 0.0;
        }
    }
    if planar {
        // A slice has no distance to the next one: far apart, as in nnU-Net, so that nothing is interpolated across.
        sizes[2] = 999.0 * sizes[0].max(sizes[1]);
        for row in 0..3 {
            direction[row][2] = if row == 2 { 1.0 } else { 0.0 };
            direction[2][row] = direction[row][2];
        }
    }
    Ok(Placement {
        spacing: sizes.map(|s| s * header.unit_mm),
        origin: origin.map(|v| v + 0.0),
        direction,
    })
}

/// The affine that ITK believes, in the file's RAS coordinates.
fn choose(header: &Header, sizes: [f64; 3], flips: [f64; 3]) -> Result<Option<Affine>, String> {
    let qform = (header.qform_code > 0).then(|| from_quaternion(header, sizes, flips));
    let sform = (header.sform_code > 0).then_some(header.srow);
    let (sform, qform) = match (sform, qform) {
        (None, None) => return Ok(None),
        (None, Some(qform)) => return Ok(Some(qform)),
        (Some(sform), qform) => (sform, qform),
    };
    let orthonormal = is_orthonormal(&sform);
    match qform {
        None if orthonormal => Ok(Some(sform)),
        None => Err(format!(
            "sform = {sform:?} is not a rotation with scales and qform_code is 0, expected an orthonormal sform or a qform"
        )),
        Some(_) if orthonormal && header.sform_code == 1 => Ok(Some(sform)),
        Some(qform) if orthonormal && similar(&sform, &qform) => Ok(Some(sform)),
        Some(qform) => Ok(Some(qform)),
    }
}

/// Rotation by the unit quaternion (a, b, c, d) with a ≥ 0 implied, columns scaled by the voxel sizes.
fn from_quaternion(header: &Header, sizes: [f64; 3], flips: [f64; 3]) -> Affine {
    let [mut b, mut c, mut d] = header.quaternion;
    let rest = 1.0 - (b * b + c * c + d * d);
    // Rounding can push b, c, d past length 1: then it's a half turn, a = 0, as in the format's own library.
    let a = if rest < 1e-7 {
        let length = (b * b + c * c + d * d).sqrt();
        (b, c, d) = (b / length, c / length, d / length);
        0.0
    } else {
        rest.sqrt()
    };
    // A negative size counts as 1 here and flips its axis afterwards.
    let scale = |axis: usize| if flips[axis] < 0.0 { 1.0 } else { sizes[axis] };
    let qfac = if header.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
    scaled(rotation([a, b, c, d]), [scale(0), scale(1), scale(2) * qfac], header.qoffset)
}

/// Of a unit quaternion.
fn rotation([a, b, c, d]: [f64; 4]) -> [[f64; 3]; 3] {
    [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - c * c - b * b],
    ]
}

fn scaled(rotation: [[f64; 3]; 3], scales: [f64; 3], offset: [f64; 3]) -> Affine {
    let mut affine = [[0.0; 4]; 3];
    for row in 0..3 {
        for column in 0..3 {
            affine[row][column] = rotation[row][column] * scales[column];
        }
        affine[row][3] = offset[row];
    }
    affine
}

fn normalised_columns(affine: &Affine) -> [[f64; 3]; 3] {
    let mut columns = [[0.0; 3]; 3];
    for column in 0..3 {
        let length = (0..3).map(|row| affine[row][column].powi(2)).sum::<f64>().sqrt();
        for row in 0..3 {
            columns[row][column] = if length > 0.0 { affine[row][column] / length } else { 0.0 };
        }
    }
    columns
}

fn is_orthonormal(affine: &Affine) -> bool {
    let c = normalised_columns(affine);
    (0..3).all(|i| {
        (0..3).all(|j| {
            let dot: f64 = (0..3).map(|k| c[i][k] * c[j][k]).sum();
            (dot - if i == j { 1.0 } else { 0.0 }).abs() <= ORTHONORMAL
        })
    })
}

/// ITK compares singular values and vectors; for two nearly equal matrices that is the entries' difference.
fn similar(a: &Affine, b: &Affine) -> bool {
    let (turn_a, turn_b) = (normalised_columns(a), normalised_columns(b));
    let turned = turn_a.iter().flatten().zip(turn_b.iter().flatten());
    let entries = a.iter().flatten().zip(b.iter().flatten());
    turned.chain(entries).all(|(x, y)| (x - y).abs() <= SIMILAR)
}
