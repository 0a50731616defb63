//! What a network can refuse.

use crate::DeviceError;
use kernels::GpuError;

/// One line each: what, found, expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The description of the network contradicts itself.
    #[error("network: {0}")]
    Network(String),
    /// See [`DeviceError`].
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A card failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The machine hasn't the memory: what is needed and what is there.
    #[error("the network {0}")]
    Memory(String),
    /// A batch in a card's memory, for a network that isn't there.
    #[error("a batch on a card was given to a network on the CPU")]
    NotOnCard,
    /// An input whose shape does not fit the network.
    #[error("{what}: found {found:?}, expected {expected}")]
    Shape {
        /// Which array.
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// What would fit.
        expected: String,
    },
    /// A label outside the network's classes.
    #[error("target: found class {found}, expected less than {classes}")]
    Class {
        /// The label.
        found: i16,
        /// Output channels of the network.
        classes: usize,
    },
    /// A tensor that the network or the optimiser has and the given set lacks.
    #[error("tensor {0}: missing")]
    MissingTensor(String),
    /// A tensor that the network or the optimiser does not know.
    #[error("tensor {0}: found, but there is no such tensor in this network")]
    UnknownTensor(String),
    /// A tensor that is there more than once.
    #[error("tensor {0}: found twice")]
    RepeatedTensor(String),
    /// A tensor of another shape.
    #[error("tensor {name}: found shape {found:?}, expected {expected:?}")]
    TensorShape {
        /// Its name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The network's.
        expected: Vec<usize>,
    },
    /// A gradient step before any gradient was computed.
    #[error("update: no gradients yet; call loss_and_gradients first")]
    NoGradients,
}

impl From<Error> for stage::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Memory(_) => Self::input(error.to_string())
                .hint("plan again with a smaller planning.gpu_memory_gib, or use a larger machine"),
            error => Self::failed(error.to_string()),
        }
    }
}
