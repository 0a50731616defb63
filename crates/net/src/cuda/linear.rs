//! Convolution, transposed convolution and the heads on a card; see [`crate::ops::linear`] for the three operations.
