//! The effective settings of one connection: those of the process overlaid with those of the editor.

use std::sync::{Arc, Mutex, RwLock};

use serde_json::Value;

use super::documents::DocumentSnapshot;
use super::workspace::Workspace;
use crate::assist;
use crate::complete::{DOCUMENT_BYTES_MAX, driver};
use crate::config::{Configuration, Problem, Settings};
use crate::privacy::git::Git;
use crate::resident::{Served, View};

/// The settings of one connection, and their sources.
pub(super) struct ConnectionSettings {
    /// See `Options::overrides`.
    overrides: Option<Value>,
    /// URIs of the workspace folders.
    roots: Mutex<Vec<String>>,
    /// What git ignores.
    git: Arc<Git>,
    /// The latest settings of the editor, as JSON.
    editor_settings: Mutex<Value>,
    effective: RwLock<Arc<EffectiveSettings>>,
}

/// Immutable; replaced when settings or the model change.
pub(super) struct EffectiveSettings {
    pub settings: Settings,
    pub workspace: Workspace,
    pub problems: Vec<Problem>,
    pub options: driver::Options,
    /// The model they were computed for.
    pub served: Arc<Served>,
    /// The settings of the process they were computed from.
    base: Arc<Configuration>,
}

impl ConnectionSettings {
    pub(super) fn new(
        view: &View,
        overrides: Option<Value>,
        editor_settings: Value,
        roots: Vec<String>,
        git: Arc<Git>,
    ) -> Self {
        let effective = EffectiveSettings::new(view, overrides.as_ref(), &editor_settings, &roots, &git);
        Self {
            overrides,
            roots: Mutex::new(roots),
            git,
            editor_settings: Mutex::new(editor_settings),
            effective: RwLock::new(Arc::new(effective)),
        }
    }

    pub(super) fn effective(&self) -> Arc<EffectiveSettings> {
        self.effective.read().expect("lock poisoned").clone()
    }

    /// Replaces the settings of the editor; [`ConnectionSettings::apply`] makes them effective.
    pub(super) fn replace(&self, editor_settings: Value) {
        *self.editor_settings.lock().expect("lock poisoned") = editor_settings;
    }

    /// Adds and removes workspace folders; [`ConnectionSettings::apply`] makes that effective.
    pub(super) fn change_roots(&self, added: Vec<String>, removed: &[String]) {
        let mut roots = self.roots.lock().expect("lock poisoned");
        roots.retain(|root| !removed.contains(root));
        roots.extend(added);
    }

    /// Overlays the settings in `view` with those of the editor, and returns the new problems. When the model, the
    /// completion options or what is excluded change, `configure` is called before they take effect.
    pub(super) fn apply(&self, view: &View, configure: impl FnOnce(&EffectiveSettings)) -> Vec<Problem> {
        let editor_settings = self.editor_settings.lock().expect("lock poisoned");
        let roots = self.roots.lock().expect("lock poisoned").clone();
        let new = EffectiveSettings::new(view, self.overrides.as_ref(), &editor_settings, &roots, &self.git);
        let mut current = self.effective.write().expect("lock poisoned");
        let has_same_rules = current.workspace.has_rules_of(&new.workspace);
        if !Arc::ptr_eq(&current.served, &new.served) || current.options != new.options || !has_same_rules {
            configure(&new);
        }
        let is_new = |problem: &&Problem| !current.problems.contains(problem);
        let problems = new.problems.iter().filter(is_new).cloned().collect();
        *current = Arc::new(new);
        problems
    }
}

impl EffectiveSettings {
    fn new(
        view: &View,
        overrides: Option<&Value>,
        editor_settings: &Value,
        roots: &[String],
        git: &Arc<Git>,
    ) -> Self {
        let mut configuration = match overrides {
            Some(overrides) => view.configuration.with_client(overrides),
            None => (*view.configuration).clone(),
        };
        let mut problems = configuration.overlay(editor_settings);
        problems.splice(..0, configuration.problems().iter().cloned());
        let settings = configuration.settings().clone();
        let workspace = Workspace::new(roots, configuration.privacy(), git.clone());
        let options = settings.options(view.served.profile);
        let (base, served) = (view.configuration.clone(), view.served.clone());
        Self { settings, workspace, problems, options, served, base }
    }

    /// Whether they were computed from `view`.
    pub(super) fn are_current(&self, view: &View) -> bool {
        Arc::ptr_eq(&self.served, &view.served) && Arc::ptr_eq(&self.base, &view.configuration)
    }

    /// Whether a document may be part of prompts, as far as it is [checked](Workspace::check).
    pub(super) fn check(&self, document: &DocumentSnapshot) -> Result<(), String> {
        if document.text.len_bytes() > DOCUMENT_BYTES_MAX {
            return Err(format!("it exceeds {} MiB", DOCUMENT_BYTES_MAX >> 20));
        }
        self.workspace.verdict(document).map_err(|refusal| refusal.to_string())
    }

    pub(super) fn assist(&self) -> assist::Options {
        assist::Options { prompt: self.options.prompt, max_tokens: self.settings.assist.max_tokens }
    }
}
