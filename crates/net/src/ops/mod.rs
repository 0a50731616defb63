//! The loss on logits of any engine.

mod lanes;
pub(crate) mod loss;
mod sigmoid;
mod softmax;

#[cfg(test)]
pub(crate) mod tests;
