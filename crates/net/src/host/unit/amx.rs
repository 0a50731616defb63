//! The matrix unit of recent Xeons (AMX: tiles of 16 rows × 64 bytes, products of bfloat16, f32 sums): up to 3 × 2 tiles of
//! sums, fed from activations and packed weights.
//!
//! Sums `(m, n)` are 16 voxels × 16 output channels. Per tap and block of 32 input channels, a tile of activations is
//! 16 consecutive voxels × 32 channels straight from the tensor, a tile of weights 16 pairs of input channels × 16
//! output channels. 48 voxels × 32 channels per step reach more of the peak than 32 × 32 or 64 × 16: of the second-level
//! cache, from which the weights come, they ask least (measured: 1 160, 1 010 and 1 010 GF/s for 32 channels, one
//! thread). With two parts, six sums and the factors don't fit the eight tiles; then it's 2 × 2.

use super::avx512::Avx512;
use super::{Extent, Meanwhile, Outer, Steps, Unit, sum_place};
use crate::host::format::Format;
use std::arch::asm;
use std::sync::OnceLock;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Amx;

/// Most tiles of 16 voxels at once.
const fn most_tiles(parts: usize) -> usize {
    if parts == 1 { 3 } else { 2 }
}

impl Amx {
    /// Whether the machine has the unit, beside AVX-512 with bfloat16, and the kernel lets the process use it.
    pub(crate) fn is_here() -> bool {
        static HERE: OnceLock<bool> = OnceLock::new();
        *HERE.get_or_init(detect)
    }
}

fn detect() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    // OSXSAVE, then AMX-BF16 and AMX-TILE.
    if __cpuid(0).eax < 7 || (__cpuid(1).ecx >> 27) & 1 == 0 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    if (features >> 22) & 1 == 0 || (features >> 24) & 1 == 0 {
        return false;
    }
    let state: u32;
    // SAFETY: OSXSAVE says that xgetbv exists.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") state, out("edx") _, options(nomem, nostack)) };
    // Tile configuration and tile data are saved at task switches.
    if (state >> 17) & 3 != 3 {
        return false;
    }
    let (arch_prctl, request_permission, tile_data) = (158i64, 0x1023i64, 18i64);
    let answer: i64;
    // SAFETY: a system call that changes nothing but the process's permission to use tiles.
    unsafe {
        asm!("syscall", inlateout("rax") arch_prctl => answer, in("rdi") request_permission,
            in("rsi") tile_data, out("rcx") _, out("r11") _, options(nostack));
    }
    answer == 0
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
pub(crate) struct Tiles(());

impl Tiles {
    fn open() -> Self {
        assert!(Amx::is_here(), "no matrix unit");
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
            let occasions = steps.inputs.len() * steps.taps.len();
            for input in steps.inputs {
                for tap in steps.taps {
                    // SAFETY: by the contract above; nothing but tile registers changes.
                    unsafe {
                        asm!(
                            $($line,)*
                            // Keeps every name in use, whatever the lines.
                            "/* {d1} {d2} {v} */",
                            o = in(reg) input.voxel.byte_offset(*tap),
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
type Multiply<M> = unsafe fn(&Steps<'_>, &mut M);

/// The product for `m` × `n` tiles whose voxels lie `step` apart.
fn multiply<M: Meanwhile>(parts: usize, m: usize, n: usize, step: usize) -> Multiply<M> {
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
unsafe fn zero() {
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
/// [`Tiles`] are open; `out` has room for all sums.
#[inline(always)]
unsafe fn store(m: usize, n: usize, out: *mut f32) {
    macro_rules! store {
        ($tile:literal, $m:literal, $n:literal) => {
            asm!(concat!("tilestored [{p} + {s}], ", $tile),
                p = in(reg) out.add(sum_place(16 * $m, $n)), s = in(reg) 64usize, options(nostack))
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

/// Row strides in bytes of pairs of voxels.
const PAIR_ROW: usize = 64;

/// # Safety
/// [`Tiles`] are open; what [`Outer`] describes can be read: channels of pairs, in whole steps of 16 pairs.
#[inline(always)]
unsafe fn outer_3(job: &Outer<3>) {
    let (row, steps) = (job.small_step[0], job.groups / 16);
    if steps == 0 {
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
            h = inout(reg) job.small.byte_add(16 * row) => _,
            r = in(reg) row,
            s = in(reg) PAIR_ROW,
            b0 = inout(reg) job.large[0] => _,
            b1 = inout(reg) job.large[1] => _,
            b2 = inout(reg) job.large[2] => _,
            n = inout(reg) steps => _,
            options(nostack, readonly),
        );
    }
}

/// # Safety
/// As [`outer_3`].
#[inline(always)]
unsafe fn outer_2(job: &Outer<2>) {
    let (row, steps) = (job.small_step[0], job.groups / 16);
    if steps == 0 {
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
            h = inout(reg) job.small.byte_add(16 * row) => _,
            r = in(reg) row,
            s = in(reg) PAIR_ROW,
            b0 = inout(reg) job.large[0] => _,
            b1 = inout(reg) job.large[1] => _,
            n = inout(reg) steps => _,
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
        unsafe fn $name(sums: &[*mut f32]) {
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

// SAFETY: three tiles of 16 rows at most, and whole tiles are read.
unsafe impl Unit for Amx {
    type Vector = Avx512<true>;
    type Open = Tiles;
    const ROUND: usize = 16;

    fn rows<F: Format>() -> usize {
        16 * most_tiles(F::PARTS)
    }

    unsafe fn open() -> Tiles {
        Tiles::open()
    }

    #[inline]
    unsafe fn reduce<F: Format, M: Meanwhile>(
        steps: &Steps<'_>,
        extent: Extent,
        sums: *mut f32,
        meanwhile: &mut M,
    ) {
        assert_eq!(F::GROUP, 2, "the unit multiplies bfloat16");
        let (m, n) = (extent.rows.div_ceil(16), extent.halves);
        // SAFETY: passed on.
        unsafe {
            zero();
            multiply::<M>(F::PARTS, m, n, extent.step)(steps, meanwhile);
            store(m, n, sums);
        }
    }

    #[inline]
    unsafe fn outer<F: Format, const N: usize>(jobs: &[Outer<N>], sums: [*mut f32; N]) {
        assert_eq!(F::GROUP, 2, "the unit multiplies bfloat16");
        // SAFETY: passed on.
        unsafe {
            load_sums(&sums);
            for job in jobs {
                let Outer { small, small_step, large_step, groups, .. } = *job;
                let of = |i: usize| job.large[i.min(N - 1)];
                match N {
                    3 => {
                        let large = [of(0), of(1), of(2)];
                        outer_3(&Outer { small, small_step, large, large_step, groups });
                    }
                    2 => {
                        let large = [of(0), of(1)];
                        outer_2(&Outer { small, small_step, large, large_step, groups });
                    }
                    _ => unreachable!("{N} lists"),
                }
            }
            store_sums(&sums);
        }
    }
}

impl Amx {
    /// Products of bfloat16 per second on all threads, factors and sums in registers (a multiply-add counts 2).
    pub(crate) fn peak() -> f64 {
        const ROUNDS: usize = 10_000;
        crate::host::peak::on_all_threads(|| {
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
}
