//! The matrix unit: up to 3 × 2 tiles of sums, fed from activations and packed weights.
//!
//! Sums `(m, n)` are 16 voxels × 16 output channels. Per tap and block of 32 input channels, a tile of activations is
//! 16 consecutive voxels × 32 channels straight from the tensor, a tile of weights 16 pairs of input channels × 16
//! output channels. 48 voxels × 32 channels per step reach more of the peak than 32 × 32 or 64 × 16: of the second-level
//! cache, from which the weights come, they ask least (measured: 1 160, 1 010 and 1 010 GF/s for 32 channels, one
//! thread). With two parts, six sums and the factors don't fit the eight tiles; then it's 2 × 2.

use super::tensor::Chunk;
use std::arch::asm;

/// Most tiles of 16 voxels at once.
pub(super) const fn most_rows(parts: usize) -> usize {
    if parts == 1 { 3 } else { 2 }
}

/// Floats of the place for all sums.
pub(super) const SUMS: usize = 6 * 256;

/// Where tile (m, n) lies in that place.
pub(super) const fn sum_place(m: usize, n: usize) -> usize {
    (n * 3 + m) * 256
}

#[repr(C, align(64))]
struct Config([u8; 64]);

static CONFIG: Config = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
        tile += 1;
    }
    Config(bytes)
};

/// While it lives, its thread's tiles are configured: eight of 16 rows × 64 bytes.
#[derive(Debug)]
pub(super) struct Tiles(());

impl Tiles {
    pub(super) fn open() -> Self {
        assert!(super::available(), "no matrix unit");
        // SAFETY: the unit is there; the configuration is 64 aligned bytes that follow its rules.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) };
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: exists where `open` succeeded.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// What one tile sums up: for each block of input channels its first voxel, and at each the taps in bytes; weights lie
/// block by block, tap by tap.
#[derive(Debug, Clone, Copy)]
pub(super) struct Steps<'a> {
    pub sources: &'a [*const Chunk],
    pub taps: &'a [isize],
    pub weights: *const Chunk,
}

/// Work of the vector units to be done meanwhile, in so many pieces.
pub(super) trait Meanwhile {
    /// Does some of it, when there are so many occasions in all.
    ///
    /// # Safety
    /// As the implementation says.
    unsafe fn some(&mut self, occasions: usize);
}

/// Nothing to do.
pub(super) struct Nothing;

impl Meanwhile for Nothing {
    #[inline(always)]
    unsafe fn some(&mut self, _occasions: usize) {}
}

/// One tile's sums. `d1`, `d2`: bytes from one tile of voxels to the next. The matrix unit takes some 100 cycles for a step
/// of some 20 instructions, and instructions behind hundreds of others don't overtake them: work for the vector units is
/// handed along and done piece by piece between the steps.
macro_rules! product {
    ($name:ident, $parts:literal, $tap_chunks:literal, [$($line:literal),* $(,)?]) => {
        /// # Safety
        /// [`Tiles`] are open; all tiles at the taps of all sources can be read, and as many taps of weights; and what `M`
        /// asks for.
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
        unsafe fn $name<const S: usize, M: Meanwhile>(steps: &Steps<'_>, meanwhile: &mut M) {
            let mut weights = steps.weights;
            let occasions = steps.sources.len() * steps.taps.len();
            for source in steps.sources {
                for tap in steps.taps {
                    // SAFETY: by the contract above; nothing but tile registers changes.
                    unsafe {
                        asm!(
                            $($line,)*
                            // Keeps every name in use, whatever the lines.
                            "/* {d1} {d2} {v} */",
                            o = in(reg) source.byte_offset(*tap),
                            w = in(reg) weights,
                            s = in(reg) 64usize,
                            v = in(reg) 64 * $parts * S,
                            d1 = const 16 * 64 * $parts * S,
                            d2 = const 32 * 64 * $parts * S,
                            options(nostack, readonly, preserves_flags),
                        );
                        weights = weights.add($tap_chunks);
                        meanwhile.some(occasions);
                    }
                }
            }
        }
    };
}

product!(
    one_3x2,
    1,
    32,
    [
        "tileloadd tmm6, [{w} + {s}]",
        "tileloadd tmm7, [{o} + {v}]",
        "tdpbf16ps tmm0, tmm7, tmm6",
        "tileloadd tmm7, [{o} + {v} + {d1}]",
        "tdpbf16ps tmm1, tmm7, tmm6",
        "tileloadd tmm7, [{o} + {v} + {d2}]",
        "tdpbf16ps tmm2, tmm7, tmm6",
        "tileloadd tmm6, [{w} + {s} + 1024]",
        "tdpbf16ps tmm5, tmm7, tmm6",
        "tileloadd tmm7, [{o} + {v} + {d1}]",
        "tdpbf16ps tmm4, tmm7, tmm6",
        "tileloadd tmm7, [{o} + {v}]",
        "tdpbf16ps tmm3, tmm7, tmm6",
    ]
);
product!(
    one_2x2,
    1,
    32,
    [
        "tileloadd tmm6, [{w} + {s}]",
        "tileloadd tmm7, [{o} + {v}]",
        "tdpbf16ps tmm0, tmm7, tmm6",
        "tileloadd tmm5, [{o} + {v} + {d1}]",
        "tdpbf16ps tmm1, tmm5, tmm6",
        "tileloadd tmm2, [{w} + {s} + 1024]",
        "tdpbf16ps tmm3, tmm7, tmm2",
        "tdpbf16ps tmm4, tmm5, tmm2",
    ]
);
product!(
    one_1x2,
    1,
    32,
    [
        "tileloadd tmm6, [{w} + {s}]",
        "tileloadd tmm7, [{o} + {v}]",
        "tdpbf16ps tmm0, tmm7, tmm6",
        "tileloadd tmm5, [{w} + {s} + 1024]",
        "tdpbf16ps tmm3, tmm7, tmm5",
    ]
);
product!(
    one_3x1,
    1,
    32,
    [
        "tileloadd tmm6, [{w} + {s}]",
        "tileloadd tmm7, [{o} + {v}]",
        "tdpbf16ps tmm0, tmm7, tmm6",
        "tileloadd tmm5, [{o} + {v} + {d1}]",
        "tdpbf16ps tmm1, tmm5, tmm6",
        "tileloadd tmm4, [{o} + {v} + {d2}]",
        "tdpbf16ps tmm2, tmm4, tmm6",
    ]
);
product!(
    one_2x1,
    1,
    32,
    [
        "tileloadd tmm6, [{w} + {s}]",
        "tileloadd tmm7, [{o} + {v}]",
        "tdpbf16ps tmm0, tmm7, tmm6",
        "tileloadd tmm5, [{o} + {v} + {d1}]",
        "tdpbf16ps tmm1, tmm5, tmm6",
    ]
);
product!(
    one_1x1,
    1,
    32,
    ["tileloadd tmm6, [{w} + {s}]", "tileloadd tmm7, [{o} + {v}]", "tdpbf16ps tmm0, tmm7, tmm6",]
);
product!(
    two_2x2,
    2,
    64,
    [
        "tileloadd tmm6, [{w} + {s}]",
        "tileloadd tmm5, [{o} + {v}]",
        "tdpbf16ps tmm0, tmm5, tmm6",
        "tileloadd tmm2, [{o} + {v} + {d1}]",
        "tdpbf16ps tmm1, tmm2, tmm6",
        "tileloadd tmm7, [{o} + {v} + 64]",
        "tdpbf16ps tmm0, tmm7, tmm6",
        "tileloadd tmm7, [{o} + {v} + {d1} + 64]",
        "tdpbf16ps tmm1, tmm7, tmm6",
        "tileloadd tmm6, [{w} + {s} + 1024]",
        "tdpbf16ps tmm0, tmm5, tmm6",
        "tdpbf16ps tmm1, tmm2, tmm6",
        "tileloadd tmm6, [{w} + {s} + 2048]",
        "tdpbf16ps tmm3, tmm5, tmm6",
        "tdpbf16ps tmm4, tmm2, tmm6",
        "tdpbf16ps tmm4, tmm7, tmm6",
        "tileloadd tmm7, [{o} + {v} + 64]",
        "tdpbf16ps tmm3, tmm7, tmm6",
        "tileloadd tmm6, [{w} + {s} + 3072]",
        "tdpbf16ps tmm3, tmm5, tmm6",
        "tdpbf16ps tmm4, tmm2, tmm6",
    ]
);
product!(
    two_1x2,
    2,
    64,
    [
        "tileloadd tmm6, [{w} + {s}]",
        "tileloadd tmm5, [{o} + {v}]",
        "tdpbf16ps tmm0, tmm5, tmm6",
        "tileloadd tmm7, [{o} + {v} + 64]",
        "tileloadd tmm2, [{w} + {s} + 2048]",
        "tdpbf16ps tmm3, tmm5, tmm2",
        "tdpbf16ps tmm0, tmm7, tmm6",
        "tdpbf16ps tmm3, tmm7, tmm2",
        "tileloadd tmm6, [{w} + {s} + 1024]",
        "tdpbf16ps tmm0, tmm5, tmm6",
        "tileloadd tmm2, [{w} + {s} + 3072]",
        "tdpbf16ps tmm3, tmm5, tmm2",
    ]
);
product!(
    two_2x1,
    2,
    64,
    [
        "tileloadd tmm6, [{w} + {s}]",
        "tileloadd tmm5, [{o} + {v}]",
        "tdpbf16ps tmm0, tmm5, tmm6",
        "tileloadd tmm2, [{o} + {v} + {d1}]",
        "tdpbf16ps tmm1, tmm2, tmm6",
        "tileloadd tmm7, [{o} + {v} + 64]",
        "tdpbf16ps tmm0, tmm7, tmm6",
        "tileloadd tmm7, [{o} + {v} + {d1} + 64]",
        "tdpbf16ps tmm1, tmm7, tmm6",
        "tileloadd tmm6, [{w} + {s} + 1024]",
        "tdpbf16ps tmm0, tmm5, tmm6",
        "tdpbf16ps tmm1, tmm2, tmm6",
    ]
);
product!(
    two_1x1,
    2,
    64,
    [
        "tileloadd tmm6, [{w} + {s}]",
        "tileloadd tmm5, [{o} + {v}]",
        "tdpbf16ps tmm0, tmm5, tmm6",
        "tileloadd tmm7, [{o} + {v} + 64]",
        "tdpbf16ps tmm0, tmm7, tmm6",
        "tileloadd tmm6, [{w} + {s} + 1024]",
        "tdpbf16ps tmm0, tmm5, tmm6",
    ]
);

/// Sums up one tile while something else is done.
pub(super) type Multiply<M> = unsafe fn(&Steps<'_>, &mut M);

/// The product for `m` × `n` tiles whose voxels lie `step` apart.
pub(super) fn multiply<M: Meanwhile>(parts: usize, m: usize, n: usize, step: usize) -> Multiply<M> {
    macro_rules! by_step {
        ($name:ident) => {
            if step == 1 { $name::<1, M> } else { $name::<2, M> }
        };
    }
    assert!(step == 1 || step == 2, "x stride {step}");
    match (parts, m, n) {
        (1, 3, 2) => by_step!(one_3x2),
        (1, 2, 2) => by_step!(one_2x2),
        (1, 1, 2) => by_step!(one_1x2),
        (1, 3, 1) => by_step!(one_3x1),
        (1, 2, 1) => by_step!(one_2x1),
        (1, 1, 1) => by_step!(one_1x1),
        (2, 2, 2) => by_step!(two_2x2),
        (2, 1, 2) => by_step!(two_1x2),
        (2, 2, 1) => by_step!(two_2x1),
        (2, 1, 1) => by_step!(two_1x1),
        key => unreachable!("no product for (parts, m, n) = {key:?}"),
    }
}

/// # Safety
/// [`Tiles`] are open.
#[inline(always)]
pub(super) unsafe fn zero() {
    // SAFETY: only tile registers change.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tilezero tmm4",
            "tilezero tmm5",
            options(nostack, nomem)
        );
    }
}

/// Writes the sums of `m` × `n` tiles to their places.
///
/// # Safety
/// [`Tiles`] are open; `out` has room for [`SUMS`].
#[inline(always)]
pub(super) unsafe fn store(m: usize, n: usize, out: *mut f32) {
    macro_rules! store {
        ($tile:literal, $m:literal, $n:literal) => {
            asm!(concat!("tilestored [{p} + {s}], ", $tile),
                p = in(reg) out.add(sum_place($m, $n)), s = in(reg) 64usize, options(nostack))
        };
    }
    // SAFETY: the places lie inside `out`.
    unsafe {
        store!("tmm0", 0, 0);
        if m > 1 {
            store!("tmm1", 1, 0);
        }
        if m > 2 {
            store!("tmm2", 2, 0);
        }
        if n > 1 {
            store!("tmm3", 0, 1);
            if m > 1 {
                store!("tmm4", 1, 1);
            }
            if m > 2 {
                store!("tmm5", 2, 1);
            }
        }
    }
}

/// Row strides in bytes: of the gradients `[channel][position]`, and of pairs of voxels.
const PAIR_ROW: usize = 64;

/// One tile row of a weight gradient: sums (half of the small side's channels, `b`) += Σ over `steps` of 32 positions of
/// small channel × large channel.
///
/// `small`: `[32 channels][positions]`, `row` bytes from channel to channel. `large`: up to three lists of pairs of
/// voxels, `[pair][16 channels][2]`. `sums`: for each of them two tiles, halves of the small side, 1024 bytes each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outer<const T: usize> {
    pub small: *const Chunk,
    pub row: usize,
    pub large: [*const Chunk; T],
    pub steps: usize,
}

/// # Safety
/// [`Tiles`] are open; what [`Outer`] describes can be read.
#[inline(always)]
pub(super) unsafe fn outer_3(job: Outer<3>) {
    if job.steps == 0 {
        return;
    }
    // SAFETY: by the contract; only tile registers and the named ones change.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm6, [{a} + {r}]",
            "tileloadd tmm7, [{b0} + {s}]",
            "tdpbf16ps tmm0, tmm6, tmm7",
            "tileloadd tmm7, [{b1} + {s}]",
            "tdpbf16ps tmm1, tmm6, tmm7",
            "tileloadd tmm7, [{b2} + {s}]",
            "tdpbf16ps tmm2, tmm6, tmm7",
            "tileloadd tmm6, [{h} + {r}]",
            "tdpbf16ps tmm5, tmm6, tmm7",
            "tileloadd tmm7, [{b1} + {s}]",
            "tdpbf16ps tmm4, tmm6, tmm7",
            "tileloadd tmm7, [{b0} + {s}]",
            "tdpbf16ps tmm3, tmm6, tmm7",
            "add {a}, 64",
            "add {h}, 64",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "add {b2}, 1024",
            "dec {n}",
            "jnz 2b",
            a = inout(reg) job.small => _,
            h = inout(reg) job.small.byte_add(16 * job.row) => _,
            r = in(reg) job.row,
            s = in(reg) PAIR_ROW,
            b0 = inout(reg) job.large[0] => _,
            b1 = inout(reg) job.large[1] => _,
            b2 = inout(reg) job.large[2] => _,
            n = inout(reg) job.steps => _,
            options(nostack, readonly),
        );
    }
}

/// # Safety
/// As [`outer_3`].
#[inline(always)]
pub(super) unsafe fn outer_2(job: Outer<2>) {
    if job.steps == 0 {
        return;
    }
    // SAFETY: by the contract; only tile registers and the named ones change.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm6, [{a} + {r}]",
            "tileloadd tmm7, [{b0} + {s}]",
            "tdpbf16ps tmm0, tmm6, tmm7",
            "tileloadd tmm5, [{b1} + {s}]",
            "tdpbf16ps tmm1, tmm6, tmm5",
            "tileloadd tmm2, [{h} + {r}]",
            "tdpbf16ps tmm3, tmm2, tmm7",
            "tdpbf16ps tmm4, tmm2, tmm5",
            "add {a}, 64",
            "add {h}, 64",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {n}",
            "jnz 2b",
            a = inout(reg) job.small => _,
            h = inout(reg) job.small.byte_add(16 * job.row) => _,
            r = in(reg) job.row,
            s = in(reg) PAIR_ROW,
            b0 = inout(reg) job.large[0] => _,
            b1 = inout(reg) job.large[1] => _,
            n = inout(reg) job.steps => _,
            options(nostack, readonly),
        );
    }
}

macro_rules! move_tile {
    (load $tile:literal, $at:expr) => {
        asm!(concat!("tileloadd ", $tile, ", [{p} + {s}]"),
            p = in(reg) $at, s = in(reg) 64usize, options(nostack, readonly))
    };
    (store $tile:literal, $at:expr) => {
        asm!(concat!("tilestored [{p} + {s}], ", $tile),
            p = in(reg) $at, s = in(reg) 64usize, options(nostack))
    };
}
macro_rules! move_sums {
    ($name:ident, $way:ident, $what:literal) => {
        #[doc = $what]
        ///
        /// # Safety
        /// [`Tiles`] are open; behind every pointer there are two tiles.
        #[inline(always)]
        pub(super) unsafe fn $name(sums: &[*mut f32]) {
            // SAFETY: by the contract.
            unsafe {
                move_tile!($way "tmm0", sums[0]);
                move_tile!($way "tmm3", sums[0].add(256));
                move_tile!($way "tmm1", sums[1]);
                move_tile!($way "tmm4", sums[1].add(256));
                if let Some(third) = sums.get(2) {
                    move_tile!($way "tmm2", *third);
                    move_tile!($way "tmm5", third.add(256));
                }
            }
        }
    };
}
move_sums!(
    load_sums,
    load,
    "Takes up the sums of [`outer_3`] or [`outer_2`], two tiles per list of pairs."
);
move_sums!(store_sums, store, "Puts them back.");

/// Products of bfloat16 per second on all threads, factors and sums in registers (a multiply-add counts 2).
pub(super) fn peak() -> f64 {
    const ROUNDS: usize = 10_000;
    crate::cpu::peak::on_all_threads(|| {
        let _tiles = Tiles::open();
        // SAFETY: tiles are open; only they change.
        unsafe {
            zero();
            asm!("tilezero tmm6", "tilezero tmm7", options(nostack, nomem));
            for _ in 0..ROUNDS {
                asm!(
                    "tdpbf16ps tmm0, tmm6, tmm7",
                    "tdpbf16ps tmm1, tmm6, tmm7",
                    "tdpbf16ps tmm2, tmm6, tmm7",
                    "tdpbf16ps tmm3, tmm6, tmm7",
                    "tdpbf16ps tmm4, tmm6, tmm7",
                    "tdpbf16ps tmm5, tmm6, tmm7",
                    options(nostack, nomem)
                );
            }
        }
        (ROUNDS * 6 * 2 * 16 * 16 * 32) as f64
    })
}
