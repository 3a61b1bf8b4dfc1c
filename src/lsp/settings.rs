//! What holds for one connection: the settings of the process with those of the editor laid over them.

use std::sync::{Arc, Mutex, RwLock};

use serde_json::Value;

use super::documents::DocumentSnapshot;
use super::workspace::Workspace;
use crate::assist;
use crate::complete::{DOCUMENT_BYTES_MAX, driver};
use crate::config::{Configuration, Problem, Settings};
use crate::resident::{Served, View};

/// The settings of one connection, and what they are made from.
pub(super) struct ConnectionSettings {
    /// See `Options::overrides`.
    overrides: Option<Value>,
    /// The URIs of the folders that the editor works in.
    roots: Vec<String>,
    /// The settings of the editor, as it sent them last.
    given: Mutex<Value>,
    effective: RwLock<Arc<EffectiveSettings>>,
}

/// What holds until settings change.
pub(super) struct EffectiveSettings {
    pub settings: Settings,
    pub workspace: Workspace,
    /// What is wrong with the settings.
    pub problems: Vec<Problem>,
    /// How to complete.
    pub options: driver::Options,
    /// The model that they are for.
    pub served: Arc<Served>,
    /// What the settings of the editor are laid over.
    base: Arc<Configuration>,
}

impl ConnectionSettings {
    pub(super) fn new(view: &View, overrides: Option<Value>, given: Value, roots: Vec<String>) -> Self {
        let effective = EffectiveSettings::new(view, overrides.as_ref(), &given, &roots);
        Self { overrides, roots, given: Mutex::new(given), effective: RwLock::new(Arc::new(effective)) }
    }

    /// What holds now.
    pub(super) fn effective(&self) -> Arc<EffectiveSettings> {
        self.effective.read().expect("nothing panics with this lock").clone()
    }

    /// Takes over other settings of the editor; they count once they are applied.
    pub(super) fn replace(&self, given: Value) {
        *self.given.lock().expect("nothing panics with this lock") = given;
    }

    /// Lays the settings of the editor over those in `view`, and says what is wrong with them that was not wrong
    /// before. `configure` is called before they count where another model answers, or completes otherwise.
    pub(super) fn apply(&self, view: &View, configure: impl FnOnce(&EffectiveSettings)) -> Vec<Problem> {
        let given = self.given.lock().expect("nothing panics with this lock");
        let new = EffectiveSettings::new(view, self.overrides.as_ref(), &given, &self.roots);
        let mut current = self.effective.write().expect("nothing panics with this lock");
        if !Arc::ptr_eq(&current.served, &new.served) || current.options != new.options {
            configure(&new);
        }
        let is_new = |problem: &&Problem| !current.problems.contains(problem);
        let problems = new.problems.iter().filter(is_new).cloned().collect();
        *current = Arc::new(new);
        problems
    }
}

impl EffectiveSettings {
    fn new(view: &View, overrides: Option<&Value>, given: &Value, roots: &[String]) -> Self {
        let mut configuration = match overrides {
            Some(overrides) => view.configuration.with_client(overrides),
            None => (*view.configuration).clone(),
        };
        let mut problems = configuration.overlay(given);
        problems.splice(..0, configuration.problems().iter().cloned());
        let settings = configuration.settings().clone();
        let workspace = Workspace::new(roots, settings.disabled.clone());
        let options = settings.options(view.served.profile);
        let (base, served) = (view.configuration.clone(), view.served.clone());
        Self { settings, workspace, problems, options, served, base }
    }

    /// Whether they are those of the model and the settings in `view`.
    pub(super) fn are_current(&self, view: &View) -> bool {
        Arc::ptr_eq(&self.served, &view.served) && Arc::ptr_eq(&self.base, &view.configuration)
    }

    /// Whether the model may be asked about a document.
    pub(super) fn may_read(&self, document: &DocumentSnapshot) -> bool {
        self.settings.enabled
            && document.text.len_bytes() <= DOCUMENT_BYTES_MAX
            && self.workspace.allows(&document.uri, &document.language)
    }

    /// How to explain, fix and document.
    pub(super) fn assist(&self) -> assist::Options {
        assist::Options { prompt: self.options.prompt, max_tokens: self.settings.assist.max_tokens }
    }
}
