//! NVRTC, CUDA's run-time compiler, as a library that is opened from a path. Its functions are called by our own table
//! and not through cudarc, which looks the library up by name: another version than the one chosen might answer.
#![expect(unsafe_code, reason = "a C library")]

use crate::error::GpuError;
use crate::sources::Source;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

/// An `nvrtcProgram`.
type Program = *mut c_void;
/// An `nvrtcResult`, 0 for success. A number, since newer libraries know more of them.
type Status = c_int;

/// A compiled file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// ELF image of the machine code.
    pub cubin: Vec<u8>,
    /// Warnings, and what was asked for by `--ptxas-options=-v`.
    pub log: String,
}

macro_rules! library {
    ($($name:ident($($argument:ty),*) -> $output:ty;)*) => {
        /// Its functions, as the header `nvrtc.h` declares them since 11.1.
        #[allow(non_snake_case, reason = "the library's names")]
        #[derive(Clone, Copy)]
        struct Functions { $($name: unsafe extern "C" fn($($argument),*) -> $output),* }

        impl Functions {
            /// # Safety
            /// The library is NVRTC and stays open.
            unsafe fn of(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: the types are the header's.
                Ok(unsafe { Self { $($name: *library.get(stringify!($name))?),* } })
            }
        }
    };
}

library! {
    nvrtcVersion(*mut c_int, *mut c_int) -> Status;
    nvrtcGetErrorString(Status) -> *const c_char;
    nvrtcGetNumSupportedArchs(*mut c_int) -> Status;
    nvrtcGetSupportedArchs(*mut c_int) -> Status;
    nvrtcCreateProgram(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> Status;
    nvrtcCompileProgram(Program, c_int, *const *const c_char) -> Status;
    nvrtcDestroyProgram(*mut Program) -> Status;
    nvrtcGetCUBINSize(Program, *mut usize) -> Status;
    nvrtcGetCUBIN(Program, *mut c_char) -> Status;
    nvrtcGetProgramLogSize(Program, *mut usize) -> Status;
    nvrtcGetProgramLog(Program, *mut c_char) -> Status;
}

/// The opened library. It stays open to the end of the process: closing what other threads may be in is not safe.
pub struct Nvrtc {
    functions: Functions,
    path: PathBuf,
    version: (u32, u32),
    arches: Vec<u32>,
}

impl std::fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nvrtc").field("path", &self.path).field("version", &self.version).finish()
    }
}

impl Nvrtc {
    /// Opens a path, or a name on the loader's path.
    ///
    /// # Errors
    /// The loader's words, or the library's.
    pub fn open(path: &Path) -> Result<Self, String> {
        // The library opens a second one by name, which the loader wouldn't find in the same folder; it takes the one
        // of that name that is open already.
        if let Some(builtins) = builtins_beside(path) {
            open_for_good(&builtins)?;
        }
        let library = open_for_good(path)?;
        // SAFETY: it is NVRTC by its name, and stays open.
        let functions = unsafe { Functions::of(library) }.map_err(|error| words(&error))?;
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: three places to write to.
        let status = unsafe {
            let version = (functions.nvrtcVersion)(&raw mut major, &raw mut minor);
            version | (functions.nvrtcGetNumSupportedArchs)(&raw mut count)
        };
        let mut arches = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: there is room for as many as it counts.
        let status = status | unsafe { (functions.nvrtcGetSupportedArchs)(arches.as_mut_ptr()) };
        if status != 0 {
            return Err("it doesn't tell its version".into());
        }
        let version = (major.unsigned_abs(), minor.unsigned_abs());
        let arches = arches.into_iter().map(c_int::unsigned_abs).collect();
        Ok(Self { functions, path: path.to_owned(), version, arches })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Major, minor.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The architecture to compile for, 80 for `sm_80`: what the card has, or the next lower one of the same
    /// generation, whose code it runs as well. None if the library is older than the card.
    pub fn arch_for(&self, capability: (u32, u32)) -> Option<u32> {
        let exact = capability.0 * 10 + capability.1;
        let same = self.arches.iter().filter(|&&arch| arch / 10 == capability.0 && arch <= exact);
        same.max().copied()
    }

    /// Compiles a file. `arch` is only for the error.
    ///
    /// # Errors
    /// [`GpuError::Compile`] for what the compiler refuses.
    pub fn compile(
        &self,
        source: &Source,
        headers: &[Source],
        arch: u32,
        options: &[String],
    ) -> Result<Compiled, GpuError> {
        let text = c_string(source.text)?;
        let name = c_string(source.file)?;
        let header_texts = c_strings(headers.iter().map(|header| header.text))?;
        let header_names = c_strings(headers.iter().map(|header| header.file))?;
        let options = c_strings(options.iter().map(String::as_str))?;
        let (texts, names) = (pointers(&header_texts), pointers(&header_names));
        let options_at = pointers(&options);
        let call = &self.functions;
        let mut program = OwnedProgram { functions: call, program: ptr::null_mut() };
        // SAFETY: zero-ended strings, as many as is said; they and their lists outlive the program.
        let status = unsafe {
            (call.nvrtcCreateProgram)(
                &raw mut program.program,
                text.as_ptr(),
                name.as_ptr(),
                count(&header_texts),
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        self.check("nvrtcCreateProgram", status)?;
        // SAFETY: the program is there; zero-ended strings, as many as is said.
        let status = unsafe {
            (call.nvrtcCompileProgram)(program.program, count(&options), options_at.as_ptr())
        };
        let log = self.output(
            program.program,
            "nvrtcGetProgramLog",
            call.nvrtcGetProgramLogSize,
            call.nvrtcGetProgramLog,
        )?;
        let log = String::from_utf8_lossy(&log).trim_end_matches(['\0', '\n']).to_owned();
        if status != 0 {
            // Without a word about the source, what it says of itself.
            let log = if log.trim().is_empty() { self.words(status) } else { log };
            let file = source.file.to_owned();
            return Err(GpuError::Compile { file, arch, version: self.version, log });
        }
        let cubin = self.output(
            program.program,
            "nvrtcGetCUBIN",
            call.nvrtcGetCUBINSize,
            call.nvrtcGetCUBIN,
        )?;
        Ok(Compiled { cubin, log })
    }

    fn output(
        &self,
        program: Program,
        what: &str,
        size: unsafe extern "C" fn(Program, *mut usize) -> Status,
        get: unsafe extern "C" fn(Program, *mut c_char) -> Status,
    ) -> Result<Vec<u8>, GpuError> {
        let mut bytes = 0;
        // SAFETY: a place to write to.
        self.check(what, unsafe { size(program, &raw mut bytes) })?;
        let mut output = vec![0u8; bytes];
        // SAFETY: there is room for as many bytes as it asks for.
        self.check(what, unsafe { get(program, output.as_mut_ptr().cast()) })?;
        Ok(output)
    }

    fn check(&self, call: &str, status: Status) -> Result<(), GpuError> {
        match status {
            0 => Ok(()),
            _ => Err(GpuError::Call { call: call.into(), reason: self.words(status) }),
        }
    }

    fn words(&self, status: Status) -> String {
        // SAFETY: it answers with a constant string for any number.
        let words = unsafe { CStr::from_ptr((self.functions.nvrtcGetErrorString)(status)) };
        words.to_string_lossy().into_owned()
    }
}

struct OwnedProgram<'a> {
    functions: &'a Functions,
    program: Program,
}

impl Drop for OwnedProgram<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: it was made and is used no more.
            unsafe { (self.functions.nvrtcDestroyProgram)(&raw mut self.program) };
        }
    }
}

fn open_for_good(path: &Path) -> Result<&'static Library, String> {
    // SAFETY: NVRTC's libraries do nothing harmful when they are loaded.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    library.map(|library| &*Box::leak(Box::new(library))).map_err(|error| words(&error))
}

/// The loader's own words, which say the file.
fn words(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// `libnvrtc-builtins.so.13.0` for `DIR/libnvrtc.so.13`: the one in the folder with the same major version.
fn builtins_beside(library: &Path) -> Option<PathBuf> {
    let folder = library.parent().filter(|folder| !folder.as_os_str().is_empty())?;
    let major = library.file_name()?.to_str()?.strip_prefix("libnvrtc.so.")?.split('.').next()?;
    let prefix = format!("libnvrtc-builtins.so.{major}.");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.starts_with(&prefix))
        })
        .collect();
    files.sort();
    files.into_iter().next()
}

fn c_string(text: &str) -> Result<CString, GpuError> {
    let call = "nvrtcCreateProgram".to_owned();
    CString::new(text).map_err(|error| GpuError::Call { call, reason: error.to_string() })
}

fn c_strings<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<CString>, GpuError> {
    texts.map(c_string).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).collect()
}

fn count(strings: &[CString]) -> c_int {
    c_int::try_from(strings.len()).expect("a handful")
}
