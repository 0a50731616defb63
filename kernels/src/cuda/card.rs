//! From "is there a driver" to a card that serves, each way out of it an error of its own. `cudarc` panics where the
//! library or one of its functions is missing; nothing is called here or later before it is known to be there: the
//! library by asking, the functions because all that are used exist in every driver since [`OLDEST_DRIVER`].
#![expect(unsafe_code, reason = "a C library")]

use super::call::{check, words};
use crate::compile::{OLDEST_CAPABILITY, OLDEST_DRIVER, Target};
use crate::driver::Card;
use crate::error::GpuError;
use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute, CUresult};
use std::ffi::{CStr, c_char, c_int};

/// A card that was looked at, but not yet used.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) device: CUdevice,
    pub(super) card: Card,
    pub(super) target: Target,
}

/// Names of the cards that the driver sees, in its order.
///
/// # Errors
/// If there is no driver, or it doesn't start, or sees none.
pub fn cards() -> Result<Vec<String>, GpuError> {
    start()?;
    names()
}

pub(super) fn find(index: usize) -> Result<Found, GpuError> {
    let driver = start()?;
    let cards = names()?;
    let Some(name) = cards.get(index).cloned() else {
        return Err(GpuError::CardIndex { index, cards });
    };
    let device = device(index)?;
    let attribute = |attribute| {
        let mut value = 0;
        // SAFETY: a place to write to; the device is the driver's.
        let result = unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, device) };
        check("cuDeviceGetAttribute", result).map(|()| value.unsigned_abs())
    };
    let capability = (
        attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    if capability < OLDEST_CAPABILITY {
        return Err(GpuError::OldCard { index, name, found: capability, least: OLDEST_CAPABILITY });
    }
    let shared = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    let card = Card {
        name,
        capability,
        multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_memory: attribute(shared)?,
    };
    Ok(Found { device, card, target: Target { capability, driver } })
}

/// Starts the driver; gives the newest CUDA that it serves.
fn start() -> Result<(u32, u32), GpuError> {
    // SAFETY: loading the driver's library has no effect of its own.
    if !unsafe { sys::is_culib_present() } {
        return Err(GpuError::NoDriver);
    }
    // SAFETY: the library is there.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_SUCCESS => {}
        CUresult::CUDA_ERROR_NO_DEVICE => return Err(GpuError::NoCard),
        result => return Err(GpuError::DriverFails(words(result))),
    }
    let mut version = 0;
    // SAFETY: a place to write to.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) })?;
    let version = version.unsigned_abs();
    let found = (version / 1000, version % 1000 / 10);
    if found < OLDEST_DRIVER {
        return Err(GpuError::OldDriver { found, least: OLDEST_DRIVER });
    }
    Ok(found)
}

fn names() -> Result<Vec<String>, GpuError> {
    let mut count = 0;
    // SAFETY: a place to write to; the driver was started.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
    let names = (0..count.unsigned_abs() as usize).map(|index| {
        let mut name: [c_char; 256] = [0; 256];
        let device = device(index)?;
        // SAFETY: room for 255 characters and a zero.
        let result = unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 255, device) };
        check("cuDeviceGetName", result)?;
        // SAFETY: the last character is still zero.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) };
        Ok(name.to_string_lossy().into_owned())
    });
    let names = names.collect::<Result<Vec<_>, _>>()?;
    if names.is_empty() { Err(GpuError::NoCard) } else { Ok(names) }
}

fn device(index: usize) -> Result<CUdevice, GpuError> {
    let mut device = 0;
    let index = c_int::try_from(index).expect("fewer cards than that");
    // SAFETY: a place to write to; the driver was started.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut device, index) })?;
    Ok(device)
}
