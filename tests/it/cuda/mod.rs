//! CUDA without a GPU: the emulated driver of `tests/cuda`, its own tests, and what is committed as PTX.

mod attention;
pub mod build;
mod capture;
pub mod child;
mod delta;
pub mod device;
mod faults;
mod memory;
mod modules;
mod products;
mod programs;
mod ptx;
mod trial;
mod wrappers;
