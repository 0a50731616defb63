//! Convolution, transposed convolution, the image's convolution and the heads: forward and all gradients.

use super::*;
use crate::geometry::{Direction, Geometry};
use crate::host::convolution::{gather, scatter};
use crate::host::first::{self, Image};
use crate::host::linear::{Sums, units};
use crate::host::outer::outer;
use crate::host::packing::{Packed, pack_bias};
use crate::host::{grid::Wide, head};
use crate::layout::Layout;
use crate::ops::tests::{assert_close, f32s, flat, random, random_vec, sum_tolerance};
use crate::reference;
use crate::reference::cases::{CONVOLUTIONS, Case, TRANSPOSED, case};

/// Beside the vector kernels' own: rows of one, two and three tiles and a rest; several tiles across row ends; several
/// bands of rows and pieces of a plane; strides in y alone and with odd rows; several blocks on both sides.
const MORE: &[Case] = &[
    case(1, &[32], 32, [2, 3, 48], [3, 3, 3], [1, 1, 1]),
    case(1, &[8], 40, [3, 5, 33], [3, 3, 3], [1, 1, 1]),
    case(1, &[64], 64, [4, 7, 5], [3, 3, 3], [1, 1, 1]),
    case(2, &[16], 16, [3, 70, 41], [3, 3, 3], [1, 1, 1]),
    case(1, &[40], 48, [3, 9, 37], [3, 3, 3], [2, 2, 2]),
    case(1, &[20], 20, [3, 6, 50], [3, 3, 3], [1, 2, 1]),
    case(3, &[32, 64], 32, [2, 4, 6], [3, 3, 3], [1, 1, 1]),
    case(1, &[8], 8, [2, 5, 9], [1, 1, 3], [1, 1, 1]),
];

/// What a sum of so many products of numbers in −1..1 may be off by, before it is stored: in f32 as [`sum_tolerance`] says;
/// products of bfloat16 are exact, and the sum is the same four times over, because units add pairs and round in their own
/// ways. Of two parts, low · low is left out: at most 2^-16 of each product, whose walk of √terms steps of 2^-16 · ⅓ · √3
/// stays below six deviations.
fn tolerance(terms: usize, cpu: Cpu) -> f64 {
    let left_out = 2.0 * 2f64.powi(-16) * (terms as f64 / 3.0).sqrt();
    match cpu.precision() {
        Precision::F32 => sum_tolerance(terms),
        Precision::F32Fast => 4.0 * sum_tolerance(terms) + left_out,
        Precision::Bf16 => 4.0 * sum_tolerance(terms),
    }
}

/// Packed weights `[small][large][tap]`.
fn pack<F: Format>(
    small: &[usize],
    large: &[usize],
    taps: usize,
    direction: Direction,
    weights: &[f32],
) -> Packed {
    let mut packed = Packed::new::<F>(small, large, taps, direction);
    packed.fill::<F>(weights);
    packed
}

fn import<F: Format>(image: &mut Image, x: &Values) {
    image.import::<F>(x.mapv(|v| v as f32).view());
}

fn shape(batch: usize, channels: usize, size: [usize; 3]) -> (usize, usize, usize, usize, usize) {
    (batch, channels, size[0], size[1], size[2])
}

/// A layer with its numbers.
struct Layer<'a> {
    case: &'a Case,
    geometry: Geometry,
    large: Values,
    small: Values,
    weights: Values,
}

impl<'a> Layer<'a> {
    fn new(case: &'a Case, geometry: Geometry, large: [usize; 3], precision: Precision) -> Self {
        let channels = case.large.iter().sum();
        let [kz, ky, kx] = case.kernel;
        let small = shape(case.batch, case.small, geometry.small(large));
        let of = |shape, seed| random(shape, seed).mapv(|v| stored(v, precision));
        Self {
            case,
            geometry,
            large: of(shape(case.batch, channels, large), 1),
            small: of(small, 2),
            weights: of((case.small, channels, kz, ky, kx), 3),
        }
    }

    fn packed(&self, cpu: Cpu, direction: Direction) -> Packed {
        let taps = self.geometry.taps();
        let small = [self.case.small];
        let weights = flat(&self.weights);
        with_format!(cpu, pack(&small, self.case.large, taps, direction, &weights))
    }

    fn split(&self, cpu: Cpu) -> Vec<Tensor> {
        let mut first = 0;
        let cut = |n: &usize| {
            let part = self.large.slice(ndarray::s![.., first..first + n, .., .., ..]);
            first += n;
            tensor(&part.to_owned(), cpu)
        };
        self.case.large.iter().map(cut).collect()
    }

    fn joined(tensors: &[Tensor], cpu: Cpu) -> Values {
        let list: Vec<_> = tensors.iter().map(|t| values(t, cpu)).collect();
        let views: Vec<_> = list.iter().map(|p| p.view()).collect();
        ndarray::concatenate(ndarray::Axis(1), &views).unwrap()
    }
}

/// What a layer should give.
struct Expected {
    bias: Vec<f64>,
    y: Values,
    dx: Values,
    dw: Vec<f64>,
    db: Vec<f64>,
}

/// Both directions and the weights' gradient between `large` and `small`, whichever is the input, on every unit that computes
/// in this precision.
fn check(name: &str, layer: &Layer<'_>, precision: Precision) {
    let Layer { case, geometry, large, small, weights } = layer;
    let (stride, pad) = (geometry.stride, geometry.pad);
    let bias = random_vec(case.small, 4);
    let y = reference::convolution(large, weights, &bias, stride, pad);
    let (dx, dw, db) = reference::convolution_backward(large, weights, small, stride, pad);
    let expected = Expected { bias, y, dx, dw: dw.into_iter().collect(), db };
    for cpu in Cpu::available().into_iter().filter(|cpu| cpu.precision() == precision) {
        check_on(&format!("{name} on {cpu}"), layer, &expected, cpu);
    }
}

fn check_on(name: &str, layer: &Layer<'_>, expected: &Expected, cpu: Cpu) {
    let Layer { case, geometry, small, weights, .. } = layer;
    let (taps, inputs) = (geometry.taps(), case.large.iter().sum::<usize>());
    let mut blocks = Vec::new();
    pack_bias(&f32s(&expected.bias), &mut blocks);
    let tensors = layer.split(cpu);
    let refs: Vec<&Tensor> = tensors.iter().collect();
    let packed = layer.packed(cpu, Direction::LargeToSmall);
    let mut found = empty(expected.y.dim(), cpu);
    let g = found.grid;
    let mut sums: Vec<Sums> = vec![[[0.0; 32]; 2]; g.batch * g.blocks() * units(g.size)];
    let bias = Some(&blocks[..]);
    let out = &mut found;
    with_unit!(cpu, gather(geometry, &refs, &packed, bias, out, Some(&mut sums)));
    let bound = tolerance(inputs * taps + 1, cpu);
    assert_stored(&format!("{name}: small"), &values(&found, cpu), &expected.y, cpu, bound);
    assert_padding_is_zero(&found, cpu);
    check_sums(name, &expected.y, &sums, bound);

    let source = tensor(small, cpu);
    let packed = layer.packed(cpu, Direction::SmallToLarge);
    let mut found = layer.split(cpu);
    let mut targets: Vec<&mut Tensor> = found.iter_mut().collect();
    with_unit!(cpu, scatter(geometry, &source, &packed, None, &mut targets, false));
    let bound = tolerance(case.small * taps, cpu);
    let once = Layer::joined(&found, cpu);
    assert_stored(&format!("{name}: large"), &once, &expected.dx, cpu, bound);
    found.iter().for_each(|t| assert_padding_is_zero(t, cpu));
    let mut targets: Vec<&mut Tensor> = found.iter_mut().collect();
    with_unit!(cpu, scatter(geometry, &source, &packed, None, &mut targets, true));
    let twice = once + &expected.dx;
    assert_stored(&format!("{name}: added"), &Layer::joined(&found, cpu), &twice, cpu, bound);

    let mut found = vec![f32::NAN; weights.len()];
    let partials = &mut Vec::new();
    with_unit!(cpu, outer(geometry, &refs, &source, partials, &mut found));
    let voxels = small.len() / case.small;
    assert_close(&format!("{name}: weights"), &found, &expected.dw, tolerance(voxels, cpu));
    let mut found = vec![f32::NAN; case.small];
    with_vector!(cpu, head::sum(&source, &mut found));
    assert_close(&format!("{name}: bias"), &found, &expected.db, sum_tolerance(voxels));
}

/// Sums and sums of squares over the voxels of each sample and channel.
fn check_sums(name: &str, y: &Values, sums: &[Sums], bound: f64) {
    let (batch, channels, d, h, w) = y.dim();
    let (voxels, units) = ((d * h * w) as f64, units([d, h, w]));
    for (n, c) in (0..batch).flat_map(|n| (0..channels).map(move |c| (n, c))) {
        let values = y.slice(ndarray::s![n, c, .., .., ..]);
        let of = |i: usize| {
            let first = (c / BLOCK * batch + n) * units;
            sums[first..first + units].iter().map(|s| s[i][c % BLOCK]).sum::<f64>()
        };
        let largest = values.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        let (sum, squares) = (values.sum(), values.mapv(|v| v * v).sum());
        assert!((of(0) - sum).abs() < voxels * 2.0 * bound * largest, "{name}: sum {n} {c}");
        let allowed = voxels * 4.0 * bound * largest * largest;
        assert!((of(1) - squares).abs() < allowed, "{name}: squares {n} {c}");
    }
}

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::F32Fast, Precision::Bf16];

#[test]
fn convolutions_match_their_definition() {
    for precision in PRECISIONS {
        for (i, case) in CONVOLUTIONS.iter().chain(MORE).enumerate() {
            let geometry = Geometry::convolution(case.kernel, case.stride);
            let layer = Layer::new(case, geometry, case.size, precision);
            check(&format!("convolution {i}"), &layer, precision);
        }
    }
}

#[test]
fn transposed_convolutions_match_their_definition() {
    for precision in PRECISIONS {
        for (i, case) in TRANSPOSED.iter().enumerate() {
            let large = [0, 1, 2].map(|a| case.size[a] * case.stride[a]);
            let layer = Layer::new(case, Geometry::transposed(case.stride), large, precision);
            check(&format!("transposed {i}"), &layer, precision);
        }
    }
}

#[test]
fn a_bias_reaches_every_class_of_voxels() {
    for cpu in Cpu::available() {
        let (stride, small) = ([2, 2, 2], (1, 3, 2, 3, 4));
        let x = rounded(&random(small, 1), cpu);
        let w = rounded(&random((3, 40, 2, 2, 2), 2), cpu);
        let bias = random_vec(40, 3);
        let y = reference::transposed(&x, &w, &bias, stride);
        let mut blocks: Vec<Wide> = Vec::new();
        pack_bias(&f32s(&bias), &mut blocks);
        let weights_of = flat(&w);
        let packed = with_format!(cpu, pack(&[3], &[40], 8, Direction::SmallToLarge, &weights_of));
        let (geometry, source) = (Geometry::transposed(stride), tensor(&x, cpu));
        let mut found = empty(y.dim(), cpu);
        let targets = &mut [&mut found];
        with_unit!(cpu, scatter(&geometry, &source, &packed, Some(&blocks), targets, false));
        let bound = tolerance(4, cpu);
        assert_stored("up", &values(&found, cpu), &y, cpu, bound);
    }
}

#[test]
fn every_width_gives_the_same_sums() {
    // Widths 1 to 60 use every height of a tile; row ends fall everywhere in it.
    for cpu in Cpu::available() {
        for width in 1..=60 {
            for (height, outputs) in [(1, 17), (3, 33), (4, 16)] {
                for stride in [[1, 1, 1], [1, 1, 2]] {
                    let geometry = Geometry::convolution([1, 1, 3], stride);
                    let x = rounded(&random((1, 2, 2, height, width), 5), cpu);
                    let w = rounded(&random((outputs, 2, 1, 1, 3), 6), cpu);
                    let zeros = vec![0.0; outputs];
                    let y = reference::convolution(&x, &w, &zeros, stride, geometry.pad);
                    let weights_of = flat(&w);
                    let packed = with_format!(
                        cpu,
                        pack(&[outputs], &[2], 3, Direction::LargeToSmall, &weights_of)
                    );
                    let mut found = empty(y.dim(), cpu);
                    let (source, out) = (tensor(&x, cpu), &mut found);
                    with_unit!(cpu, gather(&geometry, &[&source], &packed, None, out, None));
                    let name = format!("{height}×{width}, {outputs} outputs on {cpu}");
                    assert_stored(&name, &values(&found, cpu), &y, cpu, tolerance(6, cpu));
                }
            }
        }
    }
}

#[test]
fn the_convolution_of_an_image_matches_its_definition() {
    const CASES: &[Case] = &[
        case(1, &[1], 1, [1, 1, 1], [3, 3, 3], [1, 1, 1]),
        case(2, &[1], 32, [5, 6, 49], [3, 3, 3], [1, 1, 1]),
        case(1, &[4], 30, [3, 7, 20], [3, 3, 3], [1, 1, 1]),
        case(2, &[3], 8, [1, 9, 17], [1, 3, 3], [1, 1, 1]),
        case(1, &[2], 40, [4, 5, 35], [3, 3, 3], [1, 2, 2]),
    ];
    for cpu in Cpu::available() {
        for (i, case) in CASES.iter().enumerate() {
            let name = |what: &str| format!("image {i} on {cpu}: {what}");
            let geometry = Geometry::convolution(case.kernel, case.stride);
            let layer = Layer::new(case, geometry, case.size, cpu.precision());
            let (x, w, channels) = (&layer.large, &layer.weights, case.large[0]);
            let zeros = vec![0.0; case.small];
            let y = reference::convolution(x, w, &zeros, case.stride, geometry.pad);
            let layout =
                Layout { batch: case.batch, channels, size: case.size, halo: geometry.pad };
            let mut image = Image::zeros(layout);
            with_format!(cpu, import(&mut image, x));
            let patch = channels * geometry.taps();
            let weights_of = flat(w);
            let packed = with_format!(
                cpu,
                pack(&[case.small], &[patch], 1, Direction::LargeToSmall, &weights_of)
            );
            let mut found = empty(y.dim(), cpu);
            let g = found.grid;
            let mut sums: Vec<Sums> = vec![[[0.0; 32]; 2]; g.batch * g.blocks() * units(g.size)];
            let out = &mut found;
            with_unit!(cpu, first::convolve(&geometry, &image, &packed, out, &mut sums));
            let bound = tolerance(patch, cpu);
            assert_stored(&name("y"), &values(&found, cpu), &y, cpu, bound);
            assert_padding_is_zero(&found, cpu);
            check_sums(&name("sums"), &y, &sums, bound);

            let dy = &layer.small;
            let (_, dw, _) = reference::convolution_backward(x, w, dy, case.stride, geometry.pad);
            let grid = Grid { batch: case.batch, channels, size: case.size, halo: geometry.pad };
            let image = Tensor { grid, image: Some(image), ..Tensor::default() };
            let (source, mut found) = (tensor(dy, cpu), vec![f32::NAN; w.len()]);
            let partials = &mut Vec::new();
            with_unit!(cpu, outer(&geometry, &[&image], &source, partials, &mut found));
            let expected: Vec<f64> = dw.iter().copied().collect();
            let bound = tolerance(dy.len() / case.small, cpu);
            assert_close(&name("dw"), &found, &expected, bound);
        }
    }
}

#[test]
fn heads_match_their_definition() {
    for cpu in Cpu::available() {
        for (i, (shape, classes)) in
            [((1, 32, 3, 5, 17), 3), ((2, 40, 2, 3, 4), 17), ((1, 30, 1, 9, 50), 37)]
                .into_iter()
                .enumerate()
        {
            let name = |what: &str| format!("head {i} on {cpu}: {what}");
            let (n, channels, d, h, w) = shape;
            let a = rounded(&random(shape, 1), cpu);
            let weights = rounded(&random((classes, channels, 1, 1, 1), 2), cpu);
            let bias = random_vec(classes, 3);
            let dy = random((n, classes, d, h, w), 4);
            let y = reference::convolution(&a, &weights, &bias, [1; 3], [0; 3]);
            let (da, dw, db) = reference::convolution_backward(&a, &weights, &dy, [1; 3], [0; 3]);
            let source = tensor(&a, cpu);
            let grid = Grid { batch: n, channels: classes, size: [d, h, w], halo: [0; 3] };
            let mut logits = Tensor { grid, logits: vec![f32::NAN; y.len()], ..Tensor::default() };
            let weights_of = flat(&weights);
            let packed = with_format!(
                cpu,
                pack(&[classes], &[channels], 1, Direction::LargeToSmall, &weights_of)
            );
            let (bias, out) = (f32s(&bias), &mut logits);
            with_unit!(cpu, head::forward(&source, &packed, &bias, out));
            let expected: Vec<f64> = y.iter().copied().collect();
            assert_close(&name("y"), &logits.logits, &expected, tolerance(channels + 1, cpu));

            logits.logits = flat(&dy);
            let (mut found, mut gradient) = (empty(shape, cpu), vec![f32::NAN; weights.len()]);
            let values_of_head = flat(&weights);
            let out = &mut found;
            with_vector!(cpu, head::input_backward(&values_of_head, &logits, false, out));
            let bound = sum_tolerance(classes);
            let once = values(&found, cpu);
            assert_stored(&name("da"), &once, &da, cpu, bound);
            assert_padding_is_zero(&found, cpu);
            let out = &mut found;
            with_vector!(cpu, head::input_backward(&values_of_head, &logits, true, out));
            let twice = once + &da;
            assert_stored(&name("added"), &values(&found, cpu), &twice, cpu, bound);
            with_vector!(cpu, head::weights_backward(&source, &logits, &mut gradient));
            let expected: Vec<f64> = dw.iter().copied().collect();
            assert_close(&name("dw"), &gradient, &expected, sum_tolerance(n * d * h * w));
            let mut found = vec![f32::NAN; classes];
            head::bias_backward(&logits, &mut found);
            assert_close(&name("db"), &found, &db, sum_tolerance(n * d * h * w));
        }
    }
}

#[test]
fn numbers_of_threads_change_nothing() {
    let case = case(2, &[40], 48, [4, 30, 21], [3, 3, 3], [1, 1, 1]);
    for cpu in Cpu::available() {
        let geometry = Geometry::convolution(case.kernel, case.stride);
        let layer = Layer::new(&case, geometry, case.size, cpu.precision());
        let tensors = layer.split(cpu);
        let (source, packed) =
            (tensor(&layer.small, cpu), layer.packed(cpu, Direction::LargeToSmall));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut out = empty(layer.small.dim(), cpu);
                let g = out.grid;
                let mut sums: Vec<Sums> =
                    vec![[[0.0; 32]; 2]; g.batch * g.blocks() * units(g.size)];
                let refs: Vec<&Tensor> = tensors.iter().collect();
                let sums_of = Some(&mut sums[..]);
                let to = &mut out;
                with_unit!(cpu, gather(&geometry, &refs, &packed, None, to, sums_of));
                let mut gradient = vec![0.0; layer.weights.len()];
                let partials = &mut Vec::new();
                with_unit!(cpu, outer(&geometry, &refs, &source, partials, &mut gradient));
                (values(&out, cpu), sums, gradient)
            })
        };
        assert!(run(1) == run(3), "{cpu:?}");
    }
}
