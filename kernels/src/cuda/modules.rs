//! Compiled files on the card, and the kernels in them.
#![expect(unsafe_code, reason = "a C library")]

use super::call::check;
use crate::compile;
use crate::driver::Launch;
use crate::error::GpuError;
use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute, CUmodule};
use std::collections::BTreeMap;
use std::ffi::{CString, c_int};
use std::ptr;

/// A kernel that can be launched.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) function: CUfunction,
    /// Threads of a block and bytes of arguments, as far as they are known.
    threads: Option<u32>,
    arguments: Option<usize>,
    /// Most dynamic shared memory.
    shared: u32,
}

impl Kernel {
    /// Holds a launch against the kernel.
    pub(super) fn check(&self, launch: &Launch, arguments: &[u8]) -> Result<(), GpuError> {
        let reason = if self.threads.is_some_and(|threads| threads != launch.threads) {
            let threads = self.threads.unwrap_or(0);
            format!("{} threads for a kernel of {threads}", launch.threads)
        } else if self.arguments.is_some_and(|bytes| bytes != arguments.len()) {
            let bytes = self.arguments.unwrap_or(0);
            format!("{} bytes of arguments for a kernel that takes {bytes}", arguments.len())
        } else if launch.shared > self.shared {
            format!("{} bytes of shared memory, {} are there", launch.shared, self.shared)
        } else if launch.grid.contains(&0) {
            format!("an empty grid {:?}", launch.grid)
        } else {
            return Ok(());
        };
        Err(GpuError::Launch { kernel: launch.kernel.into(), reason })
    }
}

/// All modules; their kernels by name.
#[derive(Debug, Default)]
pub(super) struct Modules {
    modules: Vec<CUmodule>,
    kernels: BTreeMap<String, Kernel>,
}

impl Modules {
    pub(super) fn kernel(&self, name: &str) -> Result<&Kernel, GpuError> {
        self.kernels.get(name).ok_or_else(|| GpuError::NoKernel(name.into()))
    }

    /// Puts a file on the card. A context is current; `shared` is the most shared memory of a block.
    pub(super) fn load(&mut self, file: &str, cubin: &[u8], shared: u32) -> Result<(), GpuError> {
        let mut module = ptr::null_mut();
        // SAFETY: the image is complete, and read before the call returns.
        let result = unsafe { sys::cuModuleLoadData(&raw mut module, cubin.as_ptr().cast()) };
        check(&format!("cuModuleLoadData({file})"), result)?;
        self.modules.push(module);
        let described = compile::kernels(cubin).ok_or_else(|| GpuError::Call {
            call: format!("NVRTC({file})"),
            reason: "its output is not a cubin".into(),
        })?;
        for compile::Kernel { name, threads, arguments } in described {
            let function = function(module, &name)?;
            let shared = allow_shared(function, &name, shared)?;
            let kernel = Kernel { function, threads, arguments, shared };
            if self.kernels.insert(name.clone(), kernel).is_some() {
                let reason = "there are two of this name".into();
                return Err(GpuError::Launch { kernel: name, reason });
            }
        }
        Ok(())
    }

    /// Takes everything off the card. The context is current, and no kernel runs.
    pub(super) fn unload(&mut self) {
        self.kernels.clear();
        for module in self.modules.drain(..) {
            // SAFETY: it was loaded in this context; its functions are gone. An error has nobody to go to.
            let _ = unsafe { sys::cuModuleUnload(module) };
        }
    }
}

fn function(module: CUmodule, name: &str) -> Result<CUfunction, GpuError> {
    let c_name = CString::new(name).expect("a name from a zero-ended string");
    let mut function = ptr::null_mut();
    // SAFETY: a place to write to; the module is loaded.
    let result = unsafe { sys::cuModuleGetFunction(&raw mut function, module, c_name.as_ptr()) };
    check(&format!("cuModuleGetFunction({name})"), result)?;
    Ok(function)
}

/// Lets a kernel take all the shared memory of a block that its own arrays leave; unasked it is 48 KiB.
fn allow_shared(function: CUfunction, name: &str, shared: u32) -> Result<u32, GpuError> {
    let mut fixed = 0;
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
    // SAFETY: a place to write to; the function is its module's.
    let result = unsafe { sys::cuFuncGetAttribute(&raw mut fixed, attribute, function) };
    check(&format!("cuFuncGetAttribute({name})"), result)?;
    let dynamic = shared.saturating_sub(fixed.unsigned_abs());
    let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let bytes = c_int::try_from(dynamic).expect("less than 2 GiB");
    // SAFETY: the function is its module's.
    let result = unsafe { sys::cuFuncSetAttribute(function, attribute, bytes) };
    check(&format!("cuFuncSetAttribute({name})"), result)?;
    Ok(dynamic)
}

// SAFETY: handles that the driver allows every thread to use.
unsafe impl Send for Modules {}
// SAFETY: as above; the map only changes under `&mut`.
unsafe impl Sync for Modules {}
