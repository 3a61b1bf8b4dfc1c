//! The kernels: PTX that is part of the program, which the driver compiles for its device and caches.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use cudarc::driver::result::module;
use cudarc::driver::sys::{self, CUjit_option_enum as JitOption};

use super::driver::{Device, Function};
use super::error::{failed, text};
use crate::base::dtype::DType;

/// Bytes for what the compiler says of a module that it refuses.
const LOG_BYTES: usize = 4096;

/// A file of `kernels`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum File {
    Attention,
    Blocks,
    Codebook,
    Delta,
    Experts,
    Plain,
    Rows,
}

impl File {
    /// Its PTX, made by `scripts/ptx`.
    fn ptx(self) -> &'static str {
        match self {
            Self::Attention => include_str!("kernels/attention.ptx"),
            Self::Blocks => include_str!("kernels/blocks.ptx"),
            Self::Codebook => include_str!("kernels/codebook.ptx"),
            Self::Delta => include_str!("kernels/delta.ptx"),
            Self::Experts => include_str!("kernels/experts.ptx"),
            Self::Plain => include_str!("kernels/plain.ptx"),
            Self::Rows => include_str!("kernels/rows.ptx"),
        }
    }

    /// The one with the kernels of a weight type.
    pub(super) fn of(dtype: DType) -> Self {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3 => Self::Plain,
            DType::Iq2Xxs | DType::Iq2Xs | DType::Iq2S | DType::Iq3Xxs => Self::Codebook,
            DType::Iq3S | DType::Iq1S | DType::Iq1M => Self::Codebook,
            _ => Self::Blocks,
        }
    }
}

/// The modules that are loaded: those that a model needs.
pub(super) struct Modules {
    device: Arc<Device>,
    loaded: HashMap<File, sys::CUmodule>,
}

// SAFETY: as for functions.
unsafe impl Send for Modules {}

impl Modules {
    pub(super) fn new(device: Arc<Device>) -> Self {
        Self { device, loaded: HashMap::new() }
    }

    /// A kernel of a file.
    pub(super) fn function(&mut self, file: File, name: &str) -> Result<Function> {
        self.device.enter()?;
        let module = match self.loaded.get(&file) {
            Some(&module) => module,
            None => *self.loaded.entry(file).or_insert(load(file)?),
        };
        let name_c = CString::new(name).expect("a name without zeros");
        // SAFETY: the module is loaded until this is dropped.
        let function = unsafe { module::get_function(module, name_c) };
        Ok(Function(function.map_err(failed("cuModuleGetFunction")).with_context(|| name.to_owned())?))
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        let _ = self.device.wait();
        for &module in self.loaded.values() {
            // SAFETY: nothing runs any more, and functions are used by the owner of this only.
            let _ = unsafe { module::unload(module) };
        }
    }
}

fn load(file: File) -> Result<sys::CUmodule> {
    let ptx = CString::new(file.ptx()).expect("text without zeros");
    let mut log = vec![0u8; LOG_BYTES];
    let mut options = [JitOption::CU_JIT_ERROR_LOG_BUFFER, JitOption::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), ptr::without_provenance_mut(LOG_BYTES)];
    let mut module = ptr::null_mut();
    // SAFETY: the text ends in a zero, and the log has the size that is stated.
    let loaded = unsafe {
        sys::cuModuleLoadDataEx(
            &mut module,
            ptx.as_ptr().cast(),
            options.len() as u32,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    loaded.result().map_err(|error| {
        let end = log.iter().position(|&byte| byte == 0).unwrap_or(LOG_BYTES);
        let log = String::from_utf8_lossy(&log[..end]);
        anyhow!("the driver refuses the kernels of {file:?}: {} {}", text(error), log.trim())
    })?;
    Ok(module)
}
