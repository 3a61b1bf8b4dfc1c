//! The model that stays in memory, as all editors of a user share it: which one answers, what is being loaded in
//! its place, whether completing is paused, and who is connected.
//!
//! While a large model is loaded, the starter model answers. Another model is a swap: the one before goes on
//! answering until it is there.

mod open;
mod served;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use open::{LocalSession, Opened, Spec};
pub use served::{Facts, Served, served};

use crate::complete::stats::{Shared, Statistics};
use crate::config::Configuration;

/// Everything that editors are to know, as it is at one moment.
#[derive(Clone)]
pub struct View {
    /// The model that answers.
    pub served: Arc<Served>,
    /// The one that is to take its place.
    pub loading: Option<Loading>,
    /// Why the last one could not.
    pub failure: Option<String>,
    /// Whether completing is paused.
    pub pause: Option<Pause>,
    /// What settings of editors are laid over.
    pub configuration: Arc<Configuration>,
}

/// A model that is being loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Loading {
    /// What to call it.
    pub name: String,
    /// How far it is.
    pub percentage: u32,
}

/// A pause without a longer end, in minutes: a year.
pub const PAUSE_MINUTES_MAX: f64 = 525_600.0;

/// A time without completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// When it ends by itself.
    pub until: Option<Instant>,
}

/// An editor that is connected.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Editor {
    /// What it calls itself.
    pub name: String,
    /// Its version.
    pub version: Option<String>,
    /// The folder it works in.
    pub folder: Option<String>,
}

/// An editor and how long it has been there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connected {
    /// The editor.
    #[serde(flatten)]
    pub editor: Editor,
    /// Seconds since it came.
    pub connected_s: u64,
}

/// The model in memory and what surrounds it. Dropping the last handle ends its threads.
pub struct Resident {
    view: watch::Sender<View>,
    stats: Shared,
    editors: Mutex<BTreeMap<u64, (Editor, Instant)>>,
    numbers: AtomicU64,
    /// When the last editor left.
    idle_since: Mutex<Instant>,
    /// Which load is the newest: others are given up.
    loads: AtomicU64,
    spec: Mutex<Option<Spec>>,
}

/// Takes an editor off the list when dropped.
pub struct Membership {
    resident: Arc<Resident>,
    number: u64,
}

impl Resident {
    /// Around a model that runs already.
    pub fn of(served: Served, configuration: Configuration) -> Arc<Self> {
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
        })
    }

    /// Loads a model; the starter answers until a large one is there.
    pub fn start(spec: Spec, configuration: Configuration) -> Result<Arc<Self>> {
        let is_stand_in = spec.model.is_some() && spec.remote.is_none();
        let served = if is_stand_in { spec.starter().serve()? } else { spec.serve()? };
        let resident = Self::of(Served { is_stand_in, ..served }, configuration);
        if is_stand_in {
            resident.load(spec);
        } else {
            *resident.spec() = Some(spec);
        }
        Ok(resident)
    }

    /// Everything as it is now.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Tells of changes.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// What was asked for last, whether it is there or not.
    pub fn wanted(&self) -> Option<Spec> {
        self.spec().clone()
    }

    /// Loads a model in the background, which then takes the place of the one that answers.
    pub fn load(self: &Arc<Self>, spec: Spec) {
        let number = self.loads.fetch_add(1, Ordering::Relaxed) + 1;
        *self.spec() = Some(spec.clone());
        let name = spec.name();
        tracing::info!("loading {name}");
        self.view.send_modify(|view| {
            view.loading = Some(Loading { name: name.clone(), percentage: 0 });
            view.failure = None;
        });
        let resident = self.clone();
        let work = move || {
            let result = resident.open(&spec, number);
            if !resident.is_newest(number) {
                return;
            }
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

    /// Stops completing, for a while or until [`Resident::resume`].
    pub fn pause(self: &Arc<Self>, time: Option<Duration>) {
        let pause = Pause { until: time.map(|time| Instant::now() + time) };
        self.view.send_modify(|view| view.pause = Some(pause));
        let Some(time) = time else { return };
        let resident = Arc::downgrade(self);
        let work = move || {
            thread::sleep(time);
            if let Some(resident) = resident.upgrade() {
                resident.view.send_if_modified(|view| view.pause.take_if(|now| *now == pause).is_some());
            }
        };
        thread::Builder::new().name("fimd-pause".into()).spawn(work).expect("the system can start a thread");
    }

    /// Completes again.
    pub fn resume(&self) {
        self.view.send_if_modified(|view| view.pause.take().is_some());
    }

    /// Whether completing is paused.
    pub fn is_paused(&self) -> bool {
        self.view.borrow().pause.is_some()
    }

    /// Gives editors other settings to lay theirs over.
    pub fn configure(&self, configuration: Configuration) {
        self.view.send_if_modified(|view| {
            let is_new = *view.configuration != configuration;
            if is_new {
                view.configuration = Arc::new(configuration);
            }
            is_new
        });
    }

    /// Puts an editor on the list.
    pub fn join(self: &Arc<Self>, editor: Editor) -> Membership {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.editors().insert(number, (editor, Instant::now()));
        Membership { resident: self.clone(), number }
    }

    /// The editors that are connected, in the order they came.
    pub fn connected(&self) -> Vec<Connected> {
        let connected = |(editor, since): &(Editor, Instant)| Connected {
            editor: editor.clone(),
            connected_s: since.elapsed().as_secs(),
        };
        self.editors().values().map(connected).collect()
    }

    /// How long no editor has been connected.
    pub fn idle(&self) -> Option<Duration> {
        let editors = self.editors();
        let since = *self.idle_since.lock().expect("nothing panics with this lock");
        editors.is_empty().then(|| since.elapsed())
    }

    /// What the requests of all editors are counted in.
    pub fn stats(&self) -> &Shared {
        &self.stats
    }

    /// What was counted over all editors.
    pub fn statistics(&self) -> Statistics {
        self.stats.lock().expect("the lock is never held across a panic").statistics()
    }

    fn spec(&self) -> MutexGuard<'_, Option<Spec>> {
        self.spec.lock().expect("nothing panics with this lock")
    }

    fn editors(&self) -> MutexGuard<'_, BTreeMap<u64, (Editor, Instant)>> {
        self.editors.lock().expect("nothing panics with this lock")
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut editors = self.resident.editors();
        editors.remove(&self.number);
        *self.resident.idle_since.lock().expect("nothing panics with this lock") = Instant::now();
    }
}
