//! Scheduling: what runs next, and what it pre-empts. Pure: work is opaque.
//!
//! - Work of higher priority goes first and pre-empts work of lower priority. Within a priority the oldest key goes
//!   first, so that one busy document does not starve another.
//! - A newer request replaces a queued one with its key and priority, in the same position, and supersedes a running
//!   one. A pass that evaluates tokens of its prompt runs to its end.

use std::time::Instant;

use super::Priority;
use crate::base::Cancel;

/// Work and what its scheduling depends on.
pub(super) struct Entry<W> {
    pub key: String,
    pub priority: Priority,
    pub not_before: Option<Instant>,
    /// Tokens that newer work may share; empty while unknown.
    pub prompt: Vec<u32>,
    /// Set by the caller.
    pub cancel: Cancel,
    pub work: W,
}

/// Queued entries, and the running one.
pub(super) struct Queue<W> {
    queued: Vec<Entry<W>>,
    running: Option<Running>,
}

struct Running {
    key: String,
    priority: Priority,
    prompt: Vec<u32>,
    parent: Cancel,
    /// Stops this run; `parent` is set only by the caller.
    run: Cancel,
    /// Whether it stops for others and resumes after them.
    is_preempted: bool,
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
    /// Whether newer work with this key and priority supersedes it.
    fn is_older(&self, key: &str, priority: Priority) -> bool {
        self.key == key && self.priority == priority
    }

    /// Whether newer work with this key and priority supersedes or pre-empts it.
    fn is_preempted_by(&self, key: &str, priority: Priority) -> bool {
        self.is_older(key, priority) || self.priority < priority
    }
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { queued: Vec::new(), running: None }
    }
}

impl<W> Queue<W> {
    /// Adds work and returns the queued work that it replaces.
    pub(super) fn push(&mut self, entry: Entry<W>) -> Option<W> {
        if let Some(running) = &mut self.running
            && running.is_preempted_by(&entry.key, entry.priority)
        {
            let shared = running.prompt.iter().zip(&entry.prompt).take_while(|(a, b)| a == b).count();
            running.run.supersede(shared);
            running.is_preempted = !running.is_older(&entry.key, entry.priority);
        }
        let same = |other: &&mut Entry<W>| other.key == entry.key && other.priority == entry.priority;
        match self.queued.iter_mut().find(same) {
            Some(older) => Some(std::mem::replace(older, entry).work),
            None => {
                self.queued.push(entry);
                None
            }
        }
    }

    /// Whether work with this key and priority has to be pushed with its prompt: a pass is running that stops for it
    /// unless both share the tokens that the pass evaluates.
    pub(super) fn needs_prompt(&self, key: &str, priority: Priority) -> bool {
        let running = self.running.as_ref().filter(|running| running.is_preempted_by(key, priority));
        running.is_some_and(|running| running.run.is_prefilling())
    }

    /// What to do at `now`, when nothing runs.
    pub(super) fn next(&mut self, now: Instant) -> Next<W> {
        let highest = self.queued.iter().map(|entry| entry.priority).max();
        let of_interest = || (0..).zip(&self.queued).filter(|(_, entry)| Some(entry.priority) == highest);
        let is_due = |entry: &Entry<W>| entry.not_before.is_none_or(|at| at <= now);
        let Some(at) = of_interest().find(|(_, entry)| is_due(entry)).map(|(at, _)| at) else {
            let soonest = of_interest().filter_map(|(_, entry)| entry.not_before).min();
            return soonest.map_or(Next::Nothing, Next::Wait);
        };
        let Entry { key, priority, prompt, cancel: parent, work, .. } = self.queued.remove(at);
        let run = parent.child();
        self.running = Some(Running { key, priority, prompt, parent, run: run.clone(), is_preempted: false });
        Next::Run(work, run)
    }

    /// Sets the prompt of the running work.
    pub(super) fn set_prompt(&mut self, prompt: &[u32]) {
        self.running.as_mut().expect("something runs").prompt = prompt.to_vec();
    }

    /// Drops the running work, which has failed before it began.
    pub(super) fn discard(&mut self) {
        self.running = None;
    }

    /// Ends the run of `work` and returns it, unless it was pre-empted and may resume: then it is queued again.
    pub(super) fn finish(&mut self, work: W, may_resume: bool) -> Option<W> {
        let running = self.running.take().expect("something runs");
        let is_newest = !self.queued.iter().any(|e| e.key == running.key && e.priority == running.priority);
        if !(may_resume && running.is_preempted && is_newest) || running.parent.is_ending() {
            return Some(work);
        }
        let Running { key, priority, prompt, parent: cancel, .. } = running;
        self.queued.insert(0, Entry { key, priority, not_before: None, prompt, cancel, work });
        None
    }

    /// Cancels all work.
    pub(super) fn cancel_all(&self) {
        self.queued.iter().for_each(|entry| entry.cancel.cancel());
        if let Some(running) = &self.running {
            running.parent.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use Priority::{Background, Interactive, Standard};

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
            assert_eq!(queue.finish(1, true), Some(1), "superseded work does not resume");
            runs(&mut queue, 2);
        }
    }

    #[test]
    fn prompts_are_compared_only_while_a_pass_may_be_shared() {
        let mut queue = Queue::default();
        assert!(!queue.needs_prompt("a", Interactive), "nothing runs");
        queue.push(Entry { prompt: Vec::new(), ..entry("a", Interactive, 1) });
        let cancel = runs(&mut queue, 1);
        queue.set_prompt(&[1, 2, 3, 5]);
        assert!(!queue.needs_prompt("a", Interactive), "no pass runs");
        cancel.begin_pass(3);
        assert!(queue.needs_prompt("a", Interactive));
        assert!(
            !queue.needs_prompt("b", Interactive) && !queue.needs_prompt("a", Background),
            "it is not pre-empted"
        );
        queue.push(entry("a", Interactive, 2));
        assert!(cancel.is_ending() && queue.needs_prompt("a", Interactive), "the pass runs on");
        queue.push(Entry { prompt: vec![1, 2, 4], ..entry("a", Interactive, 3) });
        assert!(cancel.is_cancelled() && !queue.needs_prompt("a", Interactive), "it has stopped");
        queue.discard();
        runs(&mut queue, 3);
    }

    #[test]
    fn background_work_is_preempted_and_resumes() {
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
        assert_eq!(queue.finish(1, true), Some(1), "newer work with its key is queued");
    }

    #[test]
    fn a_long_answer_is_preempted_only_by_typing() {
        let mut queue = Queue::default();
        queue.push(entry("warm", Background, 1));
        queue.push(entry("explain", Standard, 2));
        let mut cancel = runs(&mut queue, 2);
        queue.push(entry("other", Standard, 3));
        queue.push(entry("hover", Background, 4));
        assert!(!cancel.is_ending());
        for typed in [5, 6, 7] {
            queue.push(entry("a", Interactive, typed));
            assert!(cancel.is_cancelled());
            assert_eq!(queue.finish(2, true), None, "it resumes later");
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
    fn work_is_debounced() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let later = now + Duration::from_millis(50);
        queue.push(entry("a", Background, 1));
        queue.push(Entry { not_before: Some(later), ..entry("b", Interactive, 2) });
        assert!(matches!(queue.next(now), Next::Wait(until) if until == later));
        assert!(matches!(queue.next(later), Next::Run(2, _)));
    }

    #[test]
    fn cancelled_work_does_not_resume() {
        let mut queue = Queue::default();
        let background = entry("a", Background, 1);
        let parent = background.cancel.clone();
        queue.push(background);
        runs(&mut queue, 1);
        queue.push(entry("b", Interactive, 2));
        parent.cancel();
        assert_eq!(queue.finish(1, true), Some(1));
    }
}
