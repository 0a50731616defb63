//! How a job is cut into blocks. No output voxel's sum depends on it.

use super::arguments::MAX_TAPS;
use super::job::{Class, Job};
use super::pack::{SLOT_BYTES, input_groups, output_blocks};
use super::tile::{Edges, GROUP_BYTES, Halo, plane};
use crate::cuda::tensor::Element;
use kernels::Card;

/// One size of the kernel's tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cuda) struct Variant {
    /// For bfloat16 and float tensors.
    kernels: [&'static str; 2],
    /// 16 voxels each of a warp.
    m_tiles: usize,
    /// Of 32 output channels.
    blocks: usize,
    /// How many blocks the registers of a multiprocessor hold.
    resident: usize,
}

const WARPS: usize = 4;

impl Variant {
    const fn new(
        kernels: [&'static str; 2],
        m_tiles: usize,
        blocks: usize,
        resident: usize,
    ) -> Self {
        Self { kernels, m_tiles, blocks, resident }
    }

    pub(super) fn kernel(&self, element: Element) -> &'static str {
        self.kernels[usize::from(element == Element::F32)]
    }

    pub(super) fn threads(&self) -> u32 {
        32 * WARPS as u32
    }

    /// Output voxels of a tile, as a power of two.
    fn voxels_log(&self) -> u32 {
        (16 * self.m_tiles * WARPS).ilog2()
    }
}

/// The instances of `convolve.cu`.
pub(in crate::cuda) const VARIANTS: [Variant; 5] = [
    Variant::new(["convolve_bf16_256x64", "convolve_f32_256x64"], 4, 2, 2),
    Variant::new(["convolve_bf16_256x32", "convolve_f32_256x32"], 4, 1, 3),
    Variant::new(["convolve_bf16_128x64", "convolve_f32_128x64"], 2, 2, 3),
    Variant::new(["convolve_bf16_128x32", "convolve_f32_128x32"], 2, 1, 4),
    Variant::new(["convolve_bf16_64x32", "convolve_f32_64x32"], 1, 1, 5),
];

/// What a plan may use.
#[derive(Debug, Clone)]
pub(in crate::cuda) struct Limits {
    pub multiprocessors: usize,
    /// Bytes of shared memory of a block.
    pub shared: usize,
    pub variants: Vec<Variant>,
    /// Shared tiles: the next is copied during the present one's products if there are 2.
    pub buffers: Vec<usize>,
    /// Most slots of a step: 9, 3 and 1 taps of 32 channels.
    pub step_slots: Vec<usize>,
    /// The only tile, if there is one.
    pub edges: Option<[u32; 3]>,
}

impl Limits {
    pub(in crate::cuda) fn of(card: &Card) -> Self {
        Self {
            multiprocessors: card.multiprocessors as usize,
            shared: card.shared_memory as usize,
            variants: VARIANTS.to_vec(),
            buffers: vec![2, 1],
            step_slots: vec![36, 12, 4],
            edges: None,
        }
    }
}

/// How a job is cut up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Plan {
    pub variant: Variant,
    pub edges: Edges,
    pub buffers: usize,
    pub step_slots: usize,
    /// Bytes of shared memory of a block.
    pub shared: usize,
    /// Blocks that a multiprocessor holds.
    pub resident: usize,
}

impl Plan {
    /// The one that should take least time.
    pub(super) fn new(job: &Job, limits: &Limits) -> Self {
        let plans = limits.variants.iter().flat_map(|variant| {
            let edges = best_edges(job, variant, limits);
            edges.into_iter().flat_map(|edges| Self::with_edges(job, variant, edges, limits))
        });
        let timed = plans.map(|plan| (plan.cycles(job, limits), plan));
        let best = timed.min_by(|a, b| a.0.total_cmp(&b.0));
        best.expect("the smallest tile fits into every card's shared memory").1
    }

    fn with_edges(job: &Job, variant: &Variant, edges: Edges, limits: &Limits) -> Vec<Self> {
        let slots = |class: &Class| (class.taps.len() * job.chunk_groups()).next_multiple_of(4);
        let most = job.classes.iter().map(slots).max().unwrap_or(4).max(4);
        let mut plans = Vec::new();
        for &buffers in &limits.buffers {
            for &step_slots in &limits.step_slots {
                let step_slots = step_slots.min(most);
                let shared = shared_bytes(job, variant, edges, buffers, step_slots);
                if shared <= limits.shared {
                    // A multiprocessor has 1 KiB more than a block can have, and keeps 1 KiB for every block.
                    let fit = (limits.shared + 1024) / (shared + 1024);
                    let (variant, resident) = (*variant, fit.min(variant.resident));
                    plans.push(Self { variant, edges, buffers, step_slots, shared, resident });
                }
            }
        }
        plans
    }

    /// Tiles × columns of output channels.
    pub(super) fn items(&self, job: &Job, class: &Class) -> usize {
        let tiles: usize = self.edges.count(class.extent).iter().product();
        tiles * job.outputs[0].batch * self.columns(job)
    }

    pub(super) fn columns(&self, job: &Job) -> usize {
        output_blocks(job.output_channels()).div_ceil(self.variant.blocks)
    }

    pub(super) fn plane(&self, job: &Job) -> usize {
        tile_plane(job, self.edges)
    }

    /// Roughly how long a job takes, by counting.
    fn cycles(&self, job: &Job, limits: &Limits) -> f64 {
        let of_class = |class: &Class| {
            let (multiply, copy) = item_cycles(job, &self.variant, self.edges, class);
            let rounds = self.items(job, class).div_ceil(limits.multiprocessors);
            let together = self.resident.min(rounds);
            let overlap = self.buffers == 2 || together > 1;
            let item = if overlap { multiply.max(copy) } else { multiply + copy };
            // Fewer than 8 warps don't hide how long their instructions take.
            let latency = (8.0 / (WARPS * together) as f64).sqrt().max(1.0);
            rounds as f64 * (latency * item + ITEM_CYCLES)
        };
        job.classes.iter().map(of_class).sum()
    }
}

/// Start and end of an item.
const ITEM_CYCLES: f64 = 500.0;
/// Products 16 × 8 × 16 of a multiprocessor in a cycle; bytes out of its shared memory, and out of the second-level cache.
const PRODUCTS: f64 = 0.6;
const SHARED_BYTES: f64 = 115.0;
const CACHE_BYTES: f64 = 40.0;

/// Cycles that a multiprocessor multiplies and copies for an item of a class.
fn item_cycles(job: &Job, variant: &Variant, edges: Edges, class: &Class) -> (f64, f64) {
    let groups = input_groups(job.input_channels());
    let pairs = WARPS * (groups * class.taps.len()).div_ceil(2);
    let terms = if job.element == Element::F32 { 3 } else { 1 };
    let products = pairs * variant.m_tiles * variant.blocks * 4 * terms;
    let halo = Halo::new(edges, job.in_stride, &class.offsets());
    let rows = variant.m_tiles as f64 * halo.wavefronts(edges, job.in_stride);
    let slots_read = (pairs * job.halves() * SLOT_BYTES) as f64;
    let fragments = slots_read * (rows + 2.0 * variant.blocks as f64);
    let voxels = groups * halo.voxels();
    let slots = groups * class.taps.len() * variant.blocks;
    let copies = job.halves() * (voxels * GROUP_BYTES + slots * SLOT_BYTES);
    let multiply = (products as f64 / PRODUCTS).max(fragments / SHARED_BYTES);
    (multiply, copies as f64 / CACHE_BYTES)
}

/// The edges with the least work and copies for all tiles; of fewer voxels than the variant has rows, if no tile of as
/// many fits.
fn best_edges(job: &Job, variant: &Variant, limits: &Limits) -> Option<Edges> {
    let least = |list: &[usize]| list.iter().copied().min().unwrap_or(1);
    let (buffers, step_slots) = (least(&limits.buffers), least(&limits.step_slots));
    let allowed = |edges: &Edges| {
        limits.edges.is_none_or(|only| edges.0 == only)
            && shared_bytes(job, variant, *edges, buffers, step_slots) <= limits.shared
    };
    let work = |edges: Edges| {
        let of_class = |class: &Class| {
            let (multiply, copy) = item_cycles(job, variant, edges, class);
            edges.count(class.extent).iter().product::<usize>() as f64 * (multiply + copy)
        };
        job.classes.iter().map(of_class).sum::<f64>()
    };
    let best = |log| {
        let timed = Edges::all(log).filter(allowed).map(|edges| (work(edges), edges));
        timed.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, edges)| edges)
    };
    (SMALLEST_LOG..=variant.voxels_log()).rev().find_map(best)
}

/// Of a tile's voxels: 32 float voxels of a convolution of stride 2 fit into every card's shared memory.
const SMALLEST_LOG: u32 = 5;

fn tile_plane(job: &Job, edges: Edges) -> usize {
    let halo = |class: &Class| Halo::new(edges, job.in_stride, &class.offsets()).voxels();
    plane(job.classes.iter().map(halo).max().unwrap_or(0))
}

/// Shared memory as the kernel lays it out: offsets of slots, sums for statistics, tiles, two steps of weights.
fn shared_bytes(
    job: &Job,
    variant: &Variant,
    edges: Edges,
    buffers: usize,
    step_slots: usize,
) -> usize {
    let offsets = 4 * (7 * MAX_TAPS + 1).next_multiple_of(4);
    let sums = 2 * 4 * WARPS * 32 * variant.blocks;
    let tile = job.chunk_groups() * tile_plane(job, edges) * GROUP_BYTES;
    let step = variant.blocks * step_slots * SLOT_BYTES;
    offsets + sums + job.halves() * (buffers * tile + 2 * step)
}
