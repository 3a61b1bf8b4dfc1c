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
    verdicts: Arc<Verdicts>,
    /// Held while verdicts are made: a file system that hangs takes one thread of an editor, and not more.
    turn: Arc<Mutex<()>>,
}

/// What is known about documents, by their URIs.
#[derive(Default)]
struct Verdicts {
    known: DashMap<String, Verdict>,
    /// Whether one may be that rules cannot be read.
    has_problem: AtomicBool,
    /// Whether a document that was let pass is refused now.
    is_newly_refused: AtomicBool,
}

struct Verdict {
    result: Result<(), Refusal>,
    language: String,
    made: Instant,
    /// Whether what it follows from has changed.
    is_outdated: bool,
}

/// A document that a verdict is made about.
#[derive(Clone)]
struct Due {
    uri: String,
    location: Location,
    language: String,
}

impl Workspace {
    pub(super) fn new(roots: &[String], options: Options, git: Arc<Git>) -> Self {
        let guard = Arc::new(Guard::new(options, roots, git));
        Self { guard, verdicts: Arc::default(), turn: Arc::default() }
    }

    /// Whether both exclude the same.
    pub(super) fn has_rules_of(&self, other: &Self) -> bool {
        self.guard.has_rules_of(&other.guard)
    }

    /// The path of a document relative to its workspace folder, or its file name where it is in none.
    pub(super) fn relative(&self, uri: &str) -> String {
        self.guard.relative(uri)
    }

    /// The verdict about a document, as far as it is known: [`Workspace::check`] sees to that.
    pub(super) fn verdict(&self, document: &DocumentSnapshot) -> Result<(), Refusal> {
        // It may have become out of date since.
        self.verdicts
            .get(&document.uri, &document.language, FRESH + WAIT_MAX)
            .unwrap_or(Err(Refusal::Pending))
    }

    /// Whether nothing is known that excludes a document.
    pub(super) fn may_be_read(&self, document: &DocumentSnapshot) -> bool {
        self.verdicts.get(&document.uri, &document.language, FRESH).is_none_or(|verdict| verdict.is_ok())
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
        self.verdicts.problem()
    }

    /// Whether a document is refused that was not before. Its text may be in prompts.
    pub(super) fn take_newly_refused(&self) -> bool {
        self.verdicts.is_newly_refused.swap(false, Ordering::Relaxed)
    }

    /// Forgets the verdict about a document that is closed.
    pub(super) fn close(&self, uri: &str) {
        self.verdicts.known.remove(uri);
    }

    /// Has all verdicts made again: what they follow from has changed.
    pub(super) fn outdate(&self) {
        self.verdicts.known.iter_mut().for_each(|mut verdict| verdict.is_outdated = true);
    }

    /// Makes the verdicts that are older than `age_max`.
    async fn make<'d>(&self, documents: impl IntoIterator<Item = &'d DocumentSnapshot>, age_max: Duration) {
        let is_due = |document: &&DocumentSnapshot| {
            self.verdicts.get(&document.uri, &document.language, age_max).is_none()
        };
        let due = documents.into_iter().filter(is_due).map(Due::new).filter(|due| !self.refuses_name(due));
        let due: Vec<Due> = due.collect();
        if due.is_empty() {
            return;
        }
        let (guard, verdicts, turn) = (self.guard.clone(), self.verdicts.clone(), self.turn.clone());
        let made = async move {
            let turn = turn.lock_owned().await;
            let make = move || {
                // Another task may have made some meanwhile.
                let is_due = |due: &Due| verdicts.get(&due.uri, &due.language, age_max).is_none();
                for due in due.into_iter().filter(is_due) {
                    let result = guard.check(&due.location, &due.language);
                    verdicts.insert(due, result);
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
            self.verdicts.insert(due.clone(), result);
        }
        is_refused
    }
}

impl Verdicts {
    /// The verdict about a document, if it is younger than `age_max`.
    fn get(&self, uri: &str, language: &str, age_max: Duration) -> Option<Result<(), Refusal>> {
        let verdict = self.known.get(uri)?;
        let is_valid =
            !verdict.is_outdated && verdict.language == language && verdict.made.elapsed() < age_max;
        is_valid.then(|| verdict.result.clone())
    }

    fn insert(&self, due: Due, result: Result<(), Refusal>) {
        let is_refused = result.is_err();
        let verdict = Verdict { result, language: due.language, made: Instant::now(), is_outdated: false };
        let before = self.known.insert(due.uri, verdict);
        let was_read = before.is_some_and(|before| before.result.is_ok());
        self.has_problem.fetch_or(is_refused, Ordering::Relaxed);
        self.is_newly_refused.fetch_or(is_refused && was_read, Ordering::Relaxed);
    }

    fn problem(&self) -> Option<String> {
        if !self.has_problem.load(Ordering::Relaxed) {
            return None;
        }
        let unreadable = |refusal: &Refusal| matches!(refusal, Refusal::Unreadable { .. });
        let problem = self.known.iter().find_map(|verdict| verdict.result.clone().err().filter(unreadable));
        self.has_problem.store(problem.is_some(), Ordering::Relaxed);
        problem.map(|refusal| refusal.to_string())
    }
}

impl Due {
    fn new(document: &DocumentSnapshot) -> Self {
        let (uri, language) = (document.uri.clone(), document.language.clone());
        Self { location: Location::of_uri(&uri), uri, language }
    }
}
