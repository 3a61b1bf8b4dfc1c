//! Workspace folders, and the verdicts about documents: which may be completed and read.
//!
//! A verdict needs the disk, which may be slow, or hang. So it is made on a thread that may block, one at a time for
//! an editor, and remembered; a keystroke waits for none but the first, and for one that is out of date after a break.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::documents::DocumentSnapshot;
use crate::privacy::git::Git;
use crate::privacy::{Guard, Location, Options, Refusal};

/// Age from which on a verdict is made again before it is used.
const FRESH: Duration = Duration::from_secs(2);
/// Longest wait for a verdict; without one a document is refused.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The workspace folders of an editor, and the rules that exclude files.
pub(super) struct Workspace {
    guard: Arc<Guard>,
    verdicts: Arc<DashMap<String, Verdict>>,
    /// Whether one may be that rules cannot be read.
    has_problem: Arc<AtomicBool>,
    /// Held while verdicts are made: a file system that hangs takes one thread of an editor, and not more.
    turn: Arc<Mutex<()>>,
}

struct Verdict {
    result: Result<(), Refusal>,
    language: String,
    made: Instant,
}

impl Verdict {
    fn is_younger(&self, age: Duration, language: &str) -> bool {
        self.language == language && self.made.elapsed() < age
    }
}

impl Workspace {
    pub(super) fn new(roots: &[String], options: Options, git: Arc<Git>) -> Self {
        let guard = Arc::new(Guard::new(options, roots, git));
        Self { guard, verdicts: Arc::default(), has_problem: Arc::default(), turn: Arc::default() }
    }

    /// The path of a document relative to its workspace folder, or its file name where it is in none.
    pub(super) fn relative(&self, uri: &str) -> String {
        self.guard.relative(uri)
    }

    /// The verdict about a document, as far as it is known: [`Workspace::check`] sees to that.
    pub(super) fn verdict(&self, document: &DocumentSnapshot) -> Result<(), Refusal> {
        // It may have become out of date since.
        let age_max = FRESH + WAIT_MAX;
        let verdict = self.verdicts.get(&document.uri);
        let verdict = verdict.filter(|verdict| verdict.is_younger(age_max, &document.language));
        verdict.map_or(Err(Refusal::Pending), |verdict| verdict.result.clone())
    }

    /// Whether nothing is known that excludes a document.
    pub(super) fn may_be_read(&self, document: &DocumentSnapshot) -> bool {
        self.is_due(document, FRESH) || self.verdict(document).is_ok()
    }

    /// Makes the verdicts about documents that are missing or out of date, and waits for them, but not long.
    pub(super) async fn check(&self, documents: impl IntoIterator<Item = &DocumentSnapshot>) {
        self.make(documents, FRESH).await;
    }

    /// Makes the verdict about a document before it is out of date.
    pub(super) async fn renew(&self, document: &DocumentSnapshot) {
        self.make([document], FRESH / 2).await;
    }

    /// Why the rules for some of the documents cannot be read.
    pub(super) fn problem(&self) -> Option<String> {
        if !self.has_problem.load(Ordering::Relaxed) {
            return None;
        }
        let is_problem = |refusal: &Refusal| matches!(refusal, Refusal::Unreadable { .. });
        let problem =
            self.verdicts.iter().find_map(|verdict| verdict.result.clone().err().filter(is_problem));
        self.has_problem.store(problem.is_some(), Ordering::Relaxed);
        problem.map(|refusal| refusal.to_string())
    }

    /// Forgets the verdict about a document that is closed.
    pub(super) fn close(&self, uri: &str) {
        self.verdicts.remove(uri);
    }

    /// Forgets all verdicts: what they follow from has changed.
    pub(super) fn forget(&self) {
        self.verdicts.clear();
    }

    fn is_due(&self, document: &DocumentSnapshot, age_max: Duration) -> bool {
        let verdict = self.verdicts.get(&document.uri);
        !verdict.is_some_and(|verdict| verdict.is_younger(age_max, &document.language))
    }

    /// Makes the verdicts that are older than `age_max`.
    async fn make<'d>(&self, documents: impl IntoIterator<Item = &'d DocumentSnapshot>, age_max: Duration) {
        let due = documents.into_iter().filter(|document| self.is_due(document, age_max));
        let due: Vec<Due> = due.map(Due::new).collect();
        let due: Vec<Due> = due.into_iter().filter(|due| !self.refuses_name(due)).collect();
        if due.is_empty() {
            return;
        }
        let (guard, verdicts, turn) = (self.guard.clone(), self.verdicts.clone(), self.turn.clone());
        let has_problem = self.has_problem.clone();
        let made = async move {
            let turn = turn.lock_owned().await;
            let make = move || {
                for due in due.into_iter().filter(|due| !due.is_made(&verdicts, age_max)) {
                    let result = guard.check(&due.location, &due.language);
                    has_problem.fetch_or(result.is_err(), Ordering::Relaxed);
                    verdicts
                        .insert(due.uri, Verdict { result, language: due.language, made: Instant::now() });
                }
                drop(turn);
            };
            // It fails when the runtime ends.
            let _ = spawn_blocking(make).await;
        };
        // Without a verdict the document is refused.
        let _ = timeout(WAIT_MAX, made).await;
    }

    /// Whether the verdict needs no disk, and is a refusal, which is remembered.
    fn refuses_name(&self, due: &Due) -> bool {
        let result = self.guard.check_name(&due.location, &due.language);
        let is_refused = result.is_err();
        if is_refused {
            let verdict = Verdict { result, language: due.language.clone(), made: Instant::now() };
            self.verdicts.insert(due.uri.clone(), verdict);
        }
        is_refused
    }
}

/// A document that a verdict is made about.
struct Due {
    uri: String,
    location: Location,
    language: String,
}

impl Due {
    fn new(document: &DocumentSnapshot) -> Self {
        let (uri, language) = (document.uri.clone(), document.language.clone());
        Self { location: Location::of_uri(&uri), uri, language }
    }

    /// Whether another task has made it meanwhile.
    fn is_made(&self, verdicts: &DashMap<String, Verdict>, age_max: Duration) -> bool {
        verdicts.get(&self.uri).is_some_and(|verdict| verdict.is_younger(age_max, &self.language))
    }
}
