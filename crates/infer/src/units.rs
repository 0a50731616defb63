//! Which cases a call predicts, and where their images lie.

use artifact::image::folder::{CaseFiles, Folder, check_distinct, split_channel};
use artifact::image::{ENDINGS, split_ending};
use artifact::{Error, Result};
use std::collections::BTreeMap;
use std::ffi::OsString;
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
    /// What nothing can be made of: its name is no id.
    Unnamed(Error),
}

impl Unit {
    /// Its id is for messages only.
    fn unnamed(error: Error) -> Self {
        let name = error.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { id: name, source: Source::Unnamed(error) }
    }
}

/// The single case of `--image FILE…`; its id is the first file's name without ending and channel number.
///
/// # Errors
/// If two of the files are one image: see [`check_distinct`].
pub fn from_files(files: &[PathBuf], id: Option<&str>) -> Result<Unit> {
    check_distinct(files)?;
    let id = match (id, files.first()) {
        (Some(id), _) => id,
        (None, Some(first)) => {
            let name = artifact::name::of(first).map_err(|e| e.hint("say --id ID"))?;
            let stem = split_ending(name).map_or(name, |(stem, _)| stem);
            split_channel(stem).filter(|(_, channel)| *channel == 0).map_or(stem, |(case, _)| case)
        }
        (None, None) => "",
    };
    Ok(Unit { id: id.into(), source: Source::Images(files.into()) })
}

/// A warning per file of `--image FILE…` whose name says another channel, or another case, than its position among them.
///
/// A number at a name's end is a channel's where one of the files, or one beside them, is channel 0 of the same case, or
/// where the files are numbered among themselves; and not where all have the same one, as in a folder per channel.
pub fn misnamed(files: &[PathBuf]) -> Vec<String> {
    let said: Vec<Option<(&str, usize)>> = files
        .iter()
        .map(|file| split_channel(split_ending(file.file_name()?.to_str()?)?.0))
        .collect();
    let beside = |file: &PathBuf, case: &str| {
        ENDINGS.iter().any(|ending| file.with_file_name(format!("{case}_0000{ending}")).exists())
    };
    let first = said.first().copied().flatten();
    let channels = files
        .iter()
        .zip(&said)
        .any(|(file, said)| said.is_some_and(|(case, channel)| channel == 0 || beside(file, case)));
    let numbered = said.iter().all(|s| {
        s.is_some_and(|(case, n)| n <= files.len() && first.is_some_and(|(of, _)| of == case))
    });
    let same = files.len() > 1 && said.iter().all(|s| *s == first);
    if same || !(channels || (numbered && files.len() > 1)) {
        return Vec::new();
    }
    let warning = |(position, file): (usize, &PathBuf)| {
        let (case, channel) = said[position]?;
        let expected = first.map_or(case, |(case, _)| case);
        (channel != position || case != expected).then(|| {
            let file = file.display();
            format!(
                "{file} is called channel {channel} of {case}, but given as channel {position} of {expected}"
            )
        })
    };
    files.iter().enumerate().filter_map(warning).collect()
}

/// The images of a folder, by id: those with the wanted ids, or all, then those that have none. `channels` is how many the
/// plan has. See [`Folder`] for how names are read.
///
/// # Errors
/// If the folder can't be read or holds no images, an id isn't there, or two files lead to the same channel of a case.
pub fn from_folder(path: &Path, channels: usize, wanted: &[String]) -> Result<Vec<Unit>> {
    let folder = Folder::read(path)?;
    let cases = folder.cases();
    let unnamed = if wanted.is_empty() { folder.unnamed() } else { Vec::new() };
    if cases.is_empty() && unnamed.is_empty() {
        return Err(Error::input(
            path,
            "holds no images, expected CASE_0000.nii.gz or CASE.nii.gz",
        )
        .hint("preprocessed cases are given by --cases"));
    }
    check_wanted(path, wanted, |id| cases.contains(id))?;
    let mut units = Vec::new();
    for id in cases.into_iter().filter(|id| wanted.is_empty() || wanted.iter().any(|w| w == id)) {
        let files = match folder.case(id)? {
            None => continue,
            Some(CaseFiles::Whole(file)) => vec![file],
            Some(CaseFiles::Channels(found)) => expected(id, found, channels),
        };
        check_distinct(&files)?;
        units.push(Unit { id: id.into(), source: Source::Images(files) });
    }
    units.extend(unnamed.into_iter().map(Unit::unnamed));
    Ok(units)
}

/// The files that a case of so many channels must have. A missing one is listed too: reading the case says so; surplus
/// ones are counted there as well. A lone first file may hold all channels.
fn expected(id: &str, mut found: BTreeMap<usize, PathBuf>, channels: usize) -> Vec<PathBuf> {
    let Some(first) = found.get(&0).cloned().filter(|_| found.len() > 1) else {
        return found.into_values().collect();
    };
    let name = first.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let ending = split_ending(&name).map_or("", |(_, ending)| ending);
    for channel in 0..channels {
        let file = || first.with_file_name(format!("{id}_{channel:04}{ending}"));
        found.entry(channel).or_insert_with(file);
    }
    found.into_values().collect()
}

/// All preprocessed cases in a folder, `CASE/case.toml`, by id, then those that have none.
///
/// # Errors
/// If the folder can't be read or holds no cases.
pub fn from_cases(folder: &Path) -> Result<Vec<Unit>> {
    let unit = |name: OsString| {
        let record = folder.join(&name).join("case.toml");
        record.is_file().then(|| match artifact::name::in_folder(folder, name) {
            Ok(id) => Unit { id, source: Source::Case(record) },
            Err(error) => Unit::unnamed(error),
        })
    };
    let mut units: Vec<Unit> = list(folder)?.into_iter().filter_map(unit).collect();
    units.sort_by_key(|unit| matches!(unit.source, Source::Unnamed(_)));
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
pub fn select(mut units: Vec<Unit>, folder: &Path, wanted: &[String]) -> Result<Vec<Unit>> {
    units.retain(|unit| !matches!(unit.source, Source::Unnamed(_)));
    check_wanted(folder, wanted, |id| units.iter().any(|u| u.id == id))?;
    Ok(units.into_iter().filter(|u| wanted.contains(&u.id)).collect())
}

fn check_wanted(folder: &Path, wanted: &[String], there: impl Fn(&str) -> bool) -> Result<()> {
    match wanted.iter().find(|id| !there(id)) {
        None => Ok(()),
        Some(id) => Err(Error::input(folder, format!("has no case {id}"))),
    }
}

fn list(folder: &Path) -> Result<Vec<OsString>> {
    let fail = |e| Error::io(folder, "read this folder", &e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
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
        let units = from_folder(folder.path(), channels, &[]).unwrap();
        units
            .into_iter()
            .map(|unit| match unit.source {
                Source::Images(files) => (unit.id, files.into_iter().map(file).collect()),
                other => panic!("{other:?}"),
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
        // Behind a gap, too, and of another ending.
        assert_eq!(
            found(&["a_0000.nii", "a_0003.png"], 2),
            [case("a", &["a_0000.nii", "a_0001.nii", "a_0003.png"])]
        );
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
        let id = |file: &str| from_files(&[PathBuf::from(file)], None).unwrap().id;
        assert_eq!(id("x/liver_12_0000.nii.gz"), "liver_12");
        assert_eq!(id("x/liver_12.nii"), "liver_12");
        assert_eq!(id("x/p_0007.nii"), "p_0007");
        assert_eq!(from_files(&["a.nii".into()], Some("b")).unwrap().id, "b");
    }

    #[test]
    fn names_that_say_another_channel_or_case_are_told() {
        let folder = tempfile::tempdir().unwrap();
        artifact::Commit::file(&folder.path().join("b_0000.nii.gz"), b"").unwrap();
        let told = |names: &[&str]| {
            let files: Vec<PathBuf> = names.iter().map(|name| folder.path().join(name)).collect();
            let root = format!("{}/", folder.path().display());
            let told = misnamed(&files).into_iter().map(|line| line.replace(&root, ""));
            told.collect::<Vec<_>>()
        };
        let line = |file: &str, said: &str, given: &str| {
            format!("{file} is called channel {said}, but given as channel {given}")
        };
        for right in [
            &["a_0000.nii", "a_0001.nii"][..],
            &["a_0000.nii"],
            // No channel 0 anywhere: the cases' own numbers, years.
            &["p_0007.nii"],
            &["p_2019.nii", "p_2021.nii"],
            // A folder per channel.
            &["t1/p_0007.nii", "t2/p_0007.nii"],
            &["t1/p_0000.nii", "t2/p_0000.nii"],
            &["t1.nii", "flair.nii"],
            &["a_0000.nii", "flair.nii"],
        ] {
            assert_eq!(told(right), [""; 0], "{right:?}");
        }
        let backwards =
            [line("a_0001.nii", "1 of a", "0 of a"), line("a_0000.nii", "0 of a", "1 of a")];
        assert_eq!(told(&["a_0001.nii", "a_0000.nii"]), backwards);
        assert_eq!(told(&["a_0000.nii", "c_0001.nii"]), [line("c_0001.nii", "1 of c", "1 of a")]);
        assert_eq!(
            told(&["a_0000.nii", "x.nii", "a_0001.nii"]),
            [line("a_0001.nii", "1 of a", "2 of a")]
        );
        assert_eq!(told(&["b_0001.nii.gz"]), [line("b_0001.nii.gz", "1 of b", "0 of b")]);
        let from_one =
            [line("a_0001.nii", "1 of a", "0 of a"), line("a_0002.nii", "2 of a", "1 of a")];
        assert_eq!(told(&["a_0001.nii", "a_0002.nii"]), from_one);
    }

    #[test]
    fn files_of_one_channel_are_refused_unless_their_case_is_not_wanted() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a_0000.nii", "a_0000.nii.gz", "b.nii", "b.nii.gz", "c.nii"] {
            artifact::Commit::file(&folder.path().join(name), b"").unwrap();
        }
        let of = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|id| (*id).into()).collect();
            from_folder(folder.path(), 2, &wanted)
        };
        for (id, pair) in [("a", ["a_0000.nii", "a_0000.nii.gz"]), ("b", ["b.nii", "b.nii.gz"])] {
            let error = of(&[id]).unwrap_err();
            assert_eq!(error.path, folder.path().join(pair[0]));
            assert!(error.message.contains(pair[1]), "{error}");
        }
        assert!(of(&[]).is_err());
        assert_eq!(of(&["c"]).unwrap().len(), 1);
        assert_eq!(of(&["d"]).unwrap_err().message, "has no case d");
        let pair = ["a_0000.nii", "a_0000.nii.gz"].map(|name| folder.path().join(name));
        assert!(from_files(&pair, None).is_err());
    }
}
