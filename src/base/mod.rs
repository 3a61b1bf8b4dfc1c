//! Foundations: number formats, the thread pool, cancellation, random numbers, logging, escaped text, hashes of texts, and
//! what clients of servers share.

pub mod cancel;
pub mod client;
pub mod cores;
pub mod crash;
pub mod digest;
pub mod disk;
pub mod dtype;
pub mod escape;
pub mod file;
pub mod log_file;
pub mod logging;
pub mod memory;
pub mod pool;
pub mod process;
pub mod random;
pub mod reads;
pub mod timings;

pub use cancel::Cancel;
pub use timings::Timings;
