//! Convolution, transposed convolution, the image's convolution and the heads: forward and all gradients.

use super::*;
use crate::amx::convolution::{gather, scatter};
use crate::amx::first::{self, Image};
use crate::amx::linear::{Sums, units};
use crate::amx::outer::outer;
use crate::amx::packing::{Packed, pack_bias};
use crate::amx::{head, tensor::Wide};
use crate::ops::linear::Geometry;
use crate::ops::packing::Direction;
use crate::ops::tests::linear::{CONVOLUTIONS, Case, TRANSPOSED, case};
use crate::ops::tests::{assert_close, f32s, flat, random, random_vec, sum_tolerance};
use crate::reference;
use crate::tensor::Layout;

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

/// What a sum of so many products of numbers in −1..1 may be off by, before it is stored. Products of parts are exact,
/// and the sum is as [`sum_tolerance`] says, four times over because the unit adds pairs and rounds in its own way. Of two
/// parts, low · low is left out: at most 2^-16 of each product, whose walk of √terms steps of 2^-16 · ⅓ · √3 stays
/// below six deviations.
fn tolerance(terms: usize, parts: Parts) -> f64 {
    let left_out = match parts {
        Parts::One => 0.0,
        Parts::Two => 2.0 * 2f64.powi(-16) * (terms as f64 / 3.0).sqrt(),
    };
    4.0 * sum_tolerance(terms) + left_out
}

fn shape(batch: usize, channels: usize, size: [usize; 3]) -> (usize, usize, usize, usize, usize) {
    (batch, channels, size[0], size[1], size[2])
}

/// A layer with its numbers.
struct Layer<'a> {
    case: &'a Case,
    geometry: Geometry,
    parts: Parts,
    large: Values,
    small: Values,
    weights: Values,
}

impl<'a> Layer<'a> {
    fn new(case: &'a Case, geometry: Geometry, large: [usize; 3], parts: Parts) -> Self {
        let channels = case.large.iter().sum();
        let [kz, ky, kx] = case.kernel;
        let small = shape(case.batch, case.small, geometry.small(large));
        let of = |shape, seed| rounded(&random(shape, seed), parts);
        Self {
            case,
            geometry,
            parts,
            large: of(shape(case.batch, channels, large), 1),
            small: of(small, 2),
            weights: of((case.small, channels, kz, ky, kx), 3),
        }
    }

    fn packed(&self, direction: Direction) -> Packed {
        let taps = self.geometry.taps();
        let small = [self.case.small];
        let mut packed = Packed::new(&small, self.case.large, taps, self.parts.count(), direction);
        packed.fill(&flat(&self.weights));
        packed
    }

    fn split(&self) -> Vec<Tensor> {
        let mut first = 0;
        let cut = |n: &usize| {
            let part = self.large.slice(ndarray::s![.., first..first + n, .., .., ..]);
            first += n;
            tensor(&part.to_owned(), self.parts)
        };
        self.case.large.iter().map(cut).collect()
    }

    fn joined(&self, tensors: &[Tensor]) -> Values {
        let list: Vec<_> = tensors.iter().map(|t| values(t, self.parts)).collect();
        let views: Vec<_> = list.iter().map(|p| p.view()).collect();
        ndarray::concatenate(ndarray::Axis(1), &views).unwrap()
    }
}

/// Both directions and the weights' gradient between `large` and `small`, whichever is the input.
fn check(name: &str, layer: &Layer<'_>) {
    let Layer { case, geometry, parts, large, small, weights } = layer;
    let (parts, taps) = (*parts, geometry.taps());
    let inputs: usize = case.large.iter().sum();
    let bias = random_vec(case.small, 4);
    let y = reference::convolution(large, weights, &bias, geometry.stride, geometry.pad);
    let mut blocks = Vec::new();
    pack_bias(&f32s(&bias), &mut blocks);
    let tensors = layer.split();
    let refs: Vec<&Tensor> = tensors.iter().collect();
    let packed = layer.packed(Direction::LargeToSmall);
    let mut found = empty(y.dim(), parts);
    let g = found.grid;
    let mut sums: Vec<Sums> = vec![[[0.0; 32]; 2]; g.batch * g.blocks() * units(g.size)];
    let bias = Some(&blocks[..]);
    let out = &mut found;
    with_parts!(parts, gather(geometry, &refs, &packed, bias, out, Some(&mut sums)));
    let bound = tolerance(inputs * taps + 1, parts);
    assert_stored(&format!("{name}: small"), &values(&found, parts), &y, parts, bound);
    assert_padding_is_zero(&found, parts);
    check_sums(name, &y, &sums, bound);

    let (dx, dw, db) =
        reference::convolution_backward(large, weights, small, geometry.stride, geometry.pad);
    let source = tensor(small, parts);
    let packed = layer.packed(Direction::SmallToLarge);
    let mut found = layer.split();
    let mut targets: Vec<&mut Tensor> = found.iter_mut().collect();
    with_parts!(parts, scatter(geometry, &source, &packed, None, &mut targets, false));
    let bound = tolerance(case.small * taps, parts);
    let once = layer.joined(&found);
    assert_stored(&format!("{name}: large"), &once, &dx, parts, bound);
    found.iter().for_each(|t| assert_padding_is_zero(t, parts));
    let mut targets: Vec<&mut Tensor> = found.iter_mut().collect();
    with_parts!(parts, scatter(geometry, &source, &packed, None, &mut targets, true));
    let twice = once + &dx;
    assert_stored(&format!("{name}: added"), &layer.joined(&found), &twice, parts, bound);

    let mut found = vec![f32::NAN; weights.len()];
    let partials = &mut Vec::new();
    with_parts!(parts, outer(geometry, &refs, &source, partials, &mut found));
    let voxels = small.len() / case.small;
    let expected: Vec<f64> = dw.iter().copied().collect();
    assert_close(&format!("{name}: weights"), &found, &expected, tolerance(voxels, parts));
    let mut found = vec![f32::NAN; case.small];
    with_parts!(parts, head::sum(&source, &mut found));
    assert_close(&format!("{name}: bias"), &found, &db, sum_tolerance(voxels));
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

#[test]
fn convolutions_match_their_definition() {
    for parts in all_parts() {
        for (i, case) in CONVOLUTIONS.iter().chain(MORE).enumerate() {
            let geometry = Geometry::convolution(case.kernel, case.stride);
            let layer = Layer::new(case, geometry, case.size, parts);
            check(&format!("convolution {i} in {parts:?}"), &layer);
        }
    }
}

#[test]
fn transposed_convolutions_match_their_definition() {
    for parts in all_parts() {
        for (i, case) in TRANSPOSED.iter().enumerate() {
            let large = [0, 1, 2].map(|a| case.size[a] * case.stride[a]);
            let layer = Layer::new(case, Geometry::transposed(case.stride), large, parts);
            check(&format!("transposed {i} in {parts:?}"), &layer);
        }
    }
}

#[test]
fn a_bias_reaches_every_class_of_voxels() {
    for parts in all_parts() {
        let (stride, small) = ([2, 2, 2], (1, 3, 2, 3, 4));
        let x = rounded(&random(small, 1), parts);
        let w = rounded(&random((3, 40, 2, 2, 2), 2), parts);
        let bias = random_vec(40, 3);
        let y = reference::transposed(&x, &w, &bias, stride);
        let mut blocks: Vec<Wide> = Vec::new();
        pack_bias(&f32s(&bias), &mut blocks);
        let mut packed = Packed::new(&[3], &[40], 8, parts.count(), Direction::SmallToLarge);
        packed.fill(&flat(&w));
        let (geometry, source) = (Geometry::transposed(stride), tensor(&x, parts));
        let mut found = empty(y.dim(), parts);
        let targets = &mut [&mut found];
        with_parts!(parts, scatter(&geometry, &source, &packed, Some(&blocks), targets, false));
        let bound = tolerance(4, parts);
        assert_stored("up", &values(&found, parts), &y, parts, bound);
    }
}

#[test]
fn every_width_gives_the_same_sums() {
    // Widths 1 to 60 use every height of a tile; row ends fall everywhere in it.
    for parts in all_parts() {
        for width in 1..=60 {
            for (height, outputs) in [(1, 17), (3, 33), (4, 16)] {
                for stride in [[1, 1, 1], [1, 1, 2]] {
                    let geometry = Geometry::convolution([1, 1, 3], stride);
                    let x = rounded(&random((1, 2, 2, height, width), 5), parts);
                    let w = rounded(&random((outputs, 2, 1, 1, 3), 6), parts);
                    let zeros = vec![0.0; outputs];
                    let y = reference::convolution(&x, &w, &zeros, stride, geometry.pad);
                    let mut packed =
                        Packed::new(&[outputs], &[2], 3, parts.count(), Direction::LargeToSmall);
                    packed.fill(&flat(&w));
                    let mut found = empty(y.dim(), parts);
                    let (source, out) = (tensor(&x, parts), &mut found);
                    with_parts!(parts, gather(&geometry, &[&source], &packed, None, out, None));
                    let name = format!("{height}×{width}, {outputs} outputs in {parts:?}");
                    assert_stored(&name, &values(&found, parts), &y, parts, tolerance(6, parts));
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
    for parts in all_parts() {
        for (i, case) in CASES.iter().enumerate() {
            let name = |what: &str| format!("image {i} in {parts:?}: {what}");
            let geometry = Geometry::convolution(case.kernel, case.stride);
            let layer = Layer::new(case, geometry, case.size, parts);
            let (x, w, channels) = (&layer.large, &layer.weights, case.large[0]);
            let zeros = vec![0.0; case.small];
            let y = reference::convolution(x, w, &zeros, case.stride, geometry.pad);
            let layout =
                Layout { batch: case.batch, channels, size: case.size, halo: geometry.pad };
            let mut image = Image::zeros(layout, parts.count());
            image.import(x.mapv(|v| v as f32).view());
            let patch = channels * geometry.taps();
            let mut packed =
                Packed::new(&[case.small], &[patch], 1, parts.count(), Direction::LargeToSmall);
            packed.fill(&flat(w));
            let mut found = empty(y.dim(), parts);
            let g = found.grid;
            let mut sums: Vec<Sums> = vec![[[0.0; 32]; 2]; g.batch * g.blocks() * units(g.size)];
            let out = &mut found;
            with_parts!(parts, first::convolve(&geometry, &image, &packed, out, &mut sums));
            let bound = tolerance(patch, parts);
            assert_stored(&name("y"), &values(&found, parts), &y, parts, bound);
            assert_padding_is_zero(&found, parts);
            check_sums(&name("sums"), &y, &sums, bound);

            let dy = &layer.small;
            let (_, dw, _) = reference::convolution_backward(x, w, dy, case.stride, geometry.pad);
            let grid = Grid { batch: case.batch, channels, size: case.size, halo: geometry.pad };
            let image = Tensor { grid, image: Some(image), ..Tensor::default() };
            let (source, mut found) = (tensor(dy, parts), vec![f32::NAN; w.len()]);
            let partials = &mut Vec::new();
            with_parts!(parts, outer(&geometry, &[&image], &source, partials, &mut found));
            let expected: Vec<f64> = dw.iter().copied().collect();
            let bound = tolerance(dy.len() / case.small, parts);
            assert_close(&name("dw"), &found, &expected, bound);
        }
    }
}

#[test]
fn heads_match_their_definition() {
    for parts in all_parts() {
        for (i, (shape, classes)) in
            [((1, 32, 3, 5, 17), 3), ((2, 40, 2, 3, 4), 17), ((1, 30, 1, 9, 50), 37)]
                .into_iter()
                .enumerate()
        {
            let name = |what: &str| format!("head {i} in {parts:?}: {what}");
            let (n, channels, d, h, w) = shape;
            let a = rounded(&random(shape, 1), parts);
            let weights = rounded(&random((classes, channels, 1, 1, 1), 2), parts);
            let bias = random_vec(classes, 3);
            let dy = random((n, classes, d, h, w), 4);
            let y = reference::convolution(&a, &weights, &bias, [1; 3], [0; 3]);
            let (da, dw, db) = reference::convolution_backward(&a, &weights, &dy, [1; 3], [0; 3]);
            let source = tensor(&a, parts);
            let grid = Grid { batch: n, channels: classes, size: [d, h, w], halo: [0; 3] };
            let mut logits = Tensor { grid, logits: vec![f32::NAN; y.len()], ..Tensor::default() };
            let mut packed =
                Packed::new(&[classes], &[channels], 1, parts.count(), Direction::LargeToSmall);
            packed.fill(&flat(&weights));
            let (bias, out) = (f32s(&bias), &mut logits);
            with_parts!(parts, head::forward(&source, &packed, &bias, out));
            let expected: Vec<f64> = y.iter().copied().collect();
            assert_close(&name("y"), &logits.logits, &expected, tolerance(channels + 1, parts));

            logits.logits = flat(&dy);
            let (mut found, mut gradient) = (empty(shape, parts), vec![f32::NAN; weights.len()]);
            let values_of_head = flat(&weights);
            let out = &mut found;
            with_parts!(parts, head::input_backward(&values_of_head, &logits, false, out));
            let bound = sum_tolerance(classes);
            let once = values(&found, parts);
            assert_stored(&name("da"), &once, &da, parts, bound);
            assert_padding_is_zero(&found, parts);
            let out = &mut found;
            with_parts!(parts, head::input_backward(&values_of_head, &logits, true, out));
            let twice = once + &da;
            assert_stored(&name("added"), &values(&found, parts), &twice, parts, bound);
            with_parts!(parts, head::weights_backward(&source, &logits, &mut gradient));
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
    for parts in all_parts() {
        let geometry = Geometry::convolution(case.kernel, case.stride);
        let layer = Layer::new(&case, geometry, case.size, parts);
        let tensors = layer.split();
        let (source, packed) = (tensor(&layer.small, parts), layer.packed(Direction::LargeToSmall));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut out = empty(layer.small.dim(), parts);
                let g = out.grid;
                let mut sums: Vec<Sums> =
                    vec![[[0.0; 32]; 2]; g.batch * g.blocks() * units(g.size)];
                let refs: Vec<&Tensor> = tensors.iter().collect();
                let sums_of = Some(&mut sums[..]);
                let to = &mut out;
                with_parts!(parts, gather(&geometry, &refs, &packed, None, to, sums_of));
                let mut gradient = vec![0.0; layer.weights.len()];
                let partials = &mut Vec::new();
                with_parts!(parts, outer(&geometry, &refs, &source, partials, &mut gradient));
                (values(&out, parts), sums, gradient)
            })
        };
        assert!(run(1) == run(3), "{parts:?}");
    }
}
