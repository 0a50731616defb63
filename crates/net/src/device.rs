//! Where the network runs: today the CPU, at one of three vector widths chosen when the program starts.

use std::fmt;

/// Vector instructions that the CPU kernels are compiled for. Higher levels include the lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimdLevel {
    /// Plain Rust; runs on any machine.
    Portable,
    /// AVX2 with fused multiply-add: 8 f32 at once.
    Avx2,
    /// AVX-512F: 16 f32 at once.
    Avx512,
}

impl SimdLevel {
    /// The highest level of this machine.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Every level that this machine can run, lowest first.
    pub fn available() -> Vec<Self> {
        let highest = Self::detect();
        [Self::Portable, Self::Avx2, Self::Avx512].into_iter().filter(|l| *l <= highest).collect()
    }
}

impl fmt::Display for SimdLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
        })
    }
}

/// The CPU engine: f32, all threads of rayon's current pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    level: SimdLevel,
}

impl Cpu {
    /// The widest vectors that this machine has.
    pub fn detect() -> Self {
        Self { level: SimdLevel::detect() }
    }

    /// A given level, for tests and comparisons; refused when this machine lacks it.
    pub fn with_level(level: SimdLevel) -> Result<Self, DeviceError> {
        let highest = SimdLevel::detect();
        if level > highest {
            return Err(DeviceError::Level { asked: level, highest });
        }
        Ok(Self { level })
    }

    /// The level in use. Never above what the machine has: the kernels rely on it.
    pub fn level(&self) -> SimdLevel {
        self.level
    }
}

/// What a network runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// See [`Cpu`].
    Cpu(Cpu),
}

/// Why a device cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// A GPU was asked for by name.
    #[error("--device {0}: this build has no CUDA engine; use --device cpu")]
    NoCuda(String),
    /// Neither `auto`, `cpu` nor `cuda:N`.
    #[error("--device {0}: unknown device, expected auto, cpu or cuda:N")]
    Unknown(String),
    /// Vector instructions that this machine lacks.
    #[error("vector level {asked} is not available here; the highest is {highest}")]
    Level {
        /// The level asked for.
        asked: SimdLevel,
        /// The highest level of this machine.
        highest: SimdLevel,
    },
}

impl Device {
    /// Opens `auto`, `cpu` or `cuda:N`. `auto` takes the CPU, as this build has no other engine; a device asked for
    /// by name never falls back.
    pub fn open(choice: &str) -> Result<Self, DeviceError> {
        match choice {
            "auto" | "cpu" => Ok(Self::Cpu(Cpu::detect())),
            _ if choice == "cuda" || choice.starts_with("cuda:") => {
                Err(DeviceError::NoCuda(choice.into()))
            }
            _ => Err(DeviceError::Unknown(choice.into())),
        }
    }

    /// For the log: engine, vector level, threads.
    pub fn describe(&self) -> String {
        let Self::Cpu(cpu) = self;
        let threads = rayon::current_num_threads();
        format!("cpu ({}, {threads} thread{})", cpu.level, if threads == 1 { "" } else { "s" })
    }

    /// For records: the engine that decides the bytes.
    pub fn kind(&self) -> &'static str {
        let Self::Cpu(_) = self;
        "cpu"
    }

    pub(crate) fn level(&self) -> SimdLevel {
        let Self::Cpu(cpu) = self;
        cpu.level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_open_by_name_and_never_fall_back() {
        assert!(Device::open("auto").is_ok() && Device::open("cpu").is_ok());
        let cuda = Device::open("cuda:0").unwrap_err().to_string();
        assert_eq!(cuda, "--device cuda:0: this build has no CUDA engine; use --device cpu");
        let unknown = Device::open("gpu").unwrap_err().to_string();
        assert_eq!(unknown, "--device gpu: unknown device, expected auto, cpu or cuda:N");
    }
}
