//! Phantom cases and plans for tests.

use artifact::case::{Case, CaseInfo, FOREGROUND, IMAGE, LABEL, Original};
use artifact::nifti::Geometry;
use artifact::plan::Plan;
use artifact::recipe::Recipe;
use artifact::{Commit, Provenance};
use ndarray::{Array2, Array3, Array4};
use rand::RngExt;
use std::path::Path;

/// The recipe `paper` as nnu-plan ships it.
pub(crate) fn recipe() -> Recipe {
    toml::from_str(include_str!("../../../plan/recipes/paper.toml")).unwrap()
}

/// A plan with one configuration, `3d_fullres`, for two foreground classes.
pub(crate) fn plan(patch: [usize; 3], batch_size: usize, channels: usize) -> Plan {
    let channel = r#"
[[channels]]
name = "MRI"
normalisation = "z_score"
intensity = { mean = 0.0, sd = 1.0, min = -3.0, median = 0.0, max = 3.0, percentile_00_5 = -2.0, percentile_99_5 = 2.0 }
"#
    .repeat(channels);
    let [z, y, x] = patch;
    let text = format!(
        r#"
dataset = {{ name = "phantom", training_cases = 3, file_ending = ".nii.gz" }}
geometry = {{ transpose = [0, 1, 2] }}
labels = [{{ name = "background", value = 0 }}, {{ name = "anterior", value = 1 }}, {{ name = "posterior", value = 2 }}]
{channel}
[configurations.3d_fullres]
spacing_mm = [1.0, 1.0, 1.0]
keep_slice_distance = false
median_shape = [{z}, {y}, {x}]
patch_shape = [{z}, {y}, {x}]
batch_size = {batch_size}
batch_dice = false

[configurations.3d_fullres.network]
input_channels = {channels}
output_channels = 3
features = [4, 4]
kernels = [[3, 3, 3], [3, 3, 3]]
strides = [[1, 1, 1], [1, 1, 1]]
encoder_convs = [2, 2]
decoder_convs = [2]
deep_supervision = false
negative_slope = 0.01
norm_epsilon = 1e-5
"#
    );
    let mut table: toml::Table = text.parse().unwrap();
    table.insert("recipe".into(), toml::Value::try_from(recipe()).unwrap());
    table.try_into().unwrap()
}

/// A bright bent body in darker tissue: its front is class 1, its back class 2. With `masked`, the corners are
/// outside of the nonzero mask (label −1).
pub(crate) fn phantom(
    shape: [usize; 3],
    channels: usize,
    seed: u64,
    masked: bool,
) -> (Array4<f32>, Array3<i16>) {
    let mut rng = stage::rng(seed, &[7]);
    let [nz, ny, nx] = shape;
    let unit = |v: usize, n: usize| (v as f64 + 0.5) / n as f64 * 2.0 - 1.0;
    let label = Array3::from_shape_fn((nz, ny, nx), |(z, y, x)| {
        let (z, y, x) = (unit(z, nz), unit(y, ny), unit(x, nx));
        let bend = x - 0.3 + 0.5 * y * y;
        if masked && z * z + y * y + x * x > 2.0 {
            return -1;
        }
        let inside = (z / 0.5).powi(2) + (y / 0.8).powi(2) + (bend / 0.3).powi(2) < 1.0;
        if !inside {
            0
        } else if y < -0.15 {
            1
        } else {
            2
        }
    });
    let image = Array4::from_shape_fn((channels, nz, ny, nx), |(c, z, y, x)| {
        let class = label[[z, y, x]];
        if class < 0 {
            return 0.0;
        }
        let tissue = 0.4 * ((z as f32 * 0.5).sin() + (y as f32 * 0.35 + c as f32).cos());
        tissue + [0.0, 1.6, 1.1][usize::try_from(class).unwrap()] + 0.3 * rng.random::<f32>()
    });
    (image, label)
}

/// Writes a case as nnu-preprocess would.
pub(crate) fn write_case(
    folder: &Path,
    id: &str,
    image: &Array4<f32>,
    label: Option<&Array3<i16>>,
) {
    let Some(label) = label else {
        return commit(folder, case(id, image, false), image, None);
    };
    let at = |v: usize| i32::try_from(v).unwrap();
    let mut rows: Vec<[i32; 4]> = label
        .indexed_iter()
        .filter(|(_, class)| **class > 0)
        .map(|((z, y, x), &class)| [i32::from(class), at(z), at(y), at(x)])
        .collect();
    rows.sort_unstable();
    write_case_as(folder, id, image, label, &rows, |_| {});
}

/// Writes a labelled case with these foreground locations and an edited record.
pub(crate) fn write_case_as(
    folder: &Path,
    id: &str,
    image: &Array4<f32>,
    label: &Array3<i16>,
    rows: &[[i32; 4]],
    edit: impl FnOnce(&mut Case),
) {
    let mut case = case(id, image, true);
    edit(&mut case);
    commit(folder, case, image, Some((label, rows)));
}

fn commit(
    folder: &Path,
    case: Case,
    image: &Array4<f32>,
    label: Option<(&Array3<i16>, &[[i32; 4]])>,
) {
    let mut commit = Commit::begin(&folder.join(&case.case.id).join("case.toml")).unwrap();
    commit.npy(IMAGE, &image.view()).unwrap();
    if let Some((label, rows)) = label {
        commit.npy(LABEL, &label.view()).unwrap();
        commit.npy(FOREGROUND, &Array2::from(rows.to_vec()).view()).unwrap();
    }
    commit.finish(&Provenance::default(), &case).unwrap();
}

fn case(id: &str, image: &Array4<f32>, labelled: bool) -> Case {
    let (channels, z, y, x) = image.dim();
    let shape = [z, y, x];
    Case {
        case: CaseInfo {
            id: id.into(),
            configuration: "3d_fullres".into(),
            channels,
            classes: 3,
            regions: 0,
            ignore: false,
            shape,
            spacing_mm: [1.0; 3],
            labelled,
        },
        original: Original {
            transpose: [0, 1, 2],
            flip: [false; 3],
            crop_lower: [0; 3],
            crop_upper: shape,
            geometry: Geometry {
                shape,
                spacing_mm: [1.0; 3],
                origin_mm: [0.0; 3],
                direction: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
                header: Vec::new(),
            },
        },
    }
}
