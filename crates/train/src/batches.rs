//! Who makes the batches of a training or of its validation.

use crate::feed::Source;
use augment::device::DeviceLoader;
use augment::{Loader, Mode};
use kernels::{Gpu, GpuError};
use std::path::PathBuf;

/// See the module.
pub enum Batches {
    /// Threads of this machine.
    Threads(Box<Loader>),
    /// The network's card.
    Card(Box<DeviceLoader>),
    /// Another program, before.
    Spool(Vec<PathBuf>),
}

impl Batches {
    /// On a card, with what memory is left there for the cases; training takes its share first, and leaves the rest to
    /// validation.
    ///
    /// # Errors
    /// If the card's memory doesn't do, or it fails.
    pub fn on_card(loader: Loader, gpu: &Gpu, mode: Mode) -> Result<Self, GpuError> {
        let left = gpu.memory()?.free.saturating_sub(DeviceLoader::bytes(&loader));
        let cases = match mode {
            Mode::Training => left / 10 * 7,
            Mode::Validation => left / 10 * 8,
        };
        Ok(Self::Card(Box::new(DeviceLoader::new(loader, gpu, cases)?)))
    }

    /// For a feed.
    pub fn source(&mut self) -> Source<'_> {
        match self {
            Self::Threads(loader) => Source::Loader(loader),
            Self::Card(loader) => Source::Card(loader),
            Self::Spool(records) => Source::Spool(records),
        }
    }
}
