use super::{exported, golden, json, plain, residual};
use crate::checkpoint::{carried, check_plans, names, open, read, tensors};
use crate::unet::Topology;
use crate::{Cpu, Device, UNet};
use artifact::npz::Named;
use artifact::plan::{Encoder, Network};
use ndarray::Ix5;
use std::io::{Cursor, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

#[test]
fn checkpoints_of_nnunet_give_its_logits() {
    for (name, logits, network) in [
        ("plain.pth", "plain.npz", plain()),
        ("plain_module.pth", "plain.npz", plain()),
        ("residual.pth", "residual.npz", residual()),
    ] {
        let found = read(&golden(name), &network).unwrap();
        let flat = name == "residual.pth";
        assert_eq!((found.epochs, found.fold, found.flat), (Some(7), Some(3), flat), "{name}");
        assert_eq!(found.trainer.as_deref(), Some("nnUNetTrainer"));
        let axes = if flat { vec![0, 1] } else { vec![0, 1, 2] };
        assert_eq!(found.mirror_axes, axes);
        let arrays: Vec<_> = artifact::npz::read(&golden(logits)).unwrap();
        let array = |key: &str| {
            let (_, array) = arrays.iter().find(|(name, _)| name == key).unwrap();
            array.clone().into_dimensionality::<Ix5>().unwrap()
        };
        let mut net = UNet::new(&network, &Device::Cpu(Cpu::detect())).unwrap();
        net.set_parameters(&found.parameters).unwrap();
        let (found, expected) = (net.forward(array("image").view()).unwrap(), array("logits"));
        let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let off = (&found - &expected).iter().fold(0.0f32, |m, v| m.max(v.abs()));
        // As for the golden networks: 64 ulps of the largest value.
        assert!(off <= 64.0 * f32::EPSILON * largest, "{name}: {off} of {largest}");
    }
}

#[test]
fn an_export_has_every_tensor_that_nnunet_saves() {
    for (name, network) in [("plain", plain()), ("residual", residual())] {
        let theirs = golden(&format!("{name}.pth"));
        let parameters = read(&theirs, &network).unwrap().parameters;
        let folder = tempfile::tempdir().unwrap();
        let ours = folder.path().join("ours.pth");
        let bytes = exported(&network, &format!("{name}.json"), &parameters);
        assert_eq!(bytes, exported(&network, &format!("{name}.json"), &parameters), "same bytes");
        artifact::Commit::file(&ours, &bytes).unwrap();

        // Names, shapes and strides, and which names share bytes, as PyTorch has them.
        let shapes = |path: &Path| -> Vec<(String, Vec<usize>, Vec<usize>)> {
            let (archive, values) = open(path).unwrap();
            let weights = values.entry(values.root, "network_weights").unwrap();
            let found = tensors(&archive, &values, weights).unwrap();
            found.iter().map(|(n, t)| ((*n).into(), t.size.clone(), t.stride.clone())).collect()
        };
        assert_eq!(shapes(&ours), shapes(&theirs));
        let again = read(&ours, &network).unwrap();
        assert_eq!(again, read(&theirs, &network).unwrap());
        let json = json(&format!("{name}.json"));
        for path in [&ours, &theirs] {
            let carried = carried(path).unwrap();
            assert_eq!((&carried.plans, &carried.dataset), (&json["plans"], &json["dataset"]));
        }
    }
}

#[test]
fn names_are_as_many_as_nnunet_has() {
    let count = |network: &Network| {
        let names = names::of(&Topology::new(network).unwrap(), false);
        (names.len(), names.iter().map(|n| n.theirs.len()).sum::<usize>())
    };
    let six = Network {
        features: vec![32, 64, 128, 256, 320, 320],
        kernels: vec![[3; 3]; 6],
        strides: [vec![[1; 3]], vec![[2; 3]; 5]].concat(),
        encoder_convs: vec![2; 6],
        decoder_convs: vec![2; 5],
        ..plain()
    };
    // len(state_dict()) and the distinct tensors in it, counted in PyTorch.
    assert_eq!(count(&six), (108, 292));
    let large = Network {
        encoder: Encoder::Residual,
        encoder_convs: vec![1, 3, 4, 6, 6, 6],
        decoder_convs: vec![1; 5],
        ..six
    };
    assert_eq!(count(&large).1, 956);
}

#[test]
fn plans_of_another_network_are_refused() {
    let json = json("plain.json");
    let plans = &json["plans"];
    assert_eq!(check_plans(plans, "3d_fullres", &plain(), false), Ok(()));
    let refusal =
        |network: &Network, name: &str| check_plans(plans, name, network, false).unwrap_err();
    assert_eq!(refusal(&plain(), "2d"), "has no configuration \"2d\"");
    let class = "configurations.3d_fullres.architecture.network_class_name = \
        \"dynamic_network_architectures.architectures.unet.PlainConvUNet\", expected ResidualEncoderUNet";
    assert_eq!(refusal(&residual(), "3d_fullres"), class);
    let wide = Network { features: vec![4, 6, 9], ..plain() };
    let features = "configurations.3d_fullres.architecture.arch_kwargs.features_per_stage = [4,6,8], \
        expected [4,6,9] as in the plan";
    assert_eq!(refusal(&wide, "3d_fullres"), features);
    let mut heir = plans.clone();
    heir["configurations"]["3d_cascade_fullres"] =
        serde_json::json!({ "inherits_from": "3d_fullres" });
    assert_eq!(check_plans(&heir, "3d_cascade_fullres", &plain(), false), Ok(()));
    heir["configurations"]["3d_fullres"] =
        serde_json::json!({ "inherits_from": "3d_cascade_fullres" });
    assert!(check_plans(&heir, "3d_cascade_fullres", &plain(), false).is_err(), "a circle");
}

/// A zip of these entries.
fn archive(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Why a file is refused, without its path.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    artifact::Commit::file(&path, bytes).unwrap();
    read(&path, &plain()).expect_err("a broken file").message
}

#[test]
fn files_that_are_no_checkpoints_are_refused() {
    let stored = CompressionMethod::Stored;
    assert!(refusal(b"\x80\x02}.").starts_with("not a zip archive as torch.save writes it"));
    assert_eq!(
        refusal(&archive(&[("a/b", b"")], stored)),
        "holds no data.pkl, expected a file that torch.save wrote"
    );
    assert_eq!(
        refusal(&archive(&[("a/data.pkl", b"\x80\x02cos\nsystem\n.")], stored)),
        "byte 2 of data.pkl: asks for os.system, which is not allowed"
    );
    assert_eq!(
        refusal(&archive(&[("a/data.pkl", b"\x80\x02}.")], stored)),
        "holds no network_weights, expected a checkpoint of nnU-Net v2"
    );
    assert_eq!(
        refusal(&archive(&[("a/data.pkl", b"\x80\x02}.")], CompressionMethod::Deflated)),
        "data.pkl: is compressed, which torch.save never does"
    );
    let big = [("a/data.pkl", &b"\x80\x02}."[..]), ("a/byteorder", b"big")];
    assert_eq!(
        refusal(&archive(&big, stored)),
        "its numbers are big-endian, expected little-endian"
    );
}

fn parameters() -> Named {
    read(&golden("plain.pth"), &plain()).unwrap().parameters
}

/// Replaces all of `from` in our own export, keeping its length, and mends the checksum by writing the zip anew.
fn changed(edit: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>) -> Vec<u8> {
    let whole = exported(&plain(), "plain.json", &parameters());
    let mut zip = zip::ZipArchive::new(Cursor::new(whole)).unwrap();
    let mut entries = Vec::new();
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        let name = entry.name().to_owned();
        entries.extend(edit(&name, bytes).map(|bytes| (name, bytes)));
    }
    let entries: Vec<(&str, &[u8])> = entries.iter().map(|(n, b)| (&n[..], &b[..])).collect();
    archive(&entries, CompressionMethod::Stored)
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut out = bytes.to_vec();
    let mut times = 0;
    while let Some(at) = out.windows(from.len()).position(|w| w == from) {
        out[at..at + from.len()].copy_from_slice(to);
        times += 1;
    }
    assert!(times > 0, "{from:?} was not there");
    out
}

#[test]
fn tensors_that_lie_about_themselves_are_refused() {
    let pickle = |from: &'static [u8], to: &'static [u8]| {
        changed(move |name, bytes| {
            Some(if name.ends_with("data.pkl") { replaced(&bytes, from, to) } else { bytes })
        })
    };
    let first = "encoder.stages.0.0.convs.0.conv.weight";
    // Fewer bytes than numbers, none at all, a renamed tensor.
    let short = changed(|name, bytes| {
        Some(if name == "checkpoint/data/0" { bytes[..8].to_vec() } else { bytes })
    });
    assert_eq!(
        refusal(&short),
        format!("tensor {first}: data/0 has 8 bytes, but is said to hold 36 numbers")
    );
    let none = changed(|name, bytes| (name != "checkpoint/data/0").then_some(bytes));
    assert!(refusal(&none).starts_with("data/0: "), "{}", refusal(&none));
    assert_eq!(
        refusal(&pickle(b"seg_layers.0.bias", b"seg_layers.7.bias")),
        "tensor decoder.seg_layers.0.bias: missing"
    );
    assert_eq!(
        refusal(&pickle(b"convs.0.all_modules.0.weight", b"convs.0.all_modules.9.weight")),
        "tensor decoder.encoder.stages.0.0.convs.0.all_modules.9.weight: found, \
         but there is no such tensor in this network"
    );
    // [4, 1, 1, 3, 3] with strides [9, 9, 9, 3, 1], as a [4, 1, 1, 3, 9].
    let shape = b"K\x04K\x01K\x01K\x03K\x03t(K\x09K\x09K\x09K\x03K\x01t";
    let wide = b"K\x04K\x01K\x01K\x03K\x09t(K\x09K\x09K\x09K\x03K\x01t";
    let message = format!("tensor {first}: found shape [4, 1, 1, 3, 9], expected [4, 1, 1, 3, 3]");
    assert_eq!(refusal(&pickle(shape, wide)), message);
    // Strides beyond the storage, and a storage of one number that says to be many.
    let far = b"K\x04K\x01K\x01K\x03K\x03t(K\xffK\x09K\x09K\x03K\x01t";
    let message = format!(
        "tensor {first}: shape [4, 1, 1, 3, 3], strides [255, 9, 9, 3, 1], offset 0 in a storage of 36 numbers"
    );
    assert_eq!(refusal(&pickle(shape, far)), message);
    let integers = refusal(&pickle(b"torch\nFloatStorage", b"torch\nDoubleStorag"));
    assert!(integers.contains("asks for torch.DoubleStorag, which is not allowed"), "{integers}");
}

/// Every tensor a view of a storage that is most of the file: read once where neighbours share it, but not again and again
/// where two take turns.
#[test]
fn tensors_that_take_turns_at_large_storages_are_refused() {
    const NUMBERS: usize = 1 << 20;
    let large = vec![0u8; 4 * NUMBERS];
    // `K` 0 to 255: the storage's key and length, in the writer's own words.
    let shared = |turns: usize| {
        let entries = changed(|name, bytes| {
            Some(match name {
                "checkpoint/data/0" | "checkpoint/data/1" => large.clone(),
                "checkpoint/data.pkl" => one_storage_for_all(&bytes, turns, NUMBERS),
                _ => bytes,
            })
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pth");
        artifact::Commit::file(&path, &entries).unwrap();
        read(&path, &plain()).map(drop).map_err(|e| e.message)
    };
    shared(1).unwrap();
    let message = shared(2).unwrap_err();
    assert!(message.ends_with("with too many others, expected a storage each"), "{message}");
}

/// The pickle with each tensor in storage 0 (of `turns` many, in turn), which holds so many numbers.
fn one_storage_for_all(pickle: &[u8], turns: usize, numbers: usize) -> Vec<u8> {
    let begin = b"FloatStorage\nX";
    let (mut out, mut rest, mut tensors) = (Vec::new(), pickle, 0usize);
    while let Some(at) = rest.windows(begin.len()).position(|w| w == begin) {
        let (before, key) = rest.split_at(at + begin.len());
        out.extend_from_slice(before);
        let digits = u32::from_le_bytes(*key.first_chunk().unwrap()) as usize;
        // Names of one parameter are neighbours only in part, so each parameter takes its turn by its own key.
        let own: usize = std::str::from_utf8(&key[4..4 + digits]).unwrap().parse().unwrap();
        let turn = (own % turns).to_string();
        out.extend_from_slice(&(turn.len() as u32).to_le_bytes());
        out.extend_from_slice(turn.as_bytes());
        rest = &key[4 + digits..];
        // `X` 3 `cpu`, then the length as `K` or `J`.
        let cpu = b"X\x03\0\0\0cpu";
        assert!(rest.starts_with(cpu));
        let length = &rest[cpu.len()..];
        out.extend_from_slice(cpu);
        out.push(b'J');
        out.extend_from_slice(&(numbers as u32).to_le_bytes());
        rest = &length[if length[0] == b'K' { 2 } else { 5 }..];
        tensors += 1;
    }
    assert!(tensors > 20);
    out.extend_from_slice(rest);
    out
}

#[test]
fn a_repeated_tensor_must_repeat() {
    let whole = std::fs::read(golden("plain_module.pth")).unwrap();
    let mut zip = zip::ZipArchive::new(Cursor::new(whole)).unwrap();
    let mut entries = Vec::new();
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        // The fifth tensor is `convs.0.all_modules.0.weight`, which repeats the first.
        if entry.name() == "plain_module/data/4" {
            bytes[0] ^= 64;
        }
        entries.push((entry.name().to_owned(), bytes));
    }
    let entries: Vec<(&str, &[u8])> = entries.iter().map(|(n, b)| (&n[..], &b[..])).collect();
    assert_eq!(
        refusal(&archive(&entries, CompressionMethod::Stored)),
        "tensor encoder.stages.0.0.convs.0.all_modules.0.weight: differs from \
         encoder.stages.0.0.convs.0.conv.weight, which it repeats"
    );
}

#[test]
fn cut_and_flipped_files_never_panic() {
    let whole = std::fs::read(golden("plain.pth")).unwrap();
    for length in (0..whole.len()).step_by(997) {
        refusal(&whole[..length]);
    }
    // Flipped bits may lie where nobody looks; what counts is that nothing breaks.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    for at in (0..whole.len()).step_by(331) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        artifact::Commit::file(&path, &bytes).unwrap();
        let _ = read(&path, &plain());
    }
}

#[test]
fn axes_of_mirroring_are_none_or_axes_of_the_patch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    // (0, 1, 2) as our writer puts it.
    let written = b"inference_allowed_mirroring_axes(K\x00K\x01K\x02t";
    let read_with = |value: &[u8]| {
        let mut whole = b"inference_allowed_mirroring_axes".to_vec();
        whole.extend(value);
        let bytes = changed(|name, bytes| {
            if !name.ends_with("data.pkl") {
                return Some(bytes);
            }
            let at = bytes.windows(written.len()).position(|w| w == written).unwrap();
            Some([&bytes[..at], &whole[..], &bytes[at + written.len()..]].concat())
        });
        artifact::Commit::file(&path, &bytes).unwrap();
        read(&path, &plain()).map(|c| c.mirror_axes).map_err(|e| e.message)
    };
    assert_eq!(read_with(b"N"), Ok(vec![]));
    assert_eq!(read_with(b")"), Ok(vec![]), "an empty tuple");
    assert_eq!(read_with(b"K\x01\x85"), Ok(vec![1]));
    assert_eq!(read_with(b"](K\x02K\x00e"), Ok(vec![0, 2]), "a list in another order");
    let wrong: [(&[u8], &str); 6] = [
        (b"K\x01K\x01\x86", "[1,1]"),
        (b"K\x03\x85", "[3]"),
        (b"J\xff\xff\xff\xff\x85", "[-1]"),
        (b"\x88\x85", "[true]"),
        (b"K\x01", "1"),
        (b"X\x01\x00\x00\x00z", "\"z\""),
    ];
    for (value, found) in wrong {
        let expected = format!(
            "inference_allowed_mirroring_axes = {found}, \
             expected None or axes of the patch, each at most once, such as (0, 1, 2)"
        );
        assert_eq!(read_with(value), Err(expected));
    }
    // A hundred thousand axes.
    let many = [b"](", "K\x01".repeat(100_000).as_bytes(), b"e"].concat();
    let message = read_with(&many).unwrap_err();
    assert!(
        message.contains("_axes = [1,1,1,") && message.contains("…, expected None"),
        "{message}"
    );
    assert!(message.len() < 300, "{}", message.len());
}

#[test]
fn weights_and_counts_that_no_model_has_are_refused() {
    for (number, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")]
    {
        // Of every storage in turn the last number.
        let tensors = parameters().len();
        for index in 0..tensors {
            let storage = format!("checkpoint/data/{index}");
            let bytes = changed(|name, mut bytes| {
                if name == storage {
                    let at = bytes.len() - 4;
                    bytes[at..].copy_from_slice(&number.to_le_bytes());
                }
                Some(bytes)
            });
            let said = refusal(&bytes);
            let end = format!(" is {shown}, expected finite numbers");
            assert!(said.starts_with("tensor ") && said.ends_with(&end), "{storage}: {said}");
        }
    }
    let with = |key: &str, number: i64| {
        let key = key.as_bytes();
        let bytes = changed(|name, bytes| {
            if !name.ends_with("data.pkl") {
                return Some(bytes);
            }
            let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len();
            assert_eq!(bytes[at], b'K');
            let long = [b"\x8a\x08", &number.to_le_bytes()[..]].concat();
            Some([&bytes[..at], &long[..], &bytes[at + 2..]].concat())
        });
        refusal(&bytes)
    };
    for (key, number) in
        [("current_epoch", 1 << 62), ("current_epoch", 1_000_000_001), ("fold", 1 << 62)]
    {
        let expected = format!("{key} = {number}, expected at most 1000000000");
        assert_eq!(with(key, number), expected);
    }
}

#[test]
fn a_checkpoint_without_axes_of_mirroring_is_not_mirrored() {
    let renamed = changed(|name, bytes| {
        let (from, to) = (b"inference_allowed_mirroring_axes", b"inference_allowed_mirroring_exes");
        Some(if name.ends_with("data.pkl") { replaced(&bytes, from, to) } else { bytes })
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pth");
    artifact::Commit::file(&path, &renamed).unwrap();
    assert_eq!(read(&path, &plain()).unwrap().mirror_axes, Vec::<usize>::new());
}
