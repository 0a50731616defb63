//! Files that lie: one line each, no panic, and no memory beyond what the bytes on disk can hold.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod watching;

use artifact::nifti;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nifti").join(name))
        .unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a test's own file")]
fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

/// One gzip member.
fn packed(content: &[u8]) -> Vec<u8> {
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let mut out = vec![0; compressor.gzip_compress_bound(content.len())];
    let size = compressor.gzip_compress(content, &mut out).unwrap();
    out.truncate(size);
    out
}

/// The message for a file of this name and content.
fn refusal(folder: &Path, name: &str, content: &[u8]) -> String {
    let path: PathBuf = folder.join(name);
    write(&path, content);
    let error = nifti::read(&path).expect_err(name);
    assert!(!error.message.contains('\n'), "{error}");
    assert_eq!(error.path, path);
    error.message
}

/// A small file whose header claims 30000³ voxels of 8 bytes.
fn claims_216_terabytes() -> Vec<u8> {
    let mut bytes = golden("type_little_f8.nii");
    for axis in 1..=3 {
        bytes[40 + 2 * axis..42 + 2 * axis].copy_from_slice(&30000i16.to_le_bytes());
    }
    bytes
}

// One test: the largest request is a property of the process.
#[test]
fn lying_files_are_refused_without_allocating_what_they_claim() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lying = claims_216_terabytes();
    let whole = golden("gzip_one.nii.gz");
    watching::forget();

    let found = refusal(folder, "a.nii", &lying);
    assert_eq!(found, "content has 544 bytes, but its header claims 216000000000352");
    let found = refusal(folder, "a.nii.gz", &packed(&lying));
    assert!(
        found.starts_with("holds at most ") && found.ends_with("its header claims 216000000000352"),
        "{found}"
    );

    // A trailer that claims 4 GiB, on a header that claims little and on one that claims as much.
    let mut trailer = packed(&golden("type_little_f8.nii"));
    let end = trailer.len();
    trailer[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(refusal(folder, "b.nii.gz", &trailer).starts_with("gzip data is broken or cut off: "));
    let mut both = packed(&lying);
    let end = both.len();
    both[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(refusal(folder, "c.nii.gz", &both).starts_with("holds at most "));

    for cut in 0..whole.len() {
        let found = refusal(folder, "cut.nii.gz", &whole[..cut]);
        let expected =
            ["gzip data is broken or cut off: ", "sizeof_hdr = ", "header has ", "is empty, "];
        assert!(expected.iter().any(|e| found.starts_with(e)), "{cut} bytes: {found}");
    }
    let plain = golden("place_s.nii");
    for cut in 0..plain.len() {
        let found = refusal(folder, "cut.nii", &plain[..cut]);
        let expected = match cut {
            0 => "is empty, ",
            1..348 => "header has ",
            _ => "content has ",
        };
        assert!(found.starts_with(expected), "{cut} bytes: {found}");
    }
    watching::none_above(1 << 20);

    every_damaged_header_is_read_or_refused(folder);
    // A changed dim can honestly ask for all that 544 bytes hold, never for more.
    watching::none_above(1 << 20);
}

/// Each header byte takes each of a few values; whatever it means, nothing panics.
fn every_damaged_header_is_read_or_refused(folder: &Path) {
    let path = folder.join("damaged.nii");
    for name in ["type_little_f8.nii", "type_big_i2.nii", "nifti2_big.nii", "dims_4d.nii"] {
        let bytes = golden(name);
        let (mut read, mut refused) = (0, 0);
        for at in 0..352 {
            for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                match nifti::decode(&path, vec![damaged]) {
                    Ok(_) => read += 1,
                    Err(error) => {
                        assert!(!error.message.contains('\n'), "{error}");
                        refused += 1;
                    }
                }
            }
        }
        assert!(read > 500 && refused > 50, "{name}: {read} read, {refused} refused");
    }
}

#[test]
fn each_fault_has_its_own_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let base = golden("place_s.nii");
    let change = |at: usize, with: &[u8]| {
        let mut bytes = base.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let scalars = "expected a scalar type (u8 i8 u16 i16 u32 i32 u64 i64 f32 f64)";
    let sform =
        "sform = [[0.0, 0.0, 0.0, -7.5], [2.0, 0.0, 0.0, 8.25], [0.0, 1.8, 3.2, 9.0]]".to_string();
    let mut flat = base.clone();
    flat[284..292].fill(0);
    let cases: Vec<(Vec<u8>, String)> = vec![
        (change(0, &[9]), "sizeof_hdr = 265, expected 348 (NIfTI-1) or 540 (NIfTI-2)".into()),
        (change(344, b"xyz"), r#"magic = "xyz\x00", expected "n+1\x00" or "ni1\x00""#.into()),
        (change(344, b"ni1"), "magic says a pair of .hdr and .img, which the file name does not".into()),
        (change(40, &[1]), "dim[0] = 1, expected 2 to 7 axes".into()),
        (change(42, &[0, 0]), "dim[1] = 0, expected 1 to 32767".into()),
        (change(40, &[5, 0, 3, 0, 4, 0, 2, 0, 2, 0, 2, 0]), "dim = [3, 4, 2, 2, 2], expected at most one axis longer than 1 after x, y, z (the channels)".into()),
        (change(70, &[128, 0]), format!("datatype = 128 (RGB), {scalars}")),
        (change(70, &[0, 6]), format!("datatype = 1536 (128-bit float), {scalars}")),
        (change(70, &[7, 7]), format!("datatype = 1799 (unknown), {scalars}")),
        (change(108, &1e20f32.to_le_bytes()), "vox_offset = 100000002004087730000, expected at least 348".into()),
        (flat, format!("{sform} is not a rotation with scales and qform_code is 0, expected an orthonormal sform or a qform")),
    ];
    for (bytes, expected) in cases {
        let found = refusal(folder, "x.nii", &bytes);
        // Entries of the matrix are f32 in the file.
        let found = found.replace("1.7999999523162842", "1.8").replace("3.200000047683716", "3.2");
        assert_eq!(found, expected);
    }
    // Sizes of NIfTI-2 that are above 0 as stored, but nothing in millimetres, or without end.
    let wide = golden("nifti2_little.nii");
    for (size, unit) in [(5e-324f64, 3i32), (1e308, 1)] {
        let mut bytes = wide.clone();
        bytes[112..120].copy_from_slice(&size.to_le_bytes());
        bytes[344..352].fill(0);
        bytes[500..504].copy_from_slice(&unit.to_le_bytes());
        let found = refusal(folder, "size.nii", &bytes);
        assert!(
            found.starts_with("has spacing [") && found.ends_with("expected positive numbers"),
            "{found}"
        );
    }
    let mut half = golden("pair.hdr");
    assert_eq!(
        refusal(folder, "half.hdr", &half),
        "half of a pair, but its .img file is missing beside it"
    );
    half[344..347].copy_from_slice(b"n+1");
    half[108..112].copy_from_slice(&352f32.to_be_bytes());
    write(&folder.join("single.img"), &[0; 400]);
    assert_eq!(
        refusal(folder, "single.hdr", &half),
        "magic says a single .nii, which the file name does not"
    );
    let missing = nifti::read(&folder.join("none.nii.gz")).unwrap_err();
    assert_eq!(missing.message, "cannot read: No such file or directory (os error 2)");
    assert_eq!(missing.fault, artifact::Fault::Input);
}
