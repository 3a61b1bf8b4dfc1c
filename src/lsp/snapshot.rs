//! The state that one request works on.

use std::sync::Arc;

use super::documents::DocumentSnapshot;
use super::position::Encoding;
use super::settings::EffectiveSettings;
use crate::complete::service::Trigger;
use crate::config::TriggerMode;
use crate::resident::Served;
use crate::serve::Engine;

/// A document, the settings and the model when the request arrived.
pub(super) struct Snapshot {
    pub document: DocumentSnapshot,
    pub settings: Arc<EffectiveSettings>,
    pub encoding: Encoding,
    pub served: Arc<Served>,
    pub is_paused: bool,
}

impl Snapshot {
    /// Whether explicit requests about the document are allowed.
    pub(super) fn may_read(&self) -> bool {
        self.settings.may_read(&self.document)
    }

    /// Whether automatic requests are: completions, prewarming and hovers.
    pub(super) fn may_complete(&self) -> bool {
        !self.is_paused && self.may_read()
    }

    /// Whether a completion is computed for a request with this trigger.
    pub(super) fn answers(&self, trigger: Trigger) -> bool {
        let is_wanted =
            trigger == Trigger::Invoked || self.settings.settings.trigger == TriggerMode::Automatic;
        is_wanted && self.may_complete()
    }

    /// The path of the document relative to its workspace folder.
    pub(super) fn path(&self) -> String {
        self.settings.workspace.relative(&self.document.uri)
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.served.engine
    }
}
