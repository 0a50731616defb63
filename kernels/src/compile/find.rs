//! Where NVRTC and the cache may be on this machine.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What the environment says of places.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// Names of the library that the loader is asked for, which knows the system's folders and `$LD_LIBRARY_PATH`.
    pub loader: Vec<PathBuf>,
    /// `$CUDA_HOME`, `$CUDA_PATH`.
    pub toolkits: Vec<PathBuf>,
    /// Where toolkits are installed: `/usr/local`, with folders `cuda*`.
    pub installed: Option<PathBuf>,
    /// Active Python environments: `$VIRTUAL_ENV`, `$CONDA_PREFIX`, what the programs of `$PATH` belong to, and the
    /// user's own packages.
    pub python: Vec<PathBuf>,
    /// The user's folder for caches, `$XDG_CACHE_HOME` or `~/.cache`.
    pub cache: Option<PathBuf>,
}

impl Places {
    /// As this process was told.
    pub fn of_process() -> Self {
        // Where things are installed is no setting of the program; every other tool asks the same variables.
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = folder("HOME");
        let mut python: Vec<PathBuf> =
            ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(folder).collect();
        if let Some(path) = variable("PATH") {
            python.extend(environments(&path));
        }
        python.extend(home.as_ref().map(|home| home.join(".local")));
        Self {
            loader: ["libnvrtc.so.13", "libnvrtc.so.12"].map(PathBuf::from).to_vec(),
            toolkits: ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(folder).collect(),
            installed: Some("/usr/local".into()),
            python,
            cache: folder("XDG_CACHE_HOME").or_else(|| home.map(|home| home.join(".cache"))),
        }
    }

    /// Paths of NVRTC in the order in which they are tried.
    pub(super) fn libraries(&self) -> Vec<PathBuf> {
        let mut found = self.loader.clone();
        let mut toolkits = self.toolkits.clone();
        if let Some(folder) = &self.installed {
            // The newest first.
            toolkits.extend(entries(folder, "cuda").into_iter().rev());
        }
        for toolkit in &toolkits {
            for lib in ["lib64", "lib"] {
                found.extend(libraries_in(&toolkit.join(lib)));
            }
        }
        for environment in &self.python {
            found.extend(wheels(environment).iter().flat_map(|folder| libraries_in(folder)));
        }
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|path| seen.insert(path.clone()));
        found
    }
}

/// What the folders of `$PATH` belong to. A relative one, or none between two colons, is the folder that the program
/// happens to be started in, and a library there anyone's.
fn environments(path: &OsStr) -> Vec<PathBuf> {
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    folders.filter_map(|folder| folder.parent().map(Path::to_owned)).collect()
}

/// `libnvrtc.so.MAJOR` (11: `.MAJOR.MINOR`) in a folder, the newest first.
pub(super) fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries(folder, "libnvrtc.so.")
        .into_iter()
        .filter_map(|path| {
            let version = path.file_name()?.to_str()?.strip_prefix("libnvrtc.so.")?;
            let numbers: Option<Vec<u32>> = version.split('.').map(|n| n.parse().ok()).collect();
            numbers.filter(|numbers| numbers.len() <= 2).map(|numbers| (numbers, path))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

/// Folders of NVIDIA's wheels in an environment: `lib/python3.*/site-packages/nvidia/*/lib`, also as Debian calls them.
fn wheels(environment: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for python in entries(&environment.join("lib"), "python3") {
        for packages in ["site-packages", "dist-packages"] {
            let nvidia = entries(&python.join(packages).join("nvidia"), "");
            found.extend(nvidia.into_iter().map(|package| package.join("lib")));
        }
    }
    found
}

/// What is in a folder and begins so, sorted; nothing if there is no folder.
fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(folder) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = folder
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.starts_with(prefix))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "makes a folder to look into")]
    fn touch(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
    }

    #[test]
    fn toolkits_come_before_python_environments_and_new_before_old() {
        let root = tempfile::tempdir().unwrap();
        touch(
            root.path(),
            &[
                "home/lib64/libnvrtc.so.12",
                "home/lib64/libnvrtc.so.12.4.127",
                "home/lib64/libnvrtc.so",
                "home/lib64/libnvrtc-builtins.so.12.4",
                "local/cuda/lib64/libnvrtc.so.13",
                "local/cuda-11.8/lib64/libnvrtc.so.11.2",
                "local/cuda-12.4/lib64/libnvrtc.so.12",
                "local/lib/libnvrtc.so.13",
                "venv/lib/python3.11/site-packages/nvidia/cu13/lib/libnvrtc.so.13",
                "venv/lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
                "usr/lib/python3/dist-packages/nvidia/cu13/lib/libnvrtc.so.13",
            ],
        );
        let at = |path: &str| root.path().join(path);
        let places = Places {
            loader: vec!["libnvrtc.so.13".into()],
            toolkits: vec![at("home"), at("missing"), at("local/cuda")],
            installed: Some(at("local")),
            python: vec![at("venv"), at("usr"), at("venv")],
            cache: None,
        };
        let found = places.libraries();
        let found: Vec<&str> = found
            .iter()
            .map(|path| path.strip_prefix(root.path()).unwrap_or(path).to_str().unwrap())
            .collect();
        assert_eq!(
            found,
            [
                "libnvrtc.so.13",
                "home/lib64/libnvrtc.so.12",
                "local/cuda/lib64/libnvrtc.so.13",
                "local/cuda-12.4/lib64/libnvrtc.so.12",
                "local/cuda-11.8/lib64/libnvrtc.so.11.2",
                "venv/lib/python3.11/site-packages/nvidia/cu13/lib/libnvrtc.so.13",
                "venv/lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
                "usr/lib/python3/dist-packages/nvidia/cu13/lib/libnvrtc.so.13",
            ]
        );
    }

    #[test]
    fn relative_folders_of_the_path_are_no_environments() {
        let path = OsStr::new(":.:..:bin:venv/bin::/opt/venv/bin:./x/bin:/usr/bin:");
        assert_eq!(environments(path), [Path::new("/opt/venv"), Path::new("/usr")]);
        assert_eq!(environments(OsStr::new("")), [""; 0].map(PathBuf::from));
    }
}
