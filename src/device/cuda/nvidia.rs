//! NVIDIA GPUs, through the driver's library, which is loaded at run time.
//!
//! cudarc looks up each function of that library at its first call and panics
//! if library or function is missing. Nothing here therefore calls the driver
//! before `driver_version` has found the library and every function in
//! [`FUNCTIONS`].

use std::collections::{HashMap, VecDeque};
use std::ffi::{CString, c_void};
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::driver::{Boxes, Driver, Event, Graph, Launch, TensorMap};
use super::kernels::{self, ALL, ARCHITECTURES, Kernel, MODULES, TOOLKIT};
use crate::error::{Error, Result};

/// Every function of the driver that is called here, directly or by cudarc.
pub const FUNCTIONS: &[&str] = &[
    "cuInit",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuFuncGetParamInfo",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuLaunchKernel",
    "cuTensorMapEncodeTiled",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuThreadExchangeStreamCaptureMode",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventElapsedTime_v2",
    "cuEventDestroy_v2",
];

/// The first version with all of [`FUNCTIONS`], as the driver writes it:
/// 1000 major + 10 minor.
const OLDEST: u32 = 12_080;

/// Bytes that the arena asks for at once.
const CHUNK: usize = 256 << 20;

// ---- Which driver, which GPU -----------------------------------------------

fn shown(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// The oldest version of the driver that runs the kernels of this build: CUDA
/// promises compatibility within a major version.
fn needed(toolkit: Option<&str>) -> u32 {
    let major = toolkit.and_then(|t| t.split('.').next()?.parse::<u32>().ok());
    major.map_or(OLDEST, |major| OLDEST.max(major.saturating_mul(1000)))
}

fn has_function(name: &str) -> bool {
    // SAFETY: called after `is_culib_present`, so the library is there to be
    // loaded; the symbol is only looked up, never called through this type.
    unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_ok()
}

/// Whether the driver's library is there, whatever its version: without it there
/// is no GPU to speak of.
pub fn has_driver() -> bool {
    // SAFETY: loads NVIDIA's library, whose initialisers have no conditions.
    unsafe { sys::is_culib_present() }
}

/// The version of CUDA that the installed driver supports, once it is sure that
/// everything can be called that is called here.
fn driver_version() -> Result<u32> {
    if !has_driver() {
        let library = if cfg!(windows) {
            "nvcuda.dll"
        } else {
            "libcuda.so"
        };
        return Err(Error::usage(
            format!("there is no NVIDIA driver: {library} is not found"),
            "install the GPU's driver, or give the container the GPU (docker run --gpus all); \
             without a GPU use --device cpu",
        ));
    }
    let mut version = 0;
    if has_function("cuDriverGetVersion") {
        // SAFETY: the function exists, and needs no initialisation. It fails for
        // a null pointer alone.
        let _ = unsafe { sys::cuDriverGetVersion(&mut version) };
    }
    let version = u32::try_from(version).unwrap_or(0);
    check_version(version, TOOLKIT)?;
    if let Some(name) = FUNCTIONS.iter().find(|name| !has_function(name)) {
        return Err(Error::usage(
            format!(
                "the NVIDIA driver (CUDA {}) has no function {name}",
                shown(version)
            ),
            "install NVIDIA's own driver of this or a later version",
        ));
    }
    Ok(version)
}

fn check_version(version: u32, toolkit: Option<&str>) -> Result<()> {
    let needed = needed(toolkit);
    if version >= needed {
        return Ok(());
    }
    let built = toolkit.map_or(String::new(), |t| format!(" (built by nvcc {t})"));
    Err(Error::usage(
        format!(
            "the NVIDIA driver is for CUDA {}, and eosin's kernels{built} need {}",
            shown(version),
            shown(needed)
        ),
        "install a newer driver (580 or later is for CUDA 13)",
    ))
}

/// Starts the driver; the number of its GPUs, at least one.
fn initialise() -> Result<i32> {
    let count = result::init().and_then(|()| result::device::get_count());
    match count {
        Ok(count) if count > 0 => Ok(count),
        Ok(_) | Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Err(Error::usage(
            "the NVIDIA driver sees no GPU",
            "see what nvidia-smi shows and whether CUDA_VISIBLE_DEVICES hides it",
        )),
        Err(error) => Err(refused("start the NVIDIA driver", error)),
    }
}

/// Whether code for `architecture`, such as "sm_80", runs on a GPU of this
/// compute capability.
fn runs_on(architecture: &str, capability: (u32, u32)) -> bool {
    let Some((kind, number)) = architecture.split_once('_') else {
        return false;
    };
    let digits = number.trim_end_matches(['a', 'f']);
    let Ok(code) = digits.parse::<u32>().map(|n| (n / 10, n % 10)) else {
        return false;
    };
    let same_family = code.0 == capability.0 && code.1 <= capability.1;
    match (kind, number.strip_prefix(digits)) {
        (_, Some("a")) => code == capability,
        (_, Some("f")) | ("sm", _) => same_family,
        _ => code <= capability,
    }
}

/// What is known of a GPU without a context on it.
struct Properties {
    device: sys::CUdevice,
    name: String,
    capability: (u32, u32),
    memory: usize,
    /// The most shared memory that one block can have.
    shared: u32,
}

impl Properties {
    fn of(ordinal: i32) -> Result<Self, DriverError> {
        use sys::CUdevice_attribute as Attribute;
        let device = result::device::get(ordinal)?;
        // SAFETY: the device was just given by the driver.
        let attribute = |what| unsafe { result::device::get_attribute(device, what) };
        let number = |what| attribute(what).map(|n| u32::try_from(n).unwrap_or(0));
        Ok(Self {
            device,
            name: result::device::get_name(device)?,
            capability: (
                number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            // SAFETY: as above.
            memory: unsafe { result::device::total_mem(device) }?,
            shared: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        })
    }

    fn check_kernels(&self) -> Result<()> {
        let (major, minor) = self.capability;
        if ARCHITECTURES.iter().any(|a| runs_on(a, self.capability)) {
            return Ok(());
        }
        let remedy = if self.capability < (8, 0) {
            "use a GPU of 8.0 (Ampere) or later, or the CPU".into()
        } else {
            format!("build eosin again with EOSIN_CUDA_ARCHS=sm_{major}{minor}")
        };
        Err(Error::usage(
            format!(
                "{} has compute capability {major}.{minor}, and this build's kernels are for {}",
                self.name,
                ARCHITECTURES.join(", ")
            ),
            remedy,
        ))
    }
}

/// A line for people on each GPU that the driver shows.
///
/// # Errors
/// There is no driver, an old one, or no GPU.
pub fn devices() -> Result<Vec<String>> {
    let version = driver_version()?;
    let line = |ordinal| {
        let gpu = Properties::of(ordinal).map_err(|e| refused("look at a GPU", e))?;
        let usable = match check_kernels_exist().and_then(|()| gpu.check_kernels()) {
            Ok(()) => String::new(),
            Err(error) => format!(": {error}"),
        };
        Ok(format!(
            "{} (compute capability {}.{}, {:.1} GiB, driver for CUDA {}){usable}",
            gpu.name,
            gpu.capability.0,
            gpu.capability.1,
            gpu.memory as f64 / f64::from(1 << 30),
            shown(version)
        ))
    };
    (0..initialise()?).map(line).collect()
}

fn check_kernels_exist() -> Result<()> {
    if TOOLKIT.is_some() {
        return Ok(());
    }
    Err(Error::usage(
        "eosin was built without nvcc and has no kernels for GPUs",
        kernels::REMEDY,
    ))
}

/// An error of the driver with what to do about it.
fn refused(doing: &str, error: DriverError) -> Error {
    use sys::CUresult as Code;
    let text = |found: Result<&std::ffi::CStr, DriverError>| {
        found.map_or_else(|_| "unknown".into(), |s| s.to_string_lossy().into_owned())
    };
    let (name, meaning) = (text(error.error_name()), text(error.error_string()));
    let remedy = match error.0 {
        Code::CUDA_ERROR_OUT_OF_MEMORY => {
            "give the GPU less at once, such as a smaller batch, or end what else uses it"
        }
        Code::CUDA_ERROR_ILLEGAL_ADDRESS
        | Code::CUDA_ERROR_MISALIGNED_ADDRESS
        | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | Code::CUDA_ERROR_LAUNCH_FAILED => {
            "a kernel went wrong and nothing more runs in this process; \
             start again with CUDA_LAUNCH_BLOCKING=1 to learn which one, and report it"
        }
        Code::CUDA_ERROR_INVALID_IMAGE
        | Code::CUDA_ERROR_NO_BINARY_FOR_GPU
        | Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "install a newer driver, or build eosin again with EOSIN_CUDA_ARCHS naming this GPU"
        }
        Code::CUDA_ERROR_DEVICE_UNAVAILABLE => {
            "another program has the GPU to itself; end it, or choose another GPU"
        }
        _ => "see what nvidia-smi and `eosin doctor` show of the GPU and its driver",
    };
    Error::usage(format!("cannot {doing}: {name} ({meaning})"), remedy)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- One GPU ---------------------------------------------------------------

/// A GPU's context and what is loaded into it, shared by its streams.
struct Gpu {
    properties: Properties,
    version: u32,
    context: sys::CUcontext,
    /// In the order of [`MODULES`], loaded when one of their kernels is first
    /// launched. Held while anything is loaded or a function is set up.
    modules: Mutex<Vec<Option<sys::CUmodule>>>,
    /// In the order of [`ALL`].
    functions: Vec<OnceLock<Function>>,
}

struct Function {
    handle: sys::CUfunction,
    /// Size of its parameter.
    bytes: usize,
    /// Dynamic shared memory that a launch may ask for as it is set up.
    shared: AtomicU32,
}

// SAFETY: context, modules and functions are handles of the driver, which may
// be used from any thread; the context is made current on the thread of each
// call. `modules` is behind a lock, and `functions` are written once.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Gpu {
    fn open(ordinal: usize) -> Result<Self> {
        let version = driver_version()?;
        check_kernels_exist()?;
        let count = initialise()?;
        let Some(index) = i32::try_from(ordinal).ok().filter(|&o| o < count) else {
            return Err(Error::usage(
                format!("there is no GPU {ordinal}: the driver shows {count}, counted from 0"),
                "choose one of them",
            ));
        };
        let properties = Properties::of(index).map_err(|e| refused("look at a GPU", e))?;
        properties.check_kernels()?;
        // SAFETY: the device was given by the driver.
        let context = unsafe { result::primary_ctx::retain(properties.device) };
        let context = context.map_err(|e| refused(&format!("use {}", properties.name), e))?;
        Ok(Self {
            properties,
            version,
            context,
            modules: Mutex::new(vec![None; MODULES.len()]),
            functions: ALL.iter().map(|_| OnceLock::new()).collect(),
        })
    }

    /// Makes this GPU the one that the thread's next calls are for.
    fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained until `self` is dropped.
        unsafe { result::ctx::set_current(self.context) }
            .map_err(|e| refused("use the GPU from this thread", e))
    }

    fn function(&self, kernel: &Kernel) -> Result<&Function> {
        let place = self.functions.get(kernel.index);
        let Some(place) = place.filter(|_| ALL.get(kernel.index) == Some(kernel)) else {
            let problem = format!("{} is not in the table of kernels", kernel.name);
            return Err(Error::op("launch", problem));
        };
        if let Some(function) = place.get() {
            return Ok(function);
        }
        let mut modules = lock(&self.modules);
        let function = relaxed(|| self.load(kernel, &mut modules))?;
        // Another thread may have been first; theirs is the same.
        Ok(place.get_or_init(|| function))
    }

    fn load(&self, kernel: &Kernel, modules: &mut [Option<sys::CUmodule>]) -> Result<Function> {
        let (Some(module), Some(loaded)) =
            (MODULES.get(kernel.module), modules.get_mut(kernel.module))
        else {
            let problem = format!("{} has no file in the table of kernels", kernel.name);
            return Err(Error::op("launch", problem));
        };
        let failed = |error| {
            let (major, minor) = self.properties.capability;
            let doing = format!(
                "load {} of kernels/{} (nvcc {}) on {} ({major}.{minor}, driver for CUDA {})",
                kernel.name,
                module.file,
                TOOLKIT.unwrap_or("none"),
                self.properties.name,
                shown(self.version)
            );
            refused(&doing, error)
        };
        let handle = match *loaded {
            Some(handle) => handle,
            None => {
                let Some(image) = module.image else {
                    check_kernels_exist()?;
                    let problem = format!("kernels/{} was not compiled", module.file);
                    return Err(Error::op("launch", problem));
                };
                // SAFETY: the image is a whole fat binary, as nvcc wrote it.
                let handle = unsafe { result::module::load_data(image.as_ptr().cast()) };
                *loaded.insert(handle.map_err(failed)?)
            }
        };
        let name = CString::new(kernel.name)
            .map_err(|_| Error::op("launch", "a kernel's name with a zero byte in it"))?;
        // SAFETY: the module is loaded, and unloaded with `self` alone.
        let handle = unsafe { result::module::get_function(handle, name) }.map_err(failed)?;
        let (mut offset, mut bytes) = (0, 0);
        // SAFETY: a function of a loaded module; both results are written.
        let code = unsafe { sys::cuFuncGetParamInfo(handle, 0, &mut offset, &mut bytes) };
        code.result().map_err(failed)?;
        // SAFETY: a function of a loaded module.
        let shared = unsafe { result::function::get_function_attribute(handle, DYNAMIC_SHARED) };
        Ok(Function {
            handle,
            bytes,
            shared: AtomicU32::new(u32::try_from(shared.map_err(failed)?).unwrap_or(0)),
        })
    }

    /// Lets `kernel` be launched with `bytes` of dynamic shared memory, of which
    /// the driver allows 48 KiB without being asked.
    fn allow_shared(&self, kernel: &Kernel, function: &Function, bytes: u32) -> Result<()> {
        let _setting = lock(&self.modules);
        if bytes <= function.shared.load(Ordering::Acquire) {
            return Ok(());
        }
        let value = i32::try_from(bytes).unwrap_or(i32::MAX);
        // SAFETY: a function of a loaded module.
        let set = relaxed(|| unsafe {
            result::function::set_function_attribute(function.handle, DYNAMIC_SHARED, value)
        });
        set.map_err(|e| {
            let doing = format!(
                "give {} {bytes} bytes of shared memory, where {} has {} for a block",
                kernel.name, self.properties.name, self.properties.shared
            );
            refused(&doing, e)
        })?;
        function.shared.store(bytes, Ordering::Release);
        Ok(())
    }
}

const DYNAMIC_SHARED: sys::CUfunction_attribute_enum =
    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;

/// Runs `f` as if this thread captured nothing: during a capture the driver
/// otherwise refuses to allocate and to load, since either might wait for the
/// stream. The memory and modules here never depend on captured work.
fn relaxed<T>(f: impl FnOnce() -> T) -> T {
    let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: exchanges a setting of this thread with the variable.
    let exchanged = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) }.result();
    let value = f();
    if exchanged.is_ok() {
        // SAFETY: as above; what it was before. It only fails for a mode that
        // does not exist.
        let _ = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode) };
    }
    value
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.bind().is_ok() {
            for module in lock(&self.modules).drain(..).flatten() {
                // SAFETY: loaded by this context; its kernels are done, since
                // every stream waits for its work before it lets go of the GPU.
                let _ = unsafe { result::module::unload(module) };
            }
        }
        // SAFETY: retained once by `open`.
        let _ = unsafe { result::primary_ctx::release(self.properties.device) };
    }
}

// ---- One stream ------------------------------------------------------------

struct Stream {
    gpu: Arc<Gpu>,
    handle: sys::CUstream,
    capturing: AtomicBool,
    staging: Mutex<Staging>,
    events: Mutex<Events>,
}

/// Events that were recorded and not yet used, by the number that the caller
/// knows them by: a number that was made up or used twice finds nothing.
#[derive(Default)]
struct Events {
    next: u64,
    recorded: HashMap<u64, sys::CUevent>,
}

// SAFETY: streams and events are handles of the driver, which may be used from
// any thread; staging memory and events are behind locks.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    fn open(gpu: Arc<Gpu>) -> Result<Self> {
        gpu.bind()?;
        // It waits for nobody's default stream.
        let handle = result::stream::create(result::stream::StreamKind::NonBlocking);
        Ok(Self {
            handle: handle.map_err(|e| refused("make a stream", e))?,
            gpu,
            capturing: AtomicBool::new(false),
            staging: Mutex::new(Staging::new()),
            events: Mutex::new(Events::default()),
        })
    }

    /// Binds the GPU for something that a graph cannot hold.
    fn bind_outside_capture(&self, what: &str) -> Result<()> {
        if self.capturing.load(Ordering::Acquire) {
            let problem = format!("{what} inside a capture, of which no graph can be made");
            return Err(Error::op("capture", problem));
        }
        self.gpu.bind()
    }

    fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.handle) }
            .map_err(|e| refused("wait for the GPU", e))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.gpu.bind().is_err() {
            return;
        }
        let _ = self.synchronize();
        let events = self
            .events
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for (_, event) in events.recorded.drain() {
            destroy(event);
        }
        let staging = self.staging.get_mut();
        staging.unwrap_or_else(PoisonError::into_inner).release();
        // SAFETY: made by `open`; nothing uses it after this.
        let _ = unsafe { result::stream::destroy(self.handle) };
    }
}

fn destroy(event: sys::CUevent) {
    // SAFETY: callers own the event and forget it.
    let _ = unsafe { result::event::destroy(event) };
}

// ---- Copies ----------------------------------------------------------------

/// Pinned host memory as a ring: a copy takes a piece of it, which is free again
/// when the GPU has passed the event behind the copy. So a write is over for
/// the caller once its bytes are in the ring, and the host can be far ahead.
struct Staging {
    /// Null until the first copy.
    host: *mut u8,
    /// Where the next piece begins.
    next: usize,
    /// Pieces that the GPU may still read or write, oldest first.
    pending: VecDeque<(Range<usize>, sys::CUevent)>,
    idle: Vec<sys::CUevent>,
}

/// Bytes of the ring and of one piece at most.
const RING: usize = 16 << 20;
const PIECE: usize = 4 << 20;
/// Pieces under way at most: each has an event.
const PENDING: usize = 64;
/// What pieces are aligned to, a line of the host's cache.
const LINE: usize = 64;

impl Staging {
    fn new() -> Self {
        Self {
            host: ptr::null_mut(),
            next: 0,
            pending: VecDeque::new(),
            idle: Vec::new(),
        }
    }

    /// A free piece of `bytes`, at most [`PIECE`], waiting for it if need be.
    fn claim(&mut self, bytes: usize) -> Result<Range<usize>, DriverError> {
        if self.host.is_null() {
            // SAFETY: asks for memory; freed by `release`.
            self.host = unsafe { result::malloc_host(RING, 0) }?.cast();
        }
        let start = if self.next + bytes <= RING {
            self.next
        } else {
            0
        };
        let piece = start..start + bytes;
        while self.pending.len() >= PENDING || self.pending.iter().any(|(p, _)| overlap(p, &piece))
        {
            let Some((_, event)) = self.pending.pop_front() else {
                break;
            };
            // Waited for or not, it is not pending any more: an error of the
            // GPU's is final.
            self.idle.push(event);
            // SAFETY: the event is alive, see `idle`.
            unsafe { result::event::synchronize(event) }?;
        }
        self.next = piece.end.next_multiple_of(LINE);
        Ok(piece)
    }

    /// Marks `piece` as used by what `stream` holds up to here.
    fn mark(&mut self, piece: Range<usize>, stream: sys::CUstream) -> Result<(), DriverError> {
        let event = match self.idle.pop() {
            Some(event) => event,
            None => result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?,
        };
        self.pending.push_back((piece, event));
        // SAFETY: event and stream are alive.
        unsafe { result::event::record(event, stream) }
    }

    /// # Safety
    /// `to` is device memory of `from.len()` bytes, `stream` alive, and its
    /// context current.
    unsafe fn write(
        &mut self,
        mut to: u64,
        from: &[u8],
        stream: sys::CUstream,
    ) -> Result<(), DriverError> {
        for part in from.chunks(PIECE) {
            let piece = self.claim(part.len())?;
            // SAFETY: the piece lies in the ring, which nobody else has, and
            // the GPU is done with it.
            let staged = unsafe {
                let staged = self.host.add(piece.start);
                ptr::copy_nonoverlapping(part.as_ptr(), staged, part.len());
                std::slice::from_raw_parts(staged, part.len())
            };
            // SAFETY: the piece is not touched again before its event.
            unsafe { result::memcpy_htod_async(to, staged, stream) }?;
            self.mark(piece, stream)?;
            to += part.len() as u64;
        }
        Ok(())
    }

    /// # Safety
    /// `from` is device memory of `to.len()` bytes, `stream` alive, and its
    /// context current.
    unsafe fn read(
        &mut self,
        mut from: u64,
        to: &mut [u8],
        stream: sys::CUstream,
    ) -> Result<(), DriverError> {
        for part in to.chunks_mut(PIECE) {
            let piece = self.claim(part.len())?;
            // SAFETY: the piece lies in the ring, and is read after the wait.
            unsafe {
                let staged = self.host.add(piece.start);
                sys::cuMemcpyDtoHAsync_v2(staged.cast(), from, part.len(), stream).result()?;
                result::stream::synchronize(stream)?;
                ptr::copy_nonoverlapping(staged, part.as_mut_ptr(), part.len());
            }
            from += part.len() as u64;
        }
        Ok(())
    }

    /// The stream must be idle.
    fn release(&mut self) {
        let pending = self.pending.drain(..).map(|(_, event)| event);
        pending.chain(self.idle.drain(..)).for_each(destroy);
        if !self.host.is_null() {
            // SAFETY: allocated by `claim`; null from here on.
            let _ = unsafe { result::free_host(self.host.cast()) };
            self.host = ptr::null_mut();
        }
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

// ---- The driver ------------------------------------------------------------

/// A stream of an NVIDIA GPU.
pub struct NvidiaDriver {
    stream: Arc<Stream>,
}

impl NvidiaDriver {
    /// A stream of GPU number `ordinal`, as `CUDA_VISIBLE_DEVICES` counts them.
    ///
    /// # Errors
    /// There is no driver, or one that is older than the kernels of this build;
    /// no such GPU, or one that they were not compiled for; the crate was built
    /// without nvcc.
    pub fn new(ordinal: usize) -> Result<Self> {
        let gpu = Arc::new(Gpu::open(ordinal)?);
        let stream = Arc::new(Stream::open(gpu)?);
        Ok(Self { stream })
    }

    fn gpu(&self) -> &Gpu {
        &self.stream.gpu
    }
}

impl Driver for NvidiaDriver {
    fn name(&self) -> String {
        self.gpu().properties.name.clone()
    }

    fn stream(&self) -> Result<Box<dyn Driver>> {
        let stream = Arc::new(Stream::open(self.stream.gpu.clone())?);
        Ok(Box::new(Self { stream }))
    }

    fn chunk(&self) -> Option<usize> {
        Some(CHUNK)
    }

    fn alloc(&self, bytes: usize) -> Result<u64> {
        self.gpu().bind()?;
        // SAFETY: unwritten memory is what is promised.
        let address = relaxed(|| unsafe { result::malloc_sync(bytes.max(1)) });
        address.map_err(|e| {
            let mib = |bytes: usize| bytes.div_ceil(1 << 20);
            let free = match result::mem_get_info() {
                Ok((free, total)) => {
                    format!(" ({} of {} MiB are free)", mib(free), mib(total))
                }
                Err(_) => String::new(),
            };
            let name = &self.gpu().properties.name;
            refused(&format!("get {} MiB of {name}{free}", mib(bytes)), e)
        })
    }

    fn free(&self, address: u64, _bytes: usize) {
        if self.gpu().bind().is_ok() {
            // What this stream still does with it comes first. Under capture
            // there is nothing to wait for: nothing runs.
            if !self.stream.capturing.load(Ordering::Acquire) {
                let _ = self.stream.synchronize();
            }
            // SAFETY: the caller gives back what `alloc` gave. An error can only
            // be an earlier one of the GPU's, which other calls report.
            let _ = relaxed(|| unsafe { result::free_sync(address) });
        }
    }

    fn write(&self, to: u64, from: &[u8]) -> Result<()> {
        self.stream.bind_outside_capture("a copy from the host")?;
        let mut staging = lock(&self.stream.staging);
        // SAFETY: the caller owns the memory at `to`; the stream lives as long
        // as `self`, and its GPU was just bound.
        unsafe { staging.write(to, from, self.stream.handle) }
            .map_err(|e| refused("copy to the GPU", e))
    }

    fn read(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.stream.bind_outside_capture("a copy to the host")?;
        let mut staging = lock(&self.stream.staging);
        // SAFETY: as in `write`.
        unsafe { staging.read(from, to, self.stream.handle) }
            .map_err(|e| refused("copy from the GPU", e))
    }

    fn tensor_map(&self, boxes: &Boxes) -> Result<Option<TensorMap>> {
        let gpu = self.gpu();
        // Code with the suffix runs on that architecture alone.
        if gpu.properties.capability != (9, 0) || !ARCHITECTURES.contains(&"sm_90a") {
            return Ok(None);
        }
        gpu.bind()?;
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: two sizes, one stride between lines and two sizes of a box, as for
        // a matrix; the driver writes the map and reads nothing of the GPU's memory.
        let encoded = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                // Nothing is computed, so that any two bytes will do.
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
                2,
                boxes.address as *mut c_void,
                [boxes.length, boxes.lines].as_ptr(),
                [boxes.stride].as_ptr(),
                [64, boxes.box_lines].as_ptr(),
                [1, 1].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        let doing = || format!("describe a matrix to the tensor memory accelerator: {boxes:?}");
        encoded.result().map_err(|e| refused(&doing(), e))?;
        Ok(Some(TensorMap(map.opaque)))
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let Launch { kernel, grid, .. } = *launch;
        let gpu = self.gpu();
        gpu.bind()?;
        let function = gpu.function(kernel)?;
        if launch.params.len() != function.bytes {
            let problem = format!(
                "{} takes a struct of {} bytes, not of {}",
                kernel.name,
                function.bytes,
                launch.params.len()
            );
            return Err(Error::op("launch", problem));
        }
        if launch.shared > function.shared.load(Ordering::Acquire) {
            gpu.allow_shared(kernel, function, launch.shared)?;
        }
        let mut params = [launch.params.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the function is loaded. The driver copies the parameter, whose
        // size was checked, before it returns. That the addresses in it are
        // good is the caller's business.
        let launched = unsafe {
            result::launch_kernel(
                function.handle,
                (grid[0], grid[1], grid[2]),
                (kernel.threads, 1, 1),
                launch.shared,
                self.stream.handle,
                &mut params,
            )
        };
        launched.map_err(|e| {
            let doing = format!(
                "launch {} on a grid of {grid:?} with {} bytes of shared memory",
                kernel.name, launch.shared
            );
            refused(&doing, e)
        })
    }

    fn synchronize(&self) -> Result<()> {
        self.stream.bind_outside_capture("a wait")?;
        self.stream.synchronize()
    }

    fn begin_capture(&self) -> Result<()> {
        self.stream.bind_outside_capture("a capture")?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::begin_capture(self.stream.handle, mode) }
            .map_err(|e| refused("begin a capture", e))?;
        self.stream.capturing.store(true, Ordering::Release);
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        self.gpu().bind()?;
        if !self.stream.capturing.swap(false, Ordering::AcqRel) {
            return Err(Error::op("capture", "nothing is being captured"));
        }
        let failed = |e| refused("make a graph of what was captured", e);
        // SAFETY: the stream is alive and captures. It ends the capture in every
        // case, an invalid one with an error.
        let graph = unsafe { result::stream::end_capture(self.stream.handle) }.map_err(failed)?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just made, and is not needed once it is
        // instantiated.
        let instance = unsafe {
            let instance = result::graph::instantiate(graph, flags);
            let _ = result::graph::destroy(graph);
            instance
        };
        Ok(Box::new(Captured {
            stream: self.stream.clone(),
            instance: Mutex::new(instance.map_err(failed)?),
        }))
    }

    fn event(&self) -> Result<Event> {
        self.stream.bind_outside_capture("an event")?;
        let failed = |e| refused("record an event", e);
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed)?;
        // SAFETY: event and stream are alive.
        if let Err(error) = unsafe { result::event::record(event, self.stream.handle) } {
            destroy(event);
            return Err(failed(error));
        }
        let mut events = lock(&self.stream.events);
        let number = events.next;
        events.next += 1;
        events.recorded.insert(number, event);
        Ok(Event(number))
    }

    fn elapsed(&self, from: Event, to: Event) -> Result<f32> {
        self.stream.bind_outside_capture("a wait")?;
        let [from, to] = [from, to].map(|e| lock(&self.stream.events).recorded.remove(&e.0));
        let elapsed = match (from, to) {
            // SAFETY: both were recorded on this stream and are alive.
            (Some(from), Some(to)) => unsafe {
                result::event::synchronize(to)
                    .and_then(|()| result::event::elapsed(from, to))
                    .map_err(|e| refused("time the GPU", e))
            },
            _ => Err(Error::op(
                "elapsed",
                "an event that this stream did not record, or that was used before",
            )),
        };
        from.into_iter().chain(to).for_each(destroy);
        elapsed
    }
}

/// A graph on the stream that it was captured from.
struct Captured {
    stream: Arc<Stream>,
    /// Locked because the driver does not guard graphs against several threads.
    instance: Mutex<sys::CUgraphExec>,
}

// SAFETY: the instance is a handle of the driver, used by one thread at a time
// under its lock.
unsafe impl Send for Captured {}
// SAFETY: as above.
unsafe impl Sync for Captured {}

impl Graph for Captured {
    fn replay(&self) -> Result<()> {
        self.stream.bind_outside_capture("a replay")?;
        let instance = lock(&self.instance);
        // SAFETY: instance and stream live as long as `self`.
        unsafe { result::graph::launch(*instance, self.stream.handle) }
            .map_err(|e| refused("replay a captured step", e))
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        if self.stream.gpu.bind().is_ok() {
            // SAFETY: made by `end_capture`. The driver keeps what a replay
            // that still runs needs.
            let _ = unsafe { result::graph::exec_destroy(*lock(&self.instance)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_run_where_nvidia_says() {
        for (architecture, capability, runs) in [
            ("sm_80", (8, 0), true),
            ("sm_80", (8, 9), true),
            ("sm_80", (9, 0), false),
            ("sm_86", (8, 0), false),
            ("sm_90a", (9, 0), true),
            ("sm_90a", (10, 0), false),
            ("compute_90a", (10, 0), false),
            ("compute_80", (7, 5), false),
            ("compute_80", (8, 0), true),
            ("compute_80", (12, 0), true),
            ("sm_100f", (10, 3), true),
            ("sm_100f", (12, 0), false),
            ("80", (8, 0), false),
        ] {
            assert_eq!(
                runs_on(architecture, capability),
                runs,
                "{architecture} on {capability:?}"
            );
        }
    }

    #[test]
    fn an_old_driver_is_refused_with_both_versions() {
        assert!(check_version(13_000, Some("13.0.88")).is_ok());
        // The same major version is enough, whichever is newer.
        assert!(check_version(13_000, Some("13.5.37")).is_ok());
        assert!(check_version(14_010, Some("13.0.88")).is_ok());
        assert!(check_version(12_080, None).is_ok());
        let error = check_version(12_090, Some("13.0.88")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("for CUDA 12.9") && text.contains("need 13.0"),
            "{text}"
        );
        assert!(check_version(11_040, Some("11.4.100")).is_err());
        assert!(check_version(0, None).is_err());
    }

    #[test]
    fn without_a_gpu_there_is_an_error_and_no_panic() {
        if has_driver() {
            eprintln!("skipped: this machine has an NVIDIA driver");
            return;
        }
        for error in [NvidiaDriver::new(0).err(), devices().err()] {
            assert!(matches!(error, Some(Error::Usage { .. })), "{error:?}");
            let text = error.map(|e| e.to_string()).unwrap_or_default();
            assert!(
                text.contains("no NVIDIA driver") && text.contains("; install the GPU's driver"),
                "{text}"
            );
        }
    }

    #[test]
    fn pieces_of_the_ring_overlap_where_they_share_a_byte() {
        assert!(overlap(&(0..4), &(3..5)));
        assert!(overlap(&(2..3), &(0..8)));
        assert!(!overlap(&(0..4), &(4..8)));
    }
}
