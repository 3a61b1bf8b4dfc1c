//! Scheduling: what runs next, and what it pre-empts. Pure: work is opaque.
//!
//! - Work of higher priority goes first and pre-empts work of lower priority. Within a priority the oldest key goes
//!   first, so that one busy document does not starve another.
//! - A newer request replaces a queued one with its key and priority, in the same position, and supersedes a running
//!   one. A pass that evaluates tokens of its prompt runs to its end.
//! - Where several may run at once, pre-empted work resumes beside that which pre-empted it, but begins after it: a
//!   server that takes one request at a time then takes the more urgent one. Of each key and priority one runs at a time.

use std::time::{Duration, Instant};

use super::Priority;
use crate::base::Cancel;

/// Work of lower priority begins so long after that of higher priority.
const LEAD: Duration = Duration::from_millis(100);
/// After a refusal, fewer run at once for so long.
const REFUSED: Duration = Duration::from_secs(60);

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

/// Queued entries, and the running ones.
pub(super) struct Queue<W> {
    queued: Vec<Entry<W>>,
    running: Vec<Running>,
    /// Most that run at once.
    running_max: usize,
    /// Fewer until then, since one was refused.
    lowered: Option<(usize, Instant)>,
    runs: u64,
}

struct Running {
    id: RunId,
    key: String,
    priority: Priority,
    started: Instant,
    prompt: Vec<u32>,
    parent: Cancel,
    /// Stops this run; `parent` is set only by the caller.
    run: Cancel,
    /// Whether it stops for others and resumes after them.
    is_preempted: bool,
}

/// Identifies a run of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunId(u64);

/// What to do now.
pub(super) enum Next<W> {
    /// Run this until the flag is set, then call [`Queue::finish`].
    Run(RunId, W, Cancel),
    /// Nothing before this moment, unless something is pushed.
    Wait(Instant),
    /// Nothing, unless something is pushed or finished.
    Nothing,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It has its answer.
    Done,
    /// It was stopped and may resume.
    Stopped,
    /// It was not accepted beside the others.
    Refused,
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

impl<W> Queue<W> {
    /// A queue of which `running_max` entries may run at once.
    pub(super) fn new(running_max: usize) -> Self {
        Self { queued: Vec::new(), running: Vec::new(), running_max, lowered: None, runs: 0 }
    }

    /// Adds work and returns the queued work that it replaces.
    pub(super) fn push(&mut self, entry: Entry<W>) -> Option<W> {
        self.preempt(&entry);
        let same = |other: &&mut Entry<W>| other.key == entry.key && other.priority == entry.priority;
        match self.queued.iter_mut().find(same) {
            Some(older) => Some(std::mem::replace(older, entry).work),
            None => {
                self.queued.push(entry);
                None
            }
        }
    }

    /// Stops what `entry` supersedes or pre-empts.
    fn preempt(&mut self, entry: &Entry<W>) {
        for running in &mut self.running {
            if !running.is_preempted_by(&entry.key, entry.priority) {
                continue;
            }
            let shared = running.prompt.iter().zip(&entry.prompt).take_while(|(a, b)| a == b).count();
            running.run.supersede(shared);
            running.is_preempted = !running.is_older(&entry.key, entry.priority);
        }
    }

    /// Whether work with this key and priority has to be pushed with its prompt: a pass is running that stops for it
    /// unless both share the tokens that the pass evaluates.
    pub(super) fn needs_prompt(&self, key: &str, priority: Priority) -> bool {
        let mut running = self.running.iter().filter(|running| running.is_preempted_by(key, priority));
        running.any(|running| running.run.is_prefilling())
    }

    /// What to do at `now`.
    pub(super) fn next(&mut self, now: Instant) -> Next<W> {
        if self.running.len() >= self.limit(now) {
            return Next::Nothing;
        }
        let is_free =
            |entry: &Entry<W>| !self.running.iter().any(|run| run.is_older(&entry.key, entry.priority));
        let Some(highest) =
            self.queued.iter().filter(|entry| is_free(entry)).map(|entry| entry.priority).max()
        else {
            return Next::Nothing;
        };
        let ahead = self.running.iter().filter(|running| running.priority > highest);
        if let Some(until) = ahead.map(|running| running.started + LEAD).max().filter(|until| now < *until) {
            return Next::Wait(until);
        }
        let of_interest = || {
            let queued = self.queued.iter().enumerate();
            queued.filter(|(_, entry)| entry.priority == highest && is_free(entry))
        };
        let is_due = |entry: &Entry<W>| entry.not_before.is_none_or(|at| at <= now);
        let Some(at) = of_interest().find(|(_, entry)| is_due(entry)).map(|(at, _)| at) else {
            let soonest = of_interest().filter_map(|(_, entry)| entry.not_before).min();
            return soonest.map_or(Next::Nothing, Next::Wait);
        };
        let Entry { key, priority, prompt, cancel: parent, work, .. } = self.queued.remove(at);
        let (id, run) = (RunId(self.runs), parent.child());
        self.runs += 1;
        self.running.push(Running {
            id,
            key,
            priority,
            started: now,
            prompt,
            parent,
            run: run.clone(),
            is_preempted: false,
        });
        Next::Run(id, work, run)
    }

    /// How many may run at once.
    fn limit(&self, now: Instant) -> usize {
        let lowered = self.lowered.filter(|(_, until)| now < *until);
        lowered.map_or(self.running_max, |(limit, _)| limit)
    }

    /// Sets the prompt of running work.
    pub(super) fn set_prompt(&mut self, id: RunId, prompt: &[u32]) {
        let running = self.running.iter_mut().find(|running| running.id == id);
        running.expect("it runs").prompt = prompt.to_vec();
    }

    /// Drops running work, which has failed before it began.
    pub(super) fn discard(&mut self, id: RunId) {
        self.take(id);
    }

    /// Ends the run of `work` at `now` and returns it, unless it is to run again: because it was pre-empted, or refused
    /// beside others, fewer of which then run at once for a while.
    pub(super) fn finish(&mut self, id: RunId, work: W, ending: Ending, now: Instant) -> Option<W> {
        if ending == Ending::Refused {
            self.lowered = Some(((self.running.len() - 1).max(1), now + REFUSED));
        }
        let running = self.take(id);
        let runs_again = match ending {
            Ending::Done => false,
            Ending::Stopped => running.is_preempted,
            Ending::Refused => running.is_preempted || !running.run.is_ending(),
        };
        let is_newest = !self.queued.iter().any(|e| e.key == running.key && e.priority == running.priority);
        if !(runs_again && is_newest) || running.parent.is_ending() {
            return Some(work);
        }
        let Running { key, priority, prompt, parent: cancel, .. } = running;
        let entry = Entry { key, priority, not_before: None, prompt, cancel, work };
        if ending == Ending::Refused {
            self.preempt(&entry);
        }
        self.queued.insert(0, entry);
        None
    }

    fn take(&mut self, id: RunId) -> Running {
        let at = self.running.iter().position(|running| running.id == id).expect("it runs");
        self.running.remove(at)
    }

    /// Cancels all work.
    pub(super) fn cancel_all(&self) {
        self.queued.iter().for_each(|entry| entry.cancel.cancel());
        self.running.iter().for_each(|running| running.parent.cancel());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{Background, Interactive, Standard};

    fn entry(key: &str, priority: Priority, work: u32) -> Entry<u32> {
        let (key, cancel) = (key.into(), Cancel::new());
        Entry { key, priority, not_before: None, prompt: vec![1, 2, 3, 4], cancel, work }
    }

    #[track_caller]
    fn starts(queue: &mut Queue<u32>, expected: u32) -> (RunId, Cancel) {
        match queue.next(Instant::now()) {
            Next::Run(id, work, cancel) => {
                assert_eq!(work, expected);
                (id, cancel)
            }
            _ => panic!("nothing runs"),
        }
    }

    /// Starts the next work of a queue that runs one at a time.
    #[track_caller]
    fn runs(queue: &mut Queue<u32>, expected: u32) -> Cancel {
        starts(queue, expected).1
    }

    /// Ends the only run.
    #[track_caller]
    fn finish(queue: &mut Queue<u32>, work: u32, may_resume: bool) -> Option<u32> {
        let [Running { id, .. }] = queue.running[..] else { panic!("not one runs") };
        queue.finish(id, work, if may_resume { Ending::Stopped } else { Ending::Done }, Instant::now())
    }

    #[test]
    fn documents_take_turns_and_the_newest_request_wins() {
        let mut queue = Queue::new(1);
        assert_eq!(queue.push(entry("a", Interactive, 1)), None);
        assert_eq!(queue.push(entry("b", Interactive, 2)), None);
        assert_eq!(queue.push(entry("a", Background, 3)), None);
        assert_eq!(queue.push(entry("a", Interactive, 4)), Some(1));
        for work in [4, 2, 3] {
            let cancel = runs(&mut queue, work);
            assert!(!cancel.is_ending());
            assert_eq!(finish(&mut queue, work, true), Some(work));
        }
        assert!(matches!(queue.next(Instant::now()), Next::Nothing));
    }

    #[test]
    fn newer_work_stops_older_unless_it_shares_the_pass() {
        for (next_commit, is_cancelled) in [(0, true), (4, false), (5, true)] {
            let mut queue = Queue::new(1);
            queue.push(entry("a", Interactive, 1));
            let cancel = runs(&mut queue, 1);
            cancel.begin_pass(next_commit);
            queue.push(entry("b", Interactive, 2));
            assert!(!cancel.is_ending());
            queue.push(entry("a", Interactive, 3));
            assert!(cancel.is_ending() && cancel.is_cancelled() == is_cancelled);
            assert_eq!(finish(&mut queue, 1, true), Some(1), "superseded work does not resume");
            runs(&mut queue, 2);
        }
    }

    #[test]
    fn prompts_are_compared_only_while_a_pass_may_be_shared() {
        let mut queue = Queue::new(1);
        assert!(!queue.needs_prompt("a", Interactive), "nothing runs");
        queue.push(Entry { prompt: Vec::new(), ..entry("a", Interactive, 1) });
        let cancel = runs(&mut queue, 1);
        queue.set_prompt(RunId(0), &[1, 2, 3, 5]);
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
        queue.discard(RunId(0));
        runs(&mut queue, 3);
    }

    #[test]
    fn background_work_is_preempted_and_resumes() {
        let mut queue = Queue::new(1);
        queue.push(entry("a", Background, 1));
        queue.push(entry("b", Background, 2));
        let cancel = runs(&mut queue, 1);
        queue.push(entry("c", Interactive, 3));
        assert!(cancel.is_cancelled());
        assert_eq!(finish(&mut queue, 1, true), None);
        runs(&mut queue, 3);
        assert_eq!(finish(&mut queue, 3, true), Some(3));
        let cancel = runs(&mut queue, 1);
        queue.push(entry("a", Background, 4));
        assert!(cancel.is_cancelled());
        queue.push(entry("c", Interactive, 5));
        assert_eq!(finish(&mut queue, 1, true), Some(1), "newer work with its key is queued");
    }

    #[test]
    fn a_long_answer_is_preempted_only_by_typing() {
        let mut queue = Queue::new(1);
        queue.push(entry("warm", Background, 1));
        queue.push(entry("explain", Standard, 2));
        let mut cancel = runs(&mut queue, 2);
        queue.push(entry("other", Standard, 3));
        queue.push(entry("hover", Background, 4));
        assert!(!cancel.is_ending());
        for typed in [5, 6, 7] {
            queue.push(entry("a", Interactive, typed));
            assert!(cancel.is_cancelled());
            assert_eq!(finish(&mut queue, 2, true), None, "it resumes later");
            runs(&mut queue, typed);
            assert_eq!(finish(&mut queue, typed, true), Some(typed));
            cancel = runs(&mut queue, 2);
            assert!(!cancel.is_ending());
        }
        assert_eq!(finish(&mut queue, 2, false), Some(2));
        for work in [3, 1, 4] {
            runs(&mut queue, work);
            assert_eq!(finish(&mut queue, work, true), Some(work));
        }
    }

    #[test]
    fn work_is_debounced() {
        let (mut queue, now) = (Queue::new(1), Instant::now());
        let later = now + Duration::from_millis(50);
        queue.push(entry("a", Background, 1));
        queue.push(Entry { not_before: Some(later), ..entry("b", Interactive, 2) });
        assert!(matches!(queue.next(now), Next::Wait(until) if until == later));
        assert!(matches!(queue.next(later), Next::Run(_, 2, _)));
    }

    #[test]
    fn cancelled_work_does_not_resume() {
        let mut queue = Queue::new(1);
        let background = entry("a", Background, 1);
        let parent = background.cancel.clone();
        queue.push(background);
        runs(&mut queue, 1);
        queue.push(entry("b", Interactive, 2));
        parent.cancel();
        assert_eq!(finish(&mut queue, 1, true), Some(1));
    }

    #[test]
    fn several_run_at_once() {
        let mut queue = Queue::new(2);
        for (key, work) in [("a", 1), ("b", 2), ("c", 3)] {
            queue.push(entry(key, Interactive, work));
        }
        let (first, second) = (starts(&mut queue, 1).0, starts(&mut queue, 2).0);
        assert!(matches!(queue.next(Instant::now()), Next::Nothing), "two run");
        assert_eq!(queue.finish(second, 2, Ending::Stopped, Instant::now()), Some(2));
        starts(&mut queue, 3);
        assert_eq!(queue.finish(first, 1, Ending::Done, Instant::now()), Some(1));
        assert!(matches!(queue.next(Instant::now()), Next::Nothing), "nothing is queued");
    }

    #[test]
    fn newer_work_waits_until_what_it_supersedes_has_stopped() {
        let mut queue = Queue::new(3);
        queue.push(entry("a", Interactive, 1));
        let (id, cancel) = starts(&mut queue, 1);
        queue.push(entry("a", Interactive, 2));
        queue.push(entry("b", Interactive, 3));
        assert!(cancel.is_cancelled());
        starts(&mut queue, 3);
        assert!(matches!(queue.next(Instant::now()), Next::Nothing));
        assert_eq!(queue.finish(id, 1, Ending::Stopped, Instant::now()), Some(1));
        starts(&mut queue, 2);
    }

    #[test]
    fn preempted_work_resumes_beside_what_is_more_urgent() {
        let mut queue = Queue::new(2);
        let later = Instant::now() + Duration::from_secs(60);
        queue.push(entry("explain", Standard, 1));
        let (id, cancel) = starts(&mut queue, 1);
        queue.push(Entry { not_before: Some(later), ..entry("a", Interactive, 2) });
        assert!(cancel.is_cancelled());
        assert_eq!(queue.finish(id, 1, Ending::Stopped, Instant::now()), None);
        assert!(matches!(queue.next(Instant::now()), Next::Wait(until) if until == later));
        assert!(matches!(queue.next(later), Next::Run(_, 2, _)));
        assert!(matches!(queue.next(later), Next::Wait(until) if until == later + LEAD));
        let Next::Run(_, 1, cancel) = queue.next(later + LEAD) else { panic!("it resumes") };
        assert!(!cancel.is_ending());
        queue.cancel_all();
        assert!(cancel.is_cancelled());
    }

    #[test]
    fn refused_work_runs_again_beside_fewer() {
        let (mut queue, now) = (Queue::new(3), Instant::now() + LEAD);
        for (key, priority, work) in [("a", Interactive, 1), ("b", Interactive, 2)] {
            queue.push(entry(key, priority, work));
        }
        let urgent = [1, 2].map(|work| starts(&mut queue, work));
        queue.push(entry("c", Standard, 3));
        let Next::Run(id, 3, cancel) = queue.next(Instant::now() + LEAD) else { panic!("nothing runs") };
        let ids = [&urgent[0], &urgent[1], &(id, cancel)];
        assert_eq!(queue.finish(ids[1].0, 2, Ending::Refused, now), None);
        assert!(ids[2].1.is_cancelled() && !ids[0].1.is_ending(), "it goes before what is less urgent");
        assert!(matches!(queue.next(now), Next::Nothing), "two run at once");
        assert_eq!(queue.finish(ids[2].0, 3, Ending::Stopped, now), None);
        let Next::Run(again, 2, _) = queue.next(now) else { panic!("it runs again") };
        assert!(matches!(queue.next(now), Next::Nothing));
        assert_eq!(queue.finish(again, 2, Ending::Refused, now), None);
        assert!(matches!(queue.next(now), Next::Nothing), "one runs at once");
        assert!(matches!(queue.next(now + REFUSED), Next::Run(_, 2, _)));
        assert!(matches!(queue.next(now + REFUSED + LEAD), Next::Run(_, 3, _)));
    }

    #[test]
    fn refused_work_that_is_wanted_no_longer_ends() {
        for is_superseded in [true, false] {
            let mut queue = Queue::new(2);
            let older = entry("a", Interactive, 1);
            let parent = older.cancel.clone();
            queue.push(older);
            let (id, _) = starts(&mut queue, 1);
            if is_superseded {
                queue.push(entry("a", Interactive, 2));
            } else {
                parent.cancel();
            }
            assert_eq!(queue.finish(id, 1, Ending::Refused, Instant::now()), Some(1));
        }
    }
}
