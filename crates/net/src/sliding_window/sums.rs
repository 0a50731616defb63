//! Sums on the host or on the network's card, whichever serves.

use super::{Accumulator, CardMeans, CardSums, Tick, Window, probabilities};
use crate::{Error, UNet};
use ndarray::{Array4, ArrayView4, ArrayView5, ArrayViewMut5};

/// Weighted sums of views; several networks of one kind may add theirs.
#[derive(Debug)]
pub enum Sums {
    /// On the host, patch after patch through the network.
    Host(Box<Accumulator>),
    /// On the network's card.
    Card(Box<CardSums>),
}

impl Sums {
    /// Empty sums for an image `[channel, z, y, x]`: on the network's card, if it has one that holds them.
    ///
    /// # Errors
    /// If the card fails.
    ///
    /// # Panics
    /// As [`Accumulator::new`].
    pub fn new(net: &UNet, image: ArrayView4<'_, f32>, window: &Window) -> Result<Self, Error> {
        let (_, z, y, x) = image.dim();
        Ok(match CardSums::new(net, image, window)? {
            Some(sums) => Self::Card(Box::new(sums)),
            None => Self::Host(Box::new(Accumulator::new(
                [z, y, x],
                net.spec().output_channels,
                window,
            ))),
        })
    }

    /// Adds all views of one network. After an error the sums are incomplete and of no use.
    ///
    /// # Errors
    /// If the network fails, and those of `tick`.
    ///
    /// # Panics
    /// If the image's shape isn't that of the sums.
    pub fn add<E: From<Error>>(
        &mut self,
        net: &mut UNet,
        image: ArrayView4<'_, f32>,
        tick: &mut Tick<'_, E>,
    ) -> Result<(), E> {
        match self {
            Self::Card(sums) => sums.add(net, tick),
            Self::Host(sums) => {
                let mut forward = |x: ArrayView5<'_, f32>, out: ArrayViewMut5<'_, f32>| {
                    net.forward_into(x, out).map_err(E::from)
                };
                sums.add(image, &mut forward, tick)
            }
        }
    }

    /// The averages of what [`Window::averaged`] names.
    ///
    /// # Errors
    /// If the card fails.
    pub fn means(self) -> Result<Means, Error> {
        Ok(match self {
            Self::Host(sums) => Means::Host(sums.means()),
            Self::Card(sums) => Means::Card(sums.means()?),
        })
    }
}

/// Averages `[output, z, y, x]`, where they were made.
#[derive(Debug)]
pub enum Means {
    /// In the host's memory.
    Host(Array4<f32>),
    /// In a card's.
    Card(CardMeans),
}

impl Means {
    /// No value is NaN or infinite.
    pub fn finite(&self) -> bool {
        match self {
            Self::Host(means) => means.iter().all(|mean| mean.is_finite()),
            Self::Card(means) => means.finite(),
        }
    }

    /// Brings them to the host's memory, if they aren't there.
    ///
    /// # Errors
    /// If the card fails.
    pub fn on_host(&mut self) -> Result<ArrayView4<'_, f32>, Error> {
        let host = match self {
            Self::Host(means) => return Ok(means.view()),
            Self::Card(means) => means.download()?,
        };
        *self = Self::Host(host);
        self.on_host()
    }

    /// In the host's memory.
    ///
    /// # Errors
    /// If the card fails.
    pub fn into_host(self) -> Result<Array4<f32>, Error> {
        match self {
            Self::Host(means) => Ok(means),
            Self::Card(means) => means.download(),
        }
    }
}

/// Probabilities `[class, z, y, x]` that a network gives an image `[channel, z, y, x]`.
///
/// # Errors
/// If the network fails, and those of `tick`.
///
/// # Panics
/// As [`Accumulator::new`].
pub fn predict_volume<E: From<Error>>(
    net: &mut UNet,
    image: ArrayView4<'_, f32>,
    window: &Window,
    tick: &mut Tick<'_, E>,
) -> Result<Array4<f32>, E> {
    let mut sums = Sums::new(net, image, window)?;
    sums.add(net, image, tick)?;
    Ok(probabilities(sums.means()?.into_host()?, window))
}
