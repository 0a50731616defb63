//! Every operation on the simulator, and on a card where one is asked for, against the f64 definitions.

mod linear;
mod loss;
mod norm;
mod optimiser;
mod residual;
mod transfer;
mod window;

use super::Context;
use super::tensor::{Element, Layout, Tensor};
use crate::reference::Grid;
use half::bf16;
use kernels::{Gpu, Order, Pointer, SimOptions};
use std::sync::Arc;

/// A simulator and, if `NNU_TEST_CUDA` is set, card 0; each in both precisions.
pub(crate) fn contexts() -> Vec<Context> {
    let gpus = kernels::test_gpus();
    let both = |gpu: &Gpu| {
        [Element::Bf16, Element::F32].map(|element| Context::new(gpu.clone(), element).unwrap())
    };
    gpus.iter().flat_map(both).collect()
}

impl Context {
    /// A tensor of garbage (NaN), with zero padding channels.
    pub(crate) fn garbage(&self, layout: Layout, element: Element) -> Tensor {
        let values = (0..layout.len())
            .map(|i| if i % layout.pitch() < layout.channels { f32::NAN } else { 0.0 })
            .collect::<Vec<f32>>();
        self.tensor_of(layout, element, &values)
    }

    /// A tensor that holds `x` `[n, c, z, y, x]`, rounded to the element.
    pub(crate) fn tensor(&self, x: &Grid, element: Element) -> Tensor {
        let (batch, channels, d, h, w) = x.dim();
        let layout = Layout { batch, channels, size: [d, h, w] };
        let mut values = vec![0.0; layout.len()];
        for ((n, c, z, y, u), v) in x.indexed_iter() {
            values[(((n * d + z) * h + y) * w + u) * layout.pitch() + c] = *v as f32;
        }
        self.tensor_of(layout, element, &values)
    }

    fn tensor_of(&self, layout: Layout, element: Element, values: &[f32]) -> Tensor {
        let bytes = layout.len() * element.bytes();
        let buffer = Arc::new(self.gpu.buffer(bytes).unwrap());
        let tensor = Tensor::at(&buffer, 0, layout, element);
        match element {
            Element::F32 => self.stream.upload(tensor.pointer, values).unwrap(),
            Element::Bf16 => {
                let bits: Vec<i16> =
                    values.iter().map(|v| bf16::from_f32(*v).to_bits().cast_signed()).collect();
                self.stream.upload(tensor.pointer, &bits).unwrap();
            }
        }
        tensor
    }

    /// The tensor's values `[n, c, z, y, x]`; fails if a padding channel isn't zero.
    pub(crate) fn values(&self, t: &Tensor) -> Grid {
        let l = t.layout;
        let values: Vec<f32> = match t.element {
            Element::F32 => self.floats(t.pointer, l.len()),
            Element::Bf16 => {
                let mut bits = vec![0i16; l.len()];
                self.stream.download(t.pointer, &mut bits).unwrap();
                bits.iter().map(|b| bf16::from_bits(b.cast_unsigned()).to_f32()).collect()
            }
        };
        self.check().unwrap();
        let [d, h, w] = l.size;
        for (i, v) in values.iter().enumerate() {
            assert!(i % l.pitch() < l.channels || *v == 0.0, "padding channel at {i} is {v}");
        }
        Grid::from_shape_fn((l.batch, l.channels, d, h, w), |(n, c, z, y, x)| {
            f64::from(values[(((n * d + z) * h + y) * w + x) * l.pitch() + c])
        })
    }

    pub(crate) fn upload(&self, values: &[f32]) -> (Pointer, Arc<kernels::Buffer>) {
        let buffer = Arc::new(self.gpu.buffer(4 * values.len()).unwrap());
        self.stream.upload(buffer.pointer(), values).unwrap();
        (buffer.pointer(), buffer)
    }

    pub(crate) fn floats(&self, pointer: Pointer, count: usize) -> Vec<f32> {
        let mut values = vec![0.0f32; count];
        self.stream.download(pointer, &mut values).unwrap();
        self.check().unwrap();
        values
    }
}

/// What a value becomes in memory.
pub(crate) fn rounded(x: &Grid, element: Element) -> Grid {
    match element {
        Element::F32 => x.mapv(|v| f64::from(v as f32)),
        Element::Bf16 => x.mapv(|v| f64::from(bf16::from_f32(v as f32).to_f32())),
    }
}

/// Each value within `bound`, and the rounding to the element it was stored as.
pub(crate) fn assert_near(what: &str, found: &Grid, expected: &Grid, element: Element, bound: f64) {
    let unit = match element {
        Element::Bf16 => 1.0 / 128.0,
        Element::F32 => f64::from(f32::EPSILON),
    };
    assert_eq!(found.dim(), expected.dim(), "{what}");
    for ((at, found), expected) in found.indexed_iter().zip(expected) {
        let tolerance = bound + unit / 2.0 * (expected.abs() + bound);
        let near = (found - expected).abs() <= tolerance;
        assert!(near, "{what} at {at:?}: {found} != {expected}, tolerance {tolerance:.1e}");
    }
}

/// What `run` returns has the same bits in every order of threads, and again.
pub(crate) fn same_bytes(run: impl Fn(&Context) -> Vec<f32>) {
    for element in [Element::Bf16, Element::F32] {
        let bits = |order| {
            let gpu = Gpu::sim(SimOptions { order, ..SimOptions::default() });
            let ctx = Context::new(gpu, element).unwrap();
            let values = run(&ctx);
            ctx.check().unwrap();
            values.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        };
        let first = bits(Order::ALL[0]);
        for order in Order::ALL {
            assert_eq!(bits(order), first, "{element:?}, {order:?}");
        }
    }
}
