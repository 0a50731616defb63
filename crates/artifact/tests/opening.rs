//! Files that inputs name: regular ones only, and what went astray is called by its name.
#![cfg(unix)]

use artifact::dataset::{Dataset, DatasetJson};
use artifact::inspect::AnyRecord;
use artifact::npy::Mapped;
use artifact::plan::Plan;
use artifact::{Error, Fault, Record, file, hash_file, image, nifti, npz};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

type Reader = (&'static str, &'static str, fn(&Path) -> Result<(), Error>);

/// Everything that opens a file by a name from outside, with the ending that it is asked for.
const READERS: [Reader; 12] = [
    ("image::read", ".nii.gz", |p| image::read(p).map(drop)),
    ("image::read", ".nii", |p| image::read(p).map(drop)),
    ("image::read", ".png", |p| image::read(p).map(drop)),
    ("image::read_header", ".nii.gz", |p| image::read_header(p).map(drop)),
    ("image::read_header", ".png", |p| image::read_header(p).map(drop)),
    ("ByteVolume::read", ".nii.gz", |p| nifti::ByteVolume::read(p).map(drop)),
    ("Mapped::open", ".npy", |p| Mapped::open(p).map(drop)),
    ("npz::read", ".npz", |p| npz::read(p).map(drop)),
    ("Record::load", ".toml", |p| Record::<Plan>::load(p).map(drop)),
    ("AnyRecord::load", ".toml", |p| AnyRecord::load(p).map(drop)),
    ("DatasetJson::load", ".json", |p| DatasetJson::load(p).map(drop)),
    ("hash_file", "", |p| hash_file(p).map(drop)),
];

/// What a reader says of a path; a reader that waits or reads for ever fails the test, not the machine.
fn said(&(name, ending, read): &Reader, path: PathBuf) -> Error {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(read(&path)));
    let result = receiver.recv_timeout(Duration::from_secs(20));
    let result = result.unwrap_or_else(|_| panic!("{name} of {ending} never ended"));
    result.expect_err("nothing of this kind can be read")
}

/// A link's own name is there: what isn't is where it leads, be it the file's or its folder's.
#[test]
fn links_that_lead_nowhere_are_called_so() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: String| folder.path().join(name);
    symlink("gone", at("folder".into())).unwrap();
    symlink("circle", at("circle".into())).unwrap();
    for reader in &READERS {
        let (name, ending, _) = reader;
        let [nowhere, loops] =
            ["nowhere", "loop"].map(|kind| format!("{kind}_{}{ending}", name.replace(':', "_")));
        symlink("../elsewhere", at(nowhere.clone())).unwrap();
        symlink(&loops, at(loops.clone())).unwrap();
        let (lies, circle) = (at("folder".into()), at("circle".into()));
        for (file, end) in [
            (nowhere, "; it is a link to ../elsewhere, which isn't there".into()),
            (loops.clone(), format!("; it is a link to {loops}, which leads back to itself")),
            (
                format!("folder/a{ending}"),
                format!(
                    "; it lies in {}, which is a link to gone, which isn't there",
                    lies.display()
                ),
            ),
            (
                format!("circle/a{ending}"),
                format!(
                    "; it lies in {}, which is a link to circle, which leads back to itself",
                    circle.display()
                ),
            ),
        ] {
            let error = said(reader, at(file));
            assert!(error.message.ends_with(&end), "{name}: {error}");
            assert_eq!(error.fault, Fault::Input);
        }
        let error = said(reader, at(format!("nothing{ending}")));
        assert!(!error.message.contains("link"), "{name}: {error}");
    }
}

#[test]
fn only_regular_files_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: String| folder.path().join(name);
    for reader in &READERS {
        let (name, ending, _) = reader;
        let [pipe, zeros, socket, inside] = ["pipe", "zeros", "socket", "folder"]
            .map(|kind| at(format!("{kind}_{}{ending}", name.replace(':', "_"))));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        symlink("/dev/zero", &zeros).unwrap();
        let _listening = UnixListener::bind(&socket).unwrap();
        std::fs::create_dir(&inside).unwrap();
        let kinds =
            [(pipe, "a pipe"), (zeros, "a device"), (socket, "a socket"), (inside, "a folder")];
        for (path, kind) in kinds {
            let error = said(reader, path);
            assert_eq!(error.message, format!("is {kind}, expected a regular file"), "{name}");
            assert_eq!(error.fault, Fault::Input, "{name}");
            assert!(error.hint.is_some(), "{name}");
        }
    }
}

#[test]
fn a_description_that_is_a_pipe_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dataset.json");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let error = Dataset::load(folder.path()).unwrap_err();
    assert_eq!(error.message, "is a pipe, expected a regular file");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own files")]
fn a_link_to_a_file_is_that_file() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    std::fs::write(&file, "content").unwrap();
    symlink(&file, &link).unwrap();
    assert_eq!(file::read(&link, "read").unwrap(), b"content");
    assert_eq!(hash_file(&link).unwrap(), hash_file(&file).unwrap());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own files")]
fn what_went_astray_is_called_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n".to_vec();
    let utf16: Vec<u8> =
        std::iter::once(0xfeff).chain("{}".encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let mut dicom = vec![0; 400];
    dicom[128..132].copy_from_slice(b"DICM");
    let page = b"<!DOCTYPE html><html><body>Not found</body></html>".to_vec();
    let contents: [(Vec<u8>, &str); 6] = [
        (lfs, "git-lfs pointer"),
        (utf16, "UTF-16 text"),
        (dicom, "DICOM file"),
        (page, "HTML page"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0".to_vec(), "JPEG picture"),
        (vec![], "empty"),
    ];
    for reader in
        READERS.iter().filter(|(name, ..)| !["hash_file", "ByteVolume::read"].contains(name))
    {
        let (name, ending, _) = reader;
        for (content, expected) in &contents {
            // An empty record is a record without its first table.
            if ending == &".toml" && content.is_empty() {
                continue;
            }
            let path = folder.path().join(format!("file{ending}"));
            std::fs::write(&path, content).unwrap();
            let error = said(reader, path);
            assert!(error.message.contains(expected), "{name} of {ending}: {}", error.message);
            assert_eq!(error.fault, Fault::Input);
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own files")]
fn json_with_a_byte_order_mark_or_nothing_is_refused_for_that() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dataset.json");
    let cases: [(&[u8], &str); 4] = [
        (b"\xef\xbb\xbf{\"labels\": {}}", "begins with a byte-order mark (BOM), expected JSON"),
        (b" \n", "is empty, expected JSON"),
        (
            b"{\"a\": \"\xe4\"}",
            "cannot read this description of the data set: byte 7 is not UTF-8 text",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "cannot read this description of the data set: it is a git-lfs pointer, not the file itself",
        ),
    ];
    for (bytes, expected) in cases {
        std::fs::write(&path, bytes).unwrap();
        let error = Dataset::load(folder.path()).unwrap_err();
        assert_eq!(error.message, expected);
        assert!(!error.hint.unwrap_or_default().contains("give the folder"), "{expected}");
    }
}
