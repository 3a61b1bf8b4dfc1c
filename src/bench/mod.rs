//! How fast fimd runs on this machine, with a model that is there or with a synthetic one of a real
//! model's sizes, and what a keystroke costs.

pub mod daemon;
pub mod fit;
pub mod kernels;
pub mod keystrokes;
pub mod machine;
pub mod random;
pub mod report;
pub mod speed;
pub mod synthetic;
pub mod vocabulary;
