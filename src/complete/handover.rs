//! Hands events from the threads that bring them to one that processes them: the bringing thread, unless another one
//! does so already. There is no extra thread and no waiting, the order is that of the inbox, and none is left in it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, TryLockError};

#[cfg(test)]
use tests::pause;

/// Events, and the state that they change.
pub(super) struct Handover<E, S> {
    inbox: Mutex<VecDeque<E>>,
    state: Mutex<S>,
}

impl<E, S> Handover<E, S> {
    pub(super) fn new(state: S) -> Self {
        Self { inbox: Mutex::default(), state: Mutex::new(state) }
    }

    /// Queues an event. When this returns, it is processed, or another thread is about to process it.
    pub(super) fn send(&self, event: E, handle: impl FnMut(&mut S, E)) {
        self.inbox().push_back(event);
        pause();
        self.work(handle);
    }

    /// Reads the state; `None` while another thread processes events.
    pub(super) fn peek<R>(&self, read: impl FnOnce(&S) -> R, handle: impl FnMut(&mut S, E)) -> Option<R> {
        let found = self.state().map(|state| {
            pause();
            read(&state)
        });
        pause();
        // The thread that queued an event meanwhile has left it to this one.
        self.work(handle);
        found
    }

    /// Processes the inbox, unless another thread holds the state: that one looks into the inbox after letting it go.
    fn work(&self, mut handle: impl FnMut(&mut S, E)) {
        while let Some(mut state) = self.state() {
            pause();
            while let Some(event) = self.next() {
                handle(&mut state, event);
                pause();
            }
            drop(state);
            pause();
            if self.inbox().is_empty() {
                return;
            }
            pause();
        }
    }

    fn next(&self) -> Option<E> {
        self.inbox().pop_front()
    }

    fn inbox(&self) -> MutexGuard<'_, VecDeque<E>> {
        self.inbox.lock().expect("lock poisoned")
    }

    fn state(&self) -> Option<MutexGuard<'_, S>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            // A panic while an event is processed is the handler's to mend.
            Err(TryLockError::Poisoned(state)) => Some(state.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Where a test lets another thread run.
#[cfg(not(test))]
fn pause() {}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::{Arc, Condvar};
    use std::thread;

    use super::*;

    thread_local! {
        /// The schedule of this thread and its number in it.
        static TURN: RefCell<Option<(Arc<Schedule>, usize)>> = const { RefCell::new(None) };
    }

    pub(super) fn pause() {
        let turn = TURN.with_borrow(Clone::clone);
        if let Some((schedule, thread)) = turn {
            schedule.pass(thread, false);
        }
    }

    /// Lets one thread run at a time, and switches between them only where they pause, as decided beforehand.
    struct Schedule {
        course: Mutex<Course>,
        moved: Condvar,
    }

    struct Course {
        /// The thread whose turn it is.
        running: usize,
        is_finished: Vec<bool>,
        /// The decisions to take, then always the first option.
        path: Vec<usize>,
        /// The decisions taken, each with the number of its options.
        taken: Vec<(usize, usize)>,
        /// How often a thread may still be interrupted that could go on.
        preemptions_left: usize,
    }

    impl Course {
        /// Decides who runs next after `thread`, which can go on unless it is finished.
        fn decide(&mut self, thread: usize) {
            let mut options: Vec<usize> = (0..self.is_finished.len())
                .filter(|&other| !self.is_finished[other] && other != thread)
                .collect();
            let can_go_on = self.is_finished.get(thread) == Some(&false);
            if can_go_on {
                options.insert(0, thread);
                options.truncate(if self.preemptions_left == 0 { 1 } else { options.len() });
            }
            if options.is_empty() {
                return;
            }
            let choice = self.path.get(self.taken.len()).copied().unwrap_or(0);
            self.taken.push((choice, options.len()));
            self.running = options[choice];
            self.preemptions_left -= usize::from(can_go_on && self.running != thread);
        }
    }

    impl Schedule {
        fn pass(&self, thread: usize, is_finished: bool) {
            let mut course = self.course.lock().unwrap();
            course.is_finished[thread] |= is_finished;
            course.decide(thread);
            self.moved.notify_all();
            if !is_finished {
                drop(self.moved.wait_while(course, |course| course.running != thread).unwrap());
            }
        }

        fn begin(self: &Arc<Self>, thread: usize) {
            TURN.set(Some((self.clone(), thread)));
            let course = self.course.lock().unwrap();
            drop(self.moved.wait_while(course, |course| course.running != thread).unwrap());
        }
    }

    type Run = fn(&Log, usize);
    type Log = Handover<(usize, usize), Vec<(usize, usize)>>;

    fn handle(log: &mut Vec<(usize, usize)>, event: (usize, usize)) {
        log.push(event);
    }

    /// Runs the threads in every order in which they can be interrupted at most so often, and returns the number of
    /// orders, and of those after which an event was left in the inbox. Events are never lost or processed twice.
    fn explore(threads: &[Run], preemptions_max: usize) -> (usize, usize) {
        let (mut path, mut orders, mut left) = (Vec::new(), 0, 0);
        loop {
            let course = Course {
                running: usize::MAX,
                is_finished: vec![false; threads.len()],
                path,
                taken: Vec::new(),
                preemptions_left: preemptions_max,
            };
            let schedule = Arc::new(Schedule { course: Mutex::new(course), moved: Condvar::new() });
            let log = Log::new(Vec::new());
            schedule.course.lock().unwrap().decide(usize::MAX);
            thread::scope(|scope| {
                for (number, run) in threads.iter().enumerate() {
                    let (schedule, log) = (schedule.clone(), &log);
                    scope.spawn(move || {
                        schedule.begin(number);
                        run(log, number);
                        schedule.pass(number, true);
                    });
                }
            });
            orders += 1;
            let waiting = log.inbox().len();
            left += usize::from(waiting > 0);
            let processed = log.state().unwrap().clone();
            for number in 0..threads.len() {
                let own: Vec<usize> =
                    processed.iter().filter(|event| event.0 == number).map(|event| event.1).collect();
                assert_eq!(own, Vec::from_iter(0..own.len()), "each once and in order");
            }
            let taken = std::mem::take(&mut schedule.course.lock().unwrap().taken);
            let Some(last) = taken.iter().rposition(|&(choice, options)| choice + 1 < options) else {
                return (orders, left);
            };
            path = taken[..=last].iter().map(|&(choice, _)| choice).collect();
            path[last] += 1;
        }
    }

    fn send_once(log: &Log, thread: usize) {
        log.send((thread, 0), handle);
    }

    fn send_twice(log: &Log, thread: usize) {
        (0..2).for_each(|n| log.send((thread, n), handle));
    }

    fn peek(log: &Log, _: usize) {
        log.peek(Vec::len, handle);
    }

    /// Holds the state and lets it go without a look into the inbox.
    fn peek_only(log: &Log, _: usize) {
        let state = log.state();
        pause();
        drop(state);
    }

    #[test]
    fn no_order_of_threads_leaves_an_event() {
        for (threads, preemptions_max) in [
            (&[send_once as Run, send_once][..], usize::MAX),
            (&[send_once, peek], usize::MAX),
            (&[send_twice, peek], 4),
            (&[send_once, send_once, peek], 2),
            (&[send_once, send_once, send_once], 2),
        ] {
            let (orders, left) = explore(threads, preemptions_max);
            assert!(orders > 50, "{orders}");
            assert_eq!(left, 0, "of {orders}");
        }
    }

    #[test]
    fn a_peek_that_does_not_work_is_found() {
        let (orders, left) = explore(&[send_once, peek_only], usize::MAX);
        assert!(left > 0, "of {orders}");
    }
}
