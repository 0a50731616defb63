//! What can go wrong with a card.

/// One line each, with the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// There is no `libcuda`.
    #[error("there is no CUDA driver (libcuda.so.1); install NVIDIA's driver, or use --device cpu")]
    NoDriver,
    /// There is one, but it doesn't start.
    #[error("the CUDA driver doesn't start: {0}; see what nvidia-smi says, or use --device cpu")]
    DriverFails(String),
    /// The driver is too old.
    #[error(
        "the CUDA driver is for CUDA {}.{}, at least {}.{} is needed; update NVIDIA's driver, or use --device cpu",
        found.0, found.1, least.0, least.1
    )]
    OldDriver {
        /// The newest CUDA that it serves: major, minor.
        found: (u32, u32),
        /// What is needed.
        least: (u32, u32),
    },
    /// The driver starts and sees nothing.
    #[error(
        "the CUDA driver sees no card; look at nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu"
    )]
    NoCard,
    /// There are others.
    #[error(
        "there is no cuda:{index}; there is {}; take one of these or --device cpu",
        list_of(cards)
    )]
    CardIndex {
        /// Asked for.
        index: usize,
        /// Names of those that exist.
        cards: Vec<String>,
    },
    /// A card from before 2020.
    #[error(
        "cuda:{index} ({name}) has compute capability {}.{}, at least {}.{} is needed; take another card or --device cpu",
        found.0, found.1, least.0, least.1
    )]
    OldCard {
        /// Asked for.
        index: usize,
        /// Its name.
        name: String,
        /// Its compute capability.
        found: (u32, u32),
        /// What is needed.
        least: (u32, u32),
    },
    /// NVRTC is not there.
    #[error(
        "CUDA's run-time compiler (libnvrtc.so) is not found; \
         `pip install {package}` in the active Python environment, \
         set CUDA_HOME to a CUDA toolkit, or use --device cpu"
    )]
    NoCompiler {
        /// The wheel that has it.
        package: &'static str,
    },
    /// Those that are there don't serve.
    #[error(
        "{}; `pip install -U {package}` in the active Python environment, \
         set CUDA_HOME to another CUDA toolkit, or use --device cpu",
        reasons.join("; ")
    )]
    UnfitCompiler {
        /// What was found, and why it doesn't serve.
        reasons: Vec<String>,
        /// The wheel that would.
        package: &'static str,
    },
    /// A kernel file that the compiler refuses.
    #[error("{file} doesn't compile for sm_{arch} with NVRTC {}.{}: {}", version.0, version.1, first_error(log))]
    Compile {
        /// Name of the file.
        file: String,
        /// Compute capability, 80 for 8.0.
        arch: u32,
        /// The compiler's.
        version: (u32, u32),
        /// All that it said.
        log: String,
    },
    /// More memory was asked for than is free.
    #[error("{what} needs {wanted} bytes of GPU memory, {free} are free; {way_out}")]
    Memory {
        /// What it is for.
        what: String,
        /// Bytes asked for.
        wanted: u64,
        /// Bytes free.
        free: u64,
        /// What to do about it.
        way_out: String,
    },
    /// A kernel that is not in any `.cu` file.
    #[error("there is no kernel {0}")]
    NoKernel(String),
    /// A launch that the kernel isn't made for.
    #[error("kernel {kernel}: {reason}")]
    Launch {
        /// Its name.
        kernel: String,
        /// What doesn't fit.
        reason: String,
    },
    /// A call of the driver or the compiler failed.
    #[error("{call}: {reason}")]
    Call {
        /// Such as `cuLaunchKernel(gather)`.
        call: String,
        /// The library's words.
        reason: String,
    },
}

fn list_of(cards: &[String]) -> String {
    let named: Vec<String> =
        cards.iter().enumerate().map(|(index, name)| format!("cuda:{index} ({name})")).collect();
    named.join(", ")
}

/// The first line with an error: what follows is mostly its echo.
fn first_error(log: &str) -> &str {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    lines().find(|line| line.contains("error")).or_else(|| lines().next()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line_with_a_way_out() {
        let cards = vec!["NVIDIA H100".to_owned(), "NVIDIA L4".to_owned()];
        let log = "\nmix.cu(3): warning #177-D: unused\n\nmix.cu(7): error: identifier \"a\" is undefined\n  a;\n";
        for (error, text) in [
            (
                GpuError::NoDriver,
                "there is no CUDA driver (libcuda.so.1); install NVIDIA's driver, or use --device cpu",
            ),
            (
                GpuError::OldDriver { found: (11, 4), least: (12, 0) },
                "the CUDA driver is for CUDA 11.4, at least 12.0 is needed; update NVIDIA's driver, \
                 or use --device cpu",
            ),
            (
                GpuError::CardIndex { index: 2, cards },
                "there is no cuda:2; there is cuda:0 (NVIDIA H100), cuda:1 (NVIDIA L4); \
                 take one of these or --device cpu",
            ),
            (
                GpuError::OldCard {
                    index: 0,
                    name: "Tesla T4".into(),
                    found: (7, 5),
                    least: (8, 0),
                },
                "cuda:0 (Tesla T4) has compute capability 7.5, at least 8.0 is needed; \
                 take another card or --device cpu",
            ),
            (
                GpuError::Compile {
                    file: "mix.cu".into(),
                    arch: 90,
                    version: (13, 0),
                    log: log.into(),
                },
                "mix.cu doesn't compile for sm_90 with NVRTC 13.0: \
                 mix.cu(7): error: identifier \"a\" is undefined",
            ),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
