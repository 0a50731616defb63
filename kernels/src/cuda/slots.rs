//! Numbers for handles.

use crate::error::GpuError;
use std::sync::{PoisonError, RwLock};

/// Handles by number; numbers are used again.
#[derive(Debug)]
pub(super) struct Slots<T> {
    what: &'static str,
    handles: RwLock<Vec<Option<T>>>,
}

impl<T: Copy> Slots<T> {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, handles: RwLock::default() }
    }

    pub(super) fn insert(&self, handle: T) -> u32 {
        let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
        let free = handles.iter().position(Option::is_none).unwrap_or_else(|| {
            handles.push(None);
            handles.len() - 1
        });
        handles[free] = Some(handle);
        u32::try_from(free).expect("fewer handles than that")
    }

    pub(super) fn get(&self, number: u32) -> Result<T, GpuError> {
        let handles = self.handles.read().unwrap_or_else(PoisonError::into_inner);
        handles.get(number as usize).copied().flatten().ok_or_else(|| GpuError::Call {
            call: format!("{} {number}", self.what),
            reason: "it doesn't exist".into(),
        })
    }

    pub(super) fn take(&self, number: u32) -> Option<T> {
        let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
        handles.get_mut(number as usize)?.take()
    }

    /// All that are left.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        let handles = self.handles.get_mut().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(handles).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again_and_stay_apart() {
        let mut slots = Slots::new("event");
        assert_eq!([slots.insert('a'), slots.insert('b'), slots.insert('c')], [0, 1, 2]);
        assert_eq!(slots.take(1), Some('b'));
        assert_eq!(slots.take(1), None);
        assert_eq!(slots.get(1).unwrap_err().to_string(), "event 1: it doesn't exist");
        assert_eq!(slots.insert('d'), 1);
        assert_eq!(slots.get(1), Ok('d'));
        assert_eq!(slots.drain().collect::<String>(), "adc");
    }
}
