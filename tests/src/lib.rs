//! What the tests of the whole pipeline and the demo share: a phantom data set that anyone can make.

pub mod phantom;
