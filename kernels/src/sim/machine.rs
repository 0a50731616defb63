//! What the C++ half offers.

use crate::driver::Launch;
use crate::error::GpuError;
use crate::sim::{Order, SimOptions};
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

#[repr(C)]
struct Request {
    kernel: *const c_char,
    arguments: *const c_void,
    argument_bytes: u64,
    seed: u64,
    card: u64,
    grid: [u32; 3],
    threads: u32,
    shared: u32,
    order: u32,
    machine_threads: u32,
}

unsafe extern "C" {
    fn sim_check(request: *const Request, error: *mut c_char, error_bytes: u64) -> i32;
    fn sim_launch(request: *const Request, error: *mut c_char, error_bytes: u64) -> i32;
    fn sim_allocate(card: u64, bytes: u64) -> *mut c_void;
    fn sim_free(card: u64, memory: *mut c_void, bytes: u64);
    fn sim_written_outside(memory: *mut c_void, bytes: u64, offset: *mut i64) -> i32;
    fn sim_kernel(index: u64, threads: *mut u32, argument_bytes: *mut u64) -> *const c_char;
}

/// A kernel that the simulator can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of its argument struct.
    pub argument_bytes: u64,
}

/// All kernels of all `.cu` files, the simulator's own among them, by name.
#[must_use]
pub fn kernels() -> Vec<Kernel> {
    let mut kernels = Vec::new();
    loop {
        let (mut threads, mut argument_bytes) = (0, 0);
        // SAFETY: both places are valid for a write.
        let name =
            unsafe { sim_kernel(kernels.len() as u64, &raw mut threads, &raw mut argument_bytes) };
        if name.is_null() {
            break;
        }
        // SAFETY: not null, and a string literal of the C++ half.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        kernels.push(Kernel { name, threads, argument_bytes });
    }
    kernels.sort_by(|a, b| a.name.cmp(&b.name));
    kernels
}

pub(super) fn call_error(kernel: &str, reason: String) -> GpuError {
    GpuError::Call { call: format!("launch of {kernel}"), reason }
}

/// Refuses launches that a card would refuse.
pub(super) fn check(
    launch: &Launch,
    arguments: &[u8],
    options: &SimOptions,
) -> Result<(), GpuError> {
    if launch.shared > options.shared_memory {
        let reason = format!(
            "{} bytes of shared memory, a block can have {}",
            launch.shared, options.shared_memory
        );
        return Err(call_error(launch.kernel, reason));
    }
    call(sim_check, launch, arguments, options, HOST)
}

/// Runs a kernel to its end.
pub(super) fn launch(
    launch: &Launch,
    arguments: &[u8],
    options: &SimOptions,
    card: u64,
) -> Result<(), GpuError> {
    call(sim_launch, launch, arguments, options, card)
}

fn call(
    function: unsafe extern "C" fn(*const Request, *mut c_char, u64) -> i32,
    launch: &Launch,
    arguments: &[u8],
    options: &SimOptions,
    card: u64,
) -> Result<(), GpuError> {
    let kernel = CString::new(launch.kernel)
        .map_err(|_| GpuError::NoKernel(launch.kernel.escape_debug().to_string()))?;
    let (order, seed) = match options.order {
        Order::Ascending => (0, 0),
        Order::Descending => (1, 0),
        Order::Random(seed) => (2, seed),
    };
    let request = Request {
        kernel: kernel.as_ptr(),
        arguments: arguments.as_ptr().cast(),
        argument_bytes: arguments.len() as u64,
        seed,
        card,
        grid: launch.grid,
        threads: launch.threads,
        shared: launch.shared,
        order,
        machine_threads: options.threads,
    };
    let mut error = [0; 2048];
    // SAFETY: the request and what it points to outlive the call, which writes a string into `error`.
    let result = unsafe { function(&raw const request, error.as_mut_ptr(), error.len() as u64) };
    // SAFETY: the array is initialised with zeros and ends with one.
    let reason = unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy().into_owned();
    match result {
        0 => Ok(()),
        1 => Err(GpuError::NoKernel(launch.kernel.to_owned())),
        _ => Err(call_error(launch.kernel, reason)),
    }
}

/// In place of a card's number: memory that kernels don't reach.
pub(super) const HOST: u64 = 0;

/// A number for a card: its memory is not another's.
pub(super) fn new_card() -> u64 {
    static CARDS: AtomicU64 = AtomicU64::new(HOST + 1);
    CARDS.fetch_add(1, Ordering::Relaxed)
}

/// Host memory that plays a card's: aligned to 256 bytes, every byte 0xff. None if there is none left.
pub(super) fn allocate(card: u64, bytes: usize) -> Option<u64> {
    // SAFETY: any size may be asked for.
    let memory = unsafe { sim_allocate(card, bytes as u64) };
    (!memory.is_null()).then_some(memory as u64)
}

/// Gives it back.
///
/// # Safety
/// The address is from [`allocate`] with this card and as many bytes, and nothing uses it any more.
pub(super) unsafe fn free(card: u64, address: u64, bytes: usize) {
    // SAFETY: by contract.
    unsafe { sim_free(card, address as *mut c_void, bytes as u64) };
}

/// How far from its begin something was written shortly before or behind an allocation, since the last call.
///
/// # Safety
/// The address is from [`allocate`] with as many bytes.
pub(super) unsafe fn written_outside(address: u64, bytes: usize) -> Option<i64> {
    let mut offset = 0;
    let memory = address as *mut c_void;
    // SAFETY: by contract; `offset` is valid for a write.
    let found = unsafe { sim_written_outside(memory, bytes as u64, &raw mut offset) };
    (found != 0).then_some(offset)
}
