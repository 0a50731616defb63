//! What can go wrong with a card.

/// One line each, with the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
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
    /// A call of the driver failed.
    #[error("{call}: {reason}")]
    Call {
        /// Such as `cuLaunchKernel(gather)`.
        call: String,
        /// The driver's words.
        reason: String,
    },
}
