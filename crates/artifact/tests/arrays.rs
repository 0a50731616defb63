//! `.npy` and `.npz`: what is written reads back as it was; headers that lie, and files cut off, are refused with one line
//! and without allocating what they claim.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use artifact::{Fault, npy, npz};
use half::f16;
use ndarray::{Array1, Array2, Array3, ArrayD, Dimension, IxDyn, arr1};
use std::io::Write;
use std::path::{Path, PathBuf};

fn file(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A `.npy` file with this header text, padded to 128 bytes, and data.
fn raw(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{header:117}");
    let length = u16::try_from(header.len() + 1).unwrap().to_le_bytes();
    [b"\x93NUMPY", &[version, 0][..], &length, header.as_bytes(), b"\n", data].concat()
}

#[test]
fn arrays_read_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let array = Array3::from_shape_fn((2, 3, 5), |(z, y, x)| (z * 100 + y * 10 + x) as i16 - 50);
    // A view whose memory is in another order is written in C order.
    let turned = array.view().permuted_axes([2, 0, 1]);
    let path = file(folder.path(), "a.npy", &npy::encode(&turned));
    assert_eq!(npy::read::<i16, ndarray::Ix3>(&path).unwrap(), turned);
    let values = arr1(&[0.0f32, 1.0, -2.5, 65504.0, 6e-8, f32::INFINITY]);
    let halves = values.mapv(f16::from_f32);
    let path = file(folder.path(), "h.npy", &npy::encode(&halves.view()));
    let read: Array1<f32> = npy::read_f16(&path).unwrap();
    assert_eq!(read, halves.mapv(f16::to_f32));
    let empty = Array2::<i32>::zeros((0, 4));
    let path = file(folder.path(), "e.npy", &npy::encode(&empty.view()));
    assert_eq!(npy::read::<i32, ndarray::Ix2>(&path).unwrap().dim(), (0, 4));
}

#[test]
fn the_data_of_a_npy_begins_at_a_multiple_of_64_and_its_header_is_numpys() {
    let bytes = npy::encode(&Array2::<f32>::zeros((2, 3)).view());
    assert_eq!(bytes.len(), 128 + 24);
    let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
    assert!(bytes[10..].starts_with(text.as_bytes()));
    assert_eq!(bytes[127], b'\n');
    let one = npy::encode(&arr1(&[1u8]).view());
    assert!(one[10..].starts_with(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }"));
}

#[test]
fn lying_and_broken_npy_headers_are_refused_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let header = |d: &str, f: &str, s: &str| {
        format!("{{'descr': '{d}', 'fortran_order': {f}, 'shape': {s}, }}")
    };
    let good = header("<f4", "False", "(2,)");
    let cases: [(Vec<u8>, &str); 13] = [
        (b"".to_vec(), "not a .npy file: is empty"),
        (b"\x93NUM".to_vec(), "not a .npy file: does not begin with the magic bytes"),
        (raw(2, &good, &[0; 8]), "not a .npy file: version 2, expected 1"),
        (raw(1, &good, &[0; 7]), "holds 7 bytes of data, but its header says <f4 [2]"),
        (raw(1, &good, &[0; 9]), "holds 9 bytes of data, but its header says <f4 [2]"),
        (raw(1, &good, &[0; 8])[..30].to_vec(), "not a .npy file: the header is cut off"),
        (
            raw(1, &header("<f4", "False", "(4611686018427387904,)"), &[0; 8]),
            "holds 8 bytes of data, but its header says <f4 [4611686018427387904]",
        ),
        (
            raw(1, &header("<f4", "False", "(4294967296, 4294967296)"), &[]),
            "holds 0 bytes of data, but its header says <f4 [4294967296, 4294967296]",
        ),
        (raw(1, &header("<f4", "True", "(2,)"), &[0; 8]), "fortran_order = True, expected C order"),
        (raw(1, &header("<f8", "False", "(1,)"), &[0; 8]), "holds <f8, expected <f4 (f32)"),
        (raw(1, &header(">f4", "False", "(2,)"), &[0; 8]), "holds >f4, expected <f4 (f32)"),
        (
            raw(1, &header("<f4", "False", "(-2,)"), &[0; 8]),
            "not a .npy file: shape is not a tuple of integers",
        ),
        (raw(1, &header("<f4", "False", "(1, 2)"), &[0; 8]), "has shape [1, 2], expected 1 axes"),
    ];
    for (i, (bytes, message)) in cases.iter().enumerate() {
        let path = file(folder.path(), &format!("{i}.npy"), bytes);
        assert_eq!(npy::read::<f32, ndarray::Ix1>(&path).unwrap_err().message, *message);
    }
    // No data at all, and an axis that no machine could hold.
    let lie = header("<f4", "False", "(0, 18446744073709551615)");
    let path = file(folder.path(), "zero.npy", &raw(1, &lie, &[]));
    assert_eq!(
        npy::read::<f32, ndarray::Ix2>(&path).unwrap_err().message,
        "holds 0 bytes of data, but its header says <f4 [0, 18446744073709551615]"
    );
    assert!(npy::read::<f32, ndarray::Ix1>(&folder.path().join("none.npy")).is_err());
}

/// What NumPy's own reader accepts: three keys in any order, either quote, spaces anywhere, and nothing else.
#[test]
fn every_way_to_write_a_header_is_read_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let read = |header: &str| {
        let path = file(folder.path(), "a.npy", &raw(1, header, &[0; 8]));
        npy::read::<f32, ndarray::Ix2>(&path).map(|a| a.dim()).map_err(|e| e.message)
    };
    for header in [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2)}",
        "{'shape': (1, 2,), 'fortran_order': False, 'descr': '<f4'}",
        "{\"fortran_order\":False,\"shape\":(1,2),\"descr\":\"<f4\"}",
        " { 'descr' :'<f4' , 'fortran_order' : False , 'shape' : ( 1 , 2 ) , } ",
    ] {
        assert_eq!(read(header), Ok((1, 2)), "{header}");
    }
    let rest = "'fortran_order': False, 'shape': (1, 2)";
    for (header, message) in [
        ("", "the header is not a dictionary"),
        ("[]", "the header is not a dictionary"),
        ("{}", "no descr in the header"),
        ("{'descr': '<f4', 'shape': (1, 2)}", "no fortran_order in the header"),
        ("{'descr': '<f4', 'fortran_order': False}", "no shape in the header"),
        (&format!("{{'descr': ['<f4'], {rest}}}"), "descr is not a plain type such as '<f4'"),
        (
            &format!("{{'descr': '<f4', 'x': 1, {rest}}}"),
            "the header has a key 'x', expected descr, fortran_order and shape",
        ),
        (&format!("{{'descr': '<f4', 'descr': '<f4', {rest}}}"), "the header has a key twice"),
        (&format!("{{'descr': '<f4', {rest}}}}}"), "the header goes on after its dictionary"),
        (
            &format!("{{'descr': '<f4' {rest}}}"),
            "the header is not a dictionary of descr, fortran_order and shape",
        ),
        (
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (1, 2)}",
            "fortran_order is not True or False",
        ),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': [1, 2]}",
            "shape is not a tuple of integers",
        ),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1, +2)}",
            "shape is not a tuple of integers",
        ),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,, 2)}",
            "shape is not a tuple of integers",
        ),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (,)}",
            "shape is not a tuple of integers",
        ),
        (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2",
            "shape is not a tuple of integers",
        ),
        // A decoy inside a string, which a search for keys would take for the real one.
        ("{'descr': \"'descr': '<f4'\", 'fortran_order': False, 'shape': (1, 2)}", "unknown descr"),
    ] {
        assert_eq!(read(header), Err(format!("not a .npy file: {message}")), "{header}");
    }
    let axes =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", "1,".repeat(65));
    let length = u16::try_from(axes.len()).unwrap().to_le_bytes();
    let bytes = [b"\x93NUMPY\x01\x00", &length[..], axes.as_bytes(), &[0; 4]].concat();
    let error = npy::Mapped::open(&file(folder.path(), "a.npy", &bytes)).unwrap_err();
    assert_eq!(error.message, "not a .npy file: shape has 65 axes, expected at most 64");
}

/// Data that begins where no f32 may lie can't be viewed.
#[test]
fn data_out_of_step_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
    for padding in 0..4usize {
        let header = format!("{header}{}", " ".repeat(padding));
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        let begin = 10 + header.len();
        let bytes = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), &[0; 8]].concat();
        let path = file(folder.path(), "a.npy", &bytes);
        let read = npy::read::<f32, ndarray::Ix1>(&path).map_err(|e| e.message);
        if begin.is_multiple_of(4) {
            assert_eq!(read, Ok(arr1(&[0.0, 0.0])));
        } else {
            let message =
                format!("its data begins at byte {begin}, expected a multiple of 4 (f32)");
            assert_eq!(read, Err(message));
        }
    }
}

/// Another implementation reads what is written here.
#[test]
fn another_reader_finds_the_same_arrays() {
    fn same<T: npy::Element + ndarray_npy::ReadableElement + PartialEq + std::fmt::Debug>(
        array: &Array3<T>,
    ) {
        let bytes = npy::encode(&array.view());
        let found = <Array3<T> as ndarray_npy::ReadNpyExt>::read_npy(&bytes[..]).unwrap();
        assert_eq!(found, *array);
    }
    let index = |(z, y, x): (usize, usize, usize)| 100 * z + 10 * y + x;
    same(&Array3::from_shape_fn((2, 3, 4), |i| index(i) as f32 / 3.0));
    same(&Array3::from_shape_fn((2, 3, 4), |i| index(i) as f64 / 3.0));
    same(&Array3::from_shape_fn((2, 3, 4), |i| index(i) as i16 - 99));
    same(&Array3::from_shape_fn((2, 3, 4), |i| index(i) as i32 - 99));
    same(&Array3::from_shape_fn((2, 3, 4), |i| index(i) as i64 - 99));
    same(&Array3::from_shape_fn((1, 2, 3), |i| index(i) as u8));
    same(&Array3::<f32>::zeros((0, 3, 4)));
}

fn weights() -> Vec<(String, ArrayD<f32>)> {
    let array = |shape: &[usize]| {
        ArrayD::from_shape_fn(IxDyn(shape), |i| i.slice().iter().sum::<usize>() as f32 / 3.0)
    };
    vec![("encoder.0.conv.0.weight".into(), array(&[4, 1, 3, 3, 3])), ("b".into(), array(&[4]))]
}

#[test]
fn an_npz_reads_back_and_the_same_arrays_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = npz::encode(&weights());
    let path = file(folder.path(), "w.npz", &bytes);
    assert_eq!(npz::read(&path).unwrap(), weights());
    assert_eq!(npz::encode(&npz::read(&path).unwrap()), bytes);
    // Time 0:00 and date 1980-01-01 in the first file's local header: no clock.
    assert_eq!(bytes[10..14], [0, 0, 33, 0]);
}

#[test]
fn a_lying_or_broken_npz_is_refused_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let good = npz::encode(&[("a".into(), arr1(&[1.0f32, 2.0]).into_dyn())]);
    let swap = |from: &[u8], to: &[u8]| {
        let at = good.windows(from.len()).position(|w| w == from).unwrap();
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        file(folder.path(), "x.npz", &bytes)
    };
    let error = npz::read(&swap(b"(2,), }       ", b"(4611686018427,), }")).unwrap_err();
    assert_eq!(
        error.message,
        "says 18446744073708 bytes of numbers, expected at most 16777216 in a file of this size"
    );
    // Where the claim could be true, the checksum of the entry notices.
    let error = npz::read(&swap(b"(2,)", b"(1,)")).unwrap_err();
    assert_eq!(
        error.message,
        "array a: holds more than 4 bytes of data, but its header says <f4 [1]"
    );
    let error = npz::read(&swap(&1f32.to_le_bytes(), &3f32.to_le_bytes())).unwrap_err();
    assert_eq!(error.message, "array a: cannot be unpacked: Invalid checksum");
    let cut = file(folder.path(), "cut.npz", &good[..good.len() - 30]);
    let error = npz::read(&cut).unwrap_err();
    assert!(error.message.starts_with("not a readable .npz file: "), "{error}");
    assert!(npz::read(&file(folder.path(), "empty.npz", b"")).is_err());
}

/// Made by `golden/npz/make_golden.py`: what NumPy itself writes, and archives with a right checksum over a lying header.
#[test]
fn numpys_own_archives_are_read_and_lies_behind_a_right_checksum_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/npz");
    for name in ["savez.npz", "savez_compressed.npz"] {
        let arrays = npz::read(&folder.join(name)).unwrap();
        assert_eq!(arrays.len(), 2, "{name}");
        assert_eq!(arrays[0].0, "layer.0.weight");
        let expected = ArrayD::from_shape_fn(IxDyn(&[2, 3]), |i| (3 * i[0] + i[1]) as f32);
        assert_eq!(arrays[0].1, expected, "{name}");
        assert_eq!(arrays[1], ("bias".into(), arr1(&[0.5f32, -1.0]).into_dyn()));
    }
    for (name, message) in [
        (
            "huge.npz",
            "array a: its header says <f4 [4611686018427387904], more than memory can hold",
        ),
        ("double.npz", "array a: holds <f8, expected <f4 (f32)"),
        ("fortran.npz", "array a: fortran_order = True, expected C order"),
    ] {
        assert_eq!(npz::read(&folder.join(name)).unwrap_err().message, message);
    }
}

/// 64 MiB of zeros that deflate to 64 KiB, behind headers that say two numbers or more than there can be. The archive's
/// checksum is wrong too: a reader that unpacks everything reports that, one that stops at the claim never gets there.
#[test]
fn an_entry_is_unpacked_no_further_than_its_header_says() {
    let folder = tempfile::tempdir().unwrap();
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated);
    for (shape, message) in [
        ("(2,)", "array a: holds more than 8 bytes of data, but its header says <f4 [2]"),
        (
            "(4611686018427387904,)",
            "array a: its header says <f4 [4611686018427387904], more than memory can hold",
        ),
    ] {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        archive.start_file("a.npy", options).unwrap();
        archive.write_all(&raw(1, &header, &vec![0; 64 << 20])).unwrap();
        let mut bytes = archive.finish().unwrap().into_inner();
        assert!(bytes.len() < 1 << 18);
        // The checksum in the central directory.
        let at = bytes.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        bytes[at + 16] ^= 1;
        let error = npz::read(&file(folder.path(), "long.npz", &bytes)).unwrap_err();
        assert_eq!((error.fault, error.message.as_str()), (Fault::Input, message));
    }
}

/// Other readers take another of the two.
#[test]
fn two_arrays_of_one_name_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = npy::encode(&ArrayD::<f32>::zeros(vec![2]).view());
    // Of the second name the first letter is overwritten: the zip library itself writes no name twice.
    for (names, expected) in [
        (["a.npy", "b.npy"], "its 2 entries have 1 names only"),
        (["a.npy", "a"], "two of its arrays are called a"),
        (["a.npy", "a.npy.npy"], "two of its arrays are called a"),
    ] {
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for name in names {
            let stored = zip::CompressionMethod::Stored;
            let options = zip::write::SimpleFileOptions::default().compression_method(stored);
            archive.start_file(name, options).unwrap();
            Write::write_all(&mut archive, &bytes).unwrap();
        }
        let mut whole = archive.finish().unwrap().into_inner();
        while let Some(at) = whole.windows(5).position(|w| w == b"b.npy") {
            whole[at] = b'a';
        }
        let path = file(folder.path(), "x.npz", &whole);
        let error = npz::read(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("not a readable .npz file: {expected}")), "{error}");
    }
}
