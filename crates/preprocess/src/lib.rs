//! Crops, resamples and normalises cases for one configuration.
