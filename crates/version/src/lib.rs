//! The commit that a program is built from, known without a build script: only the code that names it is compiled again
//! after a commit.

use proc_macro::TokenStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The sources' root, where the repository's must be.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What is compiled.
const COMPILED: [&str; 5] = ["crates", "kernels", "Cargo.toml", "Cargo.lock", ":(exclude)*.md"];

/// The commit's first twelve digits, with `, modified` if sources differ from it; `unknown` without git.
///
/// The code names the files that git changes at a commit or checkout, so that Cargo compiles it again then.
#[proc_macro]
pub fn commit(_: TokenStream) -> TokenStream {
    let (name, files) = match find(Path::new(ROOT)) {
        Some(commit) => (commit.name, commit.noted_in),
        None => ("unknown".into(), Vec::new()),
    };
    let include = |file: &PathBuf| format!("const _: &[u8] = include_bytes!({file:?});");
    let watched: String = files.iter().map(include).collect();
    format!("{{ {watched} {name:?} }}").parse().expect("constants and a text")
}

struct Commit {
    name: String,
    /// Files that change with it.
    noted_in: Vec<PathBuf>,
}

/// The commit checked out in `root`, if that is a repository's root.
fn find(root: &Path) -> Option<Commit> {
    let top = PathBuf::from(git(root, &["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    let mut name = git(root, &["rev-parse", "--short=12", "HEAD"])?;
    // The sources may be changed again without another commit, but then what names the commit is compiled again, too.
    let arguments = ["--no-optional-locks", "status", "--porcelain", "--untracked-files=no", "--"];
    if !git(root, &[&arguments[..], &COMPILED].concat())?.is_empty() {
        name += ", modified";
    }
    let path = |name: &str| {
        let path = root.join(git(root, &["rev-parse", "--git-path", name])?);
        path.canonicalize().ok().filter(|p| p.is_file())
    };
    // A branch is a file of its own, or a line of a packed one until its next commit.
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    let branch = branch.and_then(|b| path(&b).or_else(|| path("packed-refs")));
    let noted_in = [path("HEAD"), path("logs/HEAD"), branch].into_iter().flatten().collect();
    Some(Commit { name, noted_in })
}

/// What git prints; nothing if it isn't there or fails.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // A hook or `git rebase --exec` names its own repository and index.
    for name in ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_PREFIX"] {
        command.env_remove(name);
    }
    let output = command.arg("-C").arg(root).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end_matches('\n').to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn run(root: &Path, arguments: &[&str]) -> String {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b"];
        git(root, &[&identity[..], arguments].concat())
            .unwrap_or_else(|| panic!("git {arguments:?}"))
    }

    #[expect(clippy::disallowed_methods, reason = "sources of a repository made for the test")]
    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A repository with a commit, or nothing where git isn't installed.
    fn repository() -> Option<tempfile::TempDir> {
        let folder = tempfile::tempdir().unwrap();
        if Command::new("git").arg("--version").output().is_err() {
            eprintln!("skipped: git isn't installed");
            return None;
        }
        let root = folder.path();
        run(root, &["init", "-q", "-b", "main"]);
        write(root.join("crates/a/src/lib.rs"), "fn a() {}");
        write(root.join("crates/a/README.md"), "a");
        run(root, &["add", "."]);
        run(root, &["commit", "-q", "-m", "a"]);
        Some(folder)
    }

    #[test]
    fn the_commit_is_named_and_what_differs_from_it_said() {
        let Some(folder) = repository() else { return };
        let root = folder.path();
        let head = run(root, &["rev-parse", "HEAD"])[..12].to_string();
        assert_eq!(find(root).unwrap().name, head);
        write(root.join("crates/a/README.md"), "not compiled");
        assert_eq!(find(root).unwrap().name, head);
        write(root.join("crates/a/src/lib.rs"), "fn b() {}");
        assert_eq!(find(root).unwrap().name, format!("{head}, modified"));
    }

    #[test]
    fn each_way_to_another_commit_changes_a_file_that_is_watched() {
        let Some(folder) = repository() else { return };
        let root = folder.path();
        let first = run(root, &["rev-parse", "HEAD"]);
        let commit: &[&str] = &["commit", "-q", "-a", "-m", "b", "--allow-empty"];
        let packed: &[&str] = &["pack-refs", "--all"];
        let detached: &[&str] = &["checkout", "-q", "--detach"];
        let steps = [commit, commit, &["reset", "-q", "--hard", &first], detached, commit];
        for (i, step) in steps.into_iter().enumerate() {
            if i == 1 {
                run(root, packed);
            }
            let before = find(root).unwrap();
            let contents =
                || -> Vec<_> { before.noted_in.iter().map(|f| fs::read(f).ok()).collect() };
            let noted = contents();
            run(root, step);
            let after = find(root).unwrap();
            assert!(noted.len() >= 2, "{:?}", before.noted_in);
            assert!(after.name == before.name || contents() != noted, "{step:?} isn't noticed");
        }
    }

    #[test]
    fn sources_without_a_repository_of_their_own_have_no_commit() {
        let folder = tempfile::tempdir().unwrap();
        assert!(find(folder.path()).is_none());
        let Some(folder) = repository() else { return };
        write(folder.path().join("unpacked/crates/a.rs"), "");
        assert!(find(&folder.path().join("unpacked")).is_none());
    }
}
