//! The real binary: tables, files, exit codes, exact error text.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ndarray::{Array3, Array4};
use std::path::Path;
use std::process::{Command, Output};

const NET: [&str; 4] = ["--features", "4,6", "--patch", "4,6,8"];

fn nnu_net(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nnu-net"))
        .args(arguments)
        .args(["--quiet"])
        .output()
        .expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("messages are UTF-8")
}

fn path(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).to_str().expect("a UTF-8 path").into()
}

#[test]
fn describe_counts_parameters_and_work() {
    let out = nnu_net(&[&["describe"], &NET[..]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let table = text(&out.stdout);
    // 27·1·4 weights, 4 biases, 4 + 4 of the norm; 2 · 27 · 4 · 192 voxels · batch 2.
    let first = table.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(first[0..3], ["encoder.0.conv.0", "1", "4"]);
    assert_eq!(first[5..7], ["4×6×8", "120"]);
    assert!(table.contains("decoder.0.head"), "{table}");
}

#[test]
fn init_and_forward_hand_files_to_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (weights, image, logits) =
        (path(&folder, "w.npz"), path(&folder, "x.npy"), path(&folder, "y.npy"));
    let x = Array4::from_shape_fn((1, 4, 6, 8), |(_, z, y, x)| (z + 2 * y + x) as f32 / 9.0);
    artifact::Commit::file(Path::new(&image), &artifact::npy::encode(&x.view())).unwrap();
    let init = nnu_net(&[&["init", "--seed", "3", "--out", &weights], &NET[..]].concat());
    assert!(init.status.success(), "{}", text(&init.stderr));
    let files = ["--weights", &weights, "--image", &image, "--out", &logits];
    let forward = nnu_net(&[&["forward"], &files[..], &NET[..]].concat());
    assert!(forward.status.success(), "{}", text(&forward.stderr));
    let y: Array4<f32> = artifact::npy::read(Path::new(&logits)).unwrap();
    assert_eq!(y.dim(), (3, 4, 6, 8));
    assert!(y.iter().all(|v| v.is_finite()) && y.iter().any(|v| *v != y[[0, 0, 0, 0]]));

    let other = ["--features", "4,7", "--patch", "4,6,8"];
    let refused = nnu_net(&[&["forward"], &files[..], &other].concat());
    assert_eq!(refused.status.code(), Some(3));
    let expected = format!(
        "nnu-net: error: {weights}: tensor encoder.1.conv.0.weight: \
         found shape [6, 4, 3, 3, 3], expected [7, 4, 3, 3, 3]\n"
    );
    assert_eq!(text(&refused.stderr), expected);

    let flat: Array3<f32> = Array3::zeros((4, 6, 8));
    artifact::Commit::file(Path::new(&image), &artifact::npy::encode(&flat.view())).unwrap();
    let refused = nnu_net(&[&["forward"], &files[..], &NET[..]].concat());
    assert_eq!(refused.status.code(), Some(3));
}

#[test]
fn usage_errors_exit_with_2() {
    // No machine has so many cards, and many have no driver.
    let no_gpu = nnu_net(&[&["bench", "--device", "cuda:99"], &NET[..]].concat());
    assert_eq!(no_gpu.status.code(), Some(2));
    let line = text(&no_gpu.stderr);
    assert!(line.starts_with("nnu-net: error: --device cuda:99: there is no "), "{line}");
    if !net::Unit::available().contains(&net::Unit::Amx) {
        let split = ["bench", "--device", "cpu", "--precision", "f32-fast"];
        let half = nnu_net(&[&split[..], &NET[..]].concat());
        assert_eq!(half.status.code(), Some(2));
        assert_eq!(
            text(&half.stderr),
            "nnu-net: error: --precision f32-fast: this CPU has no matrix unit (AMX with bfloat16); use \
             --precision f32 or auto\n"
        );
    }
    let third = nnu_net(&[&["bench", "--precision", "f16"], &NET[..]].concat());
    assert_eq!(third.status.code(), Some(2));
    assert!(text(&third.stderr).contains("expected auto, f32, f32-fast or bf16"));
    let odd = nnu_net(&["describe", "--features", "4,6", "--patch", "5,6,8"]);
    assert_eq!(odd.status.code(), Some(2));
    assert_eq!(nnu_net(&["describe"]).status.code(), Some(2));
    let missing = nnu_net(&["describe", "--plan", "no.toml", "--configuration", "2d"]);
    assert_eq!(missing.status.code(), Some(3), "{}", text(&missing.stderr));
}

#[test]
fn bench_prints_seconds_and_rates() {
    // On a card the batch is uploaded ahead, and the second iteration is recorded.
    for device in [&["--device", "cpu"][..], &["--device", "sim", "--optimiser", "sgd"]] {
        let out = nnu_net(&[&["bench", "--repetitions", "2"], device, &NET[..]].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
        let lines = text(&out.stdout);
        assert!(lines.contains("training iteration: ") && lines.contains("forward: "), "{lines}");
    }
}

/// Plan of the golden 3D checkpoint.
const PLAN: &str = r#"
dataset = { name = "small", training_cases = 5, file_ending = ".nii.gz" }
geometry = { transpose = [0, 1, 2] }
labels = [{ name = "background", value = 0 }, { name = "a", value = 1 }, { name = "b", value = 2 }]
channels = [{ name = "MRI", normalisation = "z_score", intensity = { mean = 0.0, sd = 1.0, min = 0.0, median = 0.0, max = 0.0, percentile_00_5 = 0.0, percentile_99_5 = 0.0 } }]

[configurations.3d_fullres]
spacing_mm = [1.0, 1.0, 1.0]
keep_slice_distance = false
median_shape = [4, 8, 8]
patch_shape = [4, 8, 8]
batch_size = 2
batch_dice = false
network = { input_channels = 1, output_channels = 3, features = [4, 6, 8], kernels = [[1, 3, 3], [3, 3, 3], [3, 3, 3]], strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2]], encoder_convs = [2, 2, 1], decoder_convs = [2, 1], deep_supervision = true, negative_slope = 0.01, norm_epsilon = 1e-5 }
"#;

/// A folder with `plan.toml`, and the golden checkpoint's own `plans.json` and `dataset.json`.
fn exchange() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a valid call");
    let mut table: toml::Table = PLAN.parse().expect("a valid call");
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plan/recipes/v2.toml");
    let recipe: toml::Table =
        std::fs::read_to_string(recipe).expect("a valid call").parse().expect("a valid call");
    table.insert("recipe".into(), recipe.into());
    let plan: artifact::plan::Plan = table.try_into().expect("a valid call");
    let commit = artifact::Commit::begin(&folder.path().join("plan.toml")).expect("a valid call");
    commit.finish(&artifact::Provenance::default(), &plan).expect("a valid call");
    let to = path(&folder, "");
    let out = nnu_net(&["import", "--checkpoint", &golden("plain.pth"), "--extract", &to]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    folder
}

fn golden(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoint");
    folder.join(name).to_str().expect("a UTF-8 path").into()
}

#[test]
fn a_checkpoint_becomes_a_model_and_a_checkpoint_again() {
    let folder = exchange();
    let (plan, model) = (path(&folder, "plan.toml"), path(&folder, "model"));
    let checkpoint = golden("plain_module.pth");
    let import = ["import", "--checkpoint", &checkpoint, "--plan", &plan, "--model", &model];
    let out = nnu_net(&import);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(text(&out.stderr), "", "axes and configuration agree");
    let record = Path::new(&model).join("model.toml");
    let record = artifact::Record::<artifact::model::Model>::load(&record).unwrap();
    let info = record.body.model;
    assert_eq!((info.fold, info.epochs, &info.ended_by[..]), (3, 7, "imported"));
    assert_eq!(info.configuration, "3d_fullres");

    let (plans, dataset) = (path(&folder, "plans.json"), path(&folder, "dataset.json"));
    let (pth, again) = (path(&folder, "ours.pth"), path(&folder, "again.npz"));
    let export = ["export", "--model", &model, "--plans", &plans, "--dataset-json", &dataset];
    let out = nnu_net(&[&export[..], &["--out", &pth]].concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let out = nnu_net(&["import", "--checkpoint", &pth, "--plan", &plan, "--out", &again]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let weights = Path::new(&model).join("weights.npz");
    assert_eq!(std::fs::read(again).unwrap(), std::fs::read(&weights).unwrap());

    let weights = weights.to_str().unwrap();
    let from = ["export", "--weights", weights, "--plan", &plan, "--configuration", "3d_fullres"];
    let rest = ["--plans", &dataset, "--dataset-json", &dataset, "--out", &pth];
    let refused = nnu_net(&[&from[..], &rest[..]].concat());
    assert_eq!(refused.status.code(), Some(3));
    let expected = format!("nnu-net: error: {dataset}: has no configurations\n");
    assert!(text(&refused.stderr).starts_with(&expected), "{}", text(&refused.stderr));
}

/// The golden checkpoint of `exchange`, exported from a plan with these settings of `[recipe]`.
fn exported(folder: &tempfile::TempDir, recipe: &[(&str, toml::Value)]) -> (String, String) {
    let (plan, mirroring) = (path(folder, "plan.toml"), path(folder, "mirroring/plan.toml"));
    let weights = path(folder, "w.npz");
    let import =
        ["import", "--checkpoint", &golden("plain.pth"), "--plan", &plan, "--out", &weights];
    assert!(nnu_net(&import).status.success());
    let record = artifact::Record::<artifact::plan::Plan>::load(Path::new(&plan)).unwrap();
    let mut table = toml::Table::try_from(&record.body).unwrap();
    for (key, value) in recipe {
        let (part, key) = key.split_once('.').unwrap();
        let part = table["recipe"].as_table_mut().unwrap()[part].as_table_mut().unwrap();
        part.insert(key.into(), value.clone());
    }
    let changed: artifact::plan::Plan = table.try_into().unwrap();
    let commit = artifact::Commit::begin(Path::new(&mirroring)).unwrap();
    commit.finish(&artifact::Provenance::default(), &changed).unwrap();
    let pth = path(folder, "mirroring/checkpoint.pth");
    let out = nnu_net(&[
        "export",
        "--weights",
        &weights,
        "--plan",
        &mirroring,
        "--configuration",
        "3d_fullres",
        "--plans",
        &path(folder, "plans.json"),
        "--dataset-json",
        &path(folder, "dataset.json"),
        "--out",
        &pth,
    ]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    (pth, text(&out.stderr))
}

#[test]
fn axes_of_mirroring_go_with_the_model_there_and_back() {
    use toml::Value;
    let axes = |axes: &[i64]| Value::from(axes.to_vec());
    let on = |key: &'static str, value: Value| vec![(key, value)];
    // What the exporting plan says, the axes that nnU-Net reads and its trainer, what the importing plan becomes.
    let (all, two, none) = (vec![0, 1, 2], vec![0, 2], Vec::<usize>::new());
    let first: Vec<usize> = vec![0, 1];
    let plain = "nnUNetTrainer";
    let cases = [
        (on("augmentation.mirror_axes", axes(&[2, 0, 1])), &all, plain, None),
        (on("augmentation.mirror_axes", axes(&[2, 0])), &two, plain, Some(&two)),
        (on("augmentation.mirror_axes", axes(&[])), &none, "nnUNetTrainerNoMirroring", Some(&none)),
        (
            on("augmentation.mirror_probability", 0.0.into()),
            &none,
            "nnUNetTrainerNoMirroring",
            Some(&none),
        ),
        (on("inference.mirroring", false.into()), &none, "nnUNetTrainerNoMirroring", Some(&none)),
        (on("inference.mirror_axes", axes(&[2, 0])), &two, plain, Some(&two)),
        (
            on("inference.mirror_axes", axes(&[1, 0])),
            &first,
            "nnUNetTrainer_onlyMirror01",
            Some(&first),
        ),
    ];
    for (settings, allowed, trainer, expected) in &cases {
        let folder = exchange();
        let (pth, said) = exported(&folder, settings);
        assert_eq!(said, "", "{settings:?}");
        let (plan, model) = (path(&folder, "plan.toml"), path(&folder, "model"));
        let given = artifact::Record::<artifact::plan::Plan>::load(Path::new(&plan)).unwrap().body;
        let spec = &given.configurations["3d_fullres"].network;
        let checkpoint = net::checkpoint::read(Path::new(&pth), spec).unwrap();
        assert_eq!(
            (&checkpoint.mirror_axes, checkpoint.trainer.as_deref()),
            (*allowed, Some(*trainer))
        );
        let out = nnu_net(&["import", "--checkpoint", &pth, "--plan", &plan, "--model", &model]);
        assert_eq!((out.status.code(), text(&out.stderr)), (Some(0), String::new()));
        let own = Path::new(&model).join("plan.toml");
        let own = artifact::Record::<artifact::plan::Plan>::load(&own).unwrap().body;
        assert_eq!(own.recipe.inference.mirror_axes.as_ref(), *expected, "{settings:?}");
        assert_eq!(own.recipe.mirrored_in_prediction(), &allowed[..], "{settings:?}");
        let same = std::fs::read(Path::new(&model).join("plan.toml")).unwrap()
            == std::fs::read(&plan).unwrap();
        assert_eq!(same, expected.is_none(), "the plan's own bytes where it says the same");
    }
}

/// `nnu-net export` of the golden weights with another `dataset.json`, `plans.json` or plan.
fn refused(
    change: impl Fn(&mut serde_json::Value, &mut serde_json::Value, &mut toml::Table),
) -> String {
    let folder = exchange();
    let (plan, weights) = (path(&folder, "plan.toml"), path(&folder, "w.npz"));
    let import =
        ["import", "--checkpoint", &golden("plain.pth"), "--plan", &plan, "--out", &weights];
    assert!(nnu_net(&import).status.success());
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(path(&folder, name)).unwrap()).unwrap()
    };
    let (mut dataset, mut plans) = (read("dataset.json"), read("plans.json"));
    let record = artifact::Record::<artifact::plan::Plan>::load(Path::new(&plan)).unwrap();
    let mut table = toml::Table::try_from(&record.body).unwrap();
    change(&mut dataset, &mut plans, &mut table);
    for (name, value) in [("dataset.json", &dataset), ("plans.json", &plans)] {
        artifact::Commit::file(&folder.path().join(name), value.to_string().as_bytes()).unwrap();
    }
    let changed: artifact::plan::Plan = table.try_into().unwrap();
    let commit = artifact::Commit::begin(Path::new(&plan)).unwrap();
    commit.finish(&artifact::Provenance::default(), &changed).unwrap();
    let out = nnu_net(&[
        "export",
        "--weights",
        &weights,
        "--plan",
        &plan,
        "--configuration",
        "3d_fullres",
        "--plans",
        &path(&folder, "plans.json"),
        "--dataset-json",
        &path(&folder, "dataset.json"),
        "--out",
        &path(&folder, "x.pth"),
    ]);
    let said = text(&out.stderr);
    assert_eq!(out.status.success(), folder.path().join("x.pth").exists(), "{said}");
    if out.status.success() {
        return "exported".into();
    }
    assert_eq!(out.status.code(), Some(3), "{said}");
    let line = said.lines().next().unwrap();
    line.replace(&format!("{}/", folder.path().display()), "").replace("nnu-net: error: ", "")
}

#[test]
fn what_nnu_net_would_read_otherwise_is_not_exported() {
    use serde_json::json;
    assert_eq!(refused(|_, _, _| ()), "exported");
    // The plan's own name of the background counts for nothing, dataset.json's does.
    let own = |plan: &mut toml::Table| plan["labels"][0]["name"] = "nothing".into();
    assert_eq!(refused(|_, _, plan| own(plan)), "exported");
    let labels = [
        (
            json!({"nothing": 0, "a": 1, "b": 2}),
            "labels has nothing, a, b, expected background, by which nnU-Net v2 finds value 0; \
             the layout is {\"background\": 0, \"NAME\": 1}",
        ),
        (
            json!({"0": "background", "1": "a", "2": "b"}),
            "labels has 0, 1, 2, expected background, by which nnU-Net v2 finds value 0; \
             the layout is {\"background\": 0, \"NAME\": 1}",
        ),
        (
            json!({"background": 0, "b": 1, "a": 2}),
            "labels are b = 1, a = 2, expected a = 1, b = 2 as in the plan",
        ),
        (
            json!({"background": 0, "a": 1, "b": 2, "ignore": 3}),
            "labels are a = 1, b = 2, ignore = 3, expected a = 1, b = 2 as in the plan",
        ),
    ];
    for (labels, expected) in labels {
        let said = refused(|dataset, _, _| dataset["labels"] = labels.clone());
        assert_eq!(said, format!("dataset.json: {expected}"));
    }
    let said = refused(|dataset, _, _| dataset["channel_names"] = json!({"0": "T1", "1": "T2"}));
    assert_eq!(said, "dataset.json: channel_names has 2 entries, expected 1 as in the plan");

    let said = refused(|dataset, _, plan| {
        dataset["labels"]["b"] = 5.into();
        plan["labels"][2]["value"] = 5.into();
    });
    assert!(
        said.starts_with("plan.toml: label b has value 5, expected 2: nnU-Net v2 writes"),
        "{said}"
    );

    let configuration = "configurations.3d_fullres";
    let plans = [
        (
            "/configurations/3d_fullres/patch_size",
            json!([8, 8, 8]),
            format!("{configuration}.patch_size = [8,8,8], expected [4,8,8]"),
        ),
        (
            "/configurations/3d_fullres/spacing",
            json!([2, 1, 1]),
            format!("{configuration}.spacing = [2,1,1], expected [1.0,1.0,1.0]"),
        ),
        (
            "/transpose_forward",
            json!([2, 1, 0]),
            "transpose_forward = [2,1,0], expected [0,1,2]".into(),
        ),
        (
            "/configurations/3d_fullres/architecture/arch_kwargs/nonlin_kwargs",
            json!({"negative_slope": 0.2}),
            format!(
                "{configuration}.architecture.arch_kwargs.nonlin_kwargs.negative_slope = 0.2, expected 0.01"
            ),
        ),
        (
            "/configurations/3d_fullres/architecture/arch_kwargs/norm_op_kwargs",
            json!({"eps": 1e-3, "affine": true}),
            format!(
                "{configuration}.architecture.arch_kwargs.norm_op_kwargs.eps = 0.001, expected 0.00001"
            ),
        ),
    ];
    for (pointer, value, expected) in plans {
        let said = refused(|_, plans, _| *plans.pointer_mut(pointer).unwrap() = value.clone());
        assert_eq!(said, format!("plans.json: {expected} as in the plan"));
    }
}

#[test]
fn axes_of_the_body_can_not_be_exported() {
    let never = vec![toml::Value::from("left_right")];
    let folder = exchange();
    let (pth, said) = exported(&folder, &[("augmentation.never_mirror", never.into())]);
    assert!(said.contains("nnU-Net doesn't know axes of the body"), "{said}");
    let plan = artifact::Record::<artifact::plan::Plan>::load(&folder.path().join("plan.toml"));
    let plan = plan.unwrap().body;
    let spec = &plan.configurations["3d_fullres"].network;
    assert!(net::checkpoint::read(Path::new(&pth), spec).unwrap().mirror_axes.is_empty());
}

#[test]
fn a_checkpoint_that_would_run_something_is_refused_in_one_line() {
    let folder = exchange();
    let (plan, pth) = (path(&folder, "plan.toml"), path(&folder, "evil.pth"));
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("evil/data.pkl", stored).unwrap();
    let pickle = b"\x80\x02cposix\nsystem\nX\x09\x00\x00\x00touch owned\x85R.";
    std::io::Write::write_all(&mut zip, pickle).unwrap();
    artifact::Commit::file(Path::new(&pth), &zip.finish().unwrap().into_inner()).unwrap();
    let out = path(&folder, "w.npz");
    let import = ["import", "--checkpoint", &pth, "--plan", &plan, "--out", &out];
    let refused = nnu_net(&[&import[..], &["--configuration", "3d_fullres"]].concat());
    assert_eq!(refused.status.code(), Some(3));
    let said = text(&refused.stderr);
    let expected = format!(
        "nnu-net: error: {pth}: byte 2 of data.pkl: asks for posix.system, which is not allowed\n"
    );
    assert!(said.starts_with(&expected), "{said}");
    assert!(!Path::new(&out).exists());

    let import =
        ["import", "--checkpoint", &golden("residual.pth"), "--plan", &plan, "--out", &out];
    let refused = nnu_net(&[&import[..], &["--configuration", "3d_fullres"]].concat());
    assert_eq!(refused.status.code(), Some(3));
    let said = text(&refused.stderr);
    assert!(said.contains("has a residual encoder, but the plan's network a plain one"), "{said}");
    let nothing = nnu_net(&["import", "--checkpoint", &pth, "--plan", &plan]);
    assert_eq!(nothing.status.code(), Some(2), "{}", text(&nothing.stderr));
}

#[test]
fn residual_networks_can_be_described_and_timed() {
    let net = ["--encoder", "residual", "--features", "4,6", "--patch", "4,6,8"];
    let out = nnu_net(&[&["describe"], &net[..]].concat());
    let table = text(&out.stdout);
    assert!(table.contains("\nencoder.1.block.0.skip.conv  "), "{table}");
    assert_eq!(table.lines().filter(|l| l.contains(".block.")).count(), 2 + 3 * 2 + 1, "{table}");
    let out = nnu_net(&[&["bench", "--repetitions", "1"], &net[..]].concat());
    assert!(text(&out.stdout).contains("training iteration: "), "{}", text(&out.stderr));
}

/// Bytes of every file in a folder.
fn files(folder: &Path) -> std::collections::BTreeMap<std::ffi::OsString, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries.map(|e| (e.file_name(), std::fs::read(e.path()).unwrap())).collect()
}

#[test]
fn an_import_replaces_neither_a_trained_model_nor_one_under_way() {
    let folder = exchange();
    let (plan, model) = (path(&folder, "plan.toml"), path(&folder, "model"));
    let checkpoint = golden("plain_module.pth");
    let import = ["import", "--checkpoint", &checkpoint, "--plan", &plan, "--model", &model];
    assert!(nnu_net(&import).status.success());
    let imported = files(Path::new(&model));

    let record = Path::new(&model).join("model.toml");
    let text_of = |path: &Path| std::fs::read_to_string(path).unwrap();
    let trained = text_of(&record).replacen("stage = \"net\"", "stage = \"train\"", 1);
    artifact::Commit::file(&record, trained.as_bytes()).unwrap();
    artifact::Commit::file(&Path::new(&model).join("history.toml"), b"").unwrap();
    let before = files(Path::new(&model));
    let refused = nnu_net(&import);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused.stderr));
    let expected = format!(
        "nnu-net: error: {model}/model.toml: is a model that nnu-train made, expected nothing or what nnu-net made\n"
    );
    assert!(text(&refused.stderr).starts_with(&expected), "{}", text(&refused.stderr));
    assert_eq!(before, files(Path::new(&model)));
    let forced = nnu_net(&[&import[..], &["--force"]].concat());
    assert!(forced.status.success(), "{}", text(&forced.stderr));
    assert_eq!(files(Path::new(&model)), imported, "a trained model's history is gone");

    std::fs::remove_file(&record).unwrap();
    artifact::Commit::file(&Path::new(&model).join("checkpoint.toml"), b"").unwrap();
    let refused = nnu_net(&import);
    assert_eq!(refused.status.code(), Some(3));
    let said = text(&refused.stderr);
    assert!(said.contains("checkpoint.toml: a training is under way here"), "{said}");
}

/// A zip archive too, but not of weights.
fn checkpoint_copy(folder: &tempfile::TempDir) -> String {
    let copy = path(folder, "copy.pth");
    let bytes = std::fs::read(golden("plain_module.pth")).unwrap();
    artifact::Commit::file(Path::new(&copy), &bytes).unwrap();
    copy
}

#[test]
fn first_weights_do_not_replace_a_model_s() {
    let folder = exchange();
    let (plan, model) = (path(&folder, "plan.toml"), path(&folder, "model"));
    let checkpoint = golden("plain_module.pth");
    let import = ["import", "--checkpoint", &checkpoint, "--plan", &plan, "--model", &model];
    assert!(nnu_net(&import).status.success());
    let before = files(Path::new(&model));
    let weights = format!("{model}/weights.npz");
    let init = ["init", "--plan", &plan, "--configuration", "3d_fullres", "--out", &weights];
    let refused = nnu_net(&init);
    assert_eq!(refused.status.code(), Some(3));
    let said = text(&refused.stderr);
    let expected = format!("nnu-net: error: {weights}: belongs to {model}/model.toml, expected ");
    assert!(said.starts_with(&expected), "{said}");
    assert_eq!(before, files(Path::new(&model)));
    // Records, and files of other programs.
    let notes = path(&folder, "notes.txt");
    artifact::Commit::file(Path::new(&notes), b"dose").unwrap();
    for other in [&plan, &notes, &checkpoint_copy(&folder)] {
        let before = std::fs::read(other).unwrap();
        let refused = nnu_net(&[&init[..6], &[other.as_str()]].concat());
        assert_eq!(refused.status.code(), Some(if *other == plan { 2 } else { 3 }));
        assert!(before == std::fs::read(other).unwrap(), "{other}");
    }
    // What a checkpoint carries doesn't replace a data set's description.
    let raw = path(&folder, "raw");
    let described = Path::new(&raw).join("dataset.json");
    artifact::Commit::file(&described, b"{}").unwrap();
    let carrying = golden("plain.pth");
    let extract = ["import", "--checkpoint", &carrying, "--extract", &raw];
    let refused = nnu_net(&extract);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused.stderr));
    assert_eq!(files(Path::new(&raw)).len(), 1);
    for more in [["--force"].as_slice(), &[]] {
        let out = nnu_net(&[&extract, more].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
    }
    // A file of its own is written again without a question.
    let own = path(&folder, "own.npz");
    for _ in 0..2 {
        let out = nnu_net(&[&init[..6], &[own.as_str()]].concat());
        assert!(out.status.success(), "{}", text(&out.stderr));
    }
}
