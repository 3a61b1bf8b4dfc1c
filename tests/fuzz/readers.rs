//! What a fuzzer does with bytes: opens them as a model and reads all that can be read of it. Errors are
//! answers; a panic or memory without bounds is a bug.
#![allow(dead_code, reason = "each target uses one of these functions")]

use fimd::format::{Bytes, ModelDir};
use fimd::model::tokenizer::chat::{ChatTemplate, Message, Role};
use fimd::model::{Config, Tokenizer, architecture};

/// Reads a GGUF file.
pub fn gguf(bytes: &[u8]) {
    read(ModelDir::from_gguf("input", &Bytes::from(bytes.to_vec())));
}

/// Reads a safetensors file.
pub fn safetensors(bytes: &[u8]) {
    read(ModelDir::from_safetensors("input", b"{}", None, &Bytes::from(bytes.to_vec())));
}

/// Reads the small files of a folder, with zero bytes between them: `config.json`, `tokenizer.json` and a chat template.
/// Then encodes a text and renders a chat.
pub fn folder(bytes: &[u8]) {
    let mut parts = bytes.split(|&byte| byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    let (config, tokenizer, template) = (next(), next(), next());
    let tokenizer = Bytes::from(tokenizer.to_vec());
    let no_tensors = Bytes::from(b"\x02\0\0\0\0\0\0\0{}".to_vec());
    let Ok(dir) = ModelDir::from_safetensors("input", config, Some(tokenizer), &no_tensors) else { return };
    drop(Config::read(&dir).map(|config| architecture::tensors(&config)));
    let Ok(Some(tokenizer)) = Tokenizer::read(&dir) else { return };
    let tokenizer = tokenizer.with_chat(&String::from_utf8_lossy(template));
    let text = "fn a(b: &str) -> usize {\n    b.len() // \u{e9}\u{4e16} <|im_end|>\n}\n";
    let ids = tokenizer.encode_with_specials(text);
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    drop((tokenizer.decode(&ids), tokenizer.encode_open(text), tokenizer.fim()));
    drop(tokenizer.encode_chat(&[Message::new(Role::System, "a"), Message::new(Role::User, text)]));
}

/// Reads a chat template and renders it.
pub fn template(bytes: &[u8]) {
    let Ok(template) = ChatTemplate::new(&String::from_utf8_lossy(bytes), "<|im_end|>") else { return };
    let text = "fn a(b: &str) -> usize {\n    b.len() // \u{e9}\u{4e16} <|im_end|>\n}\n";
    let said =
        [Message::new(Role::System, "a"), Message::new(Role::User, text), Message::new(Role::Assistant, "b")];
    drop(template.render(&said));
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
