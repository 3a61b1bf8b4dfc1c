//! What runs next, and what has to stop for it. Pure: it moves work about without looking into it.
//!
//! - More urgent work goes first and interrupts less urgent work; among equally urgent the oldest key goes
//!   first, so that one busy document does not keep another waiting.
//! - A newer request replaces a waiting one with its key and priority, in the same place of the queue, and
//!   supersedes a running one. A pass that evaluates tokens of its prompt runs to its end.

use std::time::Instant;

use super::Priority;
use crate::base::Cancel;

/// Work with what the queue needs to know of it.
pub(super) struct Entry<W> {
    pub key: String,
    pub priority: Priority,
    pub not_before: Option<Instant>,
    /// The tokens it begins with, which newer work may share; none while they are not known.
    pub prompt: Vec<u32>,
    /// Set when nobody needs it any more.
    pub cancel: Cancel,
    pub work: W,
}

/// Entries that wait, and what is known of the one that runs.
pub(super) struct Queue<W> {
    waiting: Vec<Entry<W>>,
    running: Option<Running>,
}

struct Running {
    key: String,
    priority: Priority,
    prompt: Vec<u32>,
    whole: Cancel,
    /// Stops this run; `whole` is set only by who asked for the work.
    run: Cancel,
    /// Whether it stops for others and is to go on after them.
    is_interrupted: bool,
}

/// What to do now.
pub(super) enum Next<W> {
    /// Run this until the flag is set, then call [`Queue::finish`].
    Run(W, Cancel),
    /// Nothing before this moment, unless something is pushed.
    Wait(Instant),
    /// Nothing, unless something is pushed.
    Nothing,
}

impl Running {
    /// Whether newer work with this key and priority replaces it.
    fn is_older(&self, key: &str, priority: Priority) -> bool {
        self.key == key && self.priority == priority
    }

    /// Whether it stops for newer work with this key and priority, for good or to go on after it.
    fn yields_to(&self, key: &str, priority: Priority) -> bool {
        self.is_older(key, priority) || self.priority < priority
    }
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { waiting: Vec::new(), running: None }
    }
}

impl<W> Queue<W> {
    /// Adds work and returns what it replaces.
    pub(super) fn push(&mut self, entry: Entry<W>) -> Option<W> {
        if let Some(running) = &mut self.running
            && running.yields_to(&entry.key, entry.priority)
        {
            let shared = running.prompt.iter().zip(&entry.prompt).take_while(|(a, b)| a == b).count();
            running.run.supersede(shared);
            running.is_interrupted = !running.is_older(&entry.key, entry.priority);
        }
        let same = |other: &&mut Entry<W>| other.key == entry.key && other.priority == entry.priority;
        match self.waiting.iter_mut().find(same) {
            Some(older) => Some(std::mem::replace(older, entry).work),
            None => {
                self.waiting.push(entry);
                None
            }
        }
    }

    /// Whether work with this key and priority, if it is pushed now, has to have its prompt: a pass runs that
    /// stops for it unless its prompt shares what the pass evaluates.
    pub(super) fn compares(&self, key: &str, priority: Priority) -> bool {
        let running = self.running.as_ref().filter(|running| running.yields_to(key, priority));
        running.is_some_and(|running| running.run.is_prefilling())
    }

    /// What to do at `now`, when nothing runs.
    pub(super) fn next(&mut self, now: Instant) -> Next<W> {
        let highest = self.waiting.iter().map(|entry| entry.priority).max();
        let of_interest = || (0..).zip(&self.waiting).filter(|(_, entry)| Some(entry.priority) == highest);
        let is_due = |entry: &Entry<W>| entry.not_before.is_none_or(|at| at <= now);
        let Some(at) = of_interest().find(|(_, entry)| is_due(entry)).map(|(at, _)| at) else {
            let soonest = of_interest().filter_map(|(_, entry)| entry.not_before).min();
            return soonest.map_or(Next::Nothing, Next::Wait);
        };
        let Entry { key, priority, prompt, cancel: whole, work, .. } = self.waiting.remove(at);
        let run = whole.child();
        self.running =
            Some(Running { key, priority, prompt, whole, run: run.clone(), is_interrupted: false });
        Next::Run(work, run)
    }

    /// Says with which tokens the work begins that runs.
    pub(super) fn planned(&mut self, prompt: &[u32]) {
        self.running.as_mut().expect("something runs").prompt = prompt.to_vec();
    }

    /// What was to run cannot be run.
    pub(super) fn abandon(&mut self) {
        self.running = None;
    }

    /// Ends the run of `work` and returns it, unless it was interrupted and, if it may, goes on later.
    pub(super) fn finish(&mut self, work: W, may_resume: bool) -> Option<W> {
        let running = self.running.take().expect("something runs");
        let is_newest = !self.waiting.iter().any(|e| e.key == running.key && e.priority == running.priority);
        if !(may_resume && running.is_interrupted && is_newest) || running.whole.is_ending() {
            return Some(work);
        }
        let Running { key, priority, prompt, whole: cancel, .. } = running;
        self.waiting.insert(0, Entry { key, priority, not_before: None, prompt, cancel, work });
        None
    }

    /// Nobody needs anything any more.
    pub(super) fn cancel_all(&self) {
        self.waiting.iter().for_each(|entry| entry.cancel.cancel());
        if let Some(running) = &self.running {
            running.whole.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use Priority::{Background, Interactive, Patient};

    fn entry(key: &str, priority: Priority, work: u32) -> Entry<u32> {
        let (key, cancel) = (key.into(), Cancel::new());
        Entry { key, priority, not_before: None, prompt: vec![1, 2, 3, 4], cancel, work }
    }

    #[track_caller]
    fn runs(queue: &mut Queue<u32>, expected: u32) -> Cancel {
        match queue.next(Instant::now()) {
            Next::Run(work, cancel) => {
                assert_eq!(work, expected);
                cancel
            }
            _ => panic!("nothing runs"),
        }
    }

    #[test]
    fn documents_take_turns_and_the_newest_request_wins() {
        let mut queue = Queue::default();
        assert_eq!(queue.push(entry("a", Interactive, 1)), None);
        assert_eq!(queue.push(entry("b", Interactive, 2)), None);
        assert_eq!(queue.push(entry("a", Background, 3)), None);
        assert_eq!(queue.push(entry("a", Interactive, 4)), Some(1));
        for work in [4, 2, 3] {
            let cancel = runs(&mut queue, work);
            assert!(!cancel.is_ending());
            assert_eq!(queue.finish(work, true), Some(work));
        }
        assert!(matches!(queue.next(Instant::now()), Next::Nothing));
    }

    #[test]
    fn newer_work_stops_older_unless_it_shares_the_pass() {
        for (next_commit, is_cancelled) in [(0, true), (4, false), (5, true)] {
            let mut queue = Queue::default();
            queue.push(entry("a", Interactive, 1));
            let cancel = runs(&mut queue, 1);
            cancel.begin_pass(next_commit);
            queue.push(entry("b", Interactive, 2));
            assert!(!cancel.is_ending());
            queue.push(entry("a", Interactive, 3));
            assert!(cancel.is_ending() && cancel.is_cancelled() == is_cancelled);
            assert_eq!(queue.finish(1, true), Some(1), "superseded work does not go on");
            runs(&mut queue, 2);
        }
    }

    #[test]
    fn prompts_are_compared_only_while_a_pass_may_be_shared() {
        let mut queue = Queue::default();
        assert!(!queue.compares("a", Interactive), "nothing runs");
        queue.push(Entry { prompt: Vec::new(), ..entry("a", Interactive, 1) });
        let cancel = runs(&mut queue, 1);
        queue.planned(&[1, 2, 3, 5]);
        assert!(!queue.compares("a", Interactive), "no pass runs");
        cancel.begin_pass(3);
        assert!(queue.compares("a", Interactive));
        assert!(!queue.compares("b", Interactive) && !queue.compares("a", Background), "it goes on");
        queue.push(entry("a", Interactive, 2));
        assert!(cancel.is_ending() && queue.compares("a", Interactive), "the pass runs on");
        queue.push(Entry { prompt: vec![1, 2, 4], ..entry("a", Interactive, 3) });
        assert!(cancel.is_cancelled() && !queue.compares("a", Interactive), "it has stopped");
        queue.abandon();
        runs(&mut queue, 3);
    }

    #[test]
    fn background_work_gives_way_and_goes_on() {
        let mut queue = Queue::default();
        queue.push(entry("a", Background, 1));
        queue.push(entry("b", Background, 2));
        let cancel = runs(&mut queue, 1);
        queue.push(entry("c", Interactive, 3));
        assert!(cancel.is_cancelled());
        assert_eq!(queue.finish(1, true), None);
        runs(&mut queue, 3);
        assert_eq!(queue.finish(3, true), Some(3));
        let cancel = runs(&mut queue, 1);
        queue.push(entry("a", Background, 4));
        assert!(cancel.is_cancelled());
        queue.push(entry("c", Interactive, 5));
        assert_eq!(queue.finish(1, true), Some(1), "newer work with its key waits");
    }

    #[test]
    fn a_long_answer_gives_way_to_typing_and_to_nothing_else() {
        let mut queue = Queue::default();
        queue.push(entry("warm", Background, 1));
        queue.push(entry("explain", Patient, 2));
        let mut cancel = runs(&mut queue, 2);
        queue.push(entry("other", Patient, 3));
        queue.push(entry("hover", Background, 4));
        assert!(!cancel.is_ending());
        for typed in [5, 6, 7] {
            queue.push(entry("a", Interactive, typed));
            assert!(cancel.is_cancelled());
            assert_eq!(queue.finish(2, true), None, "it goes on later");
            runs(&mut queue, typed);
            assert_eq!(queue.finish(typed, true), Some(typed));
            cancel = runs(&mut queue, 2);
            assert!(!cancel.is_ending());
        }
        assert_eq!(queue.finish(2, false), Some(2));
        for work in [3, 1, 4] {
            runs(&mut queue, work);
            assert_eq!(queue.finish(work, true), Some(work));
        }
    }

    #[test]
    fn work_waits_for_its_moment() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let later = now + Duration::from_millis(50);
        queue.push(entry("a", Background, 1));
        queue.push(Entry { not_before: Some(later), ..entry("b", Interactive, 2) });
        assert!(matches!(queue.next(now), Next::Wait(until) if until == later));
        assert!(matches!(queue.next(later), Next::Run(2, _)));
    }

    #[test]
    fn cancelled_work_does_not_go_on() {
        let mut queue = Queue::default();
        let background = entry("a", Background, 1);
        let whole = background.cancel.clone();
        queue.push(background);
        runs(&mut queue, 1);
        queue.push(entry("b", Interactive, 2));
        whole.cancel();
        assert_eq!(queue.finish(1, true), Some(1));
    }
}
