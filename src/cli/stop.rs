//! `fimd stop`: end the daemon.

use anyhow::{Result, ensure};

use crate::daemon::{self, Place};

pub(super) fn run() -> Result<()> {
    ensure!(daemon::stop(&Place::find()?, false)?, "no daemon runs");
    Ok(())
}
