//! Checked fronts of the operations: shapes are asserted here, the kernels in [`crate::cpu`] assume them.

pub(crate) mod instance_norm;
mod lanes;
pub(crate) mod linear;
pub(crate) mod loss;
pub(crate) mod packing;
pub(crate) mod pool;
pub(crate) mod residual;
mod sigmoid;
mod softmax;

#[cfg(test)]
pub(crate) mod tests;
