//! Which cases a call predicts, and where their images lie.

use artifact::image::split_ending;
use artifact::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// One case to predict: the unit of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Case id; the folder that is written.
    pub id: String,
    /// Its image.
    pub source: Source,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// NIfTI or PNG: one file per channel in channel order, or one file with all channels.
    Images(Vec<PathBuf>),
    /// `case.toml` of a preprocessed case.
    Case(PathBuf),
}

/// The single case of `--image FILE…`; its id is the first file's name without ending and channel number.
pub fn from_files(files: &[PathBuf], id: Option<&str>) -> Unit {
    let name = files.first().and_then(|f| f.file_name()).unwrap_or_default().to_string_lossy();
    let stem = split_ending(&name).map_or(&*name, |(stem, _)| stem);
    let own = channel_of(stem).filter(|(_, channel)| *channel == 0).map_or(stem, |(case, _)| case);
    Unit { id: id.unwrap_or(own).into(), source: Source::Images(files.into()) }
}

/// All images of a folder, by id. `CASE_0000.nii.gz`, `CASE_0001.nii.gz`, … are the channels of one case; a file
/// without such a number is a case by itself. `channels` is how many the plan has. Hidden files and macOS's `._` companions are no images.
///
/// # Errors
/// If the folder can't be read or holds no images.
pub fn from_folder(folder: &Path, channels: usize) -> Result<Vec<Unit>> {
    let names = list(folder)?;
    let images: BTreeSet<(&str, &str)> = names.iter().filter_map(|n| split_ending(n)).collect();
    let mut units = BTreeMap::new();
    for &(stem, ending) in &images {
        let numbered = channel_of(stem)
            .filter(|(case, _)| images.contains(&(format!("{case}_0000").as_str(), ending)));
        let id = numbered.map_or(stem, |(case, _)| case);
        let file = |stem: &str| folder.join(format!("{stem}{ending}"));
        let files = units.entry(id.to_string()).or_insert_with(Vec::new);
        match numbered {
            // An .hdr and its .img are one image.
            None if ending.starts_with(".img") => {}
            None => files.push(file(stem)),
            Some((case, 0)) => {
                // A missing channel is listed too: reading the case says so. Surplus ones are counted there as well.
                let exists =
                    |c: usize| images.contains(&(format!("{case}_{c:04}").as_str(), ending));
                let alone = !(1..channels).any(exists);
                let count = if alone { 1 } else { channels };
                let surplus = (count..).take_while(|c| exists(*c));
                files.extend((0..count).chain(surplus).map(|c| file(&format!("{case}_{c:04}"))));
            }
            Some(_) => {}
        }
    }
    let units: Vec<Unit> = units
        .into_iter()
        .filter(|(_, files)| !files.is_empty())
        .map(|(id, files)| Unit { id, source: Source::Images(files) })
        .collect();
    if units.is_empty() {
        return Err(Error::input(
            folder,
            "holds no images, expected CASE_0000.nii.gz or CASE.nii.gz",
        )
        .hint("preprocessed cases are given by --cases"));
    }
    Ok(units)
}

/// All preprocessed cases in a folder, `CASE/case.toml`, by id.
///
/// # Errors
/// If the folder can't be read or holds no cases.
pub fn from_cases(folder: &Path) -> Result<Vec<Unit>> {
    let unit = |id: String| {
        let record = folder.join(&id).join("case.toml");
        record.is_file().then_some(Unit { id, source: Source::Case(record) })
    };
    let units: Vec<Unit> = list(folder)?.into_iter().filter_map(unit).collect();
    if units.is_empty() {
        return Err(Error::input(folder, "holds no cases, expected CASE/case.toml")
            .hint("give the folder that nnu-preprocess --out named"));
    }
    Ok(units)
}

/// Those of `units` with the wanted ids, in their order.
///
/// # Errors
/// Names the first id that isn't there.
pub fn select(units: Vec<Unit>, folder: &Path, wanted: &[String]) -> Result<Vec<Unit>> {
    if let Some(id) = wanted.iter().find(|id| units.iter().all(|u| u.id != **id)) {
        return Err(Error::input(folder, format!("has no case {id}")));
    }
    Ok(units.into_iter().filter(|u| wanted.contains(&u.id)).collect())
}

fn list(folder: &Path) -> Result<Vec<String>> {
    let fail = |e| Error::io(folder, "read this folder", &e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// `CASE_0001` → (`CASE`, 1).
fn channel_of(stem: &str) -> Option<(&str, usize)> {
    let (case, digits) = stem.rsplit_once('_')?;
    let number = digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit());
    Some((case, digits.parse().ok().filter(|_| number && !case.is_empty())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids and file names of a folder with these (empty) files, for a plan of `channels` channels.
    fn found(names: &[&str], channels: usize) -> Vec<(String, Vec<String>)> {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            artifact::Commit::file(&folder.path().join(name), b"").unwrap();
        }
        let file = |p: PathBuf| p.file_name().unwrap().to_string_lossy().into_owned();
        let units = from_folder(folder.path(), channels).unwrap();
        units
            .into_iter()
            .map(|unit| match unit.source {
                Source::Images(files) => (unit.id, files.into_iter().map(file).collect()),
                Source::Case(record) => panic!("{record:?}"),
            })
            .collect()
    }

    fn case(id: &str, files: &[&str]) -> (String, Vec<String>) {
        (id.into(), files.iter().map(|f| (*f).into()).collect())
    }

    #[test]
    fn a_folders_files_are_grouped_by_channel_number() {
        let names = ["b_0001.nii.gz", "b_0000.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz"];
        let expected = [
            case("a", &["a_0000.nii.gz", "a_0001.nii.gz"]),
            case("b", &["b_0000.nii.gz", "b_0001.nii.gz"]),
        ];
        assert_eq!(found(&names, 2), expected);
        // Surplus and missing channels are listed, so that reading the case can say what is wrong.
        assert_eq!(found(&names[2..], 1), [case("a", &["a_0000.nii.gz", "a_0001.nii.gz"])]);
        assert_eq!(
            found(&["a_0000.nii", "a_0002.nii"], 3),
            [case("a", &["a_0000.nii", "a_0001.nii", "a_0002.nii"])]
        );
        assert_eq!(found(&["a_0000.nii"], 2), [case("a", &["a_0000.nii"])]);
    }

    #[test]
    fn files_without_channel_number_are_cases_by_themselves() {
        let names =
            ["la_003.nii.gz", "p_0007.nii.gz", "x.hdr", "x.img", "._la_003.nii.gz", "a.txt"];
        let expected = [
            case("la_003", &["la_003.nii.gz"]),
            case("p_0007", &["p_0007.nii.gz"]),
            case("x", &["x.hdr"]),
        ];
        assert_eq!(found(&names, 1), expected);
    }

    #[test]
    fn a_single_image_is_named_after_its_first_file() {
        let id = |file: &str| from_files(&[PathBuf::from(file)], None).id;
        assert_eq!(id("x/liver_12_0000.nii.gz"), "liver_12");
        assert_eq!(id("x/liver_12.nii"), "liver_12");
        assert_eq!(id("x/p_0007.nii"), "p_0007");
        assert_eq!(from_files(&["a.nii".into()], Some("b")).id, "b");
    }
}
