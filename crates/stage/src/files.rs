//! Outputs that would replace inputs or each other are found before anything is read.

use crate::{Error, Result};
use artifact::{Kind, check_replaceable};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// The files and folders that a command line names, and those that follow from them (`splits.toml` beside a plan).
#[derive(Debug, Clone, Default)]
pub struct Files {
    inputs: Vec<Named>,
    outputs: Vec<(Named, Output)>,
}

#[derive(Debug, Clone)]
struct Named {
    flag: &'static str,
    path: PathBuf,
}

#[derive(Debug, Clone, Copy)]
enum Output {
    /// Replaces records of its own kind only, so that it may lie in a folder that is read.
    Record(fn(&Path) -> artifact::Result<()>),
    /// Lies beside a record and goes with it.
    Sibling,
    /// Replaces whatever lies under its name.
    File,
    /// Holds files that are named by the inputs' cases.
    Folder,
}

impl Files {
    /// Files or folders that are read.
    #[must_use]
    pub fn reads<P: AsRef<Path>>(
        mut self,
        flag: &'static str,
        paths: impl IntoIterator<Item = P>,
    ) -> Self {
        self.inputs.extend(named(flag, paths));
        self
    }

    /// Records that are written.
    #[must_use]
    pub fn record<T: Kind, P: AsRef<Path>>(
        self,
        flag: &'static str,
        paths: impl IntoIterator<Item = P>,
    ) -> Self {
        self.writes(flag, paths, Output::Record(check_replaceable::<T>))
    }

    /// Files that are written beside a record.
    #[must_use]
    pub fn sibling<P: AsRef<Path>>(
        self,
        flag: &'static str,
        paths: impl IntoIterator<Item = P>,
    ) -> Self {
        self.writes(flag, paths, Output::Sibling)
    }

    /// Other files that are written.
    #[must_use]
    pub fn file<P: AsRef<Path>>(
        self,
        flag: &'static str,
        paths: impl IntoIterator<Item = P>,
    ) -> Self {
        self.writes(flag, paths, Output::File)
    }

    /// Folders that are filled with files per case.
    #[must_use]
    pub fn folder<P: AsRef<Path>>(
        self,
        flag: &'static str,
        paths: impl IntoIterator<Item = P>,
    ) -> Self {
        self.writes(flag, paths, Output::Folder)
    }

    fn writes<P: AsRef<Path>>(
        mut self,
        flag: &'static str,
        paths: impl IntoIterator<Item = P>,
        output: Output,
    ) -> Self {
        self.outputs.extend(named(flag, paths).map(|named| (named, output)));
        self
    }

    /// Whether every output has a place of its own, and no record would replace anything but one of its kind.
    ///
    /// # Errors
    /// Exit code 2, with both flags; 3 for what lies where a record should.
    pub(crate) fn check(&self) -> Result<()> {
        for (at, (output, kind)) in self.outputs.iter().enumerate() {
            for input in &self.inputs {
                if same(&output.path, &input.path) {
                    return Err(clash(output, input, "which is read"));
                }
                let over =
                    matches!(kind, Output::File) && fs::symlink_metadata(&output.path).is_ok();
                if over && input.path.is_dir() && is_below(&output.path, &input.path) {
                    let Named { flag, path } = output;
                    let line = format!(
                        "{flag} {}: is there already, in {} {}, which is read",
                        path.display(),
                        input.flag,
                        input.path.display()
                    );
                    return Err(Error::usage(line).hint("give another path, or remove that file"));
                }
            }
            let twin = self.outputs[..at].iter().find(|(other, _)| same(&output.path, &other.path));
            if let Some((other, _)) = twin {
                return Err(clash(output, other, "which is written too"));
            }
            if let Output::Record(check) = kind {
                check(&output.path)?;
            }
        }
        Ok(())
    }
}

/// Files that a call reads and writes, as its cases are known.
#[derive(Debug, Clone, Default)]
pub struct CaseFiles {
    inputs: BTreeMap<Place, Named>,
    outputs: Vec<Named>,
}

impl CaseFiles {
    /// Files of cases that are read.
    pub fn reads(&mut self, flag: &'static str, paths: impl IntoIterator<Item = PathBuf>) {
        for named in named(flag, paths) {
            self.inputs.insert(place(&named.path), named);
        }
    }

    /// Files of cases that are written, or go with what is written before.
    pub fn writes(&mut self, flag: &'static str, paths: impl IntoIterator<Item = PathBuf>) {
        self.outputs.extend(named(flag, paths));
    }

    /// Whether no case's output is an input, be it another case's.
    ///
    /// # Errors
    /// Exit code 2, with both files.
    pub fn check(&self) -> Result<()> {
        let lost = |output: &Named| Some((output.clone(), self.inputs.get(&place(&output.path))?));
        match self.outputs.iter().find_map(lost) {
            None => Ok(()),
            Some((output, input)) => Err(Error::usage(format!(
                "{}: would be written for {}, and is read for {}",
                input.path.display(),
                output.flag,
                input.flag
            ))
            .hint(format!("give another {}", output.flag))),
        }
    }
}

fn named<P: AsRef<Path>>(
    flag: &'static str,
    paths: impl IntoIterator<Item = P>,
) -> impl Iterator<Item = Named> {
    paths.into_iter().map(move |path| Named { flag, path: path.as_ref().into() })
}

fn clash(output: &Named, other: &Named, what: &str) -> Error {
    Error::usage(format!(
        "{} {}: is {} {}, {what}; expected another path",
        output.flag,
        output.path.display(),
        other.flag,
        other.path.display()
    ))
}

/// Whether two paths lead to the same file or folder, through links or by another name of the same file.
fn same(a: &Path, b: &Path) -> bool {
    place(a) == place(b)
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Device and number of what is there.
    There(u64, u64),
    /// What isn't there yet.
    Missing(PathBuf),
}

fn place(path: &Path) -> Place {
    match fs::metadata(path) {
        Ok(there) => Place::There(there.dev(), there.ino()),
        Err(_) => Place::Missing(absolute(path)),
    }
}

fn is_below(path: &Path, folder: &Path) -> bool {
    absolute(path).starts_with(absolute(folder))
}

/// The path without links, `.` and `..`; of what isn't there yet as far as its folders are.
fn absolute(path: &Path) -> PathBuf {
    let mut there = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let mut missing = Vec::new();
    loop {
        if let Ok(found) = there.canonicalize() {
            return missing.iter().rev().fold(found, |path: PathBuf, part| match part {
                Part::Up => path.parent().map_or(path.clone(), Path::to_path_buf),
                Part::Name(name) => path.join(name),
            });
        }
        match there.components().next_back() {
            Some(Component::Normal(name)) => missing.push(Part::Name(name.to_owned())),
            Some(Component::ParentDir) => missing.push(Part::Up),
            _ => return there,
        }
        there.pop();
    }
}

enum Part {
    Name(std::ffi::OsString),
    Up,
}

#[cfg(test)]
mod tests {
    use super::*;
    use artifact::splits::Splits;

    fn refusal(files: &Files) -> String {
        let error = files.check().expect_err("two files in one place");
        assert_eq!(error.exit, crate::Exit::Usage);
        error.message
    }

    fn touch(path: &Path) {
        artifact::Commit::file(path, b"x").unwrap();
    }

    #[test]
    fn an_output_is_no_input_by_whatever_name() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        touch(&at("d/plan.toml"));
        std::os::unix::fs::symlink(at("d"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("d/plan.toml"), at("to_plan")).unwrap();
        fs::hard_link(at("d/plan.toml"), at("hard")).unwrap();
        let names = ["d/plan.toml", "d/../d/./plan.toml", "link/plan.toml", "to_plan", "hard"];
        for name in names {
            let files = Files::default().reads("--plan", [at("d/plan.toml")]);
            let line = refusal(&files.sibling("--out", [at(name)]));
            assert!(line.starts_with("--out ") && line.contains("is --plan "), "{line}");
        }
        let files = Files::default().reads("--plan", [at("d/plan.toml")]);
        files.sibling("--out", [at("d/other.toml")]).check().unwrap();
    }

    #[test]
    fn outputs_that_are_not_there_yet_are_compared_too() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("d")).unwrap();
        std::os::unix::fs::symlink(at("d"), at("link")).unwrap();
        for (one, other) in [
            ("d/splits.toml", "d/splits.toml"),
            ("link/splits.toml", "d/splits.toml"),
            ("d/new/../splits.toml", "d/splits.toml"),
            ("d/new/x/splits.toml", "link/new/x/splits.toml"),
        ] {
            let files = Files::default().sibling("--out", [at(one)]);
            let line = refusal(&files.sibling("splits.toml beside --out", [at(other)]));
            assert!(line.contains("which is written too"), "{line}");
        }
        let files = Files::default().sibling("--out", [at("d/plan.toml")]);
        files.sibling("splits.toml beside --out", [at("d/splits.toml")]).check().unwrap();
    }

    #[test]
    fn no_case_s_output_is_an_input_of_any_case() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        touch(&at("in/a.nii.gz"));
        touch(&at("out/b/segmentation.nii.gz"));
        std::os::unix::fs::symlink(at("out/b"), at("out/link")).unwrap();
        fs::create_dir(at("out/hard")).unwrap();
        fs::hard_link(at("in/a.nii.gz"), at("out/hard/segmentation.nii.gz")).unwrap();
        let check = |input: &str, outputs: &[&str]| {
            let mut files = CaseFiles::default();
            files.reads("--images", [at("in/other.nii.gz"), at(input)]);
            files.writes("--out", outputs.iter().map(|name| at(name)));
            files.check()
        };
        let first = "out/first/segmentation.nii.gz";
        for (input, output) in [
            ("in/a.nii.gz", "out/hard/segmentation.nii.gz"),
            ("out/b/segmentation.nii.gz", "out/b/segmentation.nii.gz"),
            ("out/b/segmentation.nii.gz", "out/link/segmentation.nii.gz"),
            // One case's output would be there by the time the other is read.
            ("out/link/new.nii.gz", "out/b/new.nii.gz"),
        ] {
            let error = check(input, &[first, output]).expect_err(output);
            assert_eq!(error.exit, crate::Exit::Usage);
            assert!(error.message.ends_with("written for --out, and is read for --images"));
        }
        check("in/a.nii.gz", &[first, "out/b/segmentation.nii.gz"]).unwrap();
    }

    #[test]
    fn folders_that_are_read_lose_no_file() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        touch(&at("cases/a/image.npy"));
        let reads = || Files::default().reads("--cases", [at("cases")]);
        let line = refusal(&reads().file("--preview", [at("cases/a/image.npy")]));
        assert!(line.contains("is there already, in --cases "), "{line}");
        reads().file("--preview", [at("cases/new.png")]).check().unwrap();
        reads().record::<Splits, _>("--out", [at("cases/new.toml")]).check().unwrap();
        let over = reads().record::<Splits, _>("--out", [at("cases/a/image.npy")]).check();
        assert_eq!(over.unwrap_err().exit, crate::Exit::Input);
        refusal(&reads().folder("--out", [at("cases")]));
        reads().folder("--out", [at("cases/below")]).check().unwrap();
    }
}
