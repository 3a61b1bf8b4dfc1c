//! Decides what each keystroke causes: an answer from a cache, joining a generation in flight, or a new generation.
//! Pure: [`super::driver`] executes the actions, and time is an argument.
//!
//! - Answers come from the suggestion on screen while it continues the typed text, else from the cache of earlier
//!   answers, else from a generation in flight that is consistent with the typed text, else from a new one.
//! - A document has at most one pending request: a newer one, and every change of the text, answers it with an empty
//!   list. Every request is answered exactly once.
//! - The generation of a cancelled request continues while it is consistent with the typed text; the next request joins
//!   or supersedes it.
//! - Speculation continues a shown suggestion in the background, as if it had been accepted.

mod action;
mod decide;
mod job;
mod location;
mod pace;
mod suggestion;
mod tracked;

pub use action::{Action, EditorRequest, Item, JobId, Outcome, Purpose, RequestId, Start, Trigger};
pub use decide::{Options, Service};
