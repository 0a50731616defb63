//! Convolution, transposed convolution and the heads on a card; see [`crate::geometry`] for the three operations.

mod arguments;
mod convolve;
mod gradient;
mod job;
mod pack;
mod plan;
mod tile;

pub(crate) use convolve::{gather, scatter, statistics_tiles};
pub(crate) use gradient::{bias_gradient, bias_scratch, outer, outer_scratch};
pub(crate) use pack::{PackTable, Packed, pack};

#[cfg(test)]
pub(super) use convolve::{gather_within, scatter_within, tiles_within};
#[cfg(test)]
pub(super) use plan::{Limits, VARIANTS};

use super::tensor::{Layout, Tensor};

/// A block of the kernels: output channels of a product, input channels of a chunk.
const BLOCK: usize = 32;

/// Channels that lie together in shared memory: 16 bytes of bfloat16.
const GROUP: usize = 8;

/// The tensors of a concatenation, of which there are at most two; absent ones have no channels.
fn pair<T: Default>(list: impl IntoIterator<Item = T>) -> [T; 2] {
    let mut list = list.into_iter();
    let pair = [list.next().unwrap_or_default(), list.next().unwrap_or_default()];
    assert!(list.next().is_none(), "a concatenation of more than two tensors");
    pair
}

fn layouts(tensors: &[&Tensor]) -> Vec<Layout> {
    tensors.iter().map(|t| t.layout).collect()
}

/// Groups that are computed for so many in memory: a chunk has 1, 2 or 4.
fn filled_groups(groups: usize) -> usize {
    let whole = groups.saturating_sub(1) / 4 * 4;
    whole + if groups == 0 { 0 } else { (groups - whole).next_power_of_two() }
}

fn groups(channels: usize) -> usize {
    channels.div_ceil(GROUP)
}

fn to_u32(n: usize) -> u32 {
    u32::try_from(n).expect("sizes of a tensor fit into 32 bits")
}

fn triple(sizes: [usize; 3]) -> [u32; 3] {
    sizes.map(to_u32)
}

/// Multiplied with n and shifted right by 31, this divides n by `by`, for n · by below 2^31.
fn reciprocal(by: usize) -> u32 {
    (1u32 << 31).div_ceil(to_u32(by.max(1)))
}

/// Asserts that the tensors of a concatenation lie on one grid.
fn check_same_grid(layouts: &[Layout]) {
    for l in layouts {
        assert_eq!(l.with_channels(1), layouts[0].with_channels(1), "tensors of a concatenation");
    }
}
