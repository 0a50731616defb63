//! How numbers lie in memory, and how two of them are multiplied.

use super::grid::Chunk;
use super::vector::Vector;
use half::bf16;

/// Thirty-two channels of a voxel as two vectors: channels 0…15 and 16…31.
pub(super) type Pair<V> = [V; 2];

/// A kind of number. Sums are f32 in any.
pub(crate) trait Format: Copy + Send + Sync + 'static {
    /// Chunks of 64 bytes of the 32 channels of one voxel.
    const CHUNKS: usize;
    /// Input channels (or voxels, in weight gradients) that one product adds up.
    const GROUP: usize;
    /// What a factor is the sum of.
    const PARTS: usize;
    /// Chunks of the weights between 32 inputs and 16 outputs at one tap, of one part.
    const TILE: usize = 32 / Self::GROUP;
    /// Weights of a group of inputs, 16 outputs.
    type Weights<V: Vector>: Copy;

    /// The bits of a number, part by part in 16 bits each where there are parts.
    fn bits(value: f32) -> u32;
    /// Writes those of a channel of 32.
    fn put(voxel: &mut [Chunk], channel: usize, bits: u32);

    /// # Safety
    /// A voxel can be read; so for all here, and see [`Vector`].
    unsafe fn load<V: Vector>(voxel: *const Chunk) -> Pair<V>;
    /// # Safety
    /// As [`Format::load`], for writing.
    unsafe fn store<V: Vector>(value: Pair<V>, voxel: *mut Chunk);
    /// # Safety
    /// As [`Format::load`]; weights of this group are there, and of its other parts [`Format::TILE`] chunks on.
    unsafe fn weights<V: Vector>(at: *const Chunk) -> Self::Weights<V>;
    /// Adds the products of a voxel's group of inputs.
    ///
    /// # Safety
    /// As [`Format::load`].
    unsafe fn multiply<V: Vector>(
        sum: V,
        voxel: *const Chunk,
        group: usize,
        weights: Self::Weights<V>,
    ) -> V;
    /// Adds products of single parts.
    ///
    /// # Safety
    /// See [`Vector`].
    unsafe fn product<V: Vector>(sum: V, a: V, b: V) -> V;
}

/// The channel's number of 32 in one chunk.
fn put_half(chunk: &mut Chunk, channel: usize, bits: u32) {
    chunk.0[channel] = bits as u16;
}

/// f32: a voxel is two chunks of 16 channels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct F32;

impl Format for F32 {
    const CHUNKS: usize = 2;
    const GROUP: usize = 1;
    const PARTS: usize = 1;
    type Weights<V: Vector> = V;

    fn bits(value: f32) -> u32 {
        value.to_bits()
    }
    fn put(voxel: &mut [Chunk], channel: usize, bits: u32) {
        voxel[channel / 16].put_word(channel % 16, bits);
    }
    #[inline(always)]
    unsafe fn load<V: Vector>(voxel: *const Chunk) -> Pair<V> {
        // SAFETY: passed on.
        unsafe { [V::load(voxel.cast()), V::load(voxel.add(1).cast())] }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(value: Pair<V>, voxel: *mut Chunk) {
        // SAFETY: passed on.
        unsafe {
            value[0].store(voxel.cast());
            value[1].store(voxel.add(1).cast());
        }
    }
    #[inline(always)]
    unsafe fn weights<V: Vector>(at: *const Chunk) -> V {
        // SAFETY: passed on.
        unsafe { V::load(at.cast()) }
    }
    #[inline(always)]
    unsafe fn multiply<V: Vector>(sum: V, voxel: *const Chunk, group: usize, weights: V) -> V {
        // SAFETY: the 32 channels follow each other.
        unsafe { sum.mul_add(V::splat(voxel.cast::<f32>().add(group)), weights) }
    }
    #[inline(always)]
    unsafe fn product<V: Vector>(sum: V, a: V, b: V) -> V {
        // SAFETY: passed on.
        unsafe { sum.mul_add(a, b) }
    }
}

/// bfloat16: a voxel is one chunk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bf16;

#[inline(always)]
unsafe fn widen<V: Vector>(chunk: *const Chunk) -> Pair<V> {
    // SAFETY: the caller promises a readable chunk.
    unsafe { [V::widen(chunk.cast()), V::widen(chunk.cast::<u16>().add(16))] }
}

#[inline(always)]
unsafe fn narrow<V: Vector>(value: Pair<V>, chunk: *mut Chunk) {
    // SAFETY: the caller promises a writable chunk.
    unsafe {
        value[0].narrow(chunk.cast());
        value[1].narrow(chunk.cast::<u16>().add(16));
    }
}

impl Format for Bf16 {
    const CHUNKS: usize = 1;
    const GROUP: usize = 2;
    const PARTS: usize = 1;
    type Weights<V: Vector> = V;

    fn bits(value: f32) -> u32 {
        bf16::from_f32(value).to_bits().into()
    }
    fn put(voxel: &mut [Chunk], channel: usize, bits: u32) {
        put_half(&mut voxel[0], channel, bits);
    }
    #[inline(always)]
    unsafe fn load<V: Vector>(voxel: *const Chunk) -> Pair<V> {
        // SAFETY: passed on.
        unsafe { widen(voxel) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(value: Pair<V>, voxel: *mut Chunk) {
        // SAFETY: passed on.
        unsafe { narrow(value, voxel) };
    }
    #[inline(always)]
    unsafe fn weights<V: Vector>(at: *const Chunk) -> V {
        // SAFETY: passed on.
        unsafe { V::load(at.cast()) }
    }
    #[inline(always)]
    unsafe fn multiply<V: Vector>(sum: V, voxel: *const Chunk, group: usize, weights: V) -> V {
        // SAFETY: 16 pairs of channels follow each other.
        unsafe { sum.dot(V::splat(voxel.cast::<f32>().add(group)), weights) }
    }
    #[inline(always)]
    unsafe fn product<V: Vector>(sum: V, a: V, b: V) -> V {
        // SAFETY: passed on.
        unsafe { sum.dot(a, b) }
    }
}

/// Sums of two bfloat16, the rounded value and the rounded rest: 16 bits of mantissa in two chunks. A product is three of
/// parts; the fourth lies below the rounding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Split;

impl Format for Split {
    const CHUNKS: usize = 2;
    const GROUP: usize = 2;
    const PARTS: usize = 2;
    type Weights<V: Vector> = [V; 2];

    fn bits(value: f32) -> u32 {
        let rounded = bf16::from_f32(value);
        let rest = bf16::from_f32(value - rounded.to_f32());
        u32::from(rounded.to_bits()) | u32::from(rest.to_bits()) << 16
    }
    fn put(voxel: &mut [Chunk], channel: usize, bits: u32) {
        put_half(&mut voxel[0], channel, bits);
        put_half(&mut voxel[1], channel, bits >> 16);
    }
    #[inline(always)]
    unsafe fn load<V: Vector>(voxel: *const Chunk) -> Pair<V> {
        // SAFETY: passed on.
        unsafe {
            let (value, rest) = (widen::<V>(voxel), widen::<V>(voxel.add(1)));
            [value[0].add(rest[0]), value[1].add(rest[1])]
        }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(value: Pair<V>, voxel: *mut Chunk) {
        // SAFETY: passed on.
        unsafe {
            narrow(value, voxel);
            let rounded = widen::<V>(voxel);
            narrow([value[0].sub(rounded[0]), value[1].sub(rounded[1])], voxel.add(1));
        }
    }
    #[inline(always)]
    unsafe fn weights<V: Vector>(at: *const Chunk) -> [V; 2] {
        // SAFETY: passed on.
        unsafe { [V::load(at.cast()), V::load(at.add(Self::TILE).cast())] }
    }
    #[inline(always)]
    unsafe fn multiply<V: Vector>(sum: V, voxel: *const Chunk, group: usize, weights: [V; 2]) -> V {
        // SAFETY: 16 pairs of channels follow each other in either part.
        unsafe {
            let value = V::splat(voxel.cast::<f32>().add(group));
            let rest = V::splat(voxel.add(1).cast::<f32>().add(group));
            sum.dot(value, weights[0]).dot(rest, weights[0]).dot(value, weights[1])
        }
    }
    #[inline(always)]
    unsafe fn product<V: Vector>(sum: V, a: V, b: V) -> V {
        // SAFETY: passed on.
        unsafe { sum.dot(a, b) }
    }
}
