//! What the settings exclude, and where the user's configuration of git is.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::configuration::Configuration;
use super::source::Source;
use crate::privacy::git::{Git, UserFiles};
use crate::privacy::{Guard, Location, Options, Refusal};
use crate::text::Language;

/// The language identifier of files of no known language.
const PLAIN_TEXT: &str = "plaintext";

impl Configuration {
    /// What is excluded. Of lists, those of the user and of the editor both count.
    pub fn privacy(&self) -> Options {
        let settings = self.settings();
        Options {
            is_disabled: !settings.enabled,
            languages: self.lists("disabled.languages"),
            files: self.lists("disabled.globs"),
            secrets: self.lists("privacy.secret_files"),
            allowed: settings.privacy.allow.clone(),
        }
    }

    /// Fails with the rule that excludes the file at an absolute path from prompts, in a workspace with these folders.
    pub fn check_file(&self, file: &Path, folders: &[String], git: Arc<Git>) -> Result<(), Refusal> {
        let guard = Guard::new(self.privacy(), folders, git);
        let location = Location::of_path(file);
        let ids = Language::of_path(file.to_str()).ids;
        let mut ids = (if ids.is_empty() { PLAIN_TEXT } else { ids }).split(' ');
        // Editors tell apart what a name does not: one that is disabled disables all.
        ids.try_for_each(|language| guard.check(&location, language))
    }

    /// The list that the user gives, and the one that the editor gives.
    fn lists(&self, name: &str) -> Vec<Vec<String>> {
        let values = self.given.get(name).into_iter().flatten();
        let (of_editor, of_user): (Vec<_>, Vec<_>) =
            values.partition(|(source, _)| **source == Source::Editor);
        let strongest = [of_user, of_editor].into_iter().filter_map(|mut values| values.pop());
        strongest.map(|(_, value)| texts(value)).collect()
    }
}

/// The value of a list.
fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// The files that git reads of this user.
pub fn git_files() -> UserFiles {
    let home = dirs::home_dir();
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let folder = folder.map(|folder| folder.join("git"));
    let own = [
        folder.as_ref().map(|folder| folder.join("config")),
        home.as_ref().map(|home| home.join(".gitconfig")),
    ];
    let of_user = match variable("GIT_CONFIG_GLOBAL") {
        Some(file) => vec![file],
        None => own.into_iter().flatten().collect(),
    };
    let configs = [PathBuf::from("/etc/gitconfig")].into_iter().chain(of_user).collect();
    UserFiles { home, folder, configs }
}
