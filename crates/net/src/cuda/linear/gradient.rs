//! [`outer`]: gradients of weights; [`bias_gradient`].

use super::arguments::{BiasGradientArgs, MAX_CHUNKS, MAX_TAPS, OuterArgs, OuterChunk};
use super::tile::{Edges, GROUP_BYTES, Halo, plane};
use super::{BLOCK, GROUP, check_same_grid, filled_groups, groups, layouts, pair, to_u32, triple};
use crate::cuda::Context;
use crate::cuda::tensor::{Element, Layout, Tensor};
use crate::geometry::Geometry;
use kernels::Pointer;

/// Warps of a block, and slots (8 large channels of a tap) that a warp takes.
const WARPS: usize = 12;
const UNIT: usize = 9;

/// Multiprocessors of the cards that the cut into ranges is made for. It must not depend on the card that is there, so
/// that sums don't.
const MULTIPROCESSORS: usize = 132;

/// Shared memory that every card's blocks can have.
const SHARED: usize = 99 << 10;

/// Most memory for partial sums, unless one range needs more.
const PARTIAL_BYTES: usize = 32 << 20;

/// How a weight gradient is cut up: a function of shapes alone.
#[derive(Debug)]
struct Plan {
    edges: Edges,
    halo: Halo,
    /// Per sample.
    tiles: [usize; 3],
    ranges: usize,
    chunks: Vec<OuterChunk>,
    /// Floats.
    partials: usize,
    /// Of the two tiles of a buffer.
    tile_bytes: usize,
    /// Of the base voxels.
    table_bytes: usize,
}

/// Offsets of the taps on the large side.
fn taps(geometry: &Geometry) -> Vec<[isize; 3]> {
    let offset = |index| {
        let k = geometry.position(index);
        [0, 1, 2].map(|a| k[a] as isize - geometry.pad[a] as isize)
    };
    (0..geometry.taps()).map(offset).collect()
}

impl Plan {
    fn new(geometry: &Geometry, large: &[Layout], small: &Layout, element: Element) -> Self {
        check_same_grid(large);
        assert_eq!(large[0].batch, small.batch, "batch");
        assert_eq!(geometry.small(large[0].size), small.size, "small size");
        assert!(geometry.taps() <= MAX_TAPS, "kernel {:?}", geometry.kernel);
        assert!(geometry.stride.iter().all(|s| *s <= 2), "stride {:?}", geometry.stride);
        let mut chunks = chunks(large, geometry.taps());
        assert!(chunks.len() <= MAX_CHUNKS, "channels of {large:?}");
        let tap_offsets = taps(geometry);
        let halves = if element == Element::F32 { 2 } else { 1 };
        let most_groups = chunks.iter().map(|c| 1 << c.log_groups).max().unwrap_or(1);
        let tile_bytes = |edges: Edges| {
            let halo = Halo::new(edges, geometry.stride, &tap_offsets);
            let large = most_groups * plane(halo.voxels());
            halves * GROUP_BYTES * (large + 4 * (edges.voxels() + 2))
        };
        let units = chunks.iter().map(|c| c.units as usize).max().unwrap_or(1);
        let cycles = |edges: Edges| {
            let tiles: usize = edges.count(small.size).iter().product();
            let multiply = edges.voxels() / 16 * units * 2 * UNIT * 2;
            // Of the clocks in which fragments are read, seven tenths are for the large side.
            let halo = Halo::new(edges, geometry.stride, &tap_offsets);
            let reads = 0.3 + 0.7 * halo.wavefronts(edges, geometry.stride);
            let tile = (multiply as f64 * reads) as usize + tile_bytes(edges) / 40 + 300;
            tiles * tile
        };
        let edges = (5..=8)
            .flat_map(Edges::all)
            .filter(|edges| 4 * edges.voxels() + tile_bytes(*edges) <= SHARED)
            .min_by_key(|edges| cycles(*edges))
            .expect("the smallest tile fits into every card's shared memory");
        let tiles = edges.count(small.size);
        let small_blocks = small.channels.div_ceil(BLOCK);
        let floats = |c: &OuterChunk| c.shares as usize * c.units as usize * UNIT * 8 * BLOCK;
        let per_range: usize = chunks.iter().map(|c| small_blocks * floats(c)).sum();
        let most = (PARTIAL_BYTES / (4 * per_range)).max(1);
        let all_tiles = small.batch * tiles.iter().product::<usize>();
        let ranges = ranges(small_blocks * chunks.len(), all_tiles, most);
        let mut partials = 0;
        for chunk in &mut chunks {
            chunk.partials = partials as u64;
            partials += small_blocks * ranges * floats(chunk);
        }
        Self {
            edges,
            halo: Halo::new(edges, geometry.stride, &tap_offsets),
            tiles,
            ranges,
            chunks,
            partials,
            tile_bytes: tile_bytes(edges),
            table_bytes: 4 * edges.voxels(),
        }
    }
}

/// The large channels, 32 at a time.
fn chunks(large: &[Layout], taps: usize) -> Vec<OuterChunk> {
    let mut chunks = Vec::new();
    let mut channel = 0;
    for (tensor, layout) in large.iter().enumerate() {
        for first in (0..layout.channels).step_by(BLOCK) {
            let channels = (layout.channels - first).min(BLOCK);
            let computed = filled_groups(groups(channels));
            let units = (taps * computed).div_ceil(UNIT);
            chunks.push(OuterChunk {
                partials: 0,
                tensor: to_u32(tensor),
                first: to_u32(first / GROUP),
                groups: to_u32(groups(channels)),
                log_groups: computed.ilog2(),
                units: to_u32(units),
                shares: to_u32(WARPS / units),
                channel: to_u32(channel + first),
                channels: to_u32(channels),
            });
        }
        channel += layout.channels;
    }
    chunks
}

/// The number of ranges, at most `most`, at which the longest-working multiprocessor has the fewest tiles; the smallest
/// such number.
fn ranges(pairs: usize, tiles: usize, most: usize) -> usize {
    let enough = (4 * MULTIPROCESSORS).div_ceil(pairs);
    let work =
        |ranges: &usize| (pairs * ranges).div_ceil(MULTIPROCESSORS) * tiles.div_ceil(*ranges);
    (1..=enough.min(tiles).min(most)).min_by_key(work).unwrap_or(1)
}

/// Weight gradient `[small channel][large channel][tap]`, f32, overwritten.
pub(crate) fn outer(
    ctx: &Context,
    geometry: &Geometry,
    large: &[&Tensor],
    small: &Tensor,
    gradient: Pointer,
) {
    let layouts = layouts(large);
    assert!(large.iter().all(|t| t.element == small.element), "elements of the two sides");
    let plan = Plan::new(geometry, &layouts, &small.layout, small.element);
    let shared = ctx.gpu.card().shared_memory as usize;
    let buffers = if plan.table_bytes + 2 * plan.tile_bytes <= shared { 2 } else { 1 };
    let [divide_x, divide_y] = plan.halo.divisors();
    let mut tap_voxel = [0; MAX_TAPS + 1];
    for (voxel, offset) in tap_voxel.iter_mut().zip(taps(geometry)) {
        *voxel = to_u32(plan.halo.voxel(offset));
    }
    let mut chunks = [OuterChunk::default(); MAX_CHUNKS];
    chunks[..plan.chunks.len()].copy_from_slice(&plan.chunks);
    let most_groups = plan.chunks.iter().map(|c| 1 << c.log_groups).max().unwrap_or(1);
    let arguments = OuterArgs {
        large: pair(large.iter().map(|t| t.pointer)),
        small: small.pointer,
        partials: ctx.scratch(4 * plan.partials),
        gradient,
        large_groups: pair(layouts.iter().map(|l| to_u32(groups(l.channels)))),
        small_groups: to_u32(groups(small.layout.channels)),
        large_channels: to_u32(layouts.iter().map(|l| l.channels).sum()),
        small_channels: to_u32(small.layout.channels),
        large_size: triple(layouts[0].size),
        small_size: triple(small.layout.size),
        stride: triple(geometry.stride),
        tile_log: plan.edges.0,
        tiles: triple(plan.tiles),
        origin: plan.halo.origin.map(|o| o as i32),
        halo: triple(plan.halo.size),
        part: to_u32(plan.halo.part()),
        divide_x,
        divide_y,
        batch: to_u32(small.layout.batch),
        plane: to_u32(plane(plan.halo.voxels())),
        tile_groups: most_groups,
        buffers: to_u32(buffers),
        ranges: to_u32(plan.ranges),
        taps: to_u32(geometry.taps()),
        chunk_count: to_u32(plan.chunks.len()),
        tap_voxel,
        chunks,
    };
    let small_blocks = small.layout.channels.div_ceil(BLOCK);
    let kernel = match small.element {
        Element::Bf16 => "outer_bf16",
        Element::F32 => "outer_f32",
    };
    let grid = [plan.ranges, small_blocks * plan.chunks.len(), 1];
    let shared = plan.table_bytes + buffers * plan.tile_bytes;
    ctx.launch(kernel, grid, to_u32(32 * WARPS), shared, &arguments);
    let grid = [geometry.taps() * 4 * small_blocks, plan.chunks.len(), 1];
    ctx.launch("outer_add", grid, 256, 0, &arguments);
}

/// Bytes of scratch that [`outer`] needs.
pub(crate) fn outer_scratch(
    geometry: &Geometry,
    large: &[Layout],
    small: &Layout,
    element: Element,
) -> usize {
    4 * Plan::new(geometry, large, small, element).partials
}

/// Enough to keep every multiprocessor busy, and enough voxels each to be worth a block.
fn bias_ranges(layout: &Layout) -> usize {
    (layout.batch * layout.voxels()).div_ceil(1024).min(4 * MULTIPROCESSORS)
}

/// Bias gradient, f32: the sum over samples and voxels of each channel.
pub(crate) fn bias_gradient(ctx: &Context, t: &Tensor, gradient: Pointer) {
    let l = t.layout;
    let ranges = bias_ranges(&l);
    assert!(groups(l.channels) <= 256, "{} channels", l.channels);
    let arguments = BiasGradientArgs {
        tensor: t.pointer,
        partials: ctx.scratch(bias_scratch(&l)),
        gradient,
        voxels: to_u32(l.batch * l.voxels()),
        groups: to_u32(groups(l.channels)),
        channels: to_u32(l.channels),
        ranges: to_u32(ranges),
    };
    let kernel = match t.element {
        Element::Bf16 => "bias_gradient_bf16",
        Element::F32 => "bias_gradient_f32",
    };
    ctx.launch(kernel, [ranges, 1, 1], 256, 0, &arguments);
    ctx.launch("bias_gradient_add", [l.channels.div_ceil(256), 1, 1], 256, 0, &arguments);
}

/// Bytes of scratch that [`bias_gradient`] needs.
pub(crate) fn bias_scratch(layout: &Layout) -> usize {
    4 * bias_ranges(layout) * layout.pitch()
}
