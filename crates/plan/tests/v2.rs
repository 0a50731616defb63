//! The planner of nnU-Net v2: known data sets, estimates of memory, where it departs from nnU-Net.

mod support;

use artifact::Kind;
use artifact::plan::{Configuration, Encoder, Network, Plan};
use artifact::recipe::{Planning, Recipe};
use plan::recipe::Resolved;
use plan::v2::memory::estimate;
use plan::{Fixed, plan, plan_with};
use support::{channel, fingerprint, recipe};

/// A data set, and patch, batch and estimate of its configurations as nnU-Net 2.8.1 gives them.
struct Row {
    name: &'static str,
    spacing_mm: [f64; 3],
    shape: [usize; 3],
    cases: usize,
    channels: usize,
    labels: usize,
    volumes: ([usize; 3], usize, u64),
    slices: ([usize; 2], usize, u64),
    /// Patch, median shape, estimate where it is known.
    low: Option<([usize; 3], [f64; 3], Option<u64>)>,
}

const ROWS: [Row; 8] = [
    Row {
        name: "Hippocampus",
        spacing_mm: [1.0; 3],
        shape: [36, 50, 35],
        cases: 260,
        channels: 1,
        labels: 3,
        volumes: ([40, 56, 40], 9, 19_174_400),
        slices: ([56, 40], 366, 651_840),
        low: None,
    },
    Row {
        name: "BrainTumour",
        spacing_mm: [1.0; 3],
        shape: [138, 170, 138],
        cases: 484,
        channels: 4,
        labels: 4,
        volumes: ([128, 128, 128], 2, 454_893_568),
        slices: ([192, 160], 105, 9_676_800),
        low: None,
    },
    Row {
        name: "Heart",
        spacing_mm: [1.37, 1.25, 1.25],
        shape: [115, 320, 232],
        cases: 20,
        channels: 1,
        labels: 2,
        volumes: ([80, 192, 160], 2, 528_211_200),
        slices: ([320, 256], 40, 25_784_320),
        low: None,
    },
    Row {
        name: "Liver",
        spacing_mm: [1.0, 0.767578125, 0.767578125],
        shape: [482, 512, 512],
        cases: 131,
        channels: 1,
        labels: 3,
        volumes: ([128, 128, 128], 2, 452_796_416),
        slices: ([512, 512], 12, 82_886_656),
        low: Some(([128, 128, 128], [193.0, 205.0, 205.0], None)),
    },
    Row {
        name: "Prostate",
        spacing_mm: [3.6, 0.625, 0.625],
        shape: [20, 320, 320],
        cases: 32,
        channels: 2,
        labels: 3,
        volumes: ([20, 320, 256], 2, 483_315_200),
        slices: ([320, 320], 32, 32_332_800),
        low: None,
    },
    Row {
        name: "Lung",
        spacing_mm: [1.24498, 0.78515625, 0.78515625],
        shape: [252, 512, 512],
        cases: 63,
        channels: 1,
        labels: 2,
        volumes: ([80, 192, 160], 2, 528_211_200),
        slices: ([512, 512], 12, 82_624_512),
        low: Some(([80, 192, 160], [132.0, 267.0, 267.0], None)),
    },
    Row {
        name: "Pancreas",
        spacing_mm: [2.5, 0.80273402, 0.80273402],
        shape: [96, 512, 512],
        cases: 281,
        channels: 1,
        labels: 3,
        volumes: ([40, 224, 224], 2, 539_611_520),
        slices: ([512, 512], 12, 82_886_656),
        low: Some(([64, 192, 192], [90.0, 310.0, 310.0], Some(509_442_048))),
    },
    Row {
        name: "ACDC-like",
        spacing_mm: [5.0, 1.5625, 1.5625],
        shape: [18, 237, 208],
        cases: 200,
        channels: 1,
        labels: 4,
        volumes: ([20, 256, 224], 4, 310_481_920),
        slices: ([256, 224], 56, 18_063_360),
        low: None,
    },
];

fn planned(row: &Row, recipe: &Recipe) -> Plan {
    let mut data = fingerprint(row.shape, row.spacing_mm, row.cases, row.labels);
    data.channels = vec![channel("MRI"); row.channels];
    plan(&data, recipe)
}

fn row(name: &str) -> &'static Row {
    let found = ROWS.iter().find(|row| row.name == name);
    found.unwrap_or_else(|| panic!("no row {name}"))
}

fn memory(c: &Configuration) -> u64 {
    estimate(&c.network, c.patch_shape, c.network.output_channels)
}

#[test]
fn nnu_net_s_data_sets_get_its_patches_batches_and_estimates() {
    for row in &ROWS {
        let plan = planned(row, &recipe("v2"));
        let (slices, volumes) = (&plan.configurations["2d"], &plan.configurations["3d_fullres"]);
        let found = (volumes.patch_shape, volumes.batch_size, memory(volumes));
        assert_eq!(found, row.volumes, "{} 3D", row.name);
        let [depth, height, width] = slices.patch_shape;
        let found = ([height, width], slices.batch_size, memory(slices));
        assert_eq!((found, depth), (row.slices, 1), "{} 2D", row.name);
        assert!(slices.batch_dice && slices.keep_slice_distance);
        let low = plan.configurations.get("3d_lowres");
        assert_eq!(volumes.batch_dice, low.is_some(), "{}", row.name);
        assert_eq!(low.is_some(), row.low.is_some(), "{}", row.name);
        if let (Some(low), Some((patch, median, elements))) = (low, row.low) {
            assert_eq!((low.patch_shape, low.median_shape), (patch, median), "{}", row.name);
            assert!(elements.is_none_or(|n| n == memory(low)), "{}", row.name);
            assert!(!low.batch_dice);
        }
    }
}

#[test]
fn steps_of_three_percent_lead_to_the_low_resolution() {
    for (name, steps) in [("Liver", 31), ("Lung", 22), ("Pancreas", 17)] {
        let plan = planned(row(name), &recipe("v2"));
        let low = plan.configurations["3d_lowres"].spacing_mm;
        let full = plan.configurations["3d_fullres"].spacing_mm;
        let found = (low[1] / full[1]).ln() / 1.03_f64.ln();
        assert!((found - f64::from(steps)).abs() < 1e-6, "{name}: {found}");
    }
    // Slices much thicker than they are fine: at first only the finer axes grow.
    let low = planned(row("Pancreas"), &recipe("v2")).configurations["3d_lowres"].spacing_mm;
    assert!((low[0] - 2.6523).abs() < 1e-4 && (low[1] - 1.3268).abs() < 1e-4, "{low:?}");
}

#[test]
fn poolings_and_kernels_follow_the_spacing() {
    let of =
        |name: &str| planned(row(name), &recipe("v2")).configurations["3d_fullres"].network.clone();
    let (one, flat, all) = ([1, 1, 1], [1, 2, 2], [2, 2, 2]);
    let prostate = of("Prostate");
    assert_eq!(prostate.strides, [one, flat, flat, all, all, flat, flat]);
    assert_eq!(prostate.kernels[..3], [[1, 3, 3], [1, 3, 3], [3, 3, 3]]);
    assert_eq!(prostate.features, [32, 64, 128, 256, 320, 320, 320]);
    assert_eq!(of("Pancreas").strides, [one, flat, all, all, all, flat]);
    assert_eq!(of("ACDC-like").strides, [one, flat, all, all, flat, flat]);
    let heart = of("Heart");
    assert_eq!(heart.strides.last(), Some(&flat));
    assert!(heart.kernels.iter().all(|k| *k == [3; 3]));
    let slices = planned(row("Liver"), &recipe("v2")).configurations["2d"].network.clone();
    assert_eq!(slices.features, [32, 64, 128, 256, 512, 512, 512, 512]);
    assert!(slices.kernels.iter().all(|k| *k == [1, 3, 3]));
}

#[test]
fn slices_alone_are_planned_in_2d_and_the_five_percent_count() {
    let data = fingerprint([1, 512, 512], [1.0; 3], 100, 2);
    let plan = plan(&data, &recipe("v2"));
    assert_eq!(plan.configurations.keys().collect::<Vec<_>>(), ["2d"]);
    let slices = &plan.configurations["2d"];
    assert_eq!((slices.patch_shape, slices.batch_size), ([1, 512, 512], 5));
    // nnU-Net would put the coarser second axis first; an image of one slice has nothing in depth.
    let data = fingerprint([1, 512, 512], [1.0, 2.0, 2.0], 100, 2);
    let plan = plan::plan(&data, &recipe("v2"));
    assert_eq!(plan.geometry.transpose, [0, 1, 2]);
    assert_eq!(plan.configurations.len(), 1);
}

/// Estimate, and batch in 3D and 2D for M, L, XL.
#[test]
fn residual_presets_get_their_patches_batches_and_estimates() {
    let presets = ["v2-resenc-m", "v2-resenc-l", "v2-resenc-xl"];
    let of = |name: &str, key: &str| -> Vec<([usize; 3], usize, u64)> {
        let plans = presets.map(|preset| planned(row(name), &recipe(preset)));
        plans
            .iter()
            .map(|p| &p.configurations[key])
            .map(|c| (c.patch_shape, c.batch_size, memory(c)))
            .collect()
    };
    let small = 23_609_600;
    let patch = [40, 56, 40];
    let expected = [(patch, 58, small), (patch, 178, small), (patch, 183, small)];
    assert_eq!(of("Hippocampus", "3d_fullres"), expected);
    let (patch, small) = ([1, 56, 40], 1_001_280);
    let expected = [(patch, 1618, small), (patch, 4554, small), (patch, 6711, small)];
    assert_eq!(of("Hippocampus", "2d"), expected);
    let expected = [
        ([128; 3], 2, 557_420_544),
        ([192; 3], 2, 1_881_294_336),
        ([224, 256, 224], 2, 3_414_200_832),
    ];
    assert_eq!(of("Liver", "3d_fullres"), expected);
    let (patch, elements) = ([1, 512, 512], 129_703_936);
    assert_eq!(of("Liver", "2d"), [12, 35, 52].map(|batch| (patch, batch, elements)));
    let expected = [
        ([20, 256, 256], 2, 565_068_800),
        ([20, 320, 320], 5, 882_920_000),
        ([20, 320, 320], 8, 882_920_000),
    ];
    assert_eq!(of("Prostate", "3d_fullres"), expected);
}

#[test]
fn a_residual_network_has_blocks_and_one_convolution_per_decoder_stage() {
    let plan = planned(row("Liver"), &recipe("v2-resenc-l"));
    let network = &plan.configurations["3d_fullres"].network;
    assert_eq!(network.encoder, Encoder::Residual);
    assert_eq!(network.encoder_convs, [1, 3, 4, 6, 6, 6]);
    assert_eq!(network.decoder_convs, [1; 5]);
}

#[test]
fn decoder_counts_of_the_recipe_begin_at_the_deepest_stage() {
    let mut short = recipe("v2");
    if let Planning::V2(planning) = &mut short.planning {
        planning.decoder_convs = vec![3, 1];
        planning.encoder_convs = vec![1, 2];
    }
    let network = planned(row("Hippocampus"), &short).configurations["3d_fullres"].network.clone();
    assert_eq!(network.decoder_convs, [1, 1, 3]);
    assert_eq!(network.encoder_convs, [1, 2, 2, 2]);
}

#[test]
fn the_estimate_counts_every_convolution_s_output_once() {
    // 2 stages, 4 and 8 features, 8³ and 4³ voxels.
    let network = Network {
        encoder: Encoder::Plain,
        input_channels: 1,
        output_channels: 2,
        features: vec![4, 8],
        kernels: vec![[3; 3]; 2],
        strides: vec![[1; 3], [2; 3]],
        encoder_convs: vec![2, 3],
        decoder_convs: vec![1],
        deep_supervision: true,
        negative_slope: 0.01,
        norm_epsilon: 1e-5,
    };
    let (full, half) = (512, 64);
    let encoder = 2 * 4 * full + 3 * 8 * half;
    let decoder = (1 + 1) * 4 * full;
    assert_eq!(estimate(&network, [8; 3], 5), encoder + decoder + 5 * full);
    let residual = Network { encoder: Encoder::Residual, ..network.clone() };
    // Stem, two blocks; three blocks of which the first has a convolution in its skip.
    let encoder = (1 + 2 * 2) * 4 * full + (2 * 3 + 1) * 8 * half;
    assert_eq!(estimate(&residual, [8; 3], 5), encoder + decoder + 5 * full);
    let alone = Network {
        features: vec![4],
        kernels: vec![[3; 3]],
        strides: vec![[1; 3]],
        encoder_convs: vec![2],
        decoder_convs: Vec::new(),
        ..network
    };
    assert_eq!(estimate(&alone, [8; 3], 5), 2 * 4 * full);
}

#[test]
fn normalisation_is_masked_below_three_quarters_of_the_median_size() {
    use artifact::plan::Normalisation::{ZScore, ZScoreMasked};
    let mut data = fingerprint([32; 3], [1.0; 3], 3, 2);
    let first = |data: &artifact::fingerprint::Fingerprint| {
        plan(data, &recipe("v2")).channels[0].normalisation
    };
    data.cases[0].relative_size = 0.0;
    data.cases[1].relative_size = 0.75;
    assert_eq!(first(&data), ZScore);
    data.cases[1].relative_size = 0.74;
    assert_eq!(first(&data), ZScoreMasked);
}

#[test]
fn coarse_axes_of_anisotropic_data_get_a_low_percentile() {
    let mut data = fingerprint([20, 300, 300], [5.0, 1.0, 1.0], 11, 2);
    let full = |data: &artifact::fingerprint::Fingerprint| {
        plan(data, &recipe("v2")).configurations["3d_fullres"].spacing_mm
    };
    assert_eq!(full(&data), [5.0, 1.0, 1.0]);
    data.cases[3].spacing_mm[0] = 3.0;
    // The tenth percentile of eleven values is the second.
    assert_eq!(full(&data), [5.0, 1.0, 1.0]);
    data.cases[4].spacing_mm[0] = 3.5;
    assert_eq!(full(&data), [3.5, 1.0, 1.0]);
    // Never finer than the other axes.
    data.cases[3].spacing_mm[0] = 0.5;
    data.cases[4].spacing_mm[0] = 0.6;
    assert_eq!(full(&data), [1.0 + 1e-5, 1.0, 1.0]);
    // With as many voxels as the others the axis isn't short.
    for case in &mut data.cases {
        case.cropped_shape[0] = 100;
    }
    assert_eq!(full(&data), [5.0, 1.0, 1.0]);
}

#[test]
fn the_second_stage_is_the_full_resolution_with_one_more_channel_per_class() {
    let plan = planned(row("Liver"), &recipe("v2"));
    let full = &plan.configurations["3d_fullres"];
    let cascade = &plan.configurations["3d_cascade_fullres"];
    assert_eq!(cascade.previous_stage.as_deref(), Some("3d_lowres"));
    assert_eq!(cascade.cases_from.as_deref(), Some("3d_fullres"));
    assert_eq!(cascade.network.input_channels, full.network.input_channels + 2);
    assert_eq!((cascade.patch_shape, cascade.spacing_mm), (full.patch_shape, full.spacing_mm));
    assert!(cascade.batch_dice);
}

#[test]
fn a_given_patch_or_spacing_is_kept_and_the_rest_planned_around_it() {
    let liver = row("Liver");
    let data = fingerprint(liver.shape, liver.spacing_mm, liver.cases, liver.labels);
    let mut fixed = Fixed::default();
    fixed.patch_shape.insert("3d_fullres".into(), [32, 64, 64]);
    fixed.spacing_mm.insert("3d_fullres".into(), [2.0, 1.5, 1.5]);
    fixed.spacing_mm.insert("3d_lowres".into(), [4.0, 3.0, 3.0]);
    let plan = plan_with(&data, &recipe("v2"), &fixed);
    for name in ["3d_fullres", "3d_cascade_fullres"] {
        let c = &plan.configurations[name];
        assert_eq!((c.patch_shape, c.spacing_mm), ([32, 64, 64], [2.0, 1.5, 1.5]), "{name}");
        assert_eq!(c.network.poolings(), [3, 4, 4], "{name}");
        assert!(c.batch_size > 2, "{name}");
        assert_eq!(c.median_shape, [241.0, 262.0, 262.0], "{name}");
    }
    let low = &plan.configurations["3d_lowres"];
    assert_eq!((low.spacing_mm, low.median_shape), ([4.0, 3.0, 3.0], [120.0, 131.0, 131.0]));
}

#[test]
fn every_plan_is_valid_whatever_the_shape_and_the_memory() {
    let edges = [1, 2, 5, 7, 8, 13, 40, 129, 700];
    let spacings = [[1.0, 1.0, 1.0], [5.0, 0.7, 0.7], [0.4, 0.4, 6.0], [1e-3, 30.0, 1.0]];
    let recipes = ["v2", "v2-resenc-m"].map(recipe);
    let mut planned = 0;
    for (i, &a) in edges.iter().enumerate() {
        for (j, &b) in edges.iter().enumerate() {
            let shape = [a, b, edges[(2 * i + 3 * j) % edges.len()]];
            let data = fingerprint(shape, spacings[(i + j) % 4], 1 + i, 2);
            for gib in [0.001, 1.0, 80.0] {
                for recipe in &recipes {
                    let mut recipe = recipe.clone();
                    if let Planning::V2(planning) = &mut recipe.planning {
                        planning.gpu_memory_gib = gib;
                    }
                    let plan = plan(&data, &recipe);
                    let checked = Kind::check(&plan);
                    checked.unwrap_or_else(|e| panic!("{shape:?} at {gib} GiB: {e}"));
                    planned += plan.configurations.len();
                }
            }
        }
    }
    assert!(planned > 9 * 9 * 6);
}

/// nnU-Net plans one stage for them, of which nothing can be trained; here similar axes are pooled once.
#[test]
fn cases_too_small_to_pool_get_two_stages_all_the_same() {
    for name in ["paper", "v2", "v2-resenc", "v2-resenc-l"] {
        for (shape, spacing, volumes, slices) in [
            ([3, 4, 5], [1.0; 3], Some([4, 4, 6]), Some([1, 4, 6])),
            ([7, 7, 7], [1.0; 3], Some([8, 8, 8]), Some([1, 8, 8])),
            ([2, 2, 2], [1.0; 3], Some([2, 2, 2]), Some([1, 2, 2])),
            ([1, 7, 7], [1.0; 3], None, Some([1, 8, 8])),
            ([1, 1, 10], [1.0; 3], None, Some([1, 1, 10])),
            ([5, 1, 1], [1.0; 3], None, Some([1, 6, 1])),
        ] {
            let data = fingerprint(shape, spacing, 4, 2);
            let plan = plan(&data, &recipe(name));
            plan.check().unwrap();
            let patch = |name: &str| plan.configurations.get(name).map(|c| c.patch_shape);
            let what = format!("{name} {shape:?}");
            assert_eq!((patch("3d_fullres"), patch("2d")), (volumes, slices), "{what}");
            for c in plan.configurations.values() {
                let n = &c.network;
                assert!(n.features.len() == 2 || name == "paper", "{what} {n:?}");
                assert!(n.features.len() >= 2, "{what} {n:?}");
                assert_eq!(n.kernels.last().unwrap().iter().max(), Some(&3), "{what}");
            }
        }
    }
    // Coarse axes stay as they are.
    let plan = plan(&fingerprint([5, 7, 7], [4.0, 1.0, 1.0], 4, 2), &recipe("v2"));
    let full = &plan.configurations["3d_fullres"];
    assert_eq!((full.patch_shape, full.network.poolings()), ([5, 8, 8], [0, 1, 1]));
}

#[test]
fn cases_of_one_voxel_are_refused() {
    let data = fingerprint([1, 1, 1], [1.0; 3], 4, 2);
    for name in ["paper", "v2"] {
        let error =
            plan::command::assemble(&data, Resolved::built_in(name).unwrap(), &[]).unwrap_err();
        assert_eq!(
            error.message,
            "the median case has [1.0, 1.0, 1.0] voxels at [1.0, 1.0, 1.0] mm and one voxel at the target spacing, expected two or more along an axis, for a U-Net to pool"
        );
        assert_eq!(error.exit, stage::Exit::Input);
    }
}
