//! Foundations: number formats, the thread pool, cancellation, random numbers, logging, and what clients of servers
//! share.

mod back_off;
pub mod cancel;
pub mod disk;
pub mod dtype;
pub mod logging;
pub mod memory;
pub mod pool;
pub mod process;
pub mod random;
pub mod timings;
mod token;

pub use back_off::back_off;
pub use cancel::Cancel;
pub use timings::Timings;
pub use token::Token;
