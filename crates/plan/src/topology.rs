//! From a median shape to a patch and a U-Net.
//!
//! - An axis is halved until it is shorter than 8 voxels, each axis on its own; edges are padded up to what the
//!   halvings divide. The paper's text; `⌊log2(edge / 4)⌋` of the first public code is the same number.
//! - All axes are halved from the first stage on; the one that runs out first keeps stride 1 in the deeper stages.
//! - A patch that has too many voxels loses one divisor along the axis that holds the largest share of the padded
//!   median shape (the last of several equal ones) until it fits: so it keeps the median's aspect ratio.

use crate::budget::Budget;
use artifact::plan::Network;
use artifact::recipe::PaperPlanning;

/// Poolings per axis for a patch of these edges; an axis of length 1 is never pooled. Where no axis is long enough,
/// each axis that has at least two voxels is pooled once, so that there is a U-Net at all.
pub fn poolings(edges: [usize; 3], planning: &PaperPlanning, most: usize) -> [usize; 3] {
    let smaller_than = planning.pool_until_smaller_than.max(2) as f64;
    let counts = edges.map(|edge| {
        let mut left = edge as f64;
        let mut n = 0;
        while left >= smaller_than && n < most {
            left /= 2.0;
            n += 1;
        }
        n
    });
    if counts == [0; 3] { edges.map(|edge| usize::from(edge > 1)) } else { counts }
}

/// Every edge padded up to a multiple of two to the power of its poolings.
pub fn padded(edges: [usize; 3], poolings: [usize; 3]) -> [usize; 3] {
    std::array::from_fn(|i| edges[i].next_multiple_of(1 << poolings[i]))
}

/// The patch for a median shape: the whole of it, or what the budget allows.
pub fn patch(median: [usize; 3], planning: &PaperPlanning, budget: &Budget) -> [usize; 3] {
    let count = |edges| poolings(edges, planning, budget.max_poolings);
    let divisible = |edges: [usize; 3]| -> [usize; 3] {
        let counts = count(edges);
        std::array::from_fn(|i| (edges[i] >> counts[i] << counts[i]).max(1 << counts[i]))
    };
    let whole = padded(median, count(median));
    let mut patch = divisible(whole.map(|edge| edge.min(budget.max_edge.max(1))));
    while patch.iter().product::<usize>() > budget.patch_voxels {
        let divisor = count(patch).map(|n| 1 << n);
        let share = |axis: usize| patch[axis] as f64 / whole[axis] as f64;
        let can_shrink = (0..3).filter(|&axis| patch[axis] > divisor[axis]);
        let Some(axis) = can_shrink.max_by(|&a, &b| share(a).total_cmp(&share(b))) else { break };
        patch[axis] -= divisor[axis];
    }
    // Edges shorter than 8 lose single voxels and may end odd, where every axis is pooled after all.
    divisible(patch)
}

/// The plain U-Net of the paper for a patch.
pub fn network(
    patch: [usize; 3],
    input_channels: usize,
    output_channels: usize,
    planning: &PaperPlanning,
    budget: &Budget,
) -> Network {
    let counts = poolings(patch, planning, budget.max_poolings);
    let stages = 1 + counts.iter().max().copied().unwrap_or(0);
    let kernel = patch.map(|edge| if edge > 1 { 3 } else { 1 });
    let features = (0..stages).map(|stage| {
        let doubled = planning.base_features.saturating_mul(1 << stage);
        doubled.min(budget.max_features)
    });
    let strides = (0..stages)
        .map(|stage| counts.map(|n| if (1..=n).contains(&stage) { 2 } else { 1 }))
        .collect();
    Network {
        encoder: artifact::plan::Encoder::Plain,
        input_channels,
        output_channels,
        features: features.collect(),
        kernels: vec![kernel; stages],
        strides,
        encoder_convs: vec![planning.convs_per_stage; stages],
        decoder_convs: vec![planning.convs_per_stage; stages - 1],
        deep_supervision: planning.deep_supervision,
        negative_slope: planning.negative_slope,
        norm_epsilon: planning.norm_epsilon,
    }
}
