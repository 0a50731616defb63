//! Checked fronts of the operations: shapes are asserted here, the kernels in [`crate::cpu`] assume them.

pub(crate) mod dice_ce;
pub(crate) mod instance_norm;
pub(crate) mod linear;
pub(crate) mod packing;

#[cfg(test)]
mod tests;
