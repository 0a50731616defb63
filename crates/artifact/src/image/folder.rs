//! The images of a folder, told apart by their names alone: which case they show, and which of its channels.
//!
//! `CASE_0000.nii.gz`, `CASE_0001.nii.gz`, … are the channels of one case, whatever their endings; a file without such a
//! number, or whose case has no channel 0, is an image by itself. Hidden files and macOS's `._` companions are no images. A
//! pair `.hdr`, `.img` is one image. Two files that lead to the same image are an error: none of them is the better one. A file
//! whose name isn't text is no case's, for nothing could be written under its name: [`Folder::unnamed`] has them.

use super::{ENDINGS, split_ending};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

/// The images of a folder by name.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    /// File names by what comes before their endings; of a pair the header.
    images: BTreeMap<String, Vec<String>>,
    /// Images whose names aren't text, sorted.
    unnamed: Vec<PathBuf>,
}

/// The files of one case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseFiles {
    /// One file without a channel number.
    Whole(PathBuf),
    /// Files by channel number: 0 is among them, others may be missing.
    Channels(BTreeMap<usize, PathBuf>),
}

impl Folder {
    /// Lists a folder.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn read(path: &Path) -> Result<Self> {
        let fail = |e| Error::io(path, "read this folder", &e);
        let mut images = BTreeMap::<String, Vec<String>>::new();
        let mut unnamed = Vec::new();
        for entry in std::fs::read_dir(path).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            // Hidden files and those of other kinds may be called what they like.
            let hidden = name.as_encoded_bytes().starts_with(b".");
            if !hidden && stem_bytes(&name).is_some() {
                match name.into_string() {
                    Ok(name) => {
                        let stem = split_ending(&name).map_or("", |(stem, _)| stem).to_string();
                        images.entry(stem).or_default().push(name);
                    }
                    Err(name) => unnamed.push(path.join(name)),
                }
            }
        }
        unnamed.sort();
        for names in images.values_mut() {
            names.sort();
            let voxels = |name: &String| split_ending(name).is_some_and(|(_, e)| is_voxels(e));
            let paired = names.iter().any(|name| !voxels(name) && name.contains(".hdr"));
            // The voxels of a pair are no second image, but twice the voxels are.
            if paired && names.iter().filter(|name| voxels(name)).count() == 1 {
                names.retain(|name| !voxels(name));
            }
        }
        Ok(Self { path: path.into(), images, unnamed })
    }

    /// As [`Self::read`]; empty if there is no such folder.
    ///
    /// # Errors
    /// If it can't be read for another reason.
    pub fn read_if_there(path: &Path) -> Result<Self> {
        match path.try_exists() {
            Ok(false) => {
                Ok(Self { path: path.into(), images: BTreeMap::new(), unnamed: Vec::new() })
            }
            _ => Self::read(path),
        }
    }

    /// The cases that nothing can be made of, because their names aren't UTF-8: the error of each one's first file.
    pub fn unnamed(&self) -> Vec<Error> {
        let mut cases = BTreeMap::new();
        for file in &self.unnamed {
            cases.entry(case_bytes(file)).or_insert_with(|| crate::name::not_text(file));
        }
        cases.into_values().collect()
    }

    /// Names without endings, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.images.keys().map(String::as_str)
    }

    /// The image of this name without ending.
    ///
    /// # Errors
    /// If several files are it.
    pub fn image(&self, name: &str) -> Result<Option<PathBuf>> {
        match self.images.get(name).map(Vec::as_slice) {
            None | Some([]) => Ok(None),
            Some([file]) => Ok(Some(self.path.join(file))),
            Some([file, other, ..]) => Err(twice(&self.path.join(file), &self.path.join(other))),
        }
    }

    /// All cases, sorted: names, without the channel numbers of those that have a channel 0.
    pub fn cases(&self) -> BTreeSet<&str> {
        self.names().map(|name| self.channel(name).map_or(name, |(case, _)| case)).collect()
    }

    /// The files of a case.
    ///
    /// # Errors
    /// If two files lead to the same channel.
    pub fn case(&self, case: &str) -> Result<Option<CaseFiles>> {
        let whole = self.image(case)?.filter(|_| self.channel(case).is_none());
        let mut channels = BTreeMap::new();
        let numbers = format!("{case}_0000")..=format!("{case}_9999");
        for (name, _) in self.images.range(numbers) {
            if let Some((_, channel)) = self.channel(name).filter(|(of, _)| *of == case) {
                channels.extend(self.image(name)?.map(|file| (channel, file)));
            }
        }
        match (whole, channels.first_key_value()) {
            (Some(whole), Some((_, first))) => Err(twice(first, &whole)),
            (Some(whole), None) => Ok(Some(CaseFiles::Whole(whole))),
            (None, Some(_)) => Ok(Some(CaseFiles::Channels(channels))),
            (None, None) => Ok(None),
        }
    }

    /// Case and channel of a name, if the case has a channel 0.
    fn channel<'a>(&self, name: &'a str) -> Option<(&'a str, usize)> {
        split_channel(name).filter(|(case, _)| self.images.contains_key(&format!("{case}_0000")))
    }
}

/// `CASE_0001` → (`CASE`, 1): four digits, as nnU-Net names channels.
pub fn split_channel(name: &str) -> Option<(&str, usize)> {
    let (case, digits) = name.rsplit_once('_')?;
    let number = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit());
    Some((case, digits.parse().ok().filter(|_| number && !case.is_empty())?))
}

/// [`split_ending`]'s first part of names that need not be text.
fn stem_bytes(name: &OsStr) -> Option<&[u8]> {
    ENDINGS.iter().find_map(|ending| name.as_encoded_bytes().strip_suffix(ending.as_bytes()))
}

/// What comes before ending and channel number in a name of any bytes.
pub(crate) fn case_bytes(file: &Path) -> Vec<u8> {
    let name = file.file_name().unwrap_or_default();
    let stem = stem_bytes(name).unwrap_or(name.as_encoded_bytes());
    let digits = |number: &[u8]| number.iter().all(u8::is_ascii_digit);
    match stem.split_last_chunk::<5>() {
        Some((case, [b'_', number @ ..])) if !case.is_empty() && digits(number) => case.into(),
        _ => stem.into(),
    }
}

/// Whether the files of one case are different images, by name and behind all links.
///
/// # Errors
/// Names the first two that are the same but for their endings or their folder's spelling, or of which one is a link to the
/// other. See [`linked`] for those that meet elsewhere.
pub fn check_distinct(files: &[PathBuf]) -> Result<()> {
    if files.len() < 2 {
        return Ok(());
    }
    let mut seen = BTreeMap::new();
    for file in files {
        let place = place(file);
        let name = file.file_name().unwrap_or_default();
        let stem = stem_bytes(name).unwrap_or(name.as_encoded_bytes()).to_vec();
        let Some((other, other_place)) =
            seen.insert((place.parent().map(Path::to_path_buf), stem), (file, place.clone()))
        else {
            continue;
        };
        return Err(match other_place == place {
            true => named_twice(other, file),
            false => twice(other, file),
        });
    }
    for (file, other) in pairs(files) {
        match meeting(&voxels_of(file), &voxels_of(other)) {
            Some(Meeting::Link { link, target }) => {
                let message =
                    format!("is a link to {}, another channel of the same case", target.display());
                return Err(Error::input(&link, message).hint(
                    "put this channel's own file there; if both channels are to show one image, copy it",
                ));
            }
            Some(Meeting::Elsewhere) | None => {}
        }
    }
    Ok(())
}

/// Two files of one case with the same bytes on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// The later one.
    pub file: PathBuf,
    /// The earlier one.
    pub other: PathBuf,
}

impl fmt::Display for Linked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, other) = (self.file.display(), self.other.display());
        write!(f, "{file} is the same file as {other}, by links: two channels show one image")
    }
}

/// The files of one case that are one file without one being a link to the other: hard links, or links to a third file. So
/// do stores that keep equal contents once (git-annex, DVC, file systems without duplicates) with channels that are rightly
/// equal, such as blank ones in the place of missing ones: a mistake most often, but no error.
pub fn linked(files: &[PathBuf]) -> Vec<Linked> {
    let meet = |(file, other): &(&PathBuf, &PathBuf)| {
        matches!(meeting(&voxels_of(file), &voxels_of(other)), Some(Meeting::Elsewhere))
    };
    let linked =
        |(other, file): (&PathBuf, &PathBuf)| Linked { file: file.clone(), other: other.clone() };
    pairs(files).filter(meet).map(linked).collect()
}

fn pairs(files: &[PathBuf]) -> impl Iterator<Item = (&PathBuf, &PathBuf)> {
    files
        .iter()
        .enumerate()
        .flat_map(|(i, file)| files[i + 1..].iter().map(move |other| (file, other)))
}

/// The file of an image's voxels.
fn voxels_of(image: &Path) -> PathBuf {
    super::files_of(image).ok().and_then(|mut files| files.pop()).unwrap_or_else(|| image.into())
}

/// The path itself, its folder behind all links and spellings.
fn place(file: &Path) -> PathBuf {
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    match (folder.canonicalize(), file.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => file.into(),
    }
}

/// How two paths are one file.
enum Meeting {
    Link { link: PathBuf, target: PathBuf },
    Elsewhere,
}

fn meeting(file: &Path, other: &Path) -> Option<Meeting> {
    let (found, expected) = (identity(file)?, identity(other)?);
    if found != expected {
        return None;
    }
    let ends = file.canonicalize().ok()?;
    if ends != other.canonicalize().ok()? {
        return Some(Meeting::Elsewhere);
    }
    let (file, other) = (file.to_path_buf(), other.to_path_buf());
    Some(if place(&file) == ends {
        Meeting::Link { link: other, target: file }
    } else if place(&other) == ends {
        Meeting::Link { link: file, target: other }
    } else {
        Meeting::Elsewhere
    })
}

/// What two names of one file have in common.
#[cfg(unix)]
fn identity(file: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(file).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn identity(file: &Path) -> Option<PathBuf> {
    file.canonicalize().ok()
}

fn named_twice(file: &Path, other: &Path) -> Error {
    let message = match file == other {
        true => "is given for two channels of one case".into(),
        false => {
            format!("and {} are one file, given for two channels of one case", other.display())
        }
    };
    Error::input(file, message).hint("name each channel's own file")
}

fn twice(file: &Path, other: &Path) -> Error {
    let message = format!("and {} are both the same channel of one case", other.display());
    Error::input(file, message).hint("keep the right one of the two and move the other away")
}

fn is_voxels(ending: &str) -> bool {
    ending.starts_with(".img")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> (tempfile::TempDir, Folder) {
        let at = tempfile::tempdir().unwrap();
        for name in names {
            crate::Commit::file(&at.path().join(name), b"").unwrap();
        }
        let folder = Folder::read(at.path()).unwrap();
        (at, folder)
    }

    /// Ids with their files' names; `!` before the two names of an error.
    fn found(names: &[&str]) -> Vec<String> {
        let (at, folder) = folder(names);
        let name = |p: &Path| p.file_name().unwrap().to_string_lossy().into_owned();
        let line = |case: &&str| match folder.case(case) {
            Ok(Some(CaseFiles::Whole(file))) => format!("{case}: {}", name(&file)),
            Ok(Some(CaseFiles::Channels(files))) => {
                let files: Vec<_> =
                    files.iter().map(|(c, file)| format!("{c} {}", name(file))).collect();
                format!("{case}: {}", files.join(", "))
            }
            Ok(None) => format!("{case}: none"),
            Err(e) => {
                let other = e.message.replace(&format!("{}/", at.path().display()), "");
                format!("{case}! {} {}", name(&e.path), other.split(' ').nth(1).unwrap())
            }
        };
        folder.cases().iter().map(line).collect()
    }

    #[test]
    fn names_lead_to_cases_and_channels() {
        let names = ["b_0001.nii.gz", "b_0000.nii", "a_0002.png", "a_0000.nii.gz", "notes.txt"];
        let channels = ["a: 0 a_0000.nii.gz, 2 a_0002.png", "b: 0 b_0000.nii, 1 b_0001.nii.gz"];
        assert_eq!(found(&names), channels);
        let names =
            ["la_003.nii.gz", "p_0007.nii.gz", "x.hdr", "x.img", "._la_003.nii.gz", "p.nii"];
        let whole = ["la_003: la_003.nii.gz", "p: p.nii", "p_0007: p_0007.nii.gz", "x: x.hdr"];
        assert_eq!(found(&names), whole);
        let names = ["y_0000.hdr.gz", "y_0000.img.gz", "z.img", "q_00001.nii", "_0000.nii"];
        let odd = ["_0000: _0000.nii", "q_00001: q_00001.nii", "y: 0 y_0000.hdr.gz", "z: z.img"];
        assert_eq!(found(&names), odd);
        // An id may itself look like a channel.
        assert_eq!(found(&["a_0000_0000.nii"]), ["a_0000: 0 a_0000_0000.nii"]);
    }

    #[test]
    fn two_files_of_one_channel_are_an_error_that_names_both() {
        for (names, expected) in [
            (vec!["a_0000.nii", "a_0000.nii.gz"], "a! a_0000.nii a_0000.nii.gz"),
            (vec!["a_0000.nii", "a_0001.nii", "a_0001.png"], "a! a_0001.nii a_0001.png"),
            (vec!["a.nii", "a.nii.gz"], "a! a.nii a.nii.gz"),
            (vec!["a_0000.nii.gz", "a.nii.gz"], "a! a_0000.nii.gz a.nii.gz"),
            (vec!["a.hdr", "a.img", "a.nii"], "a! a.hdr a.nii"),
            (vec!["a.hdr", "a.img", "a.img.gz"], "a! a.hdr a.img"),
            (vec!["a.hdr", "a.hdr.gz", "a.img"], "a! a.hdr a.hdr.gz"),
        ] {
            assert_eq!(found(&names), [expected], "{names:?}");
        }
        let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        check_distinct(&files(&["x/a.nii", "y/a.nii", "x/b.nii"])).unwrap();
        let error = check_distinct(&files(&["x/a.nii", "x/a.nii.gz"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "x/a.nii: and x/a.nii.gz are both the same channel of one case"
        );
        // Nothing is to be moved away where there is but one file.
        let error = check_distinct(&files(&["x/a.nii", "x/a.nii"])).unwrap_err();
        assert_eq!(error.to_string(), "x/a.nii: is given for two channels of one case");
        assert_eq!(error.hint.as_deref(), Some("name each channel's own file"));
    }

    #[cfg(unix)]
    #[test]
    fn one_file_under_two_names_is_no_second_channel() {
        use std::os::unix::fs::symlink;
        let at = tempfile::tempdir().unwrap();
        let path = |name: &str| at.path().join(name);
        std::fs::create_dir_all(path("im/store")).unwrap();
        for name in
            ["im/a_0000.nii", "im/store/key", "im/a.hdr", "im/b.hdr", "im/a.img", "im/c.nii"]
        {
            crate::Commit::file(&path(name), name.as_bytes()).unwrap();
        }
        symlink(path("im"), path("folder")).unwrap();
        symlink("a_0000.nii", path("im/link.nii")).unwrap();
        symlink("link.nii", path("im/chain.nii")).unwrap();
        symlink("a.img", path("im/b.img")).unwrap();
        symlink("store/key", path("im/d.nii")).unwrap();
        symlink("store/key", path("im/e.nii")).unwrap();
        symlink("nowhere", path("im/dangling.nii")).unwrap();
        symlink("nowhere", path("im/dangles.nii")).unwrap();
        std::fs::hard_link(path("im/c.nii"), path("im/hard.nii")).unwrap();
        let files = |names: [&str; 2]| names.map(path);
        let root = format!("{}/", at.path().display());
        let found = |names| match check_distinct(&files(names)) {
            Ok(()) => linked(&files(names)).iter().map(|l| format!("warns: {l}")).collect(),
            Err(e) => e.to_string(),
        };
        let found = |names| found(names).replace(&root, "");
        let one = "are one file, given for two channels of one case";
        let link = "another channel of the same case";
        let same = "by links: two channels show one image";
        for (names, expected) in [
            (
                ["im/a_0000.nii", "im/../im/a_0000.nii"],
                format!("im/a_0000.nii: and im/../im/a_0000.nii {one}"),
            ),
            (
                ["im/a_0000.nii", "folder/a_0000.nii"],
                format!("im/a_0000.nii: and folder/a_0000.nii {one}"),
            ),
            (
                ["im/a_0000.nii", "folder/a_0000.nii.gz"],
                "im/a_0000.nii: and folder/a_0000.nii.gz are both the same channel of one case"
                    .into(),
            ),
            (
                ["im/a_0000.nii", "im/link.nii"],
                format!("im/link.nii: is a link to im/a_0000.nii, {link}"),
            ),
            (
                ["im/link.nii", "im/a_0000.nii"],
                format!("im/link.nii: is a link to im/a_0000.nii, {link}"),
            ),
            (
                ["im/chain.nii", "folder/a_0000.nii"],
                format!("im/chain.nii: is a link to folder/a_0000.nii, {link}"),
            ),
            (["im/a.hdr", "im/b.hdr"], format!("im/b.img: is a link to im/a.img, {link}")),
            (
                ["im/d.nii", "im/e.nii"],
                format!("warns: im/e.nii is the same file as im/d.nii, {same}"),
            ),
            (
                ["im/link.nii", "im/chain.nii"],
                format!("warns: im/chain.nii is the same file as im/link.nii, {same}"),
            ),
            (
                ["im/c.nii", "im/hard.nii"],
                format!("warns: im/hard.nii is the same file as im/c.nii, {same}"),
            ),
            (["im/a_0000.nii", "im/d.nii"], String::new()),
            (["im/dangling.nii", "im/dangles.nii"], String::new()),
        ] {
            assert_eq!(found(names), expected, "{names:?}");
        }
    }
}
