//! `fimd stop`: shut the daemon down.

use anyhow::{Result, ensure};

use crate::daemon::{self, RuntimeDir};

pub(super) fn run() -> Result<()> {
    ensure!(daemon::stop(&RuntimeDir::find()?, false)?, "no daemon runs");
    Ok(())
}
