//! A configuration's averaged outputs, on the host or still on the card.

use crate::export::{Decoding, Grid, Outputs};
use artifact::case::Case;
use ndarray::Array3;
use net::sliding_window::{CardMeans, Decide, Means, Resampling, Tap};
use postprocess::decision::Rule;
use preprocess::resample::LinearTap;
use stage::Result;

/// See the module.
#[derive(Debug)]
pub(crate) struct Maps<'a> {
    means: Means,
    from: Grid,
    decoding: &'a Decoding,
}

impl<'a> Maps<'a> {
    /// Averages on the grid of a preprocessed case.
    pub(crate) fn new(means: Means, case: &Case, decoding: &'a Decoding) -> Self {
        Self { means, from: Grid::of(case), decoding }
    }

    /// Class indices `[z, y, x]` on a grid, plan axes; made where the averages are.
    ///
    /// # Errors
    /// If the card fails.
    pub(crate) fn classes(&mut self, grid: Grid) -> Result<Array3<i16>> {
        if let Means::Card(means) = &self.means
            && let Some(classes) = on_card(means, self.from, grid, self.decoding)?
        {
            return Ok(classes);
        }
        Ok(self.outputs()?.classes(grid))
    }

    /// The averages on the host; from the card they are copied once.
    ///
    /// # Errors
    /// If the card fails.
    pub(crate) fn outputs(&mut self) -> Result<Outputs<'_>> {
        let maps = self.means.on_host()?;
        Ok(Outputs { maps, spacing_mm: self.from.spacing_mm, decoding: self.decoding })
    }
}

/// None if splines of a higher order are asked for, or the classes don't fit onto the card.
fn on_card(
    means: &CardMeans,
    from: Grid,
    to: Grid,
    decoding: &Decoding,
) -> Result<Option<Array3<i16>>> {
    let Some(resampled) = decoding.linear(from, to) else { return Ok(None) };
    let tap = |&LinearTap { at, weights }: &LinearTap| Tap { at, weights };
    let axes = resampled.axes.map(|taps| taps.iter().map(tap).collect());
    let grid = Resampling { order: resampled.order, axes };
    let rule = decoding.rule(decoding.averaged);
    let decide = match &rule {
        Rule::Largest => Decide::Largest,
        Rule::Above { threshold, classes } => Decide::Above { threshold: *threshold, classes },
    };
    Ok(means.classes(&grid, decide)?)
}
