//! Whether this machine has a GPU that can be used. Nothing here panics: each step is tried before the next.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::fmt;

use anyhow::Result;
use cudarc::driver::result::{self, DriverError, device};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use super::error::text;
use crate::base::memory::Space;

/// The oldest driver: PTX of CUDA 12.0 needs it.
const DRIVER_MIN: Version = Version { major: 12, minor: 0 };
/// The oldest compute capability that the kernels are made for.
const CAPABILITY_MIN: Version = Version { major: 8, minor: 0 };

/// The functions of the driver that are called; all are in the oldest driver.
const FUNCTIONS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuStreamCreate",
    "cuStreamQuery",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuStreamDestroy_v2",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventElapsedTime",
    "cuEventDestroy_v2",
    "cuModuleLoadDataEx",
    "cuModuleGetFunction",
    "cuModuleUnload",
    "cuLaunchKernel",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
    "cuGetErrorString",
];

/// A version, also of compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: i32,
    pub minor: i32,
}

/// A GPU that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    /// Compute capability.
    pub capability: Version,
    /// The newest CUDA version that the driver knows.
    pub driver: Version,
    /// Its memory.
    pub memory: Space,
}

/// Why there is no GPU to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The library of the driver is not there.
    NoDriver,
    /// The library lacks a function.
    Incomplete(&'static str),
    /// A call failed: which, and what the driver says.
    Failed(&'static str, String),
    /// The driver is too old.
    OldDriver(Version),
    /// The driver sees no device.
    NoDevice,
    /// The device is too old.
    OldDevice { name: String, capability: Version },
}

impl Unusable {
    /// Whether the machine has no NVIDIA GPU, as far as one can tell: nothing then needs to be said.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::NoDriver | Self::NoDevice)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver => write!(f, "no NVIDIA driver is installed"),
            Self::Incomplete(function) => {
                write!(
                    f,
                    "the NVIDIA driver lacks {function}; update it to one for CUDA {DRIVER_MIN} or newer"
                )
            }
            Self::Failed(call, error) => {
                write!(
                    f,
                    "{call} failed: {error}; does `nvidia-smi` see the GPU? A new driver needs a restart"
                )
            }
            Self::OldDriver(version) => write!(
                f,
                "the NVIDIA driver is for CUDA {version}; update it to one for CUDA {DRIVER_MIN} or newer"
            ),
            Self::NoDevice => write!(f, "the NVIDIA driver finds no GPU"),
            Self::OldDevice { name, capability } => write!(
                f,
                "{name} has compute capability {capability}; the kernels need {CAPABILITY_MIN} (RTX 30 series) or newer"
            ),
        }
    }
}

impl std::error::Error for Unusable {}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, capability, driver, memory } = self;
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        write!(
            f,
            "{name}, compute capability {capability}, driver for CUDA {driver}, {:.1} of {:.1} GiB free",
            gib(memory.free),
            gib(memory.total)
        )
    }
}

/// The first GPU, if it can be used. Where no driver is installed this takes less than a millisecond.
pub fn probe() -> Result<Gpu, Unusable> {
    // SAFETY: loading the driver's library runs its own initialisers, nothing of ours.
    if !unsafe { sys::is_culib_present() } {
        return Err(Unusable::NoDriver);
    }
    for &function in FUNCTIONS {
        // SAFETY: the library was loaded above, and the symbol is not called.
        let symbol = unsafe { sys::culib().get::<unsafe extern "C" fn()>(function.as_bytes()) };
        if symbol.is_err() {
            return Err(Unusable::Incomplete(function));
        }
    }
    let failed = |call| move |error: DriverError| Unusable::Failed(call, text(error));
    result::init().map_err(|error| match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => Unusable::NoDevice,
        _ => failed("cuInit")(error),
    })?;
    let mut version = 0;
    // SAFETY: the driver writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(failed("cuDriverGetVersion"))?;
    let driver = Version { major: version / 1000, minor: version % 1000 / 10 };
    if driver < DRIVER_MIN {
        return Err(Unusable::OldDriver(driver));
    }
    if device::get_count().map_err(failed("cuDeviceGetCount"))? == 0 {
        return Err(Unusable::NoDevice);
    }
    let ordinal = device::get(0).map_err(failed("cuDeviceGet"))?;
    let name = device::get_name(ordinal).map_err(failed("cuDeviceGetName"))?;
    let attribute = |attribute| {
        // SAFETY: the device is one that the driver has given.
        unsafe { device::get_attribute(ordinal, attribute) }.map_err(failed("cuDeviceGetAttribute"))
    };
    let capability = Version {
        major: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        minor: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    };
    if capability < CAPABILITY_MIN {
        return Err(Unusable::OldDevice { name, capability });
    }
    let memory = super::driver::Device::open()
        .and_then(|device| device.memory())
        .map_err(|error| Unusable::Failed("opening the GPU", format!("{error:#}")))?;
    Ok(Gpu { name, capability, driver, memory })
}
