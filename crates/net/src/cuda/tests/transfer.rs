//! Import and export: exact but for the rounding to the element.

use super::{contexts, rounded};
use crate::cuda::tensor::{Layout, Tensor};
use crate::cuda::transfer::{array_bytes, export, import};
use crate::ops::tests::{flat, random};
use std::sync::Arc;

#[test]
fn arrays_come_back_rounded_to_the_element() {
    // One channel to more than a block of eight, more voxels than a block of threads, sizes that share no factor.
    for shape in
        [(1, 1, 1, 1, 1), (2, 4, 3, 5, 7), (1, 8, 1, 17, 16), (2, 9, 2, 3, 5), (1, 33, 1, 3, 3)]
    {
        let x = random(shape, 71);
        let (batch, channels, d, h, w) = shape;
        let layout = Layout { batch, channels, size: [d, h, w] };
        for ctx in contexts() {
            let (array, _array) = ctx.upload(&flat(&x));
            let buffer = Arc::new(ctx.gpu.buffer(layout.len() * ctx.element.bytes()).unwrap());
            let tensor = Tensor::at(&buffer, 0, layout, ctx.element);
            // Padding channels are written too, whatever lay there.
            ctx.stream.fill(tensor.pointer, 0xff, buffer.bytes()).unwrap();
            import(&ctx, array, &tensor);
            let expected = rounded(&x, ctx.element);
            assert_eq!(ctx.values(&tensor), expected, "{shape:?}");
            let back = ctx.gpu.buffer(array_bytes(&layout)).unwrap();
            export(&ctx, &tensor, back.pointer());
            assert_eq!(ctx.floats(back.pointer(), x.len()), flat(&expected), "{shape:?}");
        }
    }
}
