//! The integration tests, one binary: each module drives one boundary of fimd from outside.

mod checkpoint;
mod cli;
mod layering;
mod reference;
mod session;
