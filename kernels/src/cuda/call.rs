//! Results of the driver's calls.
#![expect(unsafe_code, reason = "a C library")]

use crate::error::GpuError;
use cudarc::driver::sys::{CUresult, cuGetErrorName, cuGetErrorString};
use std::ffi::{CStr, c_char};
use std::ptr;

/// Turns a call's result into an error that names the call.
pub(super) fn check(call: &str, result: CUresult) -> Result<(), GpuError> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        _ => Err(GpuError::Call { call: call.into(), reason: words(result) }),
    }
}

/// Such as `an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS)`.
pub(super) fn words(result: CUresult) -> String {
    let ask = |question: unsafe fn(CUresult, *mut *const c_char) -> CUresult| {
        let mut text = ptr::null();
        // SAFETY: a place for a pointer; what the driver puts there is a constant string, or null for a result that it
        // doesn't know.
        unsafe {
            let answer = question(result, &raw mut text);
            (answer == CUresult::CUDA_SUCCESS && !text.is_null())
                .then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    };
    let name = ask(cuGetErrorName).unwrap_or_else(|| format!("error {}", result as u32));
    ask(cuGetErrorString).map_or_else(|| name.clone(), |text| format!("{text} ({name})"))
}
