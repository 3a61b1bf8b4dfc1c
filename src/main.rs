//! The `fimd` program; see the library's documentation for how it is built.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    fimd::cli::run()
}
