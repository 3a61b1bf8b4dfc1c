//! Code completion, with no LSP and no tensors: from a document and a cursor to the text to insert.
//!
//! [`service`] decides what each keystroke causes; [`driver`] executes that, on the local model or on a server
//! ([`remote`]).

pub mod anchor;
pub mod context;
pub mod driver;
pub mod edit;
pub mod encode;
pub mod fim;
pub mod gate;
mod handover;
pub mod nesting;
mod options;
pub mod plan;
mod profile;
pub mod record;
pub mod remote;
mod request;
pub mod retained;
pub mod rules;
pub mod service;
pub mod stats;
pub mod trim;

pub use options::{Options, Window};
pub use plan::Planner;
pub use profile::PromptProfile;
pub use request::{Completion, ContextFile, Document, Lines, Request};
pub use rules::DOCUMENT_BYTES_MAX;
