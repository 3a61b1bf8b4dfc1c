//! What a fuzzer does with bytes: opens them as a model and reads all that can be read of it. Errors are
//! answers; a panic or memory without bounds is a bug.
#![allow(dead_code, reason = "each target uses one of these functions")]

use fimd::format::{Bytes, ModelDir};
use fimd::model::{Config, Tokenizer};

/// Reads a GGUF file.
pub fn gguf(bytes: &[u8]) {
    read(ModelDir::from_gguf("input", &Bytes::from(bytes.to_vec())));
}

/// Reads a safetensors file.
pub fn safetensors(bytes: &[u8]) {
    read(ModelDir::from_safetensors("input", b"{}", None, &Bytes::from(bytes.to_vec())));
}

fn read(opened: anyhow::Result<ModelDir>) {
    let Ok(dir) = opened else { return };
    for name in dir.names() {
        if let Ok(tensor) = dir.tensor(name) {
            assert_eq!(tensor.to_f32().len(), tensor.shape.iter().product::<usize>());
        }
    }
    drop(dir.chat_template());
    drop(Config::read(&dir));
    drop(Tokenizer::read(&dir));
}
