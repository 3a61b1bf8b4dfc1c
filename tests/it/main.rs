//! The integration tests, one binary: each module drives one boundary of fimd from outside.

mod assist;
mod bench;
mod checkpoint;
mod cli;
mod client;
mod convert;
mod engine;
mod fuzz;
mod gguf;
mod keystrokes;
mod layering;
mod load;
mod lsp;
mod quantize;
mod reference;
mod session;
mod starter;
mod tiny;
