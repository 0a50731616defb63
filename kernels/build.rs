//! Builds the kernels for the simulator, under the feature `sim`; otherwise nothing.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "sim")]
    sim::build();
}

#[cfg(feature = "sim")]
mod sim {
    use std::path::{Path, PathBuf};

    /// Every `.cu` file, in a namespace of its own: files may use a name for different things.
    #[expect(clippy::disallowed_methods, reason = "a build script's intermediate files")]
    fn wrapped(kernel: &Path, out: &Path) -> PathBuf {
        let stem = kernel.file_stem().and_then(|stem| stem.to_str()).expect("a name in UTF-8");
        let text = format!(
            "#include \"device.cuh\"\nnamespace file_{stem} {{\n#include \"{}\"\n}}\n",
            kernel.display()
        );
        let path = out.join(format!("{stem}.cpp"));
        std::fs::write(&path, text).expect("OUT_DIR can be written");
        path
    }

    fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).expect("the folder is there");
        let mut files: Vec<PathBuf> = entries
            .map(|entry| entry.expect("the folder can be read").path())
            .filter(|path| path.extension().is_some_and(|e| e == extension))
            .collect();
        files.sort();
        files
    }

    pub fn build() {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
        let sim = root.join("sim");
        println!("cargo::rerun-if-changed={}", sim.display());
        println!("cargo::rerun-if-changed={}", root.join("device.cuh").display());
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++17")
            .opt_level(2)
            .include(&root)
            .include(&sim)
            // As on a card: no contraction is assumed, memory may be read as another type than it was written.
            .flag("-ffp-contract=off")
            .flag("-fno-strict-aliasing")
            .flag("-fno-exceptions")
            .flag("-g1")
            .files(files(&sim, "cpp"))
            // Kernels register themselves: no symbol asks for their object files.
            .link_lib_modifier("+whole-archive");
        for kernel in files(&root, "cu").iter().chain(&files(&sim, "cu")) {
            println!("cargo::rerun-if-changed={}", kernel.display());
            build.file(wrapped(kernel, &out));
        }
        for header in files(&root, "cuh") {
            println!("cargo::rerun-if-changed={}", header.display());
        }
        println!("cargo::rerun-if-changed={}", root.display());
        build.compile("kernels_sim");
    }
}
