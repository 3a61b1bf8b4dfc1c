//! Qwen3-Next (Qwen3-Coder-Next) and nothing else. Start with [`forward`]: it is the whole model on a page.

pub mod architecture;
pub mod config;
pub mod experts;
pub mod export;
pub mod forward;
pub mod layout;
mod memory;
pub mod state;
pub mod tokenizer;
pub mod weights;

pub use config::Config;
pub use forward::{LogitRows, Model, ModelOptions};
pub use state::Sequence;
pub use tokenizer::Tokenizer;
pub use weights::WeightBytes;
