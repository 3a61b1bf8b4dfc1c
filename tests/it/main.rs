//! The integration tests, one binary: each module drives one boundary of fimd from outside.

mod assist;
mod bench;
mod blocks;
mod checkpoint;
#[cfg(unix)]
mod child;
mod cli;
mod client;
mod convert;
#[cfg(unix)]
mod cuda;
mod daemon;
mod doctor;
mod engine;
mod experts;
mod fuzz;
mod gguf;
#[cfg(unix)]
mod gpu;
#[cfg(unix)]
mod gpu_check;
#[cfg(unix)]
mod gpu_models;
#[cfg(unix)]
mod graphs;
mod guide;
mod hostile;
mod keystrokes;
mod late;
mod layering;
mod load;
#[cfg(unix)]
mod logits;
mod lsp;
mod paths;
mod privacy;
mod pull;
mod quantize;
mod reference;
mod remote;
mod session;
mod settings;
mod starter;
#[cfg(unix)]
mod states;
#[cfg(unix)]
mod sweeps;
mod tiny;
mod tokenizers;
