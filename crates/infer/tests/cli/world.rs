//! A small plan, models with drawn weights, and images, as files in a temporary folder.

use artifact::model::{Model, ModelInfo, PLAN, WEIGHTS};
use artifact::nifti::{self, Geometry, Volume};
use artifact::plan::{
    Channel, Configuration, Geometry as Axes, Intensity, Network, Normalisation, Plan,
    PlannedDataset,
};
use artifact::recipe::Recipe;
use artifact::{Commit, Label, Provenance};
use ndarray::Array4;
use net::{Cpu, Device, UNet};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Image axes z, y, x of the test images.
pub const SHAPE: [usize; 3] = [11, 21, 17];
const SPACING_MM: [f64; 3] = [2.5, 1.0, 1.25];

pub struct World {
    pub folder: TempDir,
}

fn network() -> Network {
    Network {
        encoder: artifact::plan::Encoder::Plain,
        input_channels: 2,
        output_channels: 3,
        features: vec![4, 8],
        kernels: vec![[3, 3, 3]; 2],
        strides: vec![[1, 1, 1], [2, 2, 2]],
        encoder_convs: vec![2, 2],
        decoder_convs: vec![2],
        deep_supervision: false,
        negative_slope: 0.01,
        norm_epsilon: 1e-5,
    }
}

/// Axes turned, target grid finer along one axis and coarser along two, label values with gaps.
pub fn plan() -> Plan {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plan/recipes/paper.toml");
    let recipe: Recipe = toml::from_str(&std::fs::read_to_string(recipe).unwrap()).unwrap();
    let intensity = Intensity {
        mean: 0.0,
        sd: 1.0,
        min: 0.0,
        median: 0.0,
        max: 1.0,
        percentile_00_5: 0.0,
        percentile_99_5: 1.0,
    };
    let channel =
        |name: &str| Channel { name: name.into(), normalisation: Normalisation::ZScore, intensity };
    let label = |name: &str, value| Label { name: name.into(), value };
    let volume = Configuration {
        spacing_mm: [1.5, 2.0, 1.5],
        keep_slice_distance: false,
        median_shape: [14.0, 13.0, 14.0],
        patch_shape: [8, 10, 12],
        batch_size: 2,
        batch_dice: false,
        cases_from: None,
        previous_stage: None,
        network: network(),
    };
    let mut slices = volume.clone();
    slices.keep_slice_distance = true;
    slices.patch_shape[0] = 1;
    slices.network.kernels = vec![[1, 3, 3]; 2];
    slices.network.strides[1][0] = 1;
    let mut cascade = Configuration {
        cases_from: Some("3d_fullres".into()),
        previous_stage: Some("3d_lowres".into()),
        ..volume.clone()
    };
    // Two channels, and one for each of liver and tumour.
    cascade.network.input_channels = 4;
    let low = Configuration {
        spacing_mm: [3.0, 4.0, 3.0],
        median_shape: [7.0; 3],
        patch_shape: [6, 6, 8],
        ..volume.clone()
    };
    let configurations = BTreeMap::from([
        ("3d_lowres".to_string(), low),
        ("3d_fullres".to_string(), volume),
        ("2d".to_string(), slices),
        ("3d_cascade_fullres".to_string(), cascade),
    ]);
    Plan {
        dataset: PlannedDataset {
            name: "blobs".into(),
            training_cases: 10,
            file_ending: ".nii.gz".into(),
            reader: artifact::image::Reader::default(),
        },
        geometry: Axes::of_transpose([1, 0, 2]),
        nnunet: Default::default(),
        channels: vec![channel("T1"), channel("T2")],
        labels: vec![label("background", 0), label("liver", 2), label("tumour", 5)],
        regions: Vec::new(),
        ignore: None,
        configurations,
        recipe,
    }
}

/// Numbers that look like tissue: blobs of any size, noise, and a margin of zeros to be cropped.
pub fn image(seed: usize) -> Array4<f32> {
    let [z, y, x] = SHAPE;
    Array4::from_shape_fn((2, z, y, x), |(c, z, y, x)| {
        if z == 0 || y < 2 || x > 14 {
            return 0.0;
        }
        let wave = |n: usize, period: f32| ((n + seed + c) as f32 / period).sin();
        let noise = ((z * 31 + y * 17 + x * 7 + seed) * 2654435761 % 97) as f32 / 97.0;
        100.0 + 40.0 * wave(z, 3.0) * wave(y, 4.0) * wave(x, 5.0) + 10.0 * noise
    })
}

/// The image's place: turned about the z axis, off the origin, spacing as above.
pub fn geometry() -> Geometry {
    let mut geometry = Geometry::plain(SHAPE, SPACING_MM);
    let (sin, cos) = 0.3f64.sin_cos();
    let [sz, sy, sx] = SPACING_MM;
    let rows =
        [[cos * sx, -sin * sy, 0.0, -31.5], [sin * sx, cos * sy, 0.0, 12.25], [0.0, 0.0, sz, 77.0]];
    for (row, values) in rows.iter().enumerate() {
        for (column, value) in values.iter().enumerate() {
            let at = 280 + 16 * row + 4 * column;
            geometry.header[at..at + 4].copy_from_slice(&(*value as f32).to_le_bytes());
        }
    }
    geometry.header[148..152].copy_from_slice(b"oblq");
    geometry
}

impl World {
    /// Two models of `3d_fullres`, images `a` and `b` of two channels.
    pub fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        world.model("fold_0", &plan(), "3d_fullres", 0);
        world.model("fold_1", &plan(), "3d_fullres", 1);
        for (seed, id) in ["a", "b"].into_iter().enumerate() {
            world.write_image(&format!("images/{id}"), seed);
        }
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn file(&self, name: &str, bytes: &[u8]) {
        Commit::file(&self.path(name), bytes).unwrap();
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// `STEM_0000.nii.gz` and `STEM_0001.nii.gz`.
    pub fn write_image(&self, stem: &str, seed: usize) {
        for (c, channel) in image(seed).outer_iter().enumerate() {
            let channel = channel.insert_axis(ndarray::Axis(0));
            let bytes = nifti::encode_image(channel, &geometry(), true).unwrap();
            self.file(&format!("{stem}_{c:04}.nii.gz"), &bytes);
        }
    }

    /// A model of a configuration with weights drawn from a seed.
    pub fn model(&self, name: &str, plan: &Plan, configuration: &str, fold: usize) {
        let device = Device::Cpu(Cpu::detect());
        let network = &plan.configurations[configuration].network;
        let mut net = UNet::new(network, &device).unwrap();
        net.initialise(fold as u64 + 10).unwrap();
        let record = self.path(name).join("model.toml");
        Commit::begin(&self.path(name).join(PLAN))
            .unwrap()
            .finish(&Provenance::default(), plan)
            .unwrap();
        let plan_bytes = self.bytes(&format!("{name}/{PLAN}"));
        let mut commit = Commit::begin(&record).unwrap();
        commit.bytes(WEIGHTS, &artifact::npz::encode(&net.parameters().unwrap())).unwrap();
        commit.bytes(PLAN, &plan_bytes).unwrap();
        let info = ModelInfo {
            configuration: configuration.into(),
            fold,
            epochs: 1,
            ended_by: "epochs".into(),
            precision: "f32".into(),
            validation: vec!["b".into()],
            validation_dice: vec![],
        };
        commit.finish(&Provenance::default(), &Model { model: info }).unwrap();
    }

    /// Preprocesses an image into `cases/ID`.
    pub fn case(&self, id: &str, seed: usize, configuration: &str) {
        self.case_in("cases", id, seed, configuration, &plan());
    }

    /// Preprocesses an image into `FOLDER/ID`.
    pub fn case_in(&self, folder: &str, id: &str, seed: usize, configuration: &str, plan: &Plan) {
        let channel = self.path("images").join(format!("{id}_0000.nii.gz"));
        let volume =
            Volume { geometry: nifti::read(&channel).unwrap().geometry, channels: image(seed) };
        let made = preprocess::preprocess(id, volume, None, plan, configuration).unwrap();
        let rules = plan.preprocessing_hash(configuration).unwrap();
        let provenance = Provenance::default().input("plan", rules);
        let record = self.path(folder).join(id).join("case.toml");
        preprocess::write_case(Commit::begin(&record).unwrap(), &made, &provenance).unwrap();
    }

    /// Runs the program in the folder.
    pub fn infer(&self, args: &str) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nnu-infer"));
        command.current_dir(self.folder.path()).args(args.split_whitespace());
        command
    }

    /// Runs the program, which must succeed; gives its log.
    pub fn done(&self, args: &str) -> String {
        let output = self.infer(args);
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{args}: {log}");
        log
    }

    /// Runs the program, which must fail with this code; gives what it says from the first error on.
    pub fn fails(&self, args: &str, code: i32) -> String {
        let output = self.infer(args);
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args}: {log}");
        let error = log.find("nnu-infer: error: ").map(|at| log[at..].trim_end().to_string());
        error.unwrap_or(log)
    }
}
