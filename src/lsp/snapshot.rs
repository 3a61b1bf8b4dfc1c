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
    /// Whether explicit requests about the document are allowed, or else why not.
    pub(super) async fn check(&self) -> Result<(), String> {
        self.settings.workspace.check([&self.document]).await;
        self.settings.check(&self.document)
    }

    /// Whether automatic requests are: completions, prewarming and hovers.
    pub(super) async fn may_complete(&self) -> bool {
        !self.is_paused && self.check().await.is_ok()
    }

    /// Whether a completion is computed for a request with this trigger.
    pub(super) async fn answers(&self, trigger: Trigger) -> bool {
        let is_wanted =
            trigger == Trigger::Invoked || self.settings.settings.trigger == TriggerMode::Automatic;
        is_wanted && self.may_complete().await
    }

    /// The path of the document relative to its workspace folder.
    pub(super) fn path(&self) -> String {
        self.settings.workspace.relative(&self.document.uri)
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.served.engine
    }
}
