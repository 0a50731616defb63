//! Device memory and pinned memory.

use super::machine::{self, HOST};
use super::streams::Work;
use crate::driver::{Memory, Pointer};
use crate::error::GpuError;
use std::collections::BTreeMap;

/// CUDA's allocations begin and end at multiples of this.
const GRAIN: u64 = 256;

/// What is allocated: begins and bytes.
#[derive(Debug)]
pub(super) struct Allocations {
    /// The card's number.
    pub card: u64,
    total: u64,
    used: u64,
    device: BTreeMap<u64, usize>,
    pinned: BTreeMap<u64, usize>,
}

pub(super) fn refused(call: &str, reason: impl Into<String>) -> GpuError {
    GpuError::Call { call: call.to_owned(), reason: reason.into() }
}

/// Whether bytes at an address are in one of the allocations.
fn within(allocations: &BTreeMap<u64, usize>, address: u64, bytes: usize) -> bool {
    let before = allocations.range(..=address).next_back();
    let rest = before.and_then(|(start, size)| (*size as u64).checked_sub(address - start));
    bytes == 0 || rest.is_some_and(|rest| bytes as u64 <= rest)
}

impl Allocations {
    pub(super) fn new(total: u64) -> Self {
        Self {
            card: machine::new_card(),
            total,
            used: 0,
            device: BTreeMap::new(),
            pinned: BTreeMap::new(),
        }
    }

    pub(super) fn memory(&self) -> Memory {
        Memory { free: self.total - self.used, total: self.total }
    }

    pub(super) fn allocate(&mut self, bytes: usize) -> Result<Pointer, GpuError> {
        let free = self.memory().free;
        let out_of_memory = || GpuError::Memory {
            what: "an allocation".to_owned(),
            wanted: bytes as u64,
            free,
            way_out: "simulate a card with more memory".to_owned(),
        };
        let size = (bytes as u64).max(1).checked_next_multiple_of(GRAIN);
        let size = size.filter(|size| *size <= free).ok_or_else(out_of_memory)?;
        let address = machine::allocate(self.card, bytes).ok_or_else(out_of_memory)?;
        self.used += size;
        self.device.insert(address, bytes);
        Ok(Pointer(address))
    }

    /// Its bytes, if it is an allocation's begin.
    pub(super) fn bytes(&self, address: u64) -> Option<usize> {
        self.device.get(&address).or_else(|| self.pinned.get(&address)).copied()
    }

    pub(super) fn free(&mut self, pointer: Pointer) {
        let bytes = self.device.remove(&pointer.0).expect("the address of an allocation");
        self.used -= (bytes as u64).max(1).next_multiple_of(GRAIN);
        // SAFETY: it was in the map, so it is from `allocate` and wasn't given back.
        unsafe { machine::free(self.card, pointer.0, bytes) };
    }

    pub(super) fn allocate_pinned(&mut self, bytes: usize) -> Result<*mut u8, GpuError> {
        let address = machine::allocate(HOST, bytes)
            .ok_or_else(|| refused("pinned memory", format!("{bytes} bytes are not there")))?;
        self.pinned.insert(address, bytes);
        Ok(address as *mut u8)
    }

    pub(super) fn free_pinned(&mut self, address: u64) {
        let bytes = self.pinned.remove(&address).expect("the address of a pinned allocation");
        // SAFETY: it was in the map, so it is from `allocate` and wasn't given back.
        unsafe { machine::free(HOST, address, bytes) };
    }

    /// Refuses ranges that aren't in an allocation.
    pub(super) fn range(&self, what: &str, at: Pointer, bytes: usize) -> Result<(), GpuError> {
        if within(&self.device, at.0, bytes) {
            return Ok(());
        }
        Err(refused(what, format!("{bytes} bytes at {:#x} are not in an allocation", at.0)))
    }

    /// Refuses work on memory that isn't there.
    pub(super) fn check(&self, work: &Work) -> Result<(), GpuError> {
        match work {
            Work::Launch { .. } => Ok(()),
            Work::Copy { from, to, bytes } => {
                self.range("copy from", *from, *bytes)?;
                self.range("copy to", *to, *bytes)
            }
            Work::Fill { to, bytes, .. } => self.range("fill", *to, *bytes),
            Work::Write { to, data } => self.range("upload to", *to, data.len()),
            Work::Upload { from, to, bytes } => {
                self.range("upload to", *to, *bytes)?;
                if within(&self.pinned, *from, *bytes) {
                    return Ok(());
                }
                Err(refused("upload from", "the memory is not pinned (any more)"))
            }
        }
    }

    /// Reports what a kernel wrote outside of allocations, as far as it is seen.
    pub(super) fn intact(&self) -> Result<(), String> {
        for (&address, &bytes) in &self.device {
            // SAFETY: in the map, so from `allocate`.
            if let Some(offset) = unsafe { machine::written_outside(address, bytes) } {
                return Err(format!("byte {offset} of an allocation of {bytes} was written"));
            }
        }
        Ok(())
    }
}

impl Drop for Allocations {
    fn drop(&mut self) {
        for (address, bytes) in std::mem::take(&mut self.device) {
            // SAFETY: from `allocate`; the card that it belonged to is gone.
            unsafe { machine::free(self.card, address, bytes) };
        }
        for (address, bytes) in std::mem::take(&mut self.pinned) {
            // SAFETY: as above.
            unsafe { machine::free(HOST, address, bytes) };
        }
    }
}
