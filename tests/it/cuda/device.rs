//! The emulated device as tests use it: the driver's functions with little around them, so that nothing else fails.

use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::size_of;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::result::{self, stream::StreamKind};
use cudarc::driver::{CudaContext, DriverError, sys};

/// The device with a stream and a module. What it allocates is there until the process ends.
pub struct Device {
    _context: Arc<CudaContext>,
    pub stream: sys::CUstream,
    module: sys::CUmodule,
}

/// Memory of the device that holds `count` of something.
#[derive(Clone, Copy)]
pub struct Buffer {
    pub address: u64,
    bytes: usize,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub enum Argument {
    At(u64),
    Int(i32),
    Float(f32),
}

/// Blocks, threads of each, and bytes of dynamic shared memory.
pub type Shape = (u32, u32, u32);

impl Device {
    pub fn open(ptx: &str) -> Self {
        Self::try_open(ptx).unwrap()
    }

    pub fn try_open(ptx: &str) -> Result<Self, DriverError> {
        let context = CudaContext::new(0)?;
        let stream = result::stream::create(StreamKind::NonBlocking)?;
        let text = CString::new(ptx).unwrap();
        // SAFETY: a text that ends in 0.
        let module = unsafe { result::module::load_data(text.as_ptr().cast()) }?;
        Ok(Self { _context: context, stream, module })
    }

    /// Another stream.
    pub fn new_stream(&self) -> sys::CUstream {
        result::stream::create(StreamKind::NonBlocking).unwrap()
    }

    /// Memory that was not set.
    pub fn unset<T>(&self, count: usize) -> Buffer {
        let bytes = count * size_of::<T>();
        // SAFETY: it is set before what reads it expects it to be, or it is this that is tested.
        Buffer { address: unsafe { result::malloc_sync(bytes) }.unwrap(), bytes }
    }

    pub fn upload<T: Copy>(&self, values: &[T]) -> Buffer {
        let buffer = self.unset::<T>(values.len());
        // SAFETY: it is as long as the values.
        unsafe { result::memcpy_htod_sync(buffer.address, values) }.unwrap();
        buffer
    }

    /// What is in the memory once the stream is done.
    pub fn read<T: Copy + Default>(&self, buffer: Buffer) -> Vec<T> {
        self.wait().unwrap();
        let mut values = vec![T::default(); buffer.bytes / size_of::<T>()];
        // SAFETY: it is as long as the values.
        unsafe { result::memcpy_dtoh_sync(&mut values, buffer.address) }.unwrap();
        values
    }

    pub fn launch(&self, kernel: &str, shape: Shape, arguments: &[Argument]) -> Result<(), DriverError> {
        self.launch_on(self.stream, kernel, shape, arguments)
    }

    pub fn launch_on(
        &self,
        stream: sys::CUstream,
        kernel: &str,
        (blocks, threads, shared): Shape,
        arguments: &[Argument],
    ) -> Result<(), DriverError> {
        let function = self.function(kernel)?;
        let mut bytes: Vec<[u8; 8]> = arguments.iter().map(|argument| argument.bytes()).collect();
        let mut pointers: Vec<*mut c_void> =
            bytes.iter_mut().map(|bytes| bytes.as_mut_ptr().cast()).collect();
        let (grid, block) = ((blocks, 1, 1), (threads, 1, 1));
        // SAFETY: the tests give each kernel what it takes; the emulator finds what is out of bounds.
        unsafe { result::launch_kernel(function, grid, block, shared, stream, &mut pointers) }
    }

    /// Launches, and waits for the stream.
    pub fn run(&self, kernel: &str, shape: Shape, arguments: &[Argument]) -> Result<(), DriverError> {
        self.launch(kernel, shape, arguments)?;
        self.wait()
    }

    pub fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the stream is there as long as the device.
        unsafe { result::stream::synchronize(self.stream) }
    }

    pub fn function(&self, kernel: &str) -> Result<sys::CUfunction, DriverError> {
        // SAFETY: the module is there as long as the device.
        unsafe { result::module::get_function(self.module, CString::new(kernel).unwrap()) }
    }

    /// Page-locked memory that the device reads and writes, too: words of 0.
    pub fn mapped_words(&self, count: usize) -> *mut u32 {
        // SAFETY: it is aligned to pages, and there until the process ends.
        unsafe {
            let words = result::malloc_host(count * 4, sys::CU_MEMHOSTALLOC_DEVICEMAP).unwrap().cast::<u32>();
            ptr::write_bytes(words, 0, count);
            words
        }
    }
}

impl Buffer {
    /// As an argument.
    pub fn at(self) -> Argument {
        Argument::At(self.address)
    }
}

impl Argument {
    fn bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        match self {
            Self::At(address) => bytes = address.to_ne_bytes(),
            Self::Int(value) => bytes[..4].copy_from_slice(&value.to_ne_bytes()),
            Self::Float(value) => bytes[..4].copy_from_slice(&value.to_ne_bytes()),
        }
        bytes
    }
}

/// What kernels are given: where it lies. References to it live until the launch, unlike what a pointer says.
pub trait Param {
    fn place(&self) -> *mut c_void;
}

impl<T: Copy> Param for T {
    fn place(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }
}

/// The driver's number of a result: 0 if it is good.
pub fn code<T>(result: Result<T, DriverError>) -> u32 {
    result.err().map_or(0, |error| error.0 as u32)
}

/// Functions that only the emulated driver has.
pub mod emulator {
    use super::*;

    /// # Panics
    /// Where the driver is a real one.
    fn function<F: Copy>(name: &CStr) -> F {
        // SAFETY: the library is there, and the types are those of `tests/cuda/driver/api_device.cpp`.
        unsafe { *sys::culib().get::<F>(name.to_bytes_with_nul()).expect("the emulated driver") }
    }

    fn count(name: &CStr, of: &str) -> u64 {
        let of = CString::new(of).unwrap();
        function::<extern "C" fn(*const c_char) -> u64>(name)(of.as_ptr())
    }

    /// How often the driver's function was called.
    pub fn calls(name: &str) -> u64 {
        count(c"emulator_calls", name)
    }

    /// How often the kernel ran; `*` is any.
    pub fn executions(kernel: &str) -> u64 {
        count(c"emulator_executions", kernel)
    }

    /// The most bytes that were allocated at a time.
    pub fn peak_memory() -> u64 {
        function::<extern "C" fn() -> u64>(c"emulator_peak_memory")()
    }

    /// The bytes that were copied to the host.
    pub fn bytes_to_host() -> u64 {
        function::<extern "C" fn() -> u64>(c"emulator_bytes_to_host")()
    }

    /// Why something failed last.
    pub fn explanation() -> String {
        let text = function::<extern "C" fn() -> *const c_char>(c"emulator_explanation")();
        // SAFETY: a text that ends in 0, and is there until this thread asks again.
        unsafe { CStr::from_ptr(text) }.to_str().unwrap().to_owned()
    }

    /// Changes a setting of this process, by its name without `EMULATED_CUDA_`.
    pub fn set(name: &str, value: &str) {
        try_set(name, value).unwrap();
    }

    /// The same, or what is wrong with it.
    pub fn try_set(name: &str, value: &str) -> Result<(), String> {
        let (name, value) = (CString::new(name).unwrap(), CString::new(value).unwrap());
        let set = function::<extern "C" fn(*const c_char, *const c_char) -> *const c_char>(c"emulator_set");
        let why = set(name.as_ptr(), value.as_ptr());
        // SAFETY: null, or a text that ends in 0.
        if why.is_null() { Ok(()) } else { Err(unsafe { CStr::from_ptr(why) }.to_str().unwrap().to_owned()) }
    }

    /// Makes a lost context usable again.
    pub fn forget_errors() {
        function::<extern "C" fn()>(c"emulator_forget_errors")();
    }
}
