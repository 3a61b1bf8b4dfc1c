//! Device memory that each operation has for itself while it runs. All work is in one order, so that the next one may
//! write over it.

use anyhow::{Result, ensure};

use super::driver::Address;
use super::memory::{Buffer, taken};

/// Memory for the operation that needs most.
pub(super) struct Workspace(Buffer);

/// The memory of one operation, which parts are taken of. Without an address it counts what is taken.
pub(super) struct Space {
    start: Option<Address>,
    used: usize,
    bytes: usize,
}

impl Workspace {
    pub(super) fn new(buffer: Buffer) -> Self {
        Self(buffer)
    }

    /// All of it.
    pub(super) fn space(&self) -> Space {
        Space { start: Some(self.0.address()), used: 0, bytes: self.0.bytes() }
    }
}

impl Space {
    /// One that counts.
    pub(super) fn counting() -> Self {
        Self { start: None, used: 0, bytes: usize::MAX }
    }

    /// Room for `count` numbers of four bytes.
    pub(super) fn words(&mut self, count: usize) -> Result<Address> {
        let at = self.used;
        self.used += taken(count * 4);
        ensure!(self.used <= self.bytes, "a pass is larger than was stated");
        Ok(self.start.map_or(Address::NULL, |start| start.plus(at)))
    }

    /// What was taken.
    pub(super) fn used(&self) -> usize {
        self.used
    }
}
