//! Recipes and their text inside the plan.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use artifact::plan::Plan;
use plan::command::assemble;
use plan::recipe::{BUILT_IN, Resolved};
use plan::settings::Setting;
use std::path::Path;
use support::{fingerprint, paper};

fn set(text: &str) -> Setting {
    Setting::parse(text).unwrap()
}

fn from_text(text: &str) -> Result<Resolved, stage::Error> {
    Resolved::from_text(text, Path::new("mine.toml"))
}

#[test]
fn the_paper_s_numbers_stand_in_its_recipe() {
    let r = paper();
    assert_eq!(r.name, "paper");
    assert_eq!((r.optimiser.learning_rate, r.optimiser.weight_decay), (3e-4, 3e-5));
    assert!(r.optimiser.amsgrad);
    let s = &r.schedule;
    assert_eq!((s.epochs, s.iterations_per_epoch, s.validation_iterations), (1000, 250, 50));
    assert_eq!((s.reduce_after_epochs, s.reduce_factor, s.stop_after_epochs), (30, 0.2, 60));
    assert_eq!((s.min_improvement, s.stop_below_learning_rate), (5e-3, 1e-6));
    assert_eq!(r.augmentation.slice_by_slice_above, 2.0);
    assert_eq!((r.inference.step, r.inference.gaussian_sigma), (0.5, 0.125));
    assert_eq!((r.loss.dice_smooth, r.loss.dice_background), (1e-5, false));
}

#[test]
fn every_key_of_a_built_in_recipe_says_what_it_is() {
    for (name, text) in BUILT_IN {
        if text.contains("base = ") {
            continue;
        }
        for line in text.lines().filter(|l| l.contains(" = ") && !l.starts_with(['#', 'n'])) {
            assert!(line.contains(" # "), "recipe {name}: {line}");
        }
    }
}

#[test]
fn the_plan_s_text_keeps_the_recipe_s_comments_and_reads_back_as_the_plan() {
    let data = fingerprint([482, 512, 512], [1.0, 0.75, 0.75], 131, 3);
    let recipe = Resolved::built_in("paper").unwrap();
    let settings = [
        set("schedule.epochs=20"),
        set("augmentation.mirror_axes=[1, 2]"),
        set("optimiser.kind=sgd"),
        set("configurations.3d_lowres.batch_size=3"),
    ];
    let (plan, text) = assemble(&data, recipe, &settings).unwrap();
    assert_eq!(toml::from_str::<Plan>(&text).unwrap(), plan);
    assert_eq!(plan.recipe.schedule.epochs, 20);
    assert_eq!(plan.recipe.augmentation.mirror_axes, [1, 2]);
    assert_eq!(plan.configurations["3d_lowres"].batch_size, 3);
    for line in [
        "epochs = 20                           # at most [F]; --set, was 1000",
        "batch_size = 3                          # patches; --set, was 2",
        "kind = \"sgd\"                           # \"adam\" [T] or \"sgd\"; --set, was \"adam\"",
        "[recipe.schedule]",
        "# Recipe `paper`: nnU-Net as published in 2018 (Isensee et al., arXiv 1809.10486).",
        "previous_stage = \"3d_lowres\"            # its segmentation is added as one-hot input channels",
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
    }
    let unset = "iterations_per_epoch = 250              # training batches [T]";
    assert!(text.lines().any(|l| l == unset));
}

#[test]
fn a_recipe_file_changes_its_base_or_is_complete() {
    let recipe = from_text("base = \"paper\"\nname = \"short\"\n[schedule]\nepochs = 7\n").unwrap();
    let values = recipe.recipe().unwrap();
    assert_eq!((values.name.as_str(), values.schedule.epochs), ("short", 7));
    assert_eq!(values.planning, paper().planning);
    assert!(recipe.document().to_string().contains("# at most [F]; recipe file, was 1000"));

    let complete = from_text(BUILT_IN[0].1).unwrap();
    assert_eq!(complete.recipe().unwrap(), paper());
}

#[test]
fn recipe_files_fail_with_one_line() {
    let complete = BUILT_IN[0].1;
    let cases = [
        (
            "base = \"paper\"\n[schedule]\nepoch = 7\n",
            "mine.toml: unknown key schedule.epoch, did you mean schedule.epochs?",
        ),
        (
            "base = \"paper\"\n[schedule]\nepochs = 7.5\n",
            "mine.toml: schedule.epochs=7.5: found a float, expected an integer such as 1000",
        ),
        (
            "base = \"papre\"\n",
            "mine.toml: base = \"papre\", expected one of paper, v2, v2-resenc, v2-resenc-m, v2-resenc-l, v2-resenc-xl",
        ),
        ("[schedule]\nepochs = 7\n", "mine.toml: name is missing"),
        (
            "name = \"x\"\nepochs = \n",
            "mine.toml: line 2: string values must be quoted, expected literal string",
        ),
        (
            "base = \"paper\"\n[inference]\nstep = 0\n",
            "mine.toml: recipe.inference.step = 0, expected 0.01 to 1",
        ),
        (
            "base = \"paper\"\n[[schedule]]\nepochs = 7\n",
            "mine.toml: unknown key schedule, did you mean schedule.kind?",
        ),
        (
            &complete.replace("learning_rate = 3e-4", "learning_rate = \"3e-4\""),
            "mine.toml: optimiser.learning_rate=\"3e-4\": found a string, expected a number such as 3e-4",
        ),
        (
            &complete.replace("clip_norm", "clipnorm"),
            "mine.toml: unknown key optimiser.clipnorm, did you mean optimiser.clip_norm?",
        ),
        (
            &complete.replace("convs_per_stage = 2 ", "convs_per_stage = 0 "),
            "mine.toml: recipe.planning.convs_per_stage = 0, expected 1 to 64",
        ),
    ];
    for (text, expected) in cases {
        let error = from_text(text).unwrap_err();
        assert_eq!(error.message, expected);
        assert_eq!(error.exit, stage::Exit::Input);
    }
}

#[test]
fn settings_fail_with_one_line() {
    let data = fingerprint([24, 48, 48], [3.0, 1.0, 1.0], 12, 3);
    let cases = [
        ("schedule.epoch=3", "--set: unknown key schedule.epoch, did you mean schedule.epochs?"),
        ("epochs=3", "--set: unknown key epochs, did you mean schedule.epochs?"),
        (
            "patch_shape=3",
            "--set: unknown key patch_shape, did you mean configurations.3d_fullres.patch_shape?",
        ),
        ("zzz=3", "--set: unknown key zzz"),
        ("schedule=3", "--set: unknown key schedule, did you mean schedule.kind?"),
        (
            "schedule.epochs=abc",
            "--set schedule.epochs=abc: found no TOML value, expected an integer such as 1000",
        ),
        (
            "schedule.epochs=-4",
            "--set schedule.epochs=-4: invalid value: integer `-4`, expected usize",
        ),
        (
            "optimiser.amsgrad=1",
            "--set optimiser.amsgrad=1: found an integer, expected true or false, such as true",
        ),
        (
            "augmentation.gamma=[1, \"x\"]",
            "--set augmentation.gamma=[1, \"x\"]: found a list, expected a list of numbers such as [0.7, 1.5]",
        ),
        (
            "optimiser.kind=sgdd",
            "--set optimiser.kind=sgdd: unknown variant `sgdd`, expected `adam` or `sgd`",
        ),
        (
            "inference.step=2",
            "--set inference.step=2: recipe.inference.step = 2, expected 0.01 to 1",
        ),
        (
            "configurations.3d_lowres.batch_size=2",
            "--set: unknown key configurations.3d_lowres.batch_size, did you mean configurations.3d_fullres.batch_size?",
        ),
        (
            "configurations.2d.patch_shape=[1, 2]",
            "--set configurations.2d.patch_shape=[1, 2]: expected three edges of 1 to 65536 voxels",
        ),
        (
            "configurations.2d.spacing_mm=[1, 2, -1]",
            "--set configurations.2d.spacing_mm=[1, 2, -1]: expected three positive numbers, in mm",
        ),
        (
            "configurations.2d.patch_shape=[1, 50, 48]",
            "--set configurations.2d.patch_shape: configurations.2d.patch_shape[1] = 50, expected a multiple of 8 (the network pools this axis 3 times)",
        ),
        (
            "configurations.2d.batch_size=0",
            "--set configurations.2d.batch_size: configurations.2d.batch_size = 0, expected 1 to 1048576",
        ),
    ];
    for (text, expected) in cases {
        let recipe = Resolved::built_in("paper").unwrap();
        let error = assemble(&data, recipe, &[set(text)]).unwrap_err();
        assert_eq!(error.message, expected);
        assert_eq!(error.exit, stage::Exit::Usage);
    }
    assert_eq!(Setting::parse("epochs").unwrap_err().message, "--set epochs: expected KEY=VALUE");
}

#[test]
fn a_patch_that_is_set_gets_its_own_poolings_unless_strides_are_set_too() {
    let data = fingerprint([24, 48, 48], [3.0, 1.0, 1.0], 12, 3);
    let make = |settings: &[Setting]| {
        let recipe = Resolved::built_in("paper").unwrap();
        assemble(&data, recipe, settings).map(|(plan, _)| plan.configurations["3d_fullres"].clone())
    };
    let patch = set("configurations.3d_fullres.patch_shape=[8, 16, 16]");
    let c = make(std::slice::from_ref(&patch)).unwrap();
    assert_eq!(c.network.poolings(), [1, 2, 2]);
    // 5 % of 12 · 24 · 48 · 48 voxels are 16.2 patches.
    assert_eq!(c.batch_size, 16);
    let strides = set("configurations.3d_fullres.network.strides=[[1,1,1],[1,2,2],[1,2,2]]");
    let c = make(&[patch, strides]).unwrap();
    assert_eq!(c.network.poolings(), [0, 2, 2]);
}

#[test]
fn every_built_in_recipe_is_complete_and_has_its_name() {
    for (name, _) in BUILT_IN {
        let recipe = Resolved::built_in(name).unwrap();
        assert_eq!(recipe.recipe().unwrap().name, name);
        // As printed, it is a complete recipe file.
        let printed = from_text(&recipe.document().to_string()).unwrap();
        assert_eq!(printed.recipe().unwrap(), recipe.recipe().unwrap());
    }
}

#[test]
fn presets_change_few_keys_of_v2() {
    use artifact::recipe::{Planning, ShrinkUntil, V2Planning};
    let planning = |name: &str| -> V2Planning {
        match Resolved::built_in(name).unwrap().recipe().unwrap().planning {
            Planning::V2(planning) => planning,
            Planning::Paper(_) => panic!("{name} has the paper's planner"),
        }
    };
    let v2 = planning("v2");
    let presets = [
        ("v2-resenc", 8.0, 680_000_000, 135_000_000, 0.05),
        ("v2-resenc-m", 8.0, 680_000_000, 135_000_000, 1.0),
        ("v2-resenc-l", 24.0, 2_100_000_000, 380_000_000, 1.0),
        ("v2-resenc-xl", 40.0, 3_600_000_000, 560_000_000, 1.0),
    ];
    for (name, gib, volumes, slices, fraction) in presets {
        let expected = V2Planning {
            reference_memory_gib: gib,
            gpu_memory_gib: gib,
            reference_estimate_3d: volumes,
            reference_estimate_2d: slices,
            max_dataset_fraction_per_batch: fraction,
            shrink_until: ShrinkUntil::ReferenceBatchFits,
            encoder: artifact::plan::Encoder::Residual,
            encoder_convs: vec![1, 3, 4, 6],
            decoder_convs: vec![1],
            ..v2.clone()
        };
        assert_eq!(planning(name), expected, "{name}");
    }
}

#[test]
fn the_planners_keys_do_not_mix() {
    let error = from_text("base = \"v2\"\n[planning]\ncascade_above_patches = 3.0\n").unwrap_err();
    assert_eq!(
        error.message,
        "mine.toml: unknown key planning.cascade_above_patches, did you mean planning.cascade_below_fraction?"
    );
    let error = from_text("base = \"v2\"\n[planning]\nencoder_convs = []\n").unwrap_err();
    assert_eq!(
        error.message,
        "mine.toml: recipe.planning.encoder_convs has 0 entries, expected 1 to 16"
    );
    let error = from_text("[planning]\nrules = \"v3\"\n").unwrap_err();
    assert_eq!(error.message, "mine.toml: planning.rules = \"v3\", expected paper or v2");
}
