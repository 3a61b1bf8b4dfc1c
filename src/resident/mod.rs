//! The model in memory that all editors of a user share: which one is served, load progress, pauses, and the connected
//! editors.
//!
//! While a large model is loaded, the starter is the fallback model. In a model swap the old model is served until the
//! new one is loaded.

mod marker;
mod open;
mod place;
mod served;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use marker::LoadMarker;
pub use open::{ExpertMemory, LocalSession, Opened, Spec, check};
pub use place::GpuPlan;
pub use served::{ModelInfo, Served, served};

use crate::complete::stats::{Shared, Statistics};
use crate::config::{self, Configuration};
use crate::privacy::git::Git;

/// A snapshot of what editors need to know.
#[derive(Clone)]
pub struct View {
    pub served: Arc<Served>,
    /// The model being loaded to replace it.
    pub loading: Option<Loading>,
    /// Why the last load failed.
    pub failure: Option<String>,
    /// Set while completion is paused.
    pub pause: Option<Pause>,
    /// The base that the settings of each editor overlay.
    pub configuration: Arc<Configuration>,
}

impl View {
    /// Whether the fallback model serves and no other is to come: loading failed.
    pub fn lacks_its_model(&self) -> bool {
        self.served.is_fallback && self.failure.is_some()
    }
}

/// A model that is being loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Loading {
    /// Name for messages.
    pub name: String,
    /// Load progress.
    pub percentage: u32,
}

/// Longest pause with an end, in minutes: a year.
pub const PAUSE_MINUTES_MAX: f64 = 525_600.0;

/// A pause of completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// When it ends, unless it lasts until [`Resident::resume`].
    pub until: Option<Instant>,
}

/// A connected editor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Editor {
    /// As the editor gives it.
    pub name: String,
    pub version: Option<String>,
    /// Its workspace folder.
    pub folder: Option<String>,
}

/// A connected editor, with the age of its connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connected {
    #[serde(flatten)]
    pub editor: Editor,
    /// Seconds since it connected.
    pub connected_s: u64,
}

/// The model in memory and its shared state. Dropping the last handle ends its threads.
pub struct Resident {
    view: watch::Sender<View>,
    stats: Shared,
    editors: Mutex<BTreeMap<u64, (Editor, Instant)>>,
    numbers: AtomicU64,
    /// When the last editor left.
    idle_since: Mutex<Instant>,
    /// Number of the newest load, which supersedes earlier ones.
    loads: AtomicU64,
    spec: Mutex<Option<Spec>>,
    /// What git ignores, for all editors.
    git: Arc<Git>,
    marker: LoadMarker,
}

/// Removes an editor from the list when dropped.
pub struct Membership {
    resident: Arc<Resident>,
    number: u64,
}

impl Resident {
    /// From a model that is loaded already.
    pub fn of(served: Served, configuration: Configuration) -> Arc<Self> {
        Self::with_marker(served, configuration, LoadMarker::default())
    }

    fn with_marker(served: Served, configuration: Configuration, marker: LoadMarker) -> Arc<Self> {
        let view = View {
            served: Arc::new(served),
            loading: None,
            failure: None,
            pause: None,
            configuration: Arc::new(configuration),
        };
        Arc::new(Self {
            view: watch::Sender::new(view),
            stats: Shared::default(),
            editors: Mutex::default(),
            numbers: AtomicU64::new(0),
            idle_since: Mutex::new(Instant::now()),
            loads: AtomicU64::new(0),
            spec: Mutex::default(),
            git: Arc::new(Git::new(config::git_files())),
            marker,
        })
    }

    /// Loads a model, with the starter as the fallback model until a large one is loaded, or for good where loading it
    /// has ended the process before.
    pub fn start(spec: Spec, configuration: Configuration, marker: LoadMarker) -> Result<Arc<Self>> {
        let is_fallback = spec.model.is_some() && spec.remote.is_none();
        let served = if is_fallback { spec.starter().serve()? } else { spec.serve()? };
        let has_ended_another = is_fallback && marker.names(&spec.name());
        let resident = Self::with_marker(Served { is_fallback, ..served }, configuration, marker);
        if has_ended_another {
            resident.refuse(spec);
        } else if is_fallback {
            resident.load(spec);
        } else {
            *resident.spec() = Some(spec);
        }
        Ok(resident)
    }

    /// The current snapshot.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// What git ignores.
    pub fn git(&self) -> &Arc<Git> {
        &self.git
    }

    /// Notifies of changes.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// The model requested last, loaded or not.
    pub fn requested(&self) -> Option<Spec> {
        self.spec().clone()
    }

    /// Serves the fallback model instead of one that has ended the process before.
    fn refuse(&self, spec: Spec) {
        let name = spec.name();
        let failure = format!(
            "loading {name} has ended the daemon before this one; `fimd log` tells how, and `fimd load` tries it again"
        );
        tracing::error!("{failure}");
        *self.spec() = Some(spec);
        self.view.send_modify(|view| view.failure = Some(failure));
    }

    /// Forgets that a model is being loaded: the process is about to end for another reason.
    pub fn end_loads(&self) {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.marker.clear();
    }

    /// Loads a model in the background, then swaps it for the current one.
    pub fn load(self: &Arc<Self>, spec: Spec) {
        let number = self.loads.fetch_add(1, Ordering::Relaxed) + 1;
        *self.spec() = Some(spec.clone());
        let name = spec.name();
        tracing::info!("loading {name}");
        self.view.send_modify(|view| {
            view.loading = Some(Loading { name: name.clone(), percentage: 0 });
            view.failure = None;
        });
        self.marker.set(&name);
        let resident = self.clone();
        let work = move || {
            let opened = catch_unwind(AssertUnwindSafe(|| resident.open(&spec, number)));
            let result = opened.unwrap_or_else(|_| Err(anyhow!("fimd has a bug that this model meets")));
            if !resident.is_newest(number) {
                return;
            }
            resident.marker.clear();
            if let Err(error) = &result {
                tracing::error!("cannot load {name}: {error:#}");
            }
            resident.view.send_modify(|view| {
                view.loading = None;
                match result {
                    Ok(served) => view.served = Arc::new(served),
                    Err(error) => view.failure = Some(format!("cannot load {name}: {error:#}")),
                }
            });
        };
        thread::Builder::new().name("fimd-loader".into()).spawn(work).expect("the system can start a thread");
    }

    fn open(&self, spec: &Spec, number: u64) -> Result<Served> {
        if spec.remote.is_some() {
            return spec.serve();
        }
        let opened = spec.open()?;
        if opened.is_in_memory() {
            return opened.into_served();
        }
        spec.read_ahead(|share| {
            let percentage = (share * 100.0) as u32;
            self.view.send_if_modified(|view| match &mut view.loading {
                Some(loading) if self.is_newest(number) && loading.percentage != percentage => {
                    loading.percentage = percentage;
                    true
                }
                _ => false,
            });
            self.is_newest(number)
        })?;
        opened.into_served()
    }

    fn is_newest(&self, number: u64) -> bool {
        self.loads.load(Ordering::Relaxed) == number
    }

    /// Pauses completion until [`Resident::resume`], or until the caller ends the pause after its duration.
    pub fn pause(&self, duration: Option<Duration>) -> Pause {
        let pause = Pause { until: duration.map(|duration| Instant::now() + duration) };
        self.view.send_modify(|view| view.pause = Some(pause));
        pause
    }

    /// Ends this pause, unless another one has taken its place.
    pub fn end_pause(&self, pause: Pause) {
        self.view.send_if_modified(|view| view.pause.take_if(|now| *now == pause).is_some());
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.view.send_if_modified(|view| view.pause.take().is_some());
    }

    /// Whether completion is paused.
    pub fn is_paused(&self) -> bool {
        self.view.borrow().pause.is_some()
    }

    /// Replaces the settings that those of each editor overlay.
    pub fn configure(&self, configuration: Configuration) {
        self.view.send_if_modified(|view| {
            let is_new = *view.configuration != configuration;
            if is_new {
                view.configuration = Arc::new(configuration);
            }
            is_new
        });
    }

    /// Registers an editor.
    pub fn join(self: &Arc<Self>, editor: Editor) -> Membership {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.editors().insert(number, (editor, Instant::now()));
        Membership { resident: self.clone(), number }
    }

    /// The connected editors, in the order they connected.
    pub fn connected(&self) -> Vec<Connected> {
        let connected = |(editor, since): &(Editor, Instant)| Connected {
            editor: editor.clone(),
            connected_s: since.elapsed().as_secs(),
        };
        self.editors().values().map(connected).collect()
    }

    /// Time since the last editor disconnected; none while one is connected.
    pub fn idle(&self) -> Option<Duration> {
        let editors = self.editors();
        let since = *self.idle_since.lock().expect("lock poisoned");
        editors.is_empty().then(|| since.elapsed())
    }

    /// Counters over all editors.
    pub fn stats(&self) -> &Shared {
        &self.stats
    }

    /// Statistics over all editors.
    pub fn statistics(&self) -> Statistics {
        self.stats.lock().expect("lock poisoned").statistics()
    }

    fn spec(&self) -> MutexGuard<'_, Option<Spec>> {
        self.spec.lock().expect("lock poisoned")
    }

    fn editors(&self) -> MutexGuard<'_, BTreeMap<u64, (Editor, Instant)>> {
        self.editors.lock().expect("lock poisoned")
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut editors = self.resident.editors();
        editors.remove(&self.number);
        *self.resident.idle_since.lock().expect("lock poisoned") = Instant::now();
    }
}
