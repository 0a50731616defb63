//! What the tests of the whole pipeline and the demo share: a phantom data set that anyone can make, and ways to run
//! the programs on it.

pub mod phantom;
pub mod programs;
