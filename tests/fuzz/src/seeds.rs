//! Inputs that pass: what the crates' own tests keep, and what their writers make. No data of anybody.

use artifact::nifti::{Geometry, encode_image, encode_labels};
use artifact::plan::{Encoder, Network, NnunetNames, Plan};
use artifact::{Record, image, npy, npz};
use ndarray::{Array1, Array3, Array4, ArrayD};
use plan::recipe::Resolved;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Between the files of an input that is several.
pub(crate) const MARK: &[u8] = b"\n\0~\0\n";

/// A `dataset.json` of one channel and two classes.
pub(crate) const DESCRIPTION: &str = r#"{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1},
    "numTraining": 20, "file_ending": ".nii.gz"}"#;

fn crates(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates").join(path)
}

/// Contents of the files of a folder of `crates/`, by name, up to a size at which a fuzzer is still quick.
fn golden(folder: &str, endings: &[&str]) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(crates(folder)).expect("a folder of the repository");
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.sort();
    let mut contents = Vec::new();
    for file in files {
        let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if file.is_dir() {
            contents.extend(golden(&format!("{folder}/{name}"), endings));
        } else if endings.iter().any(|e| name.ends_with(e)) {
            let content = std::fs::read(&file).expect("a file of the repository");
            contents.extend(Some(content).filter(|c| c.len() < 1 << 14));
        }
    }
    contents
}

fn values(shape: [usize; 3]) -> Array3<f32> {
    Array3::from_shape_fn(shape, |(z, y, x)| ((7 * z + 5 * y + 3 * x) % 11) as f32 / 4.0)
}

/// A small image, compressed.
pub(crate) fn volume(shape: [usize; 3]) -> Vec<u8> {
    let geometry = Geometry::plain(shape, [2.0, 1.0, 1.0]);
    let channels = values(shape).insert_axis(ndarray::Axis(0));
    encode_image(channels.view(), &geometry, true).expect("the geometry's own shape")
}

pub(crate) fn nifti() -> Vec<Vec<u8>> {
    let mut all = golden("artifact/tests/golden/nifti", &[".nii", ".nii.gz"]);
    all.push(volume([3, 4, 5]));
    let geometry = Geometry::plain([3, 4, 5], [1.0; 3]);
    let labels = values([3, 4, 5]).mapv(|v| v as i32);
    for gzip in [false, true] {
        all.push(encode_labels(labels.view(), &geometry, gzip).expect("the geometry's own shape"));
    }
    all
}

pub(crate) fn npy() -> Vec<Vec<u8>> {
    let mut all = golden("artifact/tests/golden/records", &[".npy"]);
    let array = Array4::from_shape_fn((1, 2, 3, 4), |(_, z, y, x)| (z + y + x) as f32);
    all.push(npy::encode(&array.view()));
    all.push(npy::encode(&array.mapv(f64::from).view()));
    all.push(npy::encode(&array.mapv(|v| v as u8).view()));
    all
}

pub(crate) fn npz() -> Vec<Vec<u8>> {
    let mut all = golden("artifact/tests/golden/npz", &[".npz"]);
    let array = |n: usize| ArrayD::from_elem(vec![n, 2], 0.5f32);
    all.push(npz::encode(&[("a.weight".into(), array(3)), ("a.bias".into(), array(1))]));
    all
}

pub(crate) fn npz_entries() -> Vec<Vec<u8>> {
    let array = |n: usize| npy::encode(&Array1::<f32>::zeros(n).view());
    let entry = |method: &[u8], n: usize| [method, &array(n)].concat();
    vec![
        [entry(b"0", 3), entry(b"1", 200)].join(MARK),
        entry(b"1", 0),
        [entry(b"0", 1), entry(b"0", 2), entry(b"1", 3)].join(MARK),
    ]
}

/// Records without their siblings, which aren't there.
pub(crate) fn record() -> Vec<Vec<u8>> {
    let alone = |record: Vec<u8>| {
        let text = String::from_utf8_lossy(&record);
        let lines = text.lines().filter(|l| !(l.starts_with('"') && l.contains("\" = \"b3:")));
        lines.collect::<Vec<_>>().join("\n").into_bytes()
    };
    golden("artifact/tests/golden/records", &[".toml"]).into_iter().map(alone).collect()
}

fn together(folder: &str, names: &[&str]) -> Vec<u8> {
    let read = |name: &&str| {
        let path = crates("artifact/tests/golden/records").join(folder).join(name);
        std::fs::read(path).expect("a file of the repository")
    };
    names.iter().map(read).collect::<Vec<_>>().join(MARK)
}

pub(crate) fn case() -> Vec<Vec<u8>> {
    vec![together("case.1", &["case.toml", "image.npy", "label.npy", "foreground.npy"])]
}

pub(crate) fn prediction() -> Vec<Vec<u8>> {
    let record = together("prediction.1", &["prediction.toml"]);
    let text = String::from_utf8_lossy(&record).replace("segmentation.nii.gz", "segmentation.nii");
    let lines = text.lines().filter(|l| !l.starts_with("\"segmentation"));
    let text = lines.collect::<Vec<_>>().join("\n").into_bytes();
    let map = together("prediction.1", &["segmentation.nii.gz"]);
    let volume = artifact::nifti::decode(Path::new("a.nii.gz"), vec![map]).expect("a golden map");
    let labels = volume.channels.index_axis(ndarray::Axis(0), 0).mapv(|v| v as i32);
    let plain = encode_labels(labels.view(), &volume.geometry, false).expect("its own shape");
    vec![[text, plain].join(MARK)]
}

pub(crate) fn recipe() -> Vec<Vec<u8>> {
    let mut all = golden("plan/recipes", &[".toml"]);
    all.push(b"extends = \"v2\"\n[schedule]\nepochs = 2\n".to_vec());
    all
}

pub(crate) fn dataset() -> Vec<Vec<u8>> {
    [
        json!({"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1},
            "numTraining": 1, "file_ending": ".nii.gz"}),
        json!({"name": "D", "modality": {"0": "CT", "1": "PET"}, "labels": {"0": "background", "1": "a", "2": "b"},
            "numTraining": 1, "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
            "test": ["./imagesTs/b.nii.gz"]}),
        json!({"channel_names": {"0": "MRI", "1": "T2"},
            "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2],
            "numTraining": 1, "file_ending": ".nii.gz", "overwrite_image_reader_writer": "SimpleITKIO",
            "dataset": {"a": {"images": ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"], "label": "labelsTr/a.nii.gz"}}}),
    ]
    .iter()
    .map(|v| v.to_string().into_bytes())
    .collect()
}

fn measured(cases: usize) -> serde_json::Value {
    let properties = json!({"max": 900.0, "mean": 101.5, "median": 100.0, "min": 3.0,
        "percentile_00_5": 10.0, "percentile_99_5": 300.0, "std": 40.0});
    json!({
        "spacings": (0..cases).map(|i| [2.5, 1.0, 1.0 + i as f64 / 100.0]).collect::<Vec<_>>(),
        "shapes_after_crop": (0..cases).map(|i| [40 + i, 120, 130]).collect::<Vec<_>>(),
        "foreground_intensity_properties_per_channel": {"0": properties},
        "median_relative_size_after_cropping": 1.0,
    })
}

pub(crate) fn fingerprint() -> Vec<Vec<u8>> {
    [1, 5].map(|cases| measured(cases).to_string().into_bytes()).to_vec()
}

pub(crate) fn plans() -> Vec<Vec<u8>> {
    static MADE: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let folder = crate::scratch::folder("seeds");
        let (description, fingerprint) = (folder.join("dataset.json"), folder.join("f.json"));
        crate::scratch::put(&description, DESCRIPTION.as_bytes());
        crate::scratch::put(&fingerprint, measured(5).to_string().as_bytes());
        let described = plan::nnunet::Described::load(&description).expect("a description");
        let measured = plan::nnunet::measured(&fingerprint, &described).expect("a fingerprint");
        let plans = ["v2", "v2-resenc-m"].map(|name| {
            let recipe = Resolved::built_in(name).and_then(|r| r.recipe()).expect("a recipe");
            let plan = plan::plan(measured.clone(), &recipe);
            plan::nnunet::export(&plan, &NnunetNames::default()).expect("a plan of nnU-Net's kind")
        });
        plans.map(|plans| plans.to_string().into_bytes()).to_vec()
    });
    made.clone()
}

/// The golden plan.
pub(crate) fn plan() -> Plan {
    static PLAN: OnceLock<Plan> = OnceLock::new();
    let load = || {
        let folder = crates("artifact/tests/golden/records");
        let version = <Plan as artifact::Kind>::VERSION;
        let mut plan: Plan = Record::load(&folder.join(format!("plan.{version}/plan.toml")))
            .expect("the golden plan")
            .body;
        for configuration in plan.configurations.values_mut() {
            configuration.patch_shape = [8, 16, 16];
            configuration.batch_size = 2;
        }
        plan
    };
    PLAN.get_or_init(load).clone()
}

pub(crate) fn topology() -> Vec<Vec<u8>> {
    let version = <Plan as artifact::Kind>::VERSION;
    golden(&format!("artifact/tests/golden/records/plan.{version}"), &[".toml"])
}

/// The smallest network that has every kind of layer.
pub(crate) fn network() -> Network {
    Network {
        encoder: Encoder::Plain,
        input_channels: 1,
        output_channels: 2,
        features: vec![1, 2],
        kernels: vec![[1, 3, 3], [3, 3, 3]],
        strides: vec![[1, 1, 1], [1, 2, 2]],
        encoder_convs: vec![1, 1],
        decoder_convs: vec![1],
        deep_supervision: false,
        negative_slope: 0.01,
        norm_epsilon: 1e-5,
    }
}

pub(crate) fn pth() -> Vec<Vec<u8>> {
    let network = network();
    let cpu = net::Device::Cpu(net::Cpu::detect());
    let mut unet = net::UNet::new(&network, &cpu).expect("a network");
    unet.initialise(1).expect("memory");
    let (plans, dataset) =
        (json!({"plans_name": "p", "n": [1, 2.5, null, true]}), json!({"labels": {"a": 1}}));
    let export = net::checkpoint::Export {
        network: &network,
        flat: false,
        plans: &plans,
        dataset: &dataset,
        configuration: "3d_fullres",
        fold: 0,
        epochs: 1,
        history: &[],
        mirror_axes: &[0, 1, 2],
    };
    let parameters = unet.parameters().expect("memory");
    vec![net::checkpoint::encode(&parameters, &export).expect("its own network")]
}

pub(crate) fn pickle() -> Vec<Vec<u8>> {
    let of = |bytes: Vec<u8>| {
        let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).expect("a zip");
        let mut pickle = Vec::new();
        let mut entry = zip.by_name("checkpoint/data.pkl").expect("a pickle");
        std::io::Read::read_to_end(&mut entry, &mut pickle).expect("stored bytes");
        pickle
    };
    pth().into_iter().map(of).collect()
}

pub(crate) fn png() -> Vec<Vec<u8>> {
    let mut all = golden("artifact/tests/golden/png", &[".png"]);
    let geometry = Geometry::plain([1, 5, 6], [999.0, 1.0, 1.0]);
    let labels = values([1, 5, 6]).mapv(|v| v as i32);
    all.push(image::encode_labels(labels.view(), &geometry, ".png").expect("a single slice"));
    all
}

/// Small volumes, and a byte that chooses among the rules.
pub(crate) fn preprocess() -> Vec<Vec<u8>> {
    let all = nifti().into_iter().enumerate();
    all.map(|(i, seed)| [seed, vec![(i * 37 % 256) as u8]].concat()).collect()
}

pub(crate) fn augment() -> Vec<Vec<u8>> {
    let shape = [6, 14, 15];
    let geometry = Geometry::plain(shape, [2.0, 1.0, 1.0]);
    let channels = values(shape).insert_axis(ndarray::Axis(0));
    let plain = encode_image(channels.view(), &geometry, false).expect("the geometry's own shape");
    let mut all = preprocess();
    all.extend((0..6).map(|choice| [plain.clone(), vec![choice]].concat()));
    all
}
