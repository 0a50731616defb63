//! Builds the kernels for the simulator, under the feature `sim`; otherwise nothing.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "sim")]
    sim::build();
}

#[cfg(feature = "sim")]
mod sim {
    use std::path::{Path, PathBuf};

    /// Undefined behaviour that the compiler can find in kernels as they run.
    const CHECKS: [&str; 6] = [
        "alignment",
        "null",
        "bounds",
        "shift",
        "signed-integer-overflow",
        "integer-divide-by-zero",
    ];

    /// Every `.cu` file with what it includes, in a namespace of its own: files may use a name for different things.
    #[expect(clippy::disallowed_methods, reason = "a build script's intermediate files")]
    fn wrapped(kernel: &Path, out: &Path) -> PathBuf {
        let stem = kernel.file_stem().and_then(|stem| stem.to_str()).expect("a name in UTF-8");
        // Static shared arrays lie in a section of the file's own; the linker knows its ends, if there is one.
        let text = format!(
            r#"#define SIM_SHARED_SECTION "sim_shared_{stem}"
extern "C" {{
extern unsigned char __start_sim_shared_{stem}[] __attribute__((weak, visibility("hidden")));
extern unsigned char __stop_sim_shared_{stem}[] __attribute__((weak, visibility("hidden")));
}}
#define SIM_SHARED_BEGIN __start_sim_shared_{stem}
#define SIM_SHARED_END __stop_sim_shared_{stem}
#include <math.h>
#include "machine.h"
namespace file_{stem} {{
namespace {{
#include "device.cuh"
#include "{}"
}}
}}
"#,
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
        let folder = |name| PathBuf::from(std::env::var_os(name).expect("cargo sets it"));
        let (root, out) = (folder("CARGO_MANIFEST_DIR"), folder("OUT_DIR"));
        let sim = root.join("sim");
        println!("cargo::rerun-if-changed={}", sim.display());
        println!("cargo::rerun-if-changed={}", root.join("device.cuh").display());
        // A new file of kernels is listed there.
        println!("cargo::rerun-if-changed={}", root.join("src/sources.rs").display());
        let mut common = cc::Build::new();
        common
            .cpp(true)
            .std("c++17")
            .opt_level(2)
            .include(&root)
            .include(&sim)
            // As on a card: no contraction is assumed, memory may be read as another type than it was written.
            .flag("-ffp-contract=off")
            .flag("-fno-strict-aliasing")
            .flag("-fno-exceptions")
            .flag("-g1");
        if cfg!(feature = "sanitize") {
            common.flag("-fsanitize=address").flag("-fno-omit-frame-pointer");
            // Before the C++ library: it must be the program's first.
            println!("cargo::rustc-link-lib=asan");
        }
        if cfg!(feature = "races") {
            common.define("SIM_RACES", "1");
        }
        let mut kernels = common.clone();
        if cfg!(feature = "races") {
            // sim/access.cpp takes the sanitizer's place.
            kernels.flag("-fsanitize=thread").flag("--param=tsan-instrument-func-entry-exit=0");
        }
        for kernel in files(&root, "cu").iter().chain(&files(&sim, "cu")) {
            println!("cargo::rerun-if-changed={}", kernel.display());
            kernels.file(wrapped(kernel, &out));
        }
        // sim/undefined.cpp receives what the checks find. Kernels register themselves: no symbol asks for their files.
        kernels
            .flag(format!("-fsanitize={}", CHECKS.join(",")))
            .flag("-fno-sanitize-recover=all")
            .link_lib_modifier("+whole-archive")
            .compile("kernels_sim_device");
        common.files(files(&sim, "cpp")).compile("kernels_sim_machine");
    }
}
