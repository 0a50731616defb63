//! [`Driver`] over the CUDA driver's own calls.
#![expect(unsafe_code, reason = "a C library")]

use super::call::check;
use super::card::Found;
use super::modules::Modules;
use super::slots::Slots;
use crate::driver::{Card, Driver, EventId, GraphId, Launch, Memory, Pointer, StreamId};
use crate::error::GpuError;
use cudarc::driver::sys::{self, CUcontext, CUdevice, CUevent, CUgraphExec, CUresult, CUstream};
use std::ffi::c_void;
use std::ptr;

type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> CUresult;

/// A card with its kernels loaded. It works in the card's primary context, which every call makes the calling
/// thread's.
pub(super) struct CudaDriver {
    card: Card,
    device: CUdevice,
    context: CUcontext,
    modules: Modules,
    elapsed: Elapsed,
    streams: Slots<CUstream>,
    events: Slots<CUevent>,
    graphs: Slots<CUgraphExec>,
}

impl std::fmt::Debug for CudaDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaDriver").field("card", &self.card).finish_non_exhaustive()
    }
}

// SAFETY: the driver allows every thread to use its handles, once the context is current there, which every call sees
// to; the tables of handles have locks.
unsafe impl Send for CudaDriver {}
// SAFETY: as above.
unsafe impl Sync for CudaDriver {}

impl CudaDriver {
    /// Takes the card into use and loads files onto it: their names and cubins.
    pub(super) fn new<'a>(
        found: Found,
        files: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, GpuError> {
        let Found { device, card, .. } = found;
        // `cuEventElapsedTime` of cudarc is version 2 of the function, which drivers have since 12.8; all have this.
        // SAFETY: the type is the header's.
        let elapsed = unsafe { sys::culib().get::<Elapsed>(b"cuEventElapsedTime") };
        let elapsed = *elapsed.map_err(|error| GpuError::DriverFails(error.to_string()))?;
        // A thread that waits for the card leaves its core to those that prepare batches. No matter if that is refused.
        const BLOCKING: u32 = sys::CUctx_flags_enum::CU_CTX_SCHED_BLOCKING_SYNC as u32;
        // SAFETY: the device is the driver's.
        let _ = unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(device, BLOCKING) };
        let mut context = ptr::null_mut();
        // SAFETY: a place to write to; the device is the driver's.
        let result = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) };
        check("cuDevicePrimaryCtxRetain", result)?;
        let mut driver = Self {
            card,
            device,
            context,
            modules: Modules::default(),
            elapsed,
            streams: Slots::new("stream"),
            events: Slots::new("event"),
            graphs: Slots::new("graph"),
        };
        driver.enter()?;
        for (file, cubin) in files {
            driver.modules.load(file, cubin, driver.card.shared_memory)?;
        }
        Ok(driver)
    }

    /// Makes the context the thread's.
    fn enter(&self) -> Result<(), GpuError> {
        // SAFETY: the context is held until the driver is dropped.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }
}

impl Drop for CudaDriver {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        // Errors have nobody to go to.
        for stream in self.streams.drain() {
            // SAFETY: made by `stream`, in no one's hands any more.
            let _ = unsafe { sys::cuStreamDestroy_v2(stream) };
        }
        for event in self.events.drain() {
            // SAFETY: made by `record`, in no one's hands any more.
            let _ = unsafe { sys::cuEventDestroy_v2(event) };
        }
        for graph in self.graphs.drain() {
            // SAFETY: made by `end_capture`, in no one's hands any more.
            let _ = unsafe { sys::cuGraphExecDestroy(graph) };
        }
        self.modules.unload();
        // SAFETY: it was retained once.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

impl Driver for CudaDriver {
    fn card(&self) -> &Card {
        &self.card
    }

    fn memory(&self) -> Result<Memory, GpuError> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: places to write to.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
        Ok(Memory { free: free as u64, total: total as u64 })
    }

    fn allocate(&self, bytes: usize) -> Result<Pointer, GpuError> {
        self.enter()?;
        let mut address = 0;
        // SAFETY: a place to write to.
        match unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(GpuError::Memory {
                what: "a buffer".into(),
                wanted: bytes as u64,
                free: self.memory()?.free,
                way_out: "end what else runs on the card, make the plan's patch or batch smaller, or use --device cpu"
                    .into(),
            }),
            result => check("cuMemAlloc", result).map(|()| Pointer(address)),
        }
    }

    fn free(&self, pointer: Pointer) {
        if self.enter().is_ok() {
            // SAFETY: from `allocate`; the caller's work with it is done. An error is one of earlier work, which the
            // next call reports.
            let _ = unsafe { sys::cuMemFree_v2(pointer.0) };
        }
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<*mut u8, GpuError> {
        self.enter()?;
        let mut address = ptr::null_mut();
        // SAFETY: a place to write to. No flags: memory that the host reads as fast as its own.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&raw mut address, bytes, 0) })?;
        Ok(address.cast())
    }

    unsafe fn free_pinned(&self, address: *mut u8) {
        if self.enter().is_ok() {
            // SAFETY: from `allocate_pinned`, and not used any more, as the caller promises.
            let _ = unsafe { sys::cuMemFreeHost(address.cast()) };
        }
    }

    fn stream(&self) -> Result<StreamId, GpuError> {
        // Not the default kind, which waits for the default stream and that for it.
        const NON_BLOCKING: u32 = 1;
        self.enter()?;
        let mut stream = ptr::null_mut();
        // SAFETY: a place to write to.
        let result = unsafe { sys::cuStreamCreate(&raw mut stream, NON_BLOCKING) };
        check("cuStreamCreate", result)?;
        Ok(StreamId(self.streams.insert(stream)))
    }

    fn free_stream(&self, stream: StreamId) {
        if let (Some(stream), Ok(())) = (self.streams.take(stream.0), self.enter()) {
            // SAFETY: it was made here and is in no table any more; the driver ends it after its work.
            let _ = unsafe { sys::cuStreamDestroy_v2(stream) };
        }
    }

    fn upload(
        &self,
        stream: StreamId,
        to: Pointer,
        from: &[u8],
        pinned: bool,
    ) -> Result<(), GpuError> {
        let queue = self.streams.get(stream.0)?;
        if from.is_empty() {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: the caller has allocated as much at `to`; `from` stays until the copy is done: the caller's promise
        // for pinned memory, by waiting for other.
        let result =
            unsafe { sys::cuMemcpyHtoDAsync_v2(to.0, from.as_ptr().cast(), from.len(), queue) };
        check("cuMemcpyHtoDAsync", result)?;
        if pinned { Ok(()) } else { self.synchronise(stream) }
    }

    fn download(&self, stream: StreamId, from: Pointer, to: &mut [u8]) -> Result<(), GpuError> {
        if to.is_empty() {
            return self.synchronise(stream);
        }
        let queue = self.streams.get(stream.0)?;
        self.enter()?;
        // SAFETY: the caller has allocated as much at `from`; the copy is waited for.
        let result =
            unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from.0, to.len(), queue) };
        check("cuMemcpyDtoHAsync", result)?;
        self.synchronise(stream)
    }

    fn copy(
        &self,
        stream: StreamId,
        from: Pointer,
        to: Pointer,
        bytes: usize,
    ) -> Result<(), GpuError> {
        let stream = self.streams.get(stream.0)?;
        if bytes == 0 {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: the caller has allocated as much at both places.
        let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, stream) };
        check("cuMemcpyDtoDAsync", result)
    }

    fn fill(&self, stream: StreamId, to: Pointer, value: u8, bytes: usize) -> Result<(), GpuError> {
        let stream = self.streams.get(stream.0)?;
        if bytes == 0 {
            return Ok(());
        }
        self.enter()?;
        // SAFETY: the caller has allocated as much.
        check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(to.0, value, bytes, stream) })
    }

    fn launch(&self, stream: StreamId, launch: &Launch, arguments: &[u8]) -> Result<(), GpuError> {
        let kernel = self.modules.kernel(launch.kernel)?;
        kernel.check(launch, arguments)?;
        let stream = self.streams.get(stream.0)?;
        self.enter()?;
        let [x, y, z] = launch.grid;
        let mut parameters: [*mut c_void; 1] = [arguments.as_ptr().cast_mut().cast()];
        // SAFETY: one parameter, the argument struct, of as many bytes as the kernel takes, copied before the call
        // returns. What its pointers point to is the caller's.
        let result = unsafe {
            sys::cuLaunchKernel(
                kernel.function,
                x,
                y,
                z,
                launch.threads,
                1,
                1,
                launch.shared,
                stream,
                parameters.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        match result {
            CUresult::CUDA_SUCCESS => Ok(()),
            _ => {
                let Launch { kernel, grid, threads, shared } = launch;
                let call =
                    format!("cuLaunchKernel({kernel}, {grid:?} × {threads}, {shared} bytes)");
                check(&call, result)
            }
        }
    }

    fn record(&self, stream: StreamId) -> Result<EventId, GpuError> {
        let stream = self.streams.get(stream.0)?;
        self.enter()?;
        let mut event = ptr::null_mut();
        // SAFETY: a place to write to. No flags: with a time.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut event, 0) })?;
        let id = EventId(self.events.insert(event));
        // SAFETY: both exist.
        let recorded = check("cuEventRecord", unsafe { sys::cuEventRecord(event, stream) });
        recorded.map(|()| id).inspect_err(|_| self.free_event(id))
    }

    fn wait(&self, stream: StreamId, event: EventId) -> Result<(), GpuError> {
        let (stream, event) = (self.streams.get(stream.0)?, self.events.get(event.0)?);
        self.enter()?;
        // SAFETY: both exist.
        check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(stream, event, 0) })
    }

    fn elapsed(&self, from: EventId, to: EventId) -> Result<f64, GpuError> {
        let (from, to) = (self.events.get(from.0)?, self.events.get(to.0)?);
        self.enter()?;
        let mut milliseconds = 0.0;
        // SAFETY: a place to write to; both exist.
        let result = unsafe { (self.elapsed)(&raw mut milliseconds, from, to) };
        check("cuEventElapsedTime", result)?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    fn free_event(&self, event: EventId) {
        if let (Some(event), Ok(())) = (self.events.take(event.0), self.enter()) {
            // SAFETY: it was made here and is in no table any more; the driver ends it after it was passed.
            let _ = unsafe { sys::cuEventDestroy_v2(event) };
        }
    }

    fn synchronise(&self, stream: StreamId) -> Result<(), GpuError> {
        let stream = self.streams.get(stream.0)?;
        self.enter()?;
        // SAFETY: it exists.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(stream) })
    }

    fn begin_capture(&self, stream: StreamId) -> Result<(), GpuError> {
        let stream = self.streams.get(stream.0)?;
        self.enter()?;
        // Other threads may allocate meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: it exists.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(stream, mode) })
    }

    fn end_capture(&self, stream: StreamId) -> Result<GraphId, GpuError> {
        let stream = self.streams.get(stream.0)?;
        self.enter()?;
        let mut graph = ptr::null_mut();
        // SAFETY: a place to write to; the stream exists.
        let result = unsafe { sys::cuStreamEndCapture(stream, &raw mut graph) };
        check("cuStreamEndCapture", result)?;
        let mut executable = ptr::null_mut();
        // SAFETY: a place to write to; the graph was just made, and isn't needed once it is instantiated.
        let result = unsafe {
            let result = sys::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0);
            let _ = sys::cuGraphDestroy(graph);
            result
        };
        check("cuGraphInstantiate", result)?;
        let id = GraphId(self.graphs.insert(executable));
        // So that the first replay is as fast as the others.
        // SAFETY: both exist.
        let uploaded = check("cuGraphUpload", unsafe { sys::cuGraphUpload(executable, stream) });
        uploaded.map(|()| id).inspect_err(|_| self.free_graph(id))
    }

    fn replay(&self, stream: StreamId, graph: GraphId) -> Result<(), GpuError> {
        let (stream, graph) = (self.streams.get(stream.0)?, self.graphs.get(graph.0)?);
        self.enter()?;
        // SAFETY: both exist.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(graph, stream) })
    }

    fn free_graph(&self, graph: GraphId) {
        if let (Some(graph), Ok(())) = (self.graphs.take(graph.0), self.enter()) {
            // SAFETY: it was made here and is in no table any more; the driver ends it after its runs.
            let _ = unsafe { sys::cuGraphExecDestroy(graph) };
        }
    }
}
