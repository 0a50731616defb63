//! What the kernels read of a batch: lists of tasks in one block of bytes, written on the host and uploaded at once.

use kernels::{GpuError, Pointer, Stream};

/// A value as the kernels' structs hold it.
pub(super) trait Record {
    /// `sizeof` of its C++ twin.
    const BYTES: usize;
    /// Appends its bytes.
    fn put(&self, out: &mut Vec<u8>);
}

macro_rules! number {
    ($($type:ty),*) => { $(
        impl Record for $type {
            const BYTES: usize = size_of::<Self>();
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_ne_bytes());
            }
        }
    )* };
}
number!(u32, i32, u64, i64, f32, f64);

impl Record for Pointer {
    const BYTES: usize = 8;
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
}

impl<T: Record, const N: usize> Record for [T; N] {
    const BYTES: usize = N * T::BYTES;
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|value| value.put(out));
    }
}

/// Declares the twin of a struct of the kernels, field by field in its order; there is no padding in either.
macro_rules! record {
    ($(#[$meta:meta])* struct $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $name { $(pub $field: $type),* }
        impl Record for $name {
            const BYTES: usize = 0 $(+ <$type as Record>::BYTES)*;
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }
        }
    };
}

record! {
    /// `Sample` of augment_space.cu.
    struct Sample {
        image: Pointer,
        coefficients: Pointer,
        label: Pointer,
        previous: Pointer,
        field: Pointer,
        centre: [f64; 3],
        matrix: [[f64; 3]; 3],
        strides: [i64; 3],
        channel: i64,
        shape: [i32; 3],
        lower: [i32; 3],
        mirror: u32,
        warped: u32,
    }
}
record! {
    /// `NoiseTask` of augment_voxels.cu.
    struct NoiseTask { values: Pointer, seed: u64, channel: u32, sigma: f32 }
}
record! {
    /// `BlurTask` of augment_space.cu.
    struct BlurTask { from: Pointer, to: Pointer, weights: Pointer, radius: u32, unused: u32 }
}
record! {
    /// `StatisticsTask` of augment_voxels.cu.
    struct StatisticsTask { values: Pointer, factor: f32, unused: u32 }
}
record! {
    /// `AdjustTask` of augment_voxels.cu.
    struct AdjustTask {
        values: Pointer,
        brightness: f32,
        contrast: f32,
        statistics: u32,
        with_contrast: u32,
    }
}
record! {
    /// `LowResolutionTask` of augment_space.cu.
    struct LowResolutionTask { from: Pointer, to: Pointer, small: [u32; 3], unused: u32 }
}
record! {
    /// `GammaTask` of augment_voxels.cu.
    struct GammaTask { values: Pointer, sign: f32, exponent: f32 }
}
record! {
    /// `DilateTask` of augment_previous.cu.
    struct DilateTask {
        classes: Pointer,
        member: Pointer,
        first: Pointer,
        second: Pointer,
        class: i32,
        radius: i32,
        grow: u32,
        unused: u32,
    }
}
record! {
    /// `ComponentTask` of augment_previous.cu.
    struct ComponentTask { classes: Pointer, parents: Pointer, sizes: Pointer }
}
record! {
    /// `RemovalTask` of augment_previous.cu.
    struct RemovalTask {
        classes: Pointer,
        parents: Pointer,
        sizes: Pointer,
        counts: Pointer,
        chosen: Pointer,
        which: f64,
        limit: f64,
        class: i32,
        unused: u32,
    }
}

/// Every list begins at a multiple of this.
pub(super) const ALIGNMENT: usize = 8;

/// The block of bytes, and where it will lie on the device.
#[derive(Debug)]
pub(super) struct Table {
    bytes: Vec<u8>,
    base: Pointer,
    room: usize,
}

/// A list in the table.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct List {
    /// Of the first item, on the device.
    pub at: Pointer,
    /// How many.
    pub count: usize,
}

impl Table {
    /// For `room` bytes of the device.
    pub fn new(base: Pointer, room: usize) -> Self {
        Self { bytes: Vec::with_capacity(room), base, room }
    }

    /// Appends a list.
    pub fn push<T: Record>(&mut self, items: &[T]) -> List {
        let at = self.base.offset(self.bytes.len());
        items.iter().for_each(|item| item.put(&mut self.bytes));
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        List { at, count: items.len() }
    }

    /// Brings it to the device; it is there when this returns.
    pub fn upload(&self, stream: &Stream) -> Result<(), GpuError> {
        let (found, room) = (self.bytes.len(), self.room);
        assert!(found <= room, "tasks of {found} bytes, planned for {room}");
        stream.upload(self.base, &self.bytes)
    }
}

/// Bytes of a list of `count` items in a table.
pub(super) const fn list_bytes<T: Record>(count: usize) -> usize {
    (count * T::BYTES).next_multiple_of(ALIGNMENT)
}
