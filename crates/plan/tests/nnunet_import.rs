//! nnU-Net's `plans.json` in: what is refused and how, and what hand-made plans may look like.
#![expect(clippy::disallowed_methods, reason = "tests write nnU-Net's files")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use artifact::plan::{Configuration, NnunetNames, Plan};
use artifact::recipe::LabelVote;
use artifact::{Label, Region};
use plan::nnunet::{self, Described};
use serde_json::{Value, json};
use support::{fingerprint, recipe};

/// Plans with a cascade, of one channel `MRI` and three classes.
fn plans() -> Value {
    let data = fingerprint([482, 512, 512], [1.0, 0.75, 0.75], 131, 3);
    let plan = plan::plan(&data, &recipe("v2"));
    nnunet::export(&plan, &NnunetNames::default()).unwrap()
}

fn described() -> Described {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dataset.json");
    let json = json!({
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "a": 1, "b": 2},
        "numTraining": 131,
        "file_ending": ".nii.gz",
    });
    std::fs::write(&path, json.to_string()).unwrap();
    Described::load(&path).unwrap()
}

fn import(plans: &Value) -> Result<Plan, String> {
    let described = described();
    let read = nnunet::import(&plans.to_string(), &described.json, true)?;
    let recipe = recipe(read.recipe);
    let plan = described.plan(read, &recipe);
    artifact::Kind::check(&plan)?;
    Ok(plan)
}

/// Sets the value at a JSON pointer.
fn changed(pointer: &str, value: Value) -> Value {
    let mut all = plans();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    all.pointer_mut(parent).unwrap()[key] = value;
    all
}

#[test]
fn what_these_programs_cannot_do_is_named_with_key_found_and_expected() {
    let full = "/configurations/3d_fullres";
    let network = "/configurations/3d_fullres/architecture";
    let arguments = "/configurations/3d_fullres/architecture/arch_kwargs";
    let cases = [
        (
            "/pretrain_info",
            json!(1),
            "unknown key pretrain_info = 1, expected only what nnU-Net v2 writes",
        ),
        ("/label_manager", json!("Mine"), "label_manager = \"Mine\", expected \"LabelManager\""),
        ("/plans_name", json!(3), "plans_name = 3, expected a name"),
        (
            "/transpose_forward",
            json!([0, 1, 1]),
            "transpose_backward = [0, 1, 2], expected the inverse of transpose_forward = [0, 1, 1]",
        ),
        (
            &format!("{full}/colour"),
            json!("red"),
            "unknown key configurations.3d_fullres.colour = \"red\", expected only what nnU-Net v2 writes",
        ),
        (
            &format!("{full}/preprocessor_name"),
            json!("Mine"),
            "configurations.3d_fullres.preprocessor_name = \"Mine\", expected \"DefaultPreprocessor\"",
        ),
        (
            &format!("{full}/resampling_fn_data"),
            json!("resample_torch_fornnunet"),
            "configurations.3d_fullres.resampling_fn_data = \"resample_torch_fornnunet\", expected \"resample_data_or_seg_to_shape\"",
        ),
        (
            &format!("{full}/resampling_fn_seg_kwargs/force_separate_z"),
            json!(true),
            "configurations.3d_fullres.resampling_fn_seg_kwargs.force_separate_z = true, expected null",
        ),
        (
            &format!("{full}/resampling_fn_data_kwargs/order"),
            json!(1),
            "configurations.3d_fullres.resampling_fn_data_kwargs.order = 1, expected 3 as in the other configurations",
        ),
        (
            &format!("{full}/resampling_fn_data_kwargs/order"),
            json!(-1),
            "configurations.3d_fullres.resampling_fn_data_kwargs.order = -1, expected 0, 1 or 3",
        ),
        (
            &format!("{full}/normalization_schemes"),
            json!(["MyNormalization"]),
            "configurations.3d_fullres.normalization_schemes[0] = \"MyNormalization\", expected one of CTNormalization, ZScoreNormalization, RescaleTo01Normalization, RGBTo01Normalization, NoNormalization",
        ),
        (
            &format!("{full}/normalization_schemes"),
            json!(["CTNormalization", "CTNormalization"]),
            "configurations.3d_fullres.normalization_schemes has 2 entries, expected 1, one per channel of dataset.json",
        ),
        (
            &format!("{full}/normalization_schemes"),
            json!(["CTNormalization"]),
            "configurations.3d_fullres.normalization_schemes = [Ct], expected [ZScore] as in the other configurations",
        ),
        (
            &format!("{full}/patch_size"),
            json!([128]),
            "configurations.3d_fullres.patch_size = [128], expected 2 or 3 edges",
        ),
        (
            &format!("{full}/spacing"),
            json!([1, 1]),
            "configurations.3d_fullres.spacing = [1.0, 1.0], expected 3 numbers",
        ),
        (
            &format!("{full}/patch_size"),
            json!([120, 128, 128]),
            "configurations.3d_cascade_fullres.patch_shape[0] = 120, expected a multiple of 32 (the network pools this axis 5 times)",
        ),
        (
            &format!("{network}/network_class_name"),
            json!("x.Primus"),
            "configurations.3d_fullres.architecture.network_class_name = \"x.Primus\", expected \"dynamic_network_architectures.architectures.unet.PlainConvUNet\" or \"dynamic_network_architectures.architectures.unet.ResidualEncoderUNet\"",
        ),
        (
            &format!("{arguments}/norm_op"),
            json!("torch.nn.modules.batchnorm.BatchNorm3d"),
            "configurations.3d_fullres.architecture.arch_kwargs.norm_op = \"torch.nn.modules.batchnorm.BatchNorm3d\", expected \"torch.nn.modules.instancenorm.InstanceNorm3d\"",
        ),
        // A count from which lists are made.
        (
            &format!("{arguments}/n_stages"),
            json!(1u64 << 40),
            "configurations.3d_fullres.architecture.arch_kwargs.n_stages = 1099511627776, expected a count from 1 to 16",
        ),
        (
            "/configurations",
            (0..101).map(|i| (i.to_string(), json!({}))).collect(),
            "configurations has 101 entries, expected at most 100",
        ),
        (
            &format!("{arguments}/nonlin"),
            json!("torch.nn.ReLU"),
            "configurations.3d_fullres.architecture.arch_kwargs.nonlin = \"torch.nn.ReLU\", expected \"torch.nn.LeakyReLU\"",
        ),
        (
            &format!("{arguments}/dropout_op"),
            json!("torch.nn.Dropout3d"),
            "configurations.3d_fullres.architecture.arch_kwargs.dropout_op = \"torch.nn.Dropout3d\", expected null",
        ),
        (
            &format!("{arguments}/stem_channels"),
            json!(32),
            "unknown key configurations.3d_fullres.architecture.arch_kwargs.stem_channels = 32, expected only what nnU-Net v2 writes",
        ),
        (
            &format!("{arguments}/strides"),
            json!([[1, 1, 1]]),
            "configurations.3d_fullres.architecture.arch_kwargs.strides = [[1,1,1]], expected 6 rows of 3, one per stage",
        ),
        (
            &format!("{arguments}/features_per_stage"),
            json!([32]),
            "configurations.3d_fullres.architecture.arch_kwargs.features_per_stage = [32], expected 6 counts, one per stage",
        ),
        (
            "/configurations/3d_cascade_fullres/previous_stage",
            json!("2.5d"),
            "configurations.3d_cascade_fullres.previous_stage = \"2.5d\", expected one of 2d, 3d_cascade_fullres, 3d_fullres, 3d_lowres",
        ),
        (
            "/configurations/3d_cascade_fullres/inherits_from",
            json!("3d_cascade_fullres"),
            "configurations.3d_cascade_fullres.inherits_from = \"3d_cascade_fullres\", expected one of 2d, 3d_lowres, 3d_fullres, 3d_cascade_fullres, and no circle",
        ),
        (
            "/configurations/3d_cascade_fullres/spacing",
            json!([2.0, 2.0, 2.0]),
            "configurations.3d_cascade_fullres.spacing = [2.0, 2.0, 2.0], expected [1.0, 0.75, 0.75] as in 3d_fullres, which has the same data_identifier = \"nnUNetPlans_3d_fullres\"",
        ),
        (
            &format!("{full}/UNet_class_name"),
            json!("PlainConvUNet"),
            "configurations.3d_fullres.UNet_class_name = \"PlainConvUNet\", expected architecture; these plans are of an old format, plan again with a present nnU-Net",
        ),
        ("/configurations", json!({}), "configurations is empty, expected at least one"),
        ("/configurations/2d", json!(7), "configurations.2d = 7, expected an object"),
    ];
    for (pointer, value, expected) in cases {
        let found = import(&changed(pointer, value)).unwrap_err();
        assert_eq!(found, expected, "{pointer}");
    }
    let mut all = plans();
    all["configurations"]["2d"].as_object_mut().unwrap().remove("batch_size");
    let missing = "configurations.2d.batch_size is missing, expected a count from 1";
    assert_eq!(import(&all).unwrap_err(), missing);
    let error = nnunet::import("[1]", &described().json, true).unwrap_err();
    assert_eq!(error, "[1], expected an object");
}

#[test]
fn masks_belong_to_the_z_score_only() {
    let mut all = plans();
    for c in all["configurations"].as_object_mut().unwrap().values_mut() {
        if c.get("use_mask_for_norm").is_some() {
            c["normalization_schemes"] = json!(["CTNormalization"]);
            c["use_mask_for_norm"] = json!([true]);
        }
    }
    let expected =
        "configurations.2d.use_mask_for_norm[0] = true, expected false with CTNormalization";
    assert_eq!(import(&all).unwrap_err(), expected);
}

#[test]
fn configurations_of_one_s_own_inherit_and_come_back() {
    let mut all = plans();
    all["configurations"]["3d_large_batch"] =
        json!({"inherits_from": "3d_cascade_fullres", "batch_size": 7});
    let plan = import(&all).unwrap();
    let own = &plan.configurations["3d_large_batch"];
    let cascade = &plan.configurations["3d_cascade_fullres"];
    assert_eq!((own.batch_size, cascade.batch_size), (7, 2));
    assert_eq!(own.cases_from.as_deref(), Some("3d_fullres"));
    assert_eq!(own.previous_stage.as_deref(), Some("3d_lowres"));
    assert_eq!(own.network, cascade.network);
    let back = nnunet::export(&plan, &NnunetNames::default()).unwrap();
    let expected =
        json!({"inherits_from": "3d_fullres", "batch_size": 7, "previous_stage": "3d_lowres"});
    assert_eq!(back["configurations"]["3d_large_batch"], expected);
    let next = json!(["3d_cascade_fullres", "3d_large_batch"]);
    assert_eq!(back["configurations"]["3d_lowres"]["next_stage"], next);
    assert_eq!(import(&back).unwrap().configurations, plan.configurations);
}

#[test]
fn a_configuration_with_a_folder_of_its_own_has_its_own_cases() {
    let mut all = plans();
    all["configurations"]["3d_fine"] = json!({
        "inherits_from": "3d_fullres", "data_identifier": "fine", "spacing": [0.5, 0.5, 0.5],
        "architecture": all["configurations"]["3d_fullres"]["architecture"],
    });
    let plan = import(&all).unwrap();
    let own = &plan.configurations["3d_fine"];
    assert_eq!((own.spacing_mm, own.cases_from.as_ref()), ([0.5; 3], None));
    let back = nnunet::export(&plan, &NnunetNames::default()).unwrap();
    assert_eq!(back["configurations"]["3d_fine"]["data_identifier"], "fine");
    assert_eq!(back["configurations"]["3d_fine"]["spacing"], json!([0.5, 0.5, 0.5]));
    assert_eq!(import(&back).unwrap().configurations, plan.configurations);
}

#[test]
fn numbers_that_stand_for_all_stages_are_spread_and_decoders_turned() {
    let arguments = "/configurations/3d_fullres/architecture/arch_kwargs";
    let mut all = changed(&format!("{arguments}/kernel_sizes"), json!(3));
    let kwargs = all.pointer_mut(arguments).unwrap();
    kwargs["strides"] = json!([1, 2, 2, 2, 2, [2, 2, 2]]);
    kwargs["n_conv_per_stage"] = json!(2);
    kwargs["n_conv_per_stage_decoder"] = json!([1, 2, 3, 4, 5]);
    kwargs["nonlin_kwargs"] = json!({"negative_slope": 0.2});
    kwargs["norm_op_kwargs"]["eps"] = json!(1e-3);
    let plan = import(&all).unwrap();
    let network = &plan.configurations["3d_fullres"].network;
    assert_eq!(network.kernels, [[3; 3]; 6]);
    assert_eq!(network.strides[5], [2; 3]);
    assert_eq!(network.encoder_convs, [2; 6]);
    assert_eq!(network.decoder_convs, [5, 4, 3, 2, 1]);
    assert_eq!((network.negative_slope, network.norm_epsilon), (0.2, 1e-3));
    let back = nnunet::export(&plan, &NnunetNames::default()).unwrap();
    let kwargs = back.pointer(arguments).unwrap();
    assert_eq!(kwargs["n_conv_per_stage_decoder"], json!([1, 2, 3, 4, 5]));
    assert_eq!(kwargs["nonlin_kwargs"], json!({"inplace": true, "negative_slope": 0.2}));
    assert_eq!(kwargs["norm_op_kwargs"]["eps"], json!(1e-3));
}

#[test]
fn what_nnu_net_cannot_do_is_not_exported() {
    let data = fingerprint([24, 48, 48], [3.0, 1.0, 1.0], 12, 3);
    let names = NnunetNames::default();
    let error = nnunet::export(&plan::plan(&data, &recipe("paper")), &names).unwrap_err();
    assert_eq!(
        error,
        "recipe.preprocessing.order = \"resample_then_normalise\", expected \"normalise_then_resample\", the only order that nnU-Net v2 knows"
    );
    let mut other = recipe("v2");
    other.preprocessing.anisotropy_threshold = 2.0;
    let error = nnunet::export(&plan::plan(&data, &other), &names).unwrap_err();
    assert_eq!(
        error,
        "recipe.preprocessing.anisotropy_threshold = 2, expected 3, which nnU-Net v2 has in its code"
    );
    let mut other = recipe("v2");
    other.preprocessing.label_vote = LabelVote::Half;
    let error = nnunet::export(&plan::plan(&data, &other), &names).unwrap_err();
    assert_eq!(
        error,
        "recipe.preprocessing.label_vote = \"half\", expected \"largest_weight\", the only vote that nnU-Net v2 knows"
    );
    // Nobody votes for the nearest voxel.
    other.preprocessing.label_order = 0;
    assert!(nnunet::export(&plan::plan(&data, &other), &names).is_ok());
    let mut plan = plan::plan(&data, &recipe("v2"));
    plan.geometry.median_shape = None;
    let error = nnunet::export(&plan, &names).unwrap_err();
    assert_eq!(
        error,
        "geometry.median_shape is missing, expected the median over the cases as stored; plan again with this version"
    );
}

/// A plan of recipe `v2` whose classes are 0, 1, 2, and what nnU-Net's words for a changed one are.
fn refused(change: impl FnOnce(&mut Plan)) -> String {
    let mut plan = plan::plan(&fingerprint([24, 48, 48], [3.0, 1.0, 1.0], 12, 3), &recipe("v2"));
    change(&mut plan);
    artifact::Kind::check(&plan).unwrap();
    nnunet::export(&plan, &NnunetNames::default()).map_or_else(|e| e, |_| "exported".into())
}

fn label(name: &str, value: i32) -> Label {
    Label { name: name.into(), value }
}

fn region(values: &[i32], value: i32) -> Region {
    Region { name: format!("{values:?}"), values: values.into(), value }
}

/// With regions a network has an output for each of them.
fn with_regions(plan: &mut Plan, regions: Vec<Region>) {
    for c in plan.configurations.values_mut() {
        c.network.output_channels = regions.len();
    }
    plan.regions = regions;
}

#[test]
fn labels_that_nnu_net_would_write_otherwise_are_not_exported() {
    assert_eq!(refused(|_| ()), "exported");
    assert_eq!(
        refused(|plan| plan.labels[2].value = 5),
        "label class 2 has value 5, expected 2: nnU-Net v2 writes the number of a class, and knows no gaps; \
         renumber the label maps and dataset.json, and plan again"
    );
    // Regions are written as regions_class_order says.
    assert_eq!(
        refused(|plan| {
            plan.labels[2].value = 5;
            with_regions(plan, vec![region(&[1, 5], 1), region(&[5], 5)]);
        }),
        "exported"
    );
    assert_eq!(
        refused(|plan| with_regions(plan, vec![region(&[1], 1), region(&[2], 2)])),
        "each of the regions has a single value, expected one of several, else nnU-Net v2 takes them for classes"
    );
    assert_eq!(refused(|plan| plan.ignore = Some(label("ignore", 3))), "exported");
    assert_eq!(
        refused(|plan| plan.ignore = Some(label("ignore", 255))),
        "ignore has value 255, expected 3, the one above the highest label, as nnU-Net v2 asks; \
         renumber the label maps and dataset.json, and plan again"
    );
    assert_eq!(
        refused(|plan| plan.ignore = Some(label("Ignore", 3))),
        "the label of ignored voxels is called Ignore, expected ignore: nnU-Net v2 would take it for a class; \
         rename it in dataset.json, and plan again"
    );
    for name in ["ignore", "background"] {
        let said = refused(|plan| plan.labels[1].name = name.into());
        assert!(said.starts_with(&format!("a class or region is called {name}, ")), "{said}");
    }
}

#[test]
fn images_and_networks_that_nnu_net_would_have_otherwise_are_not_exported() {
    let said = refused(|plan| plan.dataset.file_ending = ".hdr".into());
    let endings = "expected one of .nii.gz, .nii, .png, .bmp, .tif, .tiff, .nrrd, .mha, .gipl, which nnU-Net v2 reads; convert the images";
    assert_eq!(said, format!("dataset.file_ending = \".hdr\", {endings}"));
    let full = |plan: &mut Plan, change: fn(&mut Configuration)| {
        change(plan.configurations.get_mut("3d_fullres").unwrap());
    };
    assert_eq!(
        refused(|plan| full(plan, |c| c.network.input_channels = 2)),
        "configurations.3d_fullres.network.input_channels = 2, expected 1, as nnU-Net v2 counts from dataset.json"
    );
    assert_eq!(
        refused(|plan| full(plan, |c| c.network.output_channels = 4)),
        "configurations.3d_fullres.network.output_channels = 4, expected 3, as nnU-Net v2 counts from dataset.json"
    );
    assert_eq!(
        refused(|plan| full(plan, |c| c.keep_slice_distance = true)),
        "configurations.3d_fullres.keep_slice_distance = true, but its patches or its network reach across slices: \
         nnU-Net v2 has this for 2D networks only"
    );
}

#[test]
fn what_nnu_net_does_in_its_own_way_is_named() {
    let plan = |settings: &[(&str, &str)]| {
        let mut recipe = plan::recipe::Resolved::built_in("v2").unwrap();
        for (key, value) in settings {
            let setting = plan::settings::Setting { key: (*key).into(), value: (*value).into() };
            recipe.set(&setting).unwrap();
        }
        let data = fingerprint([24, 48, 48], [3.0, 1.0, 1.0], 12, 3);
        let mut plan = plan::plan(&data, &recipe.recipe().unwrap());
        plan.labels[0].name = "background".into();
        plan
    };
    assert_eq!(nnunet::departures(&plan(&[])), [""; 0]);
    // These reach nnU-Net, by plans.json or the checkpoint.
    let exported = [
        ("preprocessing.image_order", "1"),
        ("inference.resample_order", "0"),
        ("inference.mirroring", "false"),
        ("planning.gpu_memory_gib", "4"),
    ];
    assert_eq!(nnunet::departures(&plan(&exported)), [""; 0]);
    let own = [
        ("schedule.epochs", "20"),
        ("inference.averaged", "probabilities"),
        ("inference.step", "0.75"),
        ("loss.dice_weight", "2"),
        ("augmentation.never_mirror", "[\"left_right\"]"),
        ("sampling.foreground_fraction", "0.5"),
        ("optimiser.momentum", "0.9"),
    ];
    for (key, value) in own {
        let said = nnunet::departures(&plan(&[(key, value)]));
        assert_eq!(said.len(), 1, "{key}");
        assert!(said[0].contains(&format!("otherwise than {key} = ")), "{said:?}");
    }
    let two = nnunet::departures(&plan(&own[..1])).remove(0);
    assert!(two.ends_with("otherwise than schedule.epochs = 20 (1000)"), "{two}");

    let mut other = plan(&[]);
    other.labels[0].name = "nothing".into();
    for c in other.configurations.values_mut() {
        c.network.deep_supervision = false;
    }
    let said = nnunet::departures(&other);
    assert!(said[0].starts_with("labels: the background is called nothing;"), "{said:?}");
    assert!(said[1].contains("nnUNetTrainerNoDeepSupervision"), "{said:?}");
}
