//! Small files that ask for much: brackets in a header, archives and pictures that unfold, lists that are compared with
//! themselves. Each is read or refused within the memory and time that its own bytes are worth.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod watching;

use artifact::dataset::DatasetJson;
use artifact::splits::Splits;
use artifact::{Record, image, nifti, npy, npz};
use libdeflater::{CompressionLvl, Compressor, Crc};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Everything here takes a second or two; what was wrong once took minutes or for ever. Machines may be busy.
const SOON: Duration = Duration::from_secs(120);

#[expect(clippy::disallowed_methods, reason = "a test's own file")]
fn put(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
}

fn deflate(content: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut out = vec![0; compressor.deflate_compress_bound(content.len())];
    let size = compressor.deflate_compress(content, &mut out).unwrap();
    out.truncate(size);
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// One test: the largest request is a property of the process.
#[test]
fn hostile_files_cost_what_they_are_worth() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let begun = Instant::now();
    brackets(folder);
    ends_of_archives(folder);
    bombs_of_arrays(folder);
    pictures(folder);
    volumes(folder);
    lists(folder);
    assert!(begun.elapsed() < SOON, "took {:?}", begun.elapsed());
}

/// Nested brackets and parentheses wherever a value may stand. Python's grammar allows them; a parser that goes back and
/// forth takes 2ⁿ steps, one that calls itself runs out of stack.
fn brackets(folder: &Path) {
    let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(5000), close.repeat(5000));
    for value in [nested("[", "]"), nested("(", ",)"), nested("{1:", "}"), "[".repeat(30000)] {
        for header in [
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': {value}, }}"),
            format!("{{'x': {value}, 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}}"),
            format!("{{'descr': {value}, 'fortran_order': False, 'shape': (2,), }}"),
            format!("{{'descr': '<f4', 'fortran_order': {value}, 'shape': (2,), }}"),
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {value}, }}"),
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (2, {value}), }}"),
            format!("{{{value}: '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}}"),
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }} {value}"),
            value.clone(),
        ] {
            let length = u16::try_from(header.len()).unwrap().to_le_bytes();
            let bytes = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &[0; 8]].concat();
            let path = put(folder, "a.npy", &bytes);
            let error = npy::read::<f32, ndarray::Ix1>(&path).unwrap_err();
            assert!(error.message.starts_with("not a .npy file: "), "{error}");
            assert!(error.message.len() < 200 && !error.message.contains('\n'), "{error}");
        }
    }
}

/// Entries of an archive that share one deflate stream: a `.npy` of so many zeros, under so many names.
fn bomb(entries: usize, zeros: usize) -> Vec<u8> {
    let array = npy::encode(&ndarray::Array1::<f32>::zeros(zeros).view());
    let (data, crc) = (deflate(&array), crc32(&array));
    let size = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
    // Version 2.0, no flags, deflate, no time, 1980-01-01; then checksum, sizes.
    let common = [
        &[20u8, 0, 0, 0, 8, 0, 0, 0, 33, 0][..],
        &crc.to_le_bytes(),
        &size(data.len()),
        &size(array.len()),
    ]
    .concat();
    let mut file = [b"PK\x03\x04", &common[..], &[2, 0, 0, 0], b"a0", &data].concat();
    let directory = file.len();
    for i in 0..entries {
        let name = format!("a{i}.npy");
        file.extend(
            [b"PK\x01\x02\x14\x00", &common[..], &[name.len() as u8], &[0; 17], name.as_bytes()]
                .concat(),
        );
    }
    let count = u16::try_from(entries).unwrap().to_le_bytes();
    let length = size(file.len() - directory);
    file.extend(
        [&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &length, &size(directory), &[0, 0]].concat(),
    );
    file
}

fn bombs_of_arrays(folder: &Path) {
    // An honest archive that unfolds far is read.
    let few = put(folder, "few.npz", &bomb(2, 1 << 20));
    assert_eq!(npz::read(&few).unwrap().len(), 2);

    let bytes = bomb(64, 8 << 20);
    assert!(bytes.len() < 60 << 10, "{} bytes say 2 GiB", bytes.len());
    let path = put(folder, "bomb.npz", &bytes);
    drop(bytes);
    watching::forget();
    let error = npz::read(&path).unwrap_err();
    let expected = format!("says {} bytes of numbers, expected at most ", 64u64 * 4 * (8 << 20));
    assert!(error.message.starts_with(&expected), "{error}");
    // Names that nobody asked for are refused as such, before any of them is unpacked.
    let error = npz::read_if(&path, |found| {
        assert_eq!((found.len(), &found[63]), (64, &("a63".into(), vec![8 << 20])));
        Err(artifact::Error::input(&path, "a0: found"))
    });
    assert_eq!(error.unwrap_err().message, "a0: found");
    watching::none_above(1 << 20);
}

/// Ends of archives that were never begun: each sends a reader back to the first byte, or says that millions of entries follow.
fn ends_of_archives(folder: &Path) {
    let end = |count: u16, size: u32, begin: u32| {
        let numbers = [
            &count.to_le_bytes()[..],
            &count.to_le_bytes(),
            &size.to_le_bytes(),
            &begin.to_le_bytes(),
        ];
        [&b"PK\x05\x06\0\0\0\0"[..], &numbers.concat(), &[0, 0]].concat()
    };
    let many = end(1, 46, 0).repeat(100_000);
    // An entry's beginning, so that there is something to find, with the ends in front of it and in its comment.
    let entry = |comment: &[u8]| {
        let mut entry = b"PK\x01\x02".to_vec();
        entry.resize(46, 0);
        entry[32..34].copy_from_slice(&(comment.len() as u16).to_le_bytes());
        [&entry[..], comment].concat()
    };
    let inside = entry(&many[..44_000]);
    // A directory of another size than its place allows, and of more entries than fit.
    let far = [&many[..], &entry(&[]), &end(1, 46, many.len() as u32)].concat();
    let counted = [&many[..], &entry(&[]), &end(60_000, 46, many.len() as u32)].concat();
    let nested = [&inside[..], &end(1, inside.len() as u32, 0)].concat();
    let wide = {
        let end_64 = [
            &b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0"[..],
            &(1u64 << 40).to_le_bytes(),
            &(1u64 << 40).to_le_bytes(),
            &46u64.to_le_bytes(),
            &(many.len() as u64).to_le_bytes(),
        ]
        .concat();
        let locator =
            [&b"PK\x06\x07\0\0\0\0"[..], &(many.len() as u64 + 46).to_le_bytes(), &[1, 0, 0, 0]]
                .concat();
        [&many[..], &entry(&[]), &end_64, &locator, &end(u16::MAX, u32::MAX, u32::MAX)].concat()
    };
    // What stands at the right place is no entry, so that a reader would try every end in front of it.
    let broken = [&many[..], b"PK\x01\x02", &[0xff; 42], &end(1, 46, many.len() as u32)].concat();
    // Ends inside an entry's own bytes harm nobody.
    let harmless = {
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        archive.start_file("a.npy", options).unwrap();
        let numbers: Vec<f32> = many.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let array = npy::encode(&ndarray::Array1::from(numbers).view());
        std::io::Write::write_all(&mut archive, &array).unwrap();
        archive.finish().unwrap().into_inner()
    };
    assert_eq!(npz::read(&put(folder, "a.npz", &harmless)).unwrap().len(), 1);
    watching::forget();
    for (bytes, message) in [
        (&broken, ""),
        (&many, "its directory is said to have 46 bytes from byte 0, but ends at byte 2199978"),
        (&counted, "its directory of 46 bytes is said to have 60000 entries"),
        (&wide, "its directory of 46 bytes is said to have 1099511627776 entries"),
        (&nested, "its directory holds an end of another one"),
        (&far, ""),
    ] {
        let error = npz::read(&put(folder, "a.npz", bytes)).unwrap_err();
        assert!(
            error.message.starts_with(&format!("not a readable .npz file: {message}")),
            "{error}"
        );
    }
    watching::none_above(1 << 20);
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let whole = [kind, data].concat();
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    [&length[..], &whole, &crc32(&whole).to_be_bytes()].concat()
}

/// A picture of 8 bits of grey.
fn picture(width: u32, height: u32, interlaced: bool, zlib: &[u8]) -> Vec<u8> {
    let header =
        [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, u8::from(interlaced)]];
    let chunks = [chunk(b"IHDR", &header.concat()), chunk(b"IDAT", zlib), chunk(b"IEND", &[])];
    [&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat()].concat()
}

fn zlib(content: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut out = vec![0; compressor.zlib_compress_bound(content.len())];
    let size = compressor.zlib_compress(content, &mut out).unwrap();
    out.truncate(size);
    out
}

fn pictures(folder: &Path) {
    watching::forget();
    // A hundred bytes that claim 256 MB, and half a megabyte that could hold as much, but doesn't.
    let path = put(folder, "a.png", &picture(16000, 16000, false, &zlib(&[0; 100])));
    let error = image::read(&path).unwrap_err();
    assert!(error.message.ends_with("but its header claims 256000000"), "{error}");
    assert!(image::read_header(&path).is_err());
    // Nothing that deflate could shorten: the words of xorshift.
    let mut word = 1u64;
    let mut next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()
    };
    let noise: Vec<u8> = (0..62_500).flat_map(|_| next()).collect();
    for interlaced in [false, true] {
        let path = put(folder, "b.png", &picture(16000, 16000, interlaced, &zlib(&noise)));
        let error = image::read(&path).unwrap_err();
        assert!(error.message.starts_with("is not a readable PNG: "), "{error}");
    }
    watching::none_above(8 << 20);

    // The seven passes of an interlaced picture: first x, first y, steps of x and y, as the format defines them.
    const PASSES: [[usize; 4]; 7] = [
        [0, 0, 8, 8],
        [4, 0, 8, 8],
        [0, 4, 4, 8],
        [2, 0, 4, 4],
        [0, 2, 2, 4],
        [1, 0, 2, 2],
        [0, 1, 1, 2],
    ];
    let (width, height) = (13, 11);
    let value = |x: usize, y: usize| (7 * x + 31 * y) as u8;
    let mut rows = Vec::new();
    for [x0, y0, dx, dy] in PASSES {
        for y in (y0..height).step_by(dy) {
            rows.push(0);
            rows.extend((x0..width).step_by(dx).map(|x| value(x, y)));
        }
    }
    let bytes = picture(width as u32, height as u32, true, &zlib(&rows));
    let found = image::read(&put(folder, "c.png", &bytes)).unwrap().channels;
    let expected = ndarray::Array4::from_shape_fn((1, 1, height, width), |(_, _, y, x)| {
        f32::from(value(x, y))
    });
    assert_eq!(found, expected);
}

/// One gzip member of this deflate stream, with checksum and length as given.
fn gzip(deflated: &[u8], crc: u32, length: usize) -> Vec<u8> {
    let trailer = [crc.to_le_bytes(), (length as u32).to_le_bytes()].concat();
    [&b"\x1f\x8b\x08\0\0\0\0\0\0\x03"[..], deflated, &trailer].concat()
}

fn volumes(folder: &Path) {
    // 3 × 4 × 2 voxels of 8 bytes, and behind them 64 MiB of zeros: what the header speaks of is read, no more.
    let small = golden("nifti/type_little_f8.nii");
    let path = put(folder, "small.nii", &small);
    let expected = nifti::read(&path).unwrap();
    let mut long = small.clone();
    long.resize(64 << 20, 0);
    let packed = gzip(&deflate(&long), crc32(&long), long.len());
    drop(long);
    assert!(packed.len() < 100 << 10);
    let path = put(folder, "long.nii.gz", &packed);
    watching::forget();
    assert_eq!(nifti::read(&path).unwrap(), expected);
    watching::none_above(2 << 20);

    // Header and trailer agree on 800 MB, and a megabyte could hold as much, but the data breaks off.
    let mut lying = small;
    for axis in 1..=3 {
        lying[40 + 2 * axis..42 + 2 * axis].copy_from_slice(&464i16.to_le_bytes());
    }
    let needed = 352 + 8 * 464 * 464 * 464;
    // One stored block per 65535 bytes, none of them the last.
    let mut blocks = Vec::new();
    lying.resize(1 << 20, 1);
    for part in lying.chunks(65535) {
        let length = part.len() as u16;
        blocks.extend([&[0], &length.to_le_bytes()[..], &(!length).to_le_bytes(), part].concat());
    }
    let path = put(folder, "lying.nii.gz", &gzip(&blocks, 0, needed));
    watching::forget();
    let error = nifti::read(&path).unwrap_err();
    assert!(error.message.starts_with("gzip data is broken or cut off"), "{error}");
    watching::none_above(8 << 20);
}

/// Lists and names that would be compared with each other, or copied for each of many others.
fn lists(folder: &Path) {
    let values: Vec<String> = (0..400_000).map(|i| (i % 32_000).to_string()).collect();
    let labels = format!(r#""background": 0, "whole": [{}]"#, values.join(", "));
    let many: Vec<String> = (0..32_000).map(|i| format!(r#""label {i}": {i}"#)).collect();
    for labels in [labels, many.join(", ")] {
        let text = format!(
            r#"{{"channel_names": {{"0": "CT"}}, "labels": {{{labels}}}, "regions_class_order": [1]}}"#
        );
        let _ = DatasetJson::load(&put(folder, "dataset.json", text.as_bytes()));
    }
    // Deeper than any parser should follow.
    let deep = format!("{}1{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    let error = DatasetJson::load(&put(folder, "dataset.json", deep.as_bytes())).unwrap_err();
    assert!(error.message.starts_with("is not JSON: recursion limit"), "{error}");
    let error =
        Record::<Splits>::load(&put(folder, "splits.toml", format!("a = {deep}").as_bytes()));
    assert!(error.unwrap_err().message.contains("recursion"));
    let dotted = format!("{} = 1", vec!["a"; 100_000].join("."));
    let error = Record::<Splits>::load(&put(folder, "splits.toml", dotted.as_bytes())).unwrap_err();
    assert!(error.message.contains("recursion"), "{error}");

    // A megabyte of a key above a hundred thousand others, and a fault that has to be placed among them.
    let mut text = String::from("[artifact]\nkind = \"splits\"\nversion = 1\n");
    writeln!(text, "[{}]", "k".repeat(1 << 20)).unwrap();
    for i in 0..100_000 {
        writeln!(text, "x{i} = 1").unwrap();
    }
    text.push_str("[[folds]]\ntrain = 1\n");
    let error = Record::<Splits>::load(&put(folder, "splits.toml", text.as_bytes())).unwrap_err();
    assert!(error.message.contains("(folds[0].train): invalid type"), "{error}");
}
