//! What was and is being written for hovers.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::assist::memory::{Known, Memory};
use crate::base::Cancel;
use crate::base::cancel::CancelOnDrop;

/// The documentation of one connection. Dropping it cancels what is being written.
pub struct HoverCache {
    shared: Arc<SharedMemory>,
    cancel: Cancel,
    _guard: CancelOnDrop,
}

/// Documentation, and who waits for more of it.
#[derive(Default)]
pub struct SharedMemory {
    memory: Mutex<Memory>,
    changed: Notify,
}

impl HoverCache {
    pub fn shared(&self) -> &Arc<SharedMemory> {
        &self.shared
    }

    /// For work that ends with this.
    pub fn cancel(&self) -> Cancel {
        self.cancel.child()
    }
}

impl Default for HoverCache {
    fn default() -> Self {
        let cancel = Cancel::new();
        Self { shared: Arc::default(), _guard: cancel.on_drop(), cancel }
    }
}

impl SharedMemory {
    pub fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("nothing panics with this lock")
    }

    /// Tells everyone who waits for more.
    pub fn notify(&self) {
        self.changed.notify_waiters();
    }

    /// What is known of a definition once all of it is, or once it was given up.
    pub async fn complete(&self, key: u64) -> Option<Known> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.lock().get(key) {
                Some(known) if !known.is_complete => {}
                over => return over,
            }
            changed.await;
        }
    }
}
