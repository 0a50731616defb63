//! The functions of `device.cuh` against their definitions, on every [`Gpu`] there is: the kernels of `sim/probes.cu`.
//! Operand layouts are those of the PTX manual's figures, written down here as it draws them.
#![allow(clippy::unwrap_used, reason = "tests")]

use half::bf16;
use kernels::compile::Places;
use kernels::{Arguments, Gpu, Order, Pointer, SimOptions, Source, arguments, cuda};

arguments! {
    struct ProbeArgs { from: Pointer, to: Pointer }
}
arguments! {
    struct ProbeShuffleArgs { from: Pointer, to: Pointer, parameter: u32, zero: u32 }
}
arguments! {
    struct ProbeVectorArgs { halves: Pointer, floats: Pointer, to_halves: Pointer, to_floats: Pointer }
}
arguments! {
    struct ProbeIndexArgs { to: Pointer }
}

/// The simulator in two orders and, if `NNU_TEST_CUDA` is set, card 0.
fn gpus() -> Vec<Gpu> {
    let simulated = [Order::Ascending, Order::Random(7)]
        .map(|order| Gpu::sim(SimOptions { order, ..SimOptions::default() }));
    let mut gpus = Vec::from(simulated);
    if std::env::var_os("NNU_TEST_CUDA").is_some() {
        let text = include_str!("../sim/probes.cu");
        let probes = [Source { file: "probes.cu", text }];
        let opened = cuda::open(0, &probes, &Places::of_process());
        gpus.push(opened.unwrap_or_else(|error| panic!("NNU_TEST_CUDA: {error}")).0);
    }
    gpus
}

/// Launches a kernel of `threads` threads over words; returns as many as asked for.
fn launch<A: Arguments>(
    gpu: &Gpu,
    kernel: &'static str,
    (grid, threads, shared): ([u32; 3], u32, u32),
    from: &[u32],
    results: usize,
    arguments: impl Fn(Pointer, Pointer) -> A,
) -> Vec<u32> {
    let stream = gpu.stream().unwrap();
    let input = gpu.buffer(4 * from.len()).unwrap();
    let output = gpu.buffer(4 * results).unwrap();
    stream.upload(input.pointer(), from).unwrap();
    let arguments = arguments(input.pointer(), output.pointer());
    stream.launch(kernel, grid, threads, shared, &arguments).unwrap();
    let mut words = vec![0; results];
    stream.download(output.pointer(), &mut words).unwrap();
    words
}

fn probe(
    gpu: &Gpu,
    kernel: &'static str,
    (blocks, threads, shared): (u32, u32, u32),
    from: &[u32],
    results: usize,
) -> Vec<u32> {
    launch(gpu, kernel, ([blocks, 1, 1], threads, shared), from, results, |from, to| ProbeArgs {
        from,
        to,
    })
}

/// The manual's figure of an 8 × 8 matrix of 16-bit elements: the lane that holds each row's pairs of columns.
const LANES: [[usize; 4]; 8] = [
    [0, 1, 2, 3],
    [4, 5, 6, 7],
    [8, 9, 10, 11],
    [12, 13, 14, 15],
    [16, 17, 18, 19],
    [20, 21, 22, 23],
    [24, 25, 26, 27],
    [28, 29, 30, 31],
];

fn pair(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

/// Four matrices of different numbers: matrix, row, column.
fn four_matrices() -> [[[u16; 8]; 8]; 4] {
    let mut next = 1000;
    [(); 4].map(|()| {
        [(); 8].map(|()| {
            [(); 8].map(|()| {
                next += 1;
                next
            })
        })
    })
}

#[test]
fn load_matrix4_spreads_rows_over_lanes() {
    let matrices = four_matrices();
    let rows: Vec<u32> = matrices
        .iter()
        .flatten()
        .flat_map(|row| row.chunks(2).map(|c| pair(c[0], c[1])).collect::<Vec<_>>())
        .collect();
    for gpu in gpus() {
        let words = probe(&gpu, "probe_load_matrix4", (1, 32, 512), &rows, 128);
        for (i, matrix) in matrices.iter().enumerate() {
            for (r, row) in matrix.iter().enumerate() {
                for (p, lane) in LANES[r].into_iter().enumerate() {
                    let expected = pair(row[2 * p], row[2 * p + 1]);
                    assert_eq!(words[4 * lane + i], expected, "matrix {i}, row {r}, pair {p}");
                }
            }
        }
    }
}

#[test]
fn load_matrix4_transposed_spreads_columns_over_lanes() {
    let matrices = four_matrices();
    let rows: Vec<u32> = matrices
        .iter()
        .flatten()
        .flat_map(|row| row.chunks(2).map(|c| pair(c[0], c[1])).collect::<Vec<_>>())
        .collect();
    for gpu in gpus() {
        let words = probe(&gpu, "probe_load_matrix4_transposed", (1, 32, 0), &rows, 128);
        for (i, matrix) in matrices.iter().enumerate() {
            for column in 0..8 {
                for (p, lane) in LANES[column].into_iter().enumerate() {
                    let expected = pair(matrix[2 * p][column], matrix[2 * p + 1][column]);
                    assert_eq!(
                        words[4 * lane + i],
                        expected,
                        "matrix {i}, column {column}, pair {p}"
                    );
                }
            }
        }
    }
}

/// `mma.m16n8k16`: which of a lane's words holds a quarter of A, by halves of rows and of columns.
const A_WORD: [[usize; 2]; 2] = [[0, 2], [1, 3]];
/// Which of a lane's words holds half of B's rows.
const B_WORD: [usize; 2] = [0, 1];
/// Where a lane's values of half of D's rows begin.
const D_VALUE: [usize; 2] = [0, 2];

/// A lane's four words of A, two of B, four values of D.
fn operands(a: &[[u16; 16]; 16], b: &[[u16; 8]; 16], d: &[[f32; 8]; 16]) -> Vec<u32> {
    let mut words = vec![0; 320];
    for (r, lanes) in LANES.iter().enumerate() {
        for (p, lane) in lanes.iter().enumerate() {
            for half in [0, 1] {
                let row = r + 8 * half;
                for side in [0, 1] {
                    let column = 2 * p + 8 * side;
                    words[10 * lane + A_WORD[half][side]] =
                        pair(a[row][column], a[row][column + 1]);
                }
                // Columns of B are spread as rows of A are.
                let k = 2 * p + 8 * half;
                words[10 * lane + 4 + B_WORD[half]] = pair(b[k][r], b[k + 1][r]);
                for side in [0, 1] {
                    words[10 * lane + 6 + D_VALUE[half] + side] = d[row][2 * p + side].to_bits();
                }
            }
        }
    }
    words
}

fn products(
    gpu: &Gpu,
    a: &[[u16; 16]; 16],
    b: &[[u16; 8]; 16],
    d: &[[f32; 8]; 16],
) -> [[f32; 8]; 16] {
    let words = probe(gpu, "probe_multiply_add", (1, 32, 0), &operands(a, b, d), 128);
    let mut result = [[f32::NAN; 8]; 16];
    for (r, lanes) in LANES.iter().enumerate() {
        for (p, lane) in lanes.iter().enumerate() {
            for half in [0, 1] {
                for side in [0, 1] {
                    result[r + 8 * half][2 * p + side] =
                        f32::from_bits(words[4 * lane + D_VALUE[half] + side]);
                }
            }
        }
    }
    result
}

/// Numbers that look random, below `limit`.
fn numbers(mut seed: u32, limit: u32) -> impl FnMut() -> u32 {
    move || {
        seed = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        (seed >> 8) % limit
    }
}

#[test]
fn multiply_add_of_integers_is_exact() {
    let mut next = numbers(5, 41);
    let mut integer = || (next() as f32) - 20.0;
    // Sums stay below 2^24 = all integers that f32 holds: any order of adding gives the same.
    let d = [(); 16].map(|()| [(); 8].map(|()| 100.0 * integer()));
    let a = [(); 16].map(|()| [(); 16].map(|()| bf16::from_f32(integer()).to_bits()));
    let b = [(); 16].map(|()| [(); 8].map(|()| bf16::from_f32(integer()).to_bits()));
    for gpu in gpus() {
        let result = products(&gpu, &a, &b, &d);
        for row in 0..16 {
            for column in 0..8 {
                let sum: f32 = (0..16)
                    .map(|k| {
                        bf16::from_bits(a[row][k]).to_f32() * bf16::from_bits(b[k][column]).to_f32()
                    })
                    .sum();
                assert_eq!(result[row][column], d[row][column] + sum, "row {row}, column {column}");
            }
        }
    }
}

#[test]
fn multiply_add_is_accurate() {
    let mut next = numbers(11, 1 << 16);
    let mut value = |scale: f64| f64::from(next()) / 32768.0 * scale - scale;
    let d = [(); 16].map(|()| [(); 8].map(|()| value(4.0) as f32));
    let a = [(); 16].map(|()| [(); 16].map(|()| bf16::from_f64(value(1.0)).to_bits()));
    let b = [(); 16].map(|()| [(); 8].map(|()| bf16::from_f64(value(1.0)).to_bits()));
    for gpu in gpus() {
        let result = products(&gpu, &a, &b, &d);
        for row in 0..16 {
            for column in 0..8 {
                let term = |k: usize| {
                    bf16::from_bits(a[row][k]).to_f64() * bf16::from_bits(b[k][column]).to_f64()
                };
                let exact = f64::from(d[row][column]) + (0..16).map(term).sum::<f64>();
                let size =
                    f64::from(d[row][column]).abs() + (0..16).map(|k| term(k).abs()).sum::<f64>();
                // 16 additions, each off by at most one unit in the last place of the sum of magnitudes: rounding
                // by half a unit here, cutting off by a whole one as tensor cores may.
                let tolerance = 16.0 * size * f64::from(f32::EPSILON);
                let error = (f64::from(result[row][column]) - exact).abs();
                assert!(error <= tolerance, "row {row}, column {column}: off by {error}");
            }
        }
    }
}

#[test]
fn bf16_is_rounded_to_nearest_even() {
    // Every bf16 and what can lie between it and the next.
    let floats: Vec<u32> = (0..=u16::MAX)
        .flat_map(|upper| {
            [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|lower| u32::from(upper) << 16 | lower)
        })
        .collect();
    // The processor's one NaN; `half` keeps the upper bits of its argument's.
    let expected = |bits: u32| {
        let x = f32::from_bits(bits);
        if x.is_nan() { 0x7fff } else { bf16::from_f32(x).to_bits() }
    };
    let blocks = u32::try_from(floats.len() / 256).unwrap();
    for gpu in gpus() {
        let words = probe(&gpu, "probe_bf16", (blocks, 128, 0), &floats, 2 * floats.len());
        for (given, got) in floats.chunks(2).zip(words.chunks(4)) {
            let halves = [expected(given[0]), expected(given[1])];
            let packed = pair(halves[0], halves[1]);
            let wide = halves.map(|bits| bf16::from_bits(bits).to_f32().to_bits());
            assert_eq!(
                got,
                [packed, packed, wide[0], wide[1]],
                "of {:x} and {:x}",
                given[0],
                given[1]
            );
        }
    }
}

#[test]
fn shuffles_and_ballots_move_words_between_the_lanes_of_a_warp() {
    let mut next = numbers(3, 1 << 20);
    let words: Vec<u32> = (0..64).map(|_| next()).collect();
    for gpu in gpus() {
        for parameter in 0..32 {
            let shape = ([1, 1, 1], 64, 0);
            let got = launch(&gpu, "probe_shuffle", shape, &words, 640, |from, to| {
                ProbeShuffleArgs { from, to, parameter, zero: 0 }
            });
            for thread in 0..64 {
                let (warp, lane) = (thread / 32 * 32, thread % 32);
                let by = parameter as usize;
                let down = if lane + by < 32 { lane + by } else { lane };
                let from = [lane ^ by, down, by].map(|lane| words[warp + lane]);
                let odd = (0..32).fold(0, |mask, lane| mask | (words[warp + lane] % 2) << lane);
                let mut expected = vec![from[0], from[1], from[2], odd];
                expected.extend(from.iter().flat_map(|&word| [word, !word]));
                assert_eq!(got[10 * thread..][..10], expected, "thread {thread}, by {by}");
            }
        }
    }
}

#[test]
fn copies_behind_the_threads_back_arrive() {
    let words: Vec<u32> = (1..=1024).collect();
    for gpu in gpus() {
        let got = probe(&gpu, "probe_copy", (1, 64, 4096), &words, 1024);
        for piece in 0..4 {
            for thread in 0..64 {
                let own = &got[(piece * 64 + thread) * 4..][..4];
                let neighbours = &words[(piece * 64 + (thread ^ 1)) * 4..][..4];
                let expected = if piece == 2 { &[0; 4] } else { neighbours };
                assert_eq!(own, expected, "piece {piece} of thread {thread}");
            }
        }
    }
}

#[test]
fn vectors_of_eight_are_loaded_and_stored() {
    let halves: Vec<u16> = (0..256).map(|i| bf16::from_f32(i as f32 - 99.5).to_bits()).collect();
    let floats: Vec<f32> = (0..256).map(|i| 0.37 * i as f32 - 40.0).collect();
    for gpu in gpus() {
        let stream = gpu.stream().unwrap();
        let buffers = [512, 1024, 512, 1536].map(|bytes| gpu.buffer(bytes).unwrap());
        let [from_halves, from_floats, to_halves, to_floats] =
            [0, 1, 2, 3].map(|i| buffers[i].pointer());
        stream.upload(from_halves, &halves).unwrap();
        stream.upload(from_floats, &floats).unwrap();
        let arguments =
            ProbeVectorArgs { halves: from_halves, floats: from_floats, to_halves, to_floats };
        stream.launch("probe_vector", [1, 1, 1], 32, 0, &arguments).unwrap();
        let (mut got_halves, mut got_floats) = (vec![0_u16; 256], vec![0.0_f32; 256]);
        let mut bits = vec![0_u16; 256];
        stream.download(to_halves, &mut got_halves).unwrap();
        stream.download(to_floats, &mut got_floats).unwrap();
        stream.download(to_floats.offset(1024), &mut bits).unwrap();
        let wide: Vec<f32> = halves.iter().map(|&bits| bf16::from_bits(bits).to_f32()).collect();
        let narrow: Vec<u16> = floats.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
        assert_eq!(got_floats, wide);
        assert_eq!(got_halves, narrow);
        assert_eq!(bits, halves);
    }
}

#[test]
fn threads_know_their_places() {
    let grid: [u32; 3] = [3, 4, 5];
    let threads = 60 * 96;
    for gpu in gpus() {
        let got = launch(&gpu, "probe_index", (grid, 96, 0), &[0], 4 * threads, |_, to| {
            ProbeIndexArgs { to }
        });
        let mut places = got.chunks(4);
        for z in 0..5 {
            for y in 0..4 {
                for x in 0..3 {
                    for thread in 0..96 {
                        assert_eq!(places.next(), Some(&[thread, x, y, z][..]));
                    }
                }
            }
        }
    }
}

#[test]
fn functions_of_a_float_are_accurate() {
    let floats: Vec<f32> = (0..256).map(|i| 0.01 + i as f32 * 0.37).collect();
    let words: Vec<u32> = floats.iter().map(|x| x.to_bits()).collect();
    for gpu in gpus() {
        let got = probe(&gpu, "probe_functions", (4, 64, 0), &words, 2048);
        for (x, got) in floats.iter().zip(got.chunks(8)) {
            let x = f64::from(*x);
            let exact =
                [x.exp(), x.ln(), x.sqrt(), x.sqrt().recip(), x * x + x, x, x.tanh(), x.ln_1p()];
            for (i, (exact, got)) in exact.into_iter().zip(got).enumerate() {
                let got = f64::from(f32::from_bits(*got));
                // CUDA's guide: at most 2 units in the last place for these. Beyond f32, infinity.
                let tolerance = 2.0 * f64::from(f32::EPSILON) * exact.abs();
                let beyond = exact > f64::from(f32::MAX) && got == f64::INFINITY;
                assert!(beyond || (got - exact).abs() <= tolerance, "function {i} of {x}: {got}");
            }
        }
    }
}
