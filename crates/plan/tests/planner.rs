//! The planner beyond the paper's data sets: memory, odd data, normalisation, order of axes.

mod support;

use artifact::Kind;
use artifact::plan::Normalisation;
use artifact::recipe::{Planning, Recipe, Weighting};
use plan::{Fixed, plan, plan_with};
use support::{channel, fingerprint, paper};

fn with_memory(gib: f64) -> Recipe {
    let mut recipe = paper();
    match &mut recipe.planning {
        Planning::Paper(planning) => planning.gpu_memory_gib = gib,
        Planning::V2(planning) => planning.gpu_memory_gib = gib,
    }
    recipe
}

#[test]
fn less_memory_shrinks_the_batch_then_the_patch() {
    let small = fingerprint([36, 50, 35], [1.0; 3], 2600, 3);
    let sizes = |gib: f64| {
        let plan = plan(&small, &with_memory(gib));
        let c = &plan.configurations["3d_fullres"];
        (c.patch_shape, c.batch_size)
    };
    // 4194304 voxels per batch at 12 GiB; a patch has 89600.
    assert_eq!(sizes(12.0), ([40, 56, 40], 46));
    assert_eq!(sizes(24.0), ([40, 56, 40], 91));
    assert_eq!(sizes(6.0), ([40, 56, 40], 23));
    assert_eq!(sizes(0.6), ([40, 56, 40], 2));
    // 139810 voxels per batch, 69905 per patch: the last of the whole axes gives way.
    assert_eq!(sizes(0.4), ([40, 48, 32], 2));
}

#[test]
fn more_memory_enlarges_the_patch_of_large_images() {
    let brain = fingerprint([138, 169, 138], [1.0; 3], 484, 4);
    let plan = plan(&brain, &with_memory(24.0));
    let volumes = &plan.configurations["3d_fullres"];
    assert_eq!((volumes.patch_shape, volumes.batch_size), ([160, 192, 128], 2));
}

#[test]
fn a_small_data_set_limits_the_batch_to_five_percent_of_its_voxels() {
    let phantom = fingerprint([24, 48, 48], [3.0, 1.0, 1.0], 12, 3);
    let plan = plan(&phantom, &paper());
    let volumes = &plan.configurations["3d_fullres"];
    assert_eq!((volumes.patch_shape, volumes.batch_size), ([24, 48, 48], 2));
    assert_eq!(volumes.network.poolings(), [2, 3, 3]);
    // 5 % of 12 · 24 slices are 14.4.
    assert_eq!(plan.configurations["2d"].batch_size, 14);
    assert_eq!(plan.configurations.len(), 2);
}

#[test]
fn every_plan_is_valid_and_no_patch_is_larger_than_needed_or_allowed() {
    let edges = [1, 2, 3, 5, 7, 8, 15, 33, 100, 700];
    let spacings = [[1.0, 1.0, 1.0], [5.0, 0.7, 0.7], [0.4, 0.4, 6.0]];
    let mut planned = 0;
    for (i, &a) in edges.iter().enumerate() {
        for (j, &b) in edges.iter().enumerate() {
            let shape = [a, b, edges[(2 * i + 3 * j) % edges.len()]];
            for gib in [0.001, 1.0, 12.0, 80.0] {
                let data = fingerprint(shape, spacings[(i + j) % 3], 1 + i, 2);
                let plan = plan(&data, &with_memory(gib));
                plan.check().unwrap_or_else(|e| panic!("{shape:?} at {gib} GiB: {e}"));
                planned += 1;
                for (name, c) in &plan.configurations {
                    let what = format!("{name} of {shape:?} at {gib} GiB: {:?}", c.patch_shape);
                    let divisor = c.network.divisor();
                    let median = c.median_shape.map(|edge| edge as usize);
                    let axes = if name == "2d" { 1..3 } else { 0..3 };
                    for axis in axes {
                        let needed = median[axis].next_multiple_of(divisor[axis]);
                        // A shorter patch may have been halved less often than the whole image would be.
                        let whole = median[axis].next_multiple_of(32).max(needed);
                        assert!(c.patch_shape[axis] <= whole, "{what}");
                        // Pooled until shorter than 8, or by the cap.
                        let left = c.patch_shape[axis] >> c.network.poolings()[axis];
                        let cap = if name == "2d" { 6 } else { 5 };
                        assert!(left < 8 || c.network.poolings()[axis] == cap, "{what}");
                    }
                    let pooled = c.network.poolings().iter().any(|&n| n > 0);
                    assert!(pooled || c.patch_shape.iter().product::<usize>() == 1, "{what}");
                    assert!(c.batch_size >= 2, "{what}");
                    let budget = 4_194_304.0 * gib / 12.0;
                    let voxels = c.patch_shape.iter().product::<usize>() * 2;
                    let fits = name == "2d" || voxels as f64 <= budget || gib < 0.01;
                    assert!(fits, "{what}");
                }
            }
        }
    }
    assert_eq!(planned, 400);
}

#[test]
fn images_of_one_slice_are_planned_in_2d_only() {
    let flat = fingerprint([1, 300, 200], [1.0, 2.0, 2.0], 40, 2);
    let plan = plan(&flat, &paper());
    assert_eq!(plan.geometry.transpose, [0, 1, 2]);
    assert_eq!(plan.configurations.keys().collect::<Vec<_>>(), ["2d"]);
    assert_eq!(plan.configurations["2d"].patch_shape, [1, 320, 224]);
}

#[test]
fn the_coarse_axis_comes_first_and_2d_keeps_its_distance() {
    let sagittal = fingerprint([200, 160, 30], [0.5, 0.6, 4.0], 10, 2);
    let plan = plan(&sagittal, &paper());
    assert_eq!(plan.geometry.transpose, [2, 0, 1]);
    let (slices, volumes) = (&plan.configurations["2d"], &plan.configurations["3d_fullres"]);
    assert_eq!(volumes.spacing_mm, [4.0, 0.5, 0.6]);
    assert_eq!(volumes.median_shape, [30.0, 200.0, 160.0]);
    assert!(slices.keep_slice_distance && !volumes.keep_slice_distance);
    // 200 = 3.125 · 64 and 160 halve 5 times to 6.25 and 5.
    assert_eq!(slices.patch_shape, [1, 224, 160]);
}

#[test]
fn slices_are_counted_as_stored_volumes_as_resampled() {
    let mut data = fingerprint([20, 64, 64], [2.0, 1.0, 1.0], 3, 2);
    data.cases[0].spacing_mm[0] = 4.0;
    data.cases[1].spacing_mm[0] = 1.0;
    data.cases[0].cropped_shape = [30, 64, 64];
    let plan = plan(&data, &paper());
    // 2 mm: 60, 10 and 20 slices; stored: 30, 20 and 20.
    assert_eq!(plan.configurations["3d_fullres"].median_shape, [20.0, 64.0, 64.0]);
    data.cases[2].cropped_shape = [26, 64, 64];
    let plan = plan::plan(&data, &paper());
    assert_eq!(plan.configurations["3d_fullres"].median_shape, [26.0, 64.0, 64.0]);
    assert_eq!(plan.configurations["2d"].median_shape, [26.0, 64.0, 64.0]);
    data.cases[2].cropped_shape = [20, 64, 64];
    data.cases[1].cropped_shape = [31, 64, 64];
    let plan = plan::plan(&data, &paper());
    assert_eq!(plan.configurations["3d_fullres"].median_shape, [20.0, 64.0, 64.0]);
    assert_eq!(plan.configurations["2d"].median_shape, [30.0, 64.0, 64.0]);
}

#[test]
fn channels_are_normalised_by_name_and_masked_by_the_25_percent_rule() {
    let mut data = fingerprint([32; 3], [1.0; 3], 4, 2);
    data.channels = ["CT", "T1", "ct", "noNorm", "rgb_to_0_1", "rescale_to_0_1", "zscore"]
        .map(channel)
        .to_vec();
    let schemes = |data: &artifact::fingerprint::Fingerprint| -> Vec<Normalisation> {
        plan(data, &paper()).channels.iter().map(|c| c.normalisation).collect()
    };
    use Normalisation::{Ct, None, RescaleTo01, RgbTo01, ZScore, ZScoreMasked};
    assert_eq!(schemes(&data), [Ct, ZScore, Ct, None, RgbTo01, RescaleTo01, ZScore]);
    // Cropping away a quarter on average is enough; the median here is 1.
    data.cases[0].relative_size = 0.0;
    let masked = [Ct, ZScoreMasked, Ct, None, RgbTo01, RescaleTo01, ZScoreMasked];
    assert_eq!(schemes(&data), masked);
    data.cases[0].relative_size = 0.01;
    assert_eq!(schemes(&data)[1], ZScore);
}

#[test]
fn each_recipe_takes_its_own_weighting_of_the_intensities() {
    let mut data = fingerprint([32; 3], [1.0; 3], 4, 2);
    data.channels = vec![channel("CT"), channel("T1")];
    let (per_voxel, per_case) = (data.channels[0].per_voxel, data.channels[0].per_case);
    for (name, text) in plan::recipe::BUILT_IN {
        let mut recipe = support::recipe(name);
        let own = if name == "paper" { Weighting::PerVoxel } else { Weighting::PerCase };
        assert_eq!(recipe.planning.intensity_weighting(), own, "{name}: {text}");
        for weighting in [own, Weighting::PerVoxel, Weighting::PerCase] {
            match &mut recipe.planning {
                Planning::Paper(planning) => planning.intensity_weighting = weighting,
                Planning::V2(planning) => planning.intensity_weighting = weighting,
            }
            let made = plan(&data, &recipe);
            let expected = if weighting == Weighting::PerVoxel { per_voxel } else { per_case };
            assert!(made.channels.iter().all(|c| c.intensity == expected), "{name}");
            assert_eq!(made.recipe, recipe);
        }
    }
}

#[test]
fn the_low_resolution_coarsens_the_finer_axes_first() {
    // 40 × 800 × 800 is more than 4 · 128³; one step on the finer axes is enough.
    let data = fingerprint([40, 800, 800], [3.0, 0.75, 0.75], 10, 2);
    let plan = plan(&data, &paper());
    let low = &plan.configurations["3d_lowres"];
    assert_eq!(low.spacing_mm, [3.0, 1.5, 1.5]);
    // Forty times as many slices: the finer axes reach the coarse one, then all grow.
    let data = fingerprint([1600, 800, 800], [3.0, 0.75, 0.75], 10, 2);
    let low = &plan::plan(&data, &paper()).configurations["3d_lowres"];
    assert_eq!(low.spacing_mm, [6.0, 6.0, 6.0]);
    let below = fingerprint([128, 256, 256], [1.0; 3], 10, 2);
    assert_eq!(plan::plan(&below, &paper()).configurations.len(), 2);
    let above = fingerprint([129, 256, 256], [1.0; 3], 10, 2);
    assert_eq!(plan::plan(&above, &paper()).configurations.len(), 4);
}

#[test]
fn a_given_patch_or_spacing_leads_to_its_own_poolings_and_batch() {
    let data = fingerprint([482, 512, 512], [1.0, 0.75, 0.75], 131, 3);
    let mut fixed = Fixed::default();
    fixed.patch_shape.insert("3d_fullres".into(), [32, 64, 64]);
    fixed.spacing_mm.insert("3d_fullres".into(), [2.0, 1.5, 1.5]);
    let plan = plan_with(&data, &paper(), &fixed);
    for name in ["3d_fullres", "3d_cascade_fullres"] {
        let c = &plan.configurations[name];
        assert_eq!(c.patch_shape, [32, 64, 64], "{name}");
        assert_eq!(c.network.poolings(), [3, 4, 4], "{name}");
        assert_eq!(c.batch_size, 32, "{name}");
        assert_eq!(c.median_shape, [241.0, 256.0, 256.0], "{name}");
    }
    assert_eq!(plan.configurations["3d_lowres"].spacing_mm, [4.0, 3.0, 3.0]);
}
