//! The argument structs of `convolve.cu`, `convolve_gradient.cu` and `pack.cu`; the meaning of the fields stands there.

use kernels::{Pointer, arguments};

/// Taps of a 3 × 3 × 3 kernel, the largest.
pub(super) const MAX_TAPS: usize = 27;
/// Residues of a stride of 2 × 2 × 2, the largest.
pub(super) const MAX_CLASSES: usize = 8;
/// 2048 channels of a concatenation.
pub(super) const MAX_CHUNKS: usize = 64;

arguments! {
    #[derive(Default)]
    pub(super) struct ConvolveClass {
        first: [u32; 3],
        extent: [u32; 3],
        tiles: [u32; 3],
        origin: [i32; 3],
        halo: [u32; 3],
        part: u32,
        divide_x: u32,
        divide_y: u32,
        first_tap: u32,
        taps: u32,
    }
}

arguments! {
    #[derive(Default)]
    pub(super) struct ConvolveTap {
        voxel: u32,
        index: u32,
    }
}

arguments! {
    pub(super) struct ConvolveArgs {
        input: [Pointer; 2],
        output: [Pointer; 2],
        weights: Pointer,
        bias: Pointer,
        statistics: Pointer,
        weights_low: u64,
        input_groups: [u32; 2],
        output_groups: [u32; 2],
        output_channels: [u32; 2],
        input_size: [u32; 3],
        output_size: [u32; 3],
        in_stride: [u32; 3],
        out_stride: [u32; 3],
        tile_log: [u32; 3],
        batch: u32,
        columns: u32,
        plane: u32,
        tile_groups: u32,
        buffers: u32,
        step_slots: u32,
        packed_taps: u32,
        accumulate: u32,
        output_float: u32,
        classes: [ConvolveClass; MAX_CLASSES],
        taps: [ConvolveTap; MAX_TAPS],
    }
}

arguments! {
    #[derive(Default, PartialEq)]
    pub(super) struct OuterChunk {
        partials: u64,
        tensor: u32,
        first: u32,
        groups: u32,
        log_groups: u32,
        units: u32,
        shares: u32,
        channel: u32,
        channels: u32,
    }
}

arguments! {
    pub(super) struct OuterArgs {
        large: [Pointer; 2],
        small: Pointer,
        partials: Pointer,
        gradient: Pointer,
        large_groups: [u32; 2],
        small_groups: u32,
        large_channels: u32,
        small_channels: u32,
        large_size: [u32; 3],
        small_size: [u32; 3],
        stride: [u32; 3],
        tile_log: [u32; 3],
        tiles: [u32; 3],
        origin: [i32; 3],
        halo: [u32; 3],
        part: u32,
        divide_x: u32,
        divide_y: u32,
        batch: u32,
        plane: u32,
        tile_groups: u32,
        buffers: u32,
        ranges: u32,
        taps: u32,
        chunk_count: u32,
        tap_voxel: [u32; MAX_TAPS + 1],
        chunks: [OuterChunk; MAX_CHUNKS],
    }
}

arguments! {
    pub(super) struct BiasGradientArgs {
        tensor: Pointer,
        partials: Pointer,
        gradient: Pointer,
        voxels: u32,
        groups: u32,
        channels: u32,
        ranges: u32,
    }
}

arguments! {
    pub(super) struct PackArgs {
        entries: Pointer,
        entry_of_block: Pointer,
    }
}
