//! Where the network runs: the CPU, at one of three vector widths chosen when the program starts, or a card.

use kernels::{Gpu, GpuError};
use std::fmt;
use std::str::FromStr;

/// Vector instructions that the CPU kernels are compiled for. Higher levels include the lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimdLevel {
    /// Plain Rust; runs on any machine.
    Portable,
    /// AVX2 with fused multiply-add: 8 f32 at once.
    Avx2,
    /// AVX-512 (F, BW, VL, DQ): 16 f32 at once.
    Avx512,
}

impl SimdLevel {
    /// The highest level of this machine.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
            {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Every level that this machine can run, lowest first.
    #[cfg(test)]
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

/// What multiplies on a CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Plain Rust; runs on any machine.
    Portable,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512.
    Avx512,
    /// AVX-512 with products of bfloat16.
    Avx512Bf16,
    /// AMX: tiles of bfloat16.
    Amx,
    /// Plain Rust that is driven as AMX is.
    #[cfg(test)]
    Tiles,
}

impl Unit {
    /// Every unit, slowest first.
    const ALL: &[Self] = &[
        #[cfg(test)]
        Self::Tiles,
        Self::Portable,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Bf16,
        Self::Amx,
    ];

    /// Every unit of this machine, slowest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.iter().copied().filter(|unit| unit.is_here()).collect()
    }

    fn is_here(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(test)]
            Self::Tiles => true,
            Self::Avx2 => SimdLevel::detect() >= SimdLevel::Avx2,
            Self::Avx512 => SimdLevel::detect() >= SimdLevel::Avx512,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                SimdLevel::detect() >= SimdLevel::Avx512 && is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Self::Avx512Bf16.is_here() && crate::host::unit::Amx::is_here(),
            #[expect(unreachable_patterns, reason = "some machines have no such units")]
            _ => false,
        }
    }

    /// Whether it computes in a precision. Sums of two bfloat16 pay only where products are many times faster than in f32;
    /// plain Rust has them for tests.
    pub fn computes(self, precision: Precision) -> bool {
        match self {
            Self::Portable => true,
            Self::Avx2 | Self::Avx512 => precision != Precision::F32Fast,
            Self::Avx512Bf16 => precision == Precision::Bf16,
            Self::Amx => precision != Precision::F32,
            #[cfg(test)]
            Self::Tiles => precision != Precision::F32,
        }
    }

    /// Width of the vectors for everything but products.
    fn level(self) -> SimdLevel {
        match self {
            Self::Portable => SimdLevel::Portable,
            #[cfg(test)]
            Self::Tiles => SimdLevel::Portable,
            Self::Avx2 => SimdLevel::Avx2,
            Self::Avx512 | Self::Avx512Bf16 | Self::Amx => SimdLevel::Avx512,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            #[cfg(test)]
            Self::Tiles => "tiles",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
            Self::Avx512Bf16 => "AVX-512 with bfloat16",
            Self::Amx => "AVX-512 and AMX",
        })
    }
}

/// The CPU: a unit that this machine has, and a precision in which it computes; all threads of rayon's current pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    unit: Unit,
    precision: Precision,
}

impl Cpu {
    /// The fastest unit that this machine has, in f32.
    pub fn detect() -> Self {
        Self { unit: fastest(Precision::F32).unwrap_or(Unit::Portable), precision: Precision::F32 }
    }

    /// In a given precision, on the fastest unit of this machine.
    ///
    /// # Errors
    /// f32-fast wants AMX with bfloat16.
    pub fn with_precision(precision: Precision) -> Result<Self, DeviceError> {
        let unit =
            fastest(precision).filter(|unit| precision != Precision::F32Fast || *unit == Unit::Amx);
        unit.map(|unit| Self { unit, precision }).ok_or(DeviceError::Precision(precision))
    }

    /// A given unit and precision, for tests and comparisons.
    ///
    /// # Errors
    /// If this machine lacks the unit, or it doesn't compute so.
    pub fn with_unit(unit: Unit, precision: Precision) -> Result<Self, DeviceError> {
        match unit.is_here() && unit.computes(precision) {
            true => Ok(Self { unit, precision }),
            false => Err(DeviceError::Unit { unit, precision }),
        }
    }

    /// Every unit of this machine in every precision in which it computes.
    pub fn available() -> Vec<Self> {
        let precisions = [Precision::F32, Precision::F32Fast, Precision::Bf16];
        let all = Unit::available().into_iter().flat_map(|u| precisions.map(|p| (u, p)));
        all.filter_map(|(unit, precision)| Self::with_unit(unit, precision).ok()).collect()
    }

    /// What `auto` takes: bf16 where there is a matrix unit for it, else f32. Over three seeds on a real data set, trainings
    /// in bf16 stay far closer to those in f32 than these stay to each other (the crate's README has the table).
    fn best() -> Precision {
        if Unit::Amx.is_here() { Precision::Bf16 } else { Precision::F32 }
    }

    /// What multiplies.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Of activations and products.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Operations per second that all threads reach here with operands in registers, measured in a third of a second (a
    /// multiply-add counts 2; of f32-fast, which makes one of three, a third). None for plain Rust, where it says little.
    pub fn measure_peak(&self) -> Option<f64> {
        crate::host::engine::peak(self)
    }

    /// Width of the vectors.
    pub(crate) fn level(&self) -> SimdLevel {
        self.unit.level()
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.unit, self.precision)
    }
}

/// The fastest unit of this machine that computes in a precision.
fn fastest(precision: Precision) -> Option<Unit> {
    Unit::available().into_iter().rev().find(|unit| unit.computes(precision))
}

/// What activations and products are computed in; sums, norms' statistics, the loss and the parameters are f32 (and
/// f64) always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// On the CPU f32; on a card activations are f32 and each product is made of three of bfloat16 halves, about
    /// 16 bits of mantissa.
    F32,
    /// On a CPU with a matrix unit, activations and factors are sums of two bfloat16 (16 bits of mantissa), each product
    /// is made of three; on a card the same as f32.
    F32Fast,
    /// Activations and factors are bfloat16 (8 bits of mantissa, f32's range: no loss scaling).
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F32Fast => "f32-fast",
            Self::Bf16 => "bf16",
        })
    }
}

/// `auto`, `f32`, `f32-fast` or `bf16`; `auto` is `None`: what the device does best, bf16 on a card and on a
/// CPU with a matrix unit, else f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrecisionChoice(pub Option<Precision>);

impl FromStr for PrecisionChoice {
    type Err = String;

    fn from_str(choice: &str) -> Result<Self, String> {
        match choice {
            "auto" => Ok(Self(None)),
            "f32" => Ok(Self(Some(Precision::F32))),
            "f32-fast" => Ok(Self(Some(Precision::F32Fast))),
            "bf16" => Ok(Self(Some(Precision::Bf16))),
            _ => Err("expected auto, f32, f32-fast or bf16".into()),
        }
    }
}

/// A card and how it computes.
#[derive(Debug, Clone)]
pub struct Cuda {
    gpu: Gpu,
    /// As it was asked for: `cuda:1`.
    name: String,
    precision: Precision,
}

impl Cuda {
    /// The card.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Of activations and products.
    pub fn precision(&self) -> Precision {
        self.precision
    }
}

/// What a network runs on.
#[derive(Debug, Clone)]
pub enum Device {
    /// See [`Cpu`].
    Cpu(Cpu),
    /// See [`Cuda`].
    Cuda(Cuda),
}

/// Why a device cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// A card was asked for by name.
    #[error("--device {name}: {error}")]
    Cuda {
        /// As asked for.
        name: String,
        /// What is wrong with it.
        error: GpuError,
    },
    /// Neither `auto`, `cpu`, `cuda` nor `cuda:N`.
    #[error("--device {0}: unknown device, expected auto, cpu, cuda or cuda:N")]
    Unknown(String),
    /// A precision for which the CPU lacks the unit.
    #[error(
        "--precision {0}: this CPU has no matrix unit (AMX with bfloat16); use --precision f32 or auto"
    )]
    Precision(Precision),
    /// A unit that this machine lacks, or that doesn't compute so.
    #[error("{unit} in {precision}: not on this machine")]
    Unit {
        /// What was asked for.
        unit: Unit,
        /// In which precision.
        precision: Precision,
    },
}

impl Device {
    /// Opens `auto`, `cpu`, `cuda` (the first card) or `cuda:N`, in the precision that suits it. `auto` takes the first card
    /// if it works, else the CPU; a device asked for by name never falls back.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn open(choice: &str) -> Result<Self, DeviceError> {
        Self::open_in(choice, PrecisionChoice(None)).map(|(device, _)| device)
    }

    /// As [`Device::open`], in a given precision. With `auto`, says why there is no card, if there is none.
    ///
    /// # Errors
    /// If there is no such device, or it can't compute so.
    pub fn open_in(
        choice: &str,
        precision: PrecisionChoice,
    ) -> Result<(Self, Option<String>), DeviceError> {
        let card = |name: &str, index| {
            let precision = precision.0.unwrap_or(Precision::Bf16);
            Gpu::cuda(index)
                .map(|gpu| Self::Cuda(Cuda { gpu, name: name.into(), precision }))
                .map_err(|error| DeviceError::Cuda { name: name.into(), error })
        };
        let cpu = || Cpu::with_precision(precision.0.unwrap_or_else(Cpu::best)).map(Self::Cpu);
        match choice {
            "cpu" => Ok((cpu()?, None)),
            "auto" => match card("cuda:0", 0) {
                Ok(device) => Ok((device, None)),
                Err(DeviceError::Cuda { error, .. }) => Ok((cpu()?, Some(error.to_string()))),
                Err(error) => Err(error),
            },
            "cuda" => Ok((card("cuda:0", 0)?, None)),
            #[cfg(feature = "sim")]
            "sim" => Ok((Self::sim(precision.0.unwrap_or(Precision::Bf16)), None)),
            _ => match choice.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(index)) => Ok((card(choice, index)?, None)),
                _ => Err(DeviceError::Unknown(choice.into())),
            },
        }
    }

    /// The CUDA engine on the simulator: the same kernels and the same calls, on the CPU, for tests.
    #[cfg(feature = "sim")]
    pub fn sim(precision: Precision) -> Self {
        Self::on(Gpu::sim(kernels::SimOptions::default()), "sim", precision)
    }

    /// A card that was opened elsewhere.
    pub fn on(gpu: Gpu, name: &str, precision: Precision) -> Self {
        Self::Cuda(Cuda { gpu, name: name.into(), precision })
    }

    /// For the log: engine, vector level and threads, or card, and precision.
    pub fn describe(&self) -> String {
        match self {
            Self::Cpu(cpu) => {
                let threads = rayon::current_num_threads();
                let s = if threads == 1 { "" } else { "s" };
                format!("cpu ({}, {threads} thread{s}), {}", cpu.unit, cpu.precision)
            }
            Self::Cuda(cuda) => {
                format!("{} ({}), {}", cuda.name, cuda.gpu.card().name, cuda.precision)
            }
        }
    }

    /// For records: what decides the bytes.
    pub fn kind(&self) -> &'static str {
        match (self, self.precision()) {
            (Self::Cpu(_), Precision::F32) => "cpu",
            (Self::Cpu(_), Precision::F32Fast) => "cpu f32-fast",
            (Self::Cpu(_), Precision::Bf16) => "cpu bf16",
            (Self::Cuda(_), Precision::F32 | Precision::F32Fast) => "cuda f32",
            (Self::Cuda(_), Precision::Bf16) => "cuda bf16",
        }
    }

    /// Of activations and products.
    pub fn precision(&self) -> Precision {
        match self {
            Self::Cpu(cpu) => cpu.precision,
            Self::Cuda(cuda) => cuda.precision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_open_by_name_and_never_fall_back() {
        assert!(Device::open("auto").is_ok() && Device::open("cpu").is_ok());
        // No machine has so many cards, and many have none.
        let cuda = Device::open("cuda:99").unwrap_err().to_string();
        assert!(cuda.starts_with("--device cuda:99: ") && cuda.contains("--device cpu"), "{cuda}");
        for unknown in ["gpu", "cuda:", "cuda:x", "cuda:-1"] {
            let error = Device::open(unknown).unwrap_err().to_string();
            let expected =
                format!("--device {unknown}: unknown device, expected auto, cpu, cuda or cuda:N");
            assert_eq!(error, expected);
        }
        let (device, _) = Device::open_in("cpu", "bf16".parse().unwrap()).unwrap();
        assert_eq!(device.kind(), "cpu bf16");
        match Device::open_in("cpu", "f32-fast".parse().unwrap()) {
            Ok((device, _)) => assert!(Unit::Amx.is_here() && device.kind() == "cpu f32-fast"),
            Err(error) => {
                assert!(!Unit::Amx.is_here());
                let expected = "--precision f32-fast: this CPU has no matrix unit (AMX with bfloat16); use --precision f32 or \
                                auto";
                assert_eq!(error.to_string(), expected);
            }
        }
    }

    #[test]
    fn every_machine_computes_in_f32_and_bf16_and_says_by_what() {
        let all = Cpu::available();
        for precision in [Precision::F32, Precision::F32Fast, Precision::Bf16] {
            assert!(all.contains(&Cpu { unit: Unit::Portable, precision }));
        }
        let fastest = Cpu::with_precision(Precision::Bf16).unwrap();
        assert_eq!(all.iter().rfind(|cpu| cpu.precision == Precision::Bf16), Some(&fastest));
        assert!(Cpu::with_unit(Unit::Amx, Precision::F32).is_err());
        let said = Device::Cpu(fastest).describe();
        assert!(said.contains(&fastest.unit.to_string()) && said.ends_with("bf16"), "{said}");
    }
}
