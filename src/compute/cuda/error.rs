//! Errors of the driver as texts.

use std::ffi::CStr;

use anyhow::anyhow;
use cudarc::driver::DriverError;

/// What the driver says of an error.
pub(super) fn text(error: DriverError) -> String {
    let text = error.error_string().map(CStr::to_string_lossy);
    text.map_or_else(|_| format!("error {}", error.0 as u32), |text| format!("{text} ({})", error.0 as u32))
}

/// An error of a call.
pub(super) fn failed(what: &'static str) -> impl Fn(DriverError) -> anyhow::Error {
    move |error| anyhow!("{what}: {}", text(error))
}
