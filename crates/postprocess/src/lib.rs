//! Evaluates predictions, finds and applies postprocessing.
