//! Benchmarks: the speed of a model or of a synthetic one with a real model's shapes, and the cost of a keystroke.

pub mod daemon;
pub mod fit;
pub mod kernels;
pub mod keystrokes;
pub mod machine;
pub mod random;
pub mod report;
pub mod soak;
pub mod speed;
pub mod synthetic;
pub mod vocabulary;
