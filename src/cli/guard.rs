//! Which files commands may read for a prompt: the same as editors.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};

use crate::config::{Configuration, git_files};
use crate::daemon::absolute;
use crate::privacy::Refusal;
use crate::privacy::git::Git;

/// Fails with the rule that excludes a file from prompts.
pub(super) fn check(configuration: &Configuration, file: &Path) -> Result<()> {
    match verdict(configuration, file)? {
        Ok(()) => Ok(()),
        Err(refusal) => bail!("fimd does not read {}: {refusal}", file.display()),
    }
}

/// The verdict about a file, with the current folder as the workspace.
pub(super) fn verdict(configuration: &Configuration, file: &Path) -> Result<Result<(), Refusal>> {
    let folder = absolute(Path::new("."))?.display().to_string();
    let git = Arc::new(Git::new(git_files()));
    Ok(configuration.check_file(&absolute(file)?, &[folder], git))
}
