//! Phantoms: small volumes with two structures whose outlines are known exactly.
//!
//! Each case holds a capsule (class 1) that encloses a core (class 2) at a random place, size and orientation, beside
//! decoys of the same brightness that belong to no class, under a smooth multiplicative bias field and noise, on an
//! anisotropic grid whose size and spacing vary from case to case. The data set has the Decathlon's layout; labels of
//! the test images lie in `labelsTs`, where only the evaluation looks.

use artifact::nifti::{Geometry, encode_image, encode_labels};
use artifact::{Commit, Result};
use ndarray::{Array3, Array4};
use rand::{Rng, RngExt};
use serde_json::json;
use std::f64::consts::TAU;
use std::path::Path;

/// How large a data set to make.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Training cases.
    pub training: usize,
    /// Test cases.
    pub test: usize,
    /// Typical shape (z, y, x); cases differ from it by up to an eighth.
    pub shape: [usize; 3],
    /// Typical spacing (z, y, x); cases differ from it by up to a tenth.
    pub spacing_mm: [f64; 3],
}

/// One volume: image and label `[z, y, x]`.
#[derive(Debug, Clone)]
pub struct Phantom {
    /// Intensities.
    pub image: Array3<f32>,
    /// 0, 1 or 2.
    pub label: Array3<u16>,
    /// Grid.
    pub geometry: Geometry,
}

struct Ellipsoid {
    centre: [f64; 3],
    radii: [f64; 3],
    axes: [[f64; 3]; 3],
}

impl Ellipsoid {
    /// Below 1 inside; grows with the squared distance.
    fn depth(&self, point: [f64; 3]) -> f64 {
        let d: [f64; 3] = std::array::from_fn(|i| point[i] - self.centre[i]);
        (0..3)
            .map(|a| (0..3).map(|i| d[i] * self.axes[a][i]).sum::<f64>() / self.radii[a])
            .map(|t| t * t)
            .sum()
    }
}

fn uniform(rng: &mut impl Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

fn normal(rng: &mut impl Rng) -> f64 {
    // Box and Muller; 1 − u keeps the logarithm's argument above 0.
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (TAU * v).cos()
}

/// A rotation about x by a random angle, then about z by another: rows are the ellipsoid's axes.
fn orientation(rng: &mut impl Rng) -> [[f64; 3]; 3] {
    let ((sa, ca), (sb, cb)) =
        (uniform(rng, -0.6, 0.6).sin_cos(), uniform(rng, 0.0, TAU).sin_cos());
    [[ca, -sa * cb, sa * sb], [sa, ca * cb, -ca * sb], [0.0, sb, cb]]
}

/// Case number `index` of a data set.
pub fn phantom(size: &Size, seed: u64, index: u64) -> Phantom {
    let mut rng = stage::rng(seed, &[stage::word("phantom"), index]);
    let shape =
        size.shape.map(|n| (n as f64 * uniform(&mut rng, 0.875, 1.125)).round().max(1.0) as usize);
    let spacing_mm = size.spacing_mm.map(|s| s * uniform(&mut rng, 0.9, 1.1));
    let extent: [f64; 3] = std::array::from_fn(|i| shape[i] as f64 * spacing_mm[i]);
    let place = |rng: &mut _, low: f64, high: f64| extent.map(|e| e * uniform(rng, low, high));
    let scale = extent.iter().copied().fold(f64::INFINITY, f64::min);

    let capsule = Ellipsoid {
        centre: place(&mut rng, 0.4, 0.6),
        radii: [0.34, 0.28, 0.24].map(|r| r * scale * uniform(&mut rng, 0.9, 1.15)),
        axes: orientation(&mut rng),
    };
    // The core sits off the centre, inside: at most 0.3 + 0.55 of the capsule's radius.
    let offset: [f64; 3] = std::array::from_fn(|i| {
        capsule.axes[0][i] * capsule.radii[0] * uniform(&mut rng, -0.3, 0.3)
    });
    let core = Ellipsoid {
        centre: std::array::from_fn(|i| capsule.centre[i] + offset[i]),
        radii: capsule.radii.map(|r| r * uniform(&mut rng, 0.5, 0.6)),
        axes: capsule.axes,
    };
    let decoys: Vec<Ellipsoid> = (0..3)
        .map(|_| Ellipsoid {
            centre: place(&mut rng, 0.05, 0.95),
            radii: [0.1, 0.1, 0.1].map(|r| r * scale * uniform(&mut rng, 0.7, 1.3)),
            axes: orientation(&mut rng),
        })
        .collect();
    let tilt: [f64; 3] = std::array::from_fn(|_| uniform(&mut rng, -0.2, 0.2));
    let gain = uniform(&mut rng, 80.0, 120.0);

    let mut image = Array3::zeros(shape);
    let mut label = Array3::zeros(shape);
    for ((z, y, x), value) in image.indexed_iter_mut() {
        let point: [f64; 3] = std::array::from_fn(|i| ([z, y, x][i] as f64 + 0.5) * spacing_mm[i]);
        let class = match (core.depth(point) < 1.0, capsule.depth(point) < 1.0) {
            (true, _) => 2,
            (_, true) => 1,
            _ => 0,
        };
        let decoy = decoys.iter().any(|d| d.depth(point) < 1.0);
        let tissue = [if decoy { 1.3 } else { 0.7 }, 1.3, 1.9][usize::from(class)];
        let bias: f64 = (0..3).map(|i| tilt[i] * (TAU * 0.5 * point[i] / extent[i]).cos()).sum();
        *value = (gain * (tissue * (1.0 + bias) + 0.15 * normal(&mut rng))) as f32;
        label[[z, y, x]] = class;
    }
    Phantom { image, label, geometry: Geometry::plain(shape, spacing_mm) }
}

const DESCRIPTION: &str = "dataset.json";
const MADE_BY: &str = "made by nnu-phantom";

/// Writes a data set; `dataset.json` comes last, so that it vouches for the images.
///
/// # Errors
/// If a file can't be written.
pub fn write(folder: &Path, size: &Size, seed: u64, replace: bool) -> Result<()> {
    let file = |path: &Path, bytes: &[u8]| put(path, bytes, replace);
    let id = |i: usize| format!("phantom_{i:03}");
    for i in 0..size.training + size.test {
        let p = phantom(size, seed, i as u64);
        let part = if i < size.training { "Tr" } else { "Ts" };
        let [z, y, x] = p.geometry.shape;
        let image: Array4<f32> =
            p.image.into_shape_with_order((1, z, y, x)).expect("the same number of voxels");
        let path =
            |kind: &str| folder.join(format!("{kind}{part}")).join(format!("{}.nii.gz", id(i)));
        file(&path("images"), &encode_image(image.view(), &p.geometry, true)?)?;
        file(&path("labels"), &encode_labels(p.label.view(), &p.geometry, true)?)?;
    }
    let training: Vec<_> = (0..size.training)
        .map(|i| json!({"image": format!("./imagesTr/{}.nii.gz", id(i)), "label": format!("./labelsTr/{}.nii.gz", id(i))}))
        .collect();
    let test: Vec<_> = (size.training..size.training + size.test)
        .map(|i| format!("./imagesTs/{}.nii.gz", id(i)))
        .collect();
    let description = json!({
        "name": "Phantoms",
        "description": format!("Capsules with a core, decoys, bias field and noise; {MADE_BY}"),
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "capsule", "2": "core"},
        "numTraining": size.training,
        "numTest": size.test,
        "training": training,
        "test": test,
    });
    file(&folder.join(DESCRIPTION), format!("{description:#}\n").as_bytes())
}

/// Writes a file, over nothing or the same.
fn put(path: &Path, bytes: &[u8], replace: bool) -> Result<()> {
    // What an interrupted call left is what this one writes; again, so that its lock goes too.
    if replace || !path.exists() || artifact::file::read(path, "read")? == bytes {
        return Commit::file(path, bytes);
    }
    let line = "is there already, and no phantom of this size and seed";
    Err(artifact::Error::input(path, line)
        .hint("give another --out, or remove this first; --force replaces it"))
}

/// Whether nnu-phantom made the data set in this folder.
pub fn is_own(folder: &Path) -> bool {
    let json = std::fs::read(folder.join(DESCRIPTION)).unwrap_or_default();
    let json: Option<serde_json::Value> = serde_json::from_slice(&json).ok();
    json.is_some_and(|json| json["description"].as_str().is_some_and(|d| d.ends_with(MADE_BY)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interrupted_call_left_is_kept_and_anything_else_refused() {
        let size = Size { training: 1, test: 1, shape: [8, 16, 16], spacing_mm: [3.0, 1.2, 1.2] };
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("imagesTr/phantom_000.nii.gz");
        Commit::file(&image, b"scan").unwrap();
        let refused = write(folder.path(), &size, 0, false).unwrap_err();
        assert_eq!(refused.path, image);
        assert_eq!(std::fs::read(&image).unwrap(), b"scan");
        assert!(!is_own(folder.path()));
        write(folder.path(), &size, 0, true).unwrap();
        assert!(is_own(folder.path()));
        write(folder.path(), &size, 0, false).unwrap();
        std::fs::remove_file(folder.path().join(DESCRIPTION)).unwrap();
        write(folder.path(), &size, 0, false).unwrap();
        assert!(write(folder.path(), &size, 1, false).is_err());
        Commit::file(&folder.path().join(DESCRIPTION), b"{\"name\": \"precious\"}").unwrap();
        assert!(!is_own(folder.path()));
    }

    #[test]
    fn both_classes_fill_a_useful_part_of_every_case_and_no_case_repeats() {
        let size = Size { training: 1, test: 0, shape: [16, 40, 40], spacing_mm: [3.0, 1.2, 1.2] };
        for index in 0..8 {
            let p = phantom(&size, 0, index);
            let share = |class| {
                p.label.iter().filter(|&&l| l == class).count() as f64 / p.label.len() as f64
            };
            assert!((0.01..0.3).contains(&share(1)), "case {index}: capsule {}", share(1));
            assert!((0.003..0.1).contains(&share(2)), "case {index}: core {}", share(2));
            assert_ne!(p.image, phantom(&size, 0, index + 1).image);
            assert_eq!(p.image, phantom(&size, 0, index).image);
        }
    }
}
