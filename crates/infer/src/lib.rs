//! Predicts whole images with trained models.
