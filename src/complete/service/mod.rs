//! What to do about each keystroke: serve what is there, join what runs, or run the model. Pure: it decides,
//! [`super::driver`] acts, and time is an argument.
//!
//! - What is on screen and still continues what was typed is served without the model, then what earlier
//!   answers left in the cache, then the outcome of a generation that is in flight and agrees so far. Only
//!   then a generation of its own begins.
//! - A document has one request that waits: a newer one, and every change of the text, answers it with
//!   nothing. Every request is answered exactly once.
//! - The generation of a cancelled request goes on as long as what is typed agrees with it; the next request
//!   joins or supersedes it.
//! - A shown text that the user may accept is continued in the background, as if it had been accepted.

mod action;
mod decide;
mod job;
mod pace;
mod place;
mod suggestion;
mod tracked;

pub use action::{Action, Ask, AskId, Item, JobId, Outcome, Purpose, Start, Trigger};
pub use decide::{Options, Service};
