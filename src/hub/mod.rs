//! Where a model comes from.
//!
//! `reference` is what users call a published model, `catalog` those that have names of their own, `select` which files of
//! a repository it consists of; `download` fetches these into the `cache`. `quantize` writes a model in fewer bits,
//! `importance` records which columns of its matrices matter most for that.

pub mod cache;
pub mod catalog;
pub mod download;
pub mod importance;
pub mod quantize;
pub mod reference;
pub mod select;

use std::path::Path;

use anyhow::Result;

use crate::format::{Bytes, ModelDir};

/// Opens the checkpoint at `path`, or the built-in starter model.
pub fn open(path: Option<&Path>) -> Result<ModelDir> {
    match path {
        Some(path) => ModelDir::open(path),
        None => starter(),
    }
}

/// The `tokenizer.json` of the starter model.
pub const STARTER_TOKENIZER: &[u8] = include_bytes!("../starter/tokenizer.json");

/// The starter model: a miniature of Qwen3-Coder-Next, described in `src/starter/README.md`.
pub fn starter() -> Result<ModelDir> {
    ModelDir::from_safetensors(
        "the starter model",
        include_bytes!("../starter/config.json"),
        Some(Bytes::embedded(STARTER_TOKENIZER)),
        &Bytes::embedded(include_bytes!("../starter/model.safetensors")),
    )
}
