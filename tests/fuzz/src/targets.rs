//! The targets. What a target returns is of no interest: it is there to end well.

use crate::{repair, scratch, seeds};
use artifact::case::OpenCase;
use artifact::dataset::{Dataset, DatasetJson};
use artifact::nifti::{self, ByteVolume, Volume};
use artifact::npy::Mapped;
use artifact::plan::{Normalisation, Plan};
use artifact::recipe::StepOrder;
use artifact::{Commit, Kind, Provenance, Record, image, inspect, npz};
use augment::{Loader, Mode};
use ndarray::{Array3, Axis, Ix3, Ix4};
use plan::nnunet::{self, Described};
use plan::recipe::Resolved;
use preprocess::Preprocessed;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Voxels that are worked on behind the parser; larger volumes are only read.
const MOST_VOXELS: usize = 1 << 15;

/// No scanner's numbers are larger.
const LARGEST_VALUE: f32 = 1e12;

/// Puts an input under a name of its own, and hands the file on.
fn file(name: &str, data: &[u8]) -> PathBuf {
    let path = scratch::folder("files").join(name);
    scratch::put(&path, data);
    path
}

/// A single file, plain or gzip; the same bytes as a pair; and what the byte-wise reader makes of them.
pub(crate) fn nifti(data: &[u8]) {
    if let Ok(volume) = nifti::decode(Path::new("a.nii"), vec![data.to_vec()]) {
        again(&volume);
    }
    if let Some((header, voxels)) = data.split_at_checked(348) {
        let _ = nifti::decode(Path::new("a.hdr"), vec![header.to_vec(), voxels.to_vec()]);
    }
    let path = file("a.nii", data);
    let _ = nifti::read_header(&path);
    if let Ok(Some(volume)) = ByteVolume::read(&path) {
        assert_eq!(volume.voxels().shape(), volume.geometry.shape);
    }
}

/// What was read is written on the same geometry, and read back.
fn again(volume: &Volume) {
    if volume.channels.len() > MOST_VOXELS {
        return;
    }
    let bytes = nifti::encode_image(volume.channels.view(), &volume.geometry, false);
    let bytes = bytes.expect("the geometry's own shape");
    let found = nifti::decode(Path::new("b.nii"), vec![bytes]).expect("a file of our own");
    let bits = |volume: &Volume| volume.channels.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&found), bits(volume));
}

pub(crate) fn npy(data: &[u8]) {
    let path = file("a.npy", data);
    let Ok(mapped) = Mapped::open(&path) else { return };
    let count: usize = mapped.shape().iter().product();
    if let Some(values) = mapped.values() {
        assert_eq!(values.count(), count);
    }
    let _ = mapped.view::<f32, Ix4>();
    let _ = mapped.view::<i16, Ix3>();
    let _ = mapped.view::<u8, Ix3>();
    let _ = mapped.view::<f64, Ix4>();
    let _ = mapped.f16_values(0..count);
    let _ = artifact::npy::read_f16::<Ix4>(&path);
}

pub(crate) fn npz(data: &[u8]) {
    let _ = npz::read(&file("a.npz", data));
}

/// The entries of an archive, with right checksums: a byte each for the method, then a `.npy` until the next mark.
pub(crate) fn npz_entries(data: &[u8]) {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (i, part) in parts(data).take(16).enumerate() {
        let Some((&method, entry)) = part.split_first() else { continue };
        let method =
            if method % 2 == 0 { CompressionMethod::Stored } else { CompressionMethod::Deflated };
        let options = SimpleFileOptions::default().compression_method(method);
        archive.start_file(format!("{i}.npy"), options).expect("a name of its own");
        archive.write_all(entry).expect("memory");
    }
    let bytes = archive.finish().expect("memory").into_inner();
    let _ = npz::read(&file("b.npz", &bytes));
}

/// Several files in one input.
fn parts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(data);
    std::iter::from_fn(move || {
        let all = rest?;
        let mark = all.windows(seeds::MARK.len()).position(|w| w == seeds::MARK);
        let (part, next) = match mark {
            Some(at) => (&all[..at], Some(&all[at + seeds::MARK.len()..])),
            None => (all, None),
        };
        rest = next;
        Some(part)
    })
}

/// Parts of an input under these names in a folder.
fn files(folder: &str, names: &[&str], data: &[u8]) -> PathBuf {
    let folder = scratch::folder(folder);
    let mut parts = parts(data);
    for name in names {
        scratch::put(&folder.join(name), parts.next().unwrap_or_default());
    }
    folder.join(names[0])
}

/// A record of any kind.
pub(crate) fn record(data: &[u8]) {
    let path = scratch::folder("record").join("record.toml");
    scratch::put(&path, data);
    let _ = inspect::verify(&path);
}

pub(crate) fn case(data: &[u8]) {
    let names = ["case.toml", "image.npy", "label.npy", "foreground.npy"];
    let path = files("case", &names, data);
    let Ok(case) = OpenCase::open(&path) else { return };
    let info = &case.record.body.case;
    assert_eq!(case.image().shape()[1..], info.shape);
    assert_eq!(case.label().is_some(), info.labelled);
    let _ = inspect::verify(&path);
}

pub(crate) fn prediction(data: &[u8]) {
    let _ = inspect::verify(&files("prediction", &["prediction.toml", "segmentation.nii"], data));
}

/// A recipe file of one's own.
pub(crate) fn recipe(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(resolved) = Resolved::from_text(text, Path::new("recipe.toml")) {
        let _ = resolved.recipe();
    }
}

/// `dataset.json` beside a few images.
pub(crate) fn dataset(data: &[u8]) {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let folder = MADE.get_or_init(|| {
        let folder = scratch::folder("dataset");
        let image = seeds::volume([4, 5, 6]);
        for name in ["imagesTr/a_0000", "imagesTr/a_0001", "labelsTr/a", "imagesTs/b_0000"] {
            let path = folder.join(format!("{name}.nii.gz"));
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            scratch::put(&path, &image);
        }
        folder
    });
    let path = folder.join("dataset.json");
    scratch::put(&path, data);
    let _ = DatasetJson::load(&path);
    let _ = Described::load(&path);
    let Ok(dataset) = Dataset::load(folder) else { return };
    for case in dataset.training.iter().chain(&dataset.test).take(4) {
        let mut files = case.images.iter().chain(&case.label);
        // A list may name any file of this machine.
        if files.all(|f| f.starts_with(folder) && !f.components().any(|c| c.as_os_str() == "..")) {
            let _ = dataset.read_image(case);
            let _ = dataset.read_label(case);
        }
    }
}

/// The description that nnU-Net's other files go with.
fn described() -> &'static Described {
    static DESCRIBED: OnceLock<Described> = OnceLock::new();
    DESCRIBED.get_or_init(|| {
        let path = file("described.json", seeds::DESCRIPTION.as_bytes());
        Described::load(&path).expect("a description of our own")
    })
}

/// nnU-Net's plans, as a plan, as a network, and back.
pub(crate) fn plans(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let described = described();
    let Ok(imported) = nnunet::import(text, &described.json, true) else { return };
    let recipe = Resolved::built_in(imported.recipe).and_then(|r| r.recipe());
    let plan = described.plan(imported, &recipe.expect("a built-in recipe"));
    if plan.check().is_ok() {
        layers(&plan);
        let _ = nnunet::export(&plan, &plan.nnunet.clone());
    }
}

fn layers(plan: &Plan) {
    for configuration in plan.configurations.values() {
        let _ = net::describe::layers(&configuration.network, configuration.patch_shape);
    }
}

/// nnU-Net's fingerprint, planned with either planner.
pub(crate) fn fingerprint(data: &[u8]) {
    let path = file("dataset_fingerprint.json", data);
    let Ok(measured) = nnunet::measured(&path, described()) else { return };
    for name in ["paper", "v2"] {
        let recipe = Resolved::built_in(name).expect("a built-in recipe");
        let _ = plan::command::assemble(measured.clone(), recipe, &[]);
    }
}

pub(crate) fn pth(data: &[u8]) {
    checkpoint(&file("a.pth", data));
}

fn checkpoint(path: &Path) {
    let _ = net::checkpoint::read(path, &seeds::network());
    let _ = net::checkpoint::carried(path);
    let _ = net::checkpoint::configuration(path);
}

/// The pickle of a checkpoint, in an archive with right checksums.
pub(crate) fn pickle(data: &[u8]) {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [("a/data.pkl", data), ("a/data/0", &[0; 64])] {
        archive.start_file(name, options).expect("a name of its own");
        archive.write_all(bytes).expect("memory");
    }
    let bytes = archive.finish().expect("memory").into_inner();
    checkpoint(&file("b.pth", &bytes));
}

/// A picture as it is, and with its checksums mended.
pub(crate) fn png(data: &[u8]) {
    for bytes in [data.to_vec(), repair::png(data)] {
        let path = file("a.png", &bytes);
        let header = image::read_header(&path);
        if let Ok(volume) = image::decode(&path, vec![bytes]) {
            assert_eq!(volume.channels.shape()[1..], volume.geometry.shape);
            assert_eq!(header.expect("what can be read has a header").0, volume.geometry);
        }
    }
}

/// A plan's networks, layer by layer.
pub(crate) fn topology(data: &[u8]) {
    if let Ok(record) = Record::<Plan>::load(&file("plan.toml", data)) {
        layers(&record.body);
    }
}

/// A case from a small volume, by the plan's rules; the input's last byte chooses among them.
fn preprocessed(data: &[u8]) -> Option<(Preprocessed, Plan)> {
    let (&choice, data) = data.split_last()?;
    let volume = nifti::decode(Path::new("a.nii"), vec![data.to_vec()]).ok()?;
    let channels = volume.channels.len_of(Axis(0));
    if channels > 8 || volume.channels.len() > MOST_VOXELS {
        return None;
    }
    // Squares of what follows fit f32, so that results must be finite.
    if volume.channels.iter().any(|v| v.abs() > LARGEST_VALUE) {
        return None;
    }
    let mut plan = seeds::plan();
    plan.channels = vec![plan.channels[0].clone(); channels];
    for channel in &mut plan.channels {
        channel.normalisation = match choice % 6 {
            0 => Normalisation::ZScore,
            1 => Normalisation::ZScoreMasked,
            2 => Normalisation::Ct,
            3 => Normalisation::RescaleTo01,
            4 => Normalisation::RgbTo01,
            _ => Normalisation::None,
        };
    }
    let rules = &mut plan.recipe.preprocessing;
    rules.order = if choice & 64 == 0 {
        StepOrder::NormaliseThenResample
    } else {
        StepOrder::ResampleThenNormalise
    };
    let configuration = plan.configurations.get_mut("3d_fullres")?;
    configuration.network.input_channels = channels;
    let geometry = &volume.geometry;
    let target = preprocess::target_spacing(configuration, geometry.spacing_mm);
    let shape = preprocess::resample::new_shape(geometry.shape, geometry.spacing_mm, target);
    let voxels = shape.iter().try_fold(channels, |all, &n| all.checked_mul(n));
    if voxels.is_none_or(|n| n > MOST_VOXELS) {
        return None;
    }
    let first = volume.channels.index_axis(Axis(0), 0);
    let label: Array3<i16> = first.mapv(|v| i16::from(v > 1.0));
    let label = (choice & 128 == 0).then_some(label);
    let case = preprocess::preprocess("a", volume, label, &plan, "3d_fullres").ok()?;
    Some((case, plan))
}

pub(crate) fn preprocess(data: &[u8]) {
    if let Some((case, _)) = preprocessed(data) {
        assert!(case.image.iter().all(|v| v.is_finite()), "an image of a finite volume");
    }
}

/// A batch of a preprocessed case, augmented by both recipes' rules.
pub(crate) fn augment(data: &[u8]) {
    let Some((case, plan)) = preprocessed(data) else { return };
    let record = scratch::folder("augment").join("case.toml");
    let commit = Commit::begin(&record).expect("a folder of our own");
    preprocess::write_case(commit, &case, &Provenance::default()).expect("a folder of our own");
    let configuration = &plan.configurations["3d_fullres"];
    for name in ["paper", "v2"] {
        let recipe = Resolved::built_in(name).and_then(|r| r.recipe()).expect("a built-in recipe");
        let Ok(open) = OpenCase::open(&record) else { return };
        let seed = u64::from(data[0]);
        let Ok(loader) = Loader::new(vec![open], configuration, &recipe, Mode::Training, seed)
        else {
            return;
        };
        let batch = loader.batch(0);
        assert!(batch.image.iter().all(|v| v.is_finite()), "{name}: a batch of a finite case");
    }
}
