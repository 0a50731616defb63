//! Shapes of layers that every engine is held against the definitions at.

#[derive(Debug)]
pub(crate) struct Case {
    pub batch: usize,
    /// Channels of the large side's tensors.
    pub large: &'static [usize],
    pub small: usize,
    pub size: [usize; 3],
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
}

pub(crate) const fn case(
    batch: usize,
    large: &'static [usize],
    small: usize,
    size: [usize; 3],
    kernel: [usize; 3],
    stride: [usize; 3],
) -> Case {
    Case { batch, large, small, size, kernel, stride }
}

/// Sizes of the large side: one voxel, odd, anisotropic, depth 1, wide rows, concatenations with unequal blocks.
pub(crate) const CONVOLUTIONS: &[Case] = &[
    case(1, &[1], 1, [1, 1, 1], [3, 3, 3], [1, 1, 1]),
    case(2, &[3], 16, [1, 1, 1], [1, 1, 1], [1, 1, 1]),
    case(1, &[1], 30, [5, 4, 7], [3, 3, 3], [1, 1, 1]),
    case(2, &[3], 33, [3, 5, 6], [3, 3, 3], [2, 2, 2]),
    case(1, &[16], 16, [1, 9, 43], [1, 3, 3], [1, 1, 1]),
    case(1, &[30], 30, [1, 8, 10], [3, 3, 3], [1, 1, 1]),
    case(2, &[33], 3, [4, 3, 5], [1, 3, 3], [1, 2, 2]),
    case(1, &[30], 33, [3, 7, 29], [3, 3, 3], [1, 1, 1]),
    case(2, &[16], 30, [6, 4, 8], [3, 1, 3], [2, 1, 2]),
    case(1, &[33], 16, [5, 5, 5], [1, 1, 1], [2, 2, 2]),
    case(2, &[3, 3], 5, [3, 4, 14], [3, 3, 3], [1, 1, 1]),
    case(2, &[30, 30], 30, [2, 6, 5], [3, 3, 3], [1, 1, 1]),
    case(2, &[30, 3], 16, [2, 3, 9], [1, 3, 3], [1, 1, 1]),
    case(1, &[32], 3, [4, 6, 15], [1, 1, 1], [1, 1, 1]),
];

/// Sizes of the small side.
pub(crate) const TRANSPOSED: &[Case] = &[
    case(1, &[1], 1, [1, 1, 1], [2, 2, 2], [2, 2, 2]),
    case(2, &[16], 33, [3, 2, 5], [2, 2, 2], [2, 2, 2]),
    case(1, &[30], 30, [1, 5, 21], [1, 2, 2], [1, 2, 2]),
    case(2, &[3], 16, [4, 3, 3], [2, 1, 2], [2, 1, 2]),
    case(1, &[33], 3, [2, 3, 4], [1, 1, 1], [1, 1, 1]),
];
