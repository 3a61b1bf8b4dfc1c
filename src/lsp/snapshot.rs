//! What one request sees.

use std::sync::Arc;

use super::documents::DocumentSnapshot;
use super::position::Encoding;
use super::settings::EffectiveSettings;
use crate::resident::Served;
use crate::serve::Engine;

/// A document and what answers about it depend on, as they were when the request came.
pub(super) struct Snapshot {
    pub document: DocumentSnapshot,
    pub settings: Arc<EffectiveSettings>,
    pub encoding: Encoding,
    /// The model that answered then.
    pub served: Arc<Served>,
    pub is_paused: bool,
}

impl Snapshot {
    /// Whether the model may be asked about the document at the user's request.
    pub(super) fn may_read(&self) -> bool {
        self.settings.may_read(&self.document)
    }

    /// Whether the model may be asked about it while the user types or looks around.
    pub(super) fn may_complete(&self) -> bool {
        !self.is_paused && self.may_read()
    }

    /// The path of the document in its workspace.
    pub(super) fn path(&self) -> String {
        self.settings.workspace.relative(&self.document.uri)
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.served.engine
    }
}
