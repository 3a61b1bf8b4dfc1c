//! The integration tests, one binary: each module drives one boundary of fimd from outside.

mod assist;
mod bench;
mod checkpoint;
mod cli;
mod client;
mod convert;
mod daemon;
mod engine;
mod fuzz;
mod gguf;
mod guide;
mod hostile;
mod keystrokes;
mod late;
mod layering;
mod load;
mod lsp;
mod pull;
mod quantize;
mod reference;
mod remote;
mod session;
mod settings;
mod starter;
mod tiny;
mod tokenizers;
