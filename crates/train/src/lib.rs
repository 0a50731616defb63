//! Trains one fold of one configuration.
