//! Activations in device memory: `[sample][z][y][x][pitch]`, channels last.
//!
//! The pitch is the number of channels rounded up to 8 (16 bytes of bfloat16); the channels beyond are zero, and stay
//! zero. There is no halo: kernels ask where the edge is.

use kernels::{Buffer, Pointer};
use std::sync::Arc;

/// What a number takes in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Element {
    #[default]
    Bf16,
    F32,
}

impl Element {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Sizes of a [`Tensor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Layout {
    pub batch: usize,
    pub channels: usize,
    /// z, y, x.
    pub size: [usize; 3],
}

impl Layout {
    /// Numbers from a voxel to the next.
    pub(crate) fn pitch(&self) -> usize {
        self.channels.next_multiple_of(8)
    }

    /// Of one sample.
    pub(crate) fn voxels(&self) -> usize {
        self.size.iter().product()
    }

    /// Numbers, padding included.
    pub(crate) fn len(&self) -> usize {
        self.batch * self.voxels() * self.pitch()
    }

    pub(crate) fn with_channels(mut self, channels: usize) -> Self {
        self.channels = channels;
        self
    }
}

/// One activation or its gradient, a part of a buffer that it keeps alive.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tensor {
    pub layout: Layout,
    pub element: Element,
    pub pointer: Pointer,
    /// None for a tensor that is only measured.
    _owner: Option<Arc<Buffer>>,
}

impl Tensor {
    /// At `offset` bytes of `buffer`.
    pub(crate) fn at(
        buffer: &Arc<Buffer>,
        offset: usize,
        layout: Layout,
        element: Element,
    ) -> Self {
        assert!(
            offset + layout.len() * element.bytes() <= buffer.bytes(),
            "tensor past its buffer"
        );
        assert!(offset.is_multiple_of(256), "offset {offset} of a tensor");
        let pointer = buffer.pointer().offset(offset);
        Self { layout, element, pointer, _owner: Some(buffer.clone()) }
    }

    /// One without memory, to measure with.
    pub(crate) fn nowhere(layout: Layout, element: Element) -> Self {
        Self { layout, element, pointer: Pointer::default(), _owner: None }
    }
}

/// A size that kernels count in 32 bits.
pub(crate) fn small(size: usize) -> u32 {
    assert!(size <= i32::MAX as usize, "a size of {size} is beyond what kernels count");
    size as u32
}

/// The name of a kernel that exists for both elements: `NAME_bf16` and `NAME_f32`.
macro_rules! kernel {
    ($element:expr, $name:literal) => {
        match $element {
            $crate::cuda::tensor::Element::Bf16 => concat!($name, "_bf16"),
            $crate::cuda::tensor::Element::F32 => concat!($name, "_f32"),
        }
    };
}
pub(crate) use kernel;
