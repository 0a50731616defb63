//! The U-Net: forward, backward, loss and optimiser, on any unit of a CPU or on a card.
//!
//! [`UNet`] is built from [`artifact::plan::Network`]; 2D is 3D with depth 1. A U-Net is a fixed list of layers, so
//! forward and backward are written out layer by layer, without automatic differentiation, over memory that is
//! planned once per (batch, patch) and reused.
//!
//! All convolutions, transposed convolutions and heads, forward and backward, are three operations between a large
//! and a small grid, served by two kernels per engine. Results do not depend on the number of threads: every sum has one order.

mod args;
mod bench;
pub mod checkpoint;
mod cuda;
pub mod describe;
mod device;
mod engine;
mod error;
mod geometry;
mod host;
mod layout;
mod loss;
mod ops;
mod optimiser;
#[cfg(test)]
mod reference;
pub mod sliding_window;
mod unet;
pub mod weights;

pub use args::DeviceArgs;
pub use bench::{BenchOptions, OneLayer, Operation, Seconds, Timing, Update, bench};
pub use device::{Cpu, Cuda, Device, DeviceError, Precision, PrecisionChoice, Unit};
pub use error::Error;
pub use loss::{ClassCounts, Loss, LossOptions, Outputs, Targets};
pub use optimiser::{AdamOptions, Optimiser, SgdOptions};
pub use unet::{DeviceBatch, UNet};

/// Revision of what networks compute, learn and start from, on the CPU and, with the kernels, on a card.
/// Whatever may change these bytes raises it, with a line in `crates/CHANGELOG.md`.
pub const REVISION: u32 = 2;
