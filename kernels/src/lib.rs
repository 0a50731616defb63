//! The CUDA kernels (`*.cu` beside this folder), and what loads and launches them.
//!
//! A narrow [`Driver`] has two implementations: [`cuda`], a card through cudarc, with kernels compiled by NVRTC when
//! the program starts and cached; and the simulator (feature `sim`), which runs the same unmodified kernels on the
//! CPU, so that everything above the driver is tested without a card. [`Gpu`], [`Buffer`] and [`Stream`] are what
//! others use.

pub mod compile;
pub mod cuda;
mod driver;
mod error;
mod gpu;
#[cfg(feature = "sim")]
pub mod sim;
mod sources;
#[cfg(feature = "sim")]
mod testing;

pub use driver::{Card, Driver, EventId, GraphId, Launch, Memory, Pointer, StreamId};
pub use error::GpuError;
pub use gpu::{Arguments, Buffer, Event, Gpu, Graph, Pinned, Plain, Stream};
#[cfg(feature = "sim")]
pub use sim::{Order, Pace, SimOptions, Simulator};
pub use sources::{HEADERS, SOURCES, Source};
#[cfg(feature = "sim")]
pub use testing::test_gpus;
