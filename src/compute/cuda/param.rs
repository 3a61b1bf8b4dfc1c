//! What kernels and copies are given.

#![expect(unsafe_code, reason = "handles and arguments of the CUDA driver")]

use std::ffi::c_void;

use cudarc::driver::sys;

/// An address in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Address(pub(super) u64);

impl Address {
    /// What a kernel takes for nothing.
    pub(super) const NULL: Self = Self(0);

    /// The address `bytes` bytes behind it.
    pub(super) fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// What a kernel takes as an argument: a number, an address, or a structure of those laid out as in C.
///
/// # Safety
/// All bytes are initialised: there is no padding.
pub(super) unsafe trait Param {
    /// Where the driver reads it.
    fn place(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// Its bytes.
    fn bytes(&self) -> usize {
        size_of_val(self)
    }
}

// SAFETY: numbers have no padding.
unsafe impl Param for i32 {}
// SAFETY: as above.
unsafe impl Param for u64 {}
// SAFETY: as above.
unsafe impl Param for f32 {}
// SAFETY: as above.
unsafe impl Param for Address {}

/// A kernel of a module that is loaded.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Function(pub(super) sys::CUfunction);

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}
