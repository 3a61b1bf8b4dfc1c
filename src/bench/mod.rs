//! Benchmarks: the speed of a model or of a synthetic one with a real model's shapes, of several tokens at once and by
//! the number of threads, the cost of a keystroke, and what the rules of completion make of a correct answer.

pub mod batch;
pub mod blocks;
pub mod daemon;
pub mod experts;
pub mod fidelity;
pub mod fit;
pub mod gpu;
pub mod hardware;
pub mod kernels;
pub mod keystrokes;
pub mod machine;
pub mod plan;
pub mod random;
pub mod rates;
pub mod report;
pub mod routing;
pub mod schedule;
pub mod simulate;
pub mod sizes;
pub mod soak;
pub mod speed;
pub mod synthetic;
pub mod threads;
pub mod vocabulary;
pub mod warmups;
