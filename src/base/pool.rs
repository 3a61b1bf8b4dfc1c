//! A pool of threads that share the tasks of one parallel loop at a time.

#![expect(unsafe_code, reason = "a task borrows what its threads only reach while `run` waits")]

use std::any::Any;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};

/// Rounds of spinning before a thread sleeps, about 20 microseconds: the loops of one layer follow
/// each other faster than a sleeping thread wakes.
const SPINS: usize = 2_000;

/// Runs parallel loops on a fixed number of threads, the caller being one of them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    slot: Mutex<Slot>,
    posted: Condvar,
    finished: Condvar,
    /// Copy of `Slot::epoch` that idle workers watch while they spin.
    epoch: AtomicUsize,
    /// For each thread the next of its tasks in the current loop.
    next: Vec<Cursor>,
    /// Workers that have not yet left the current loop.
    busy: AtomicUsize,
}

struct Slot {
    epoch: usize,
    body: Option<Body>,
    tasks: usize,
    panic: Option<Box<dyn Any + Send>>,
    closed: bool,
}

/// Alone in its cache lines.
#[repr(align(128))]
struct Cursor(AtomicUsize);

/// A loop body whose lifetime is erased; see the SAFETY note in [`Pool::run`].
#[derive(Clone, Copy)]
struct Body(&'static (dyn Fn(usize) + Sync));

impl Pool {
    /// A pool of `threads` threads in all, at least one (the caller).
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            slot: Mutex::new(Slot { epoch: 0, body: None, tasks: 0, panic: None, closed: false }),
            posted: Condvar::new(),
            finished: Condvar::new(),
            epoch: AtomicUsize::new(0),
            next: (0..threads.max(1)).map(|_| Cursor(AtomicUsize::new(0))).collect(),
            busy: AtomicUsize::new(0),
        });
        let workers = (1..threads)
            .map(|i| {
                let shared = shared.clone();
                thread::Builder::new()
                    .name(format!("fimd-pool-{i}"))
                    .spawn(move || shared.work(i))
                    .expect("the system can start a thread")
            })
            .collect();
        Self { shared, workers }
    }

    /// Number of threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body(task)` once for each task below `tasks` on some thread, and returns when all are done. A
    /// thread goes through consecutive tasks, until it has none left and helps others. A panic in a task
    /// is passed on after the others have ended.
    pub fn run(&mut self, tasks: usize, body: impl Fn(usize) + Sync) {
        if self.workers.is_empty() || tasks < 2 {
            return (0..tasks).for_each(body);
        }
        let body: &(dyn Fn(usize) + Sync) = &body;
        // SAFETY: `body` outlives its use on every thread: this function leaves, by return or by
        // unwinding, only after `busy` has fallen to zero, and a worker touches the body only before
        // it lowers `busy`.
        let body: Body = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Body>(body) };

        let shared = &*self.shared;
        {
            let mut slot = shared.lock();
            slot.body = Some(body);
            slot.tasks = tasks;
            slot.epoch += 1;
            for (thread, next) in shared.next.iter().enumerate() {
                next.0.store(shared.tasks_of(thread, tasks).start, Ordering::Relaxed);
            }
            shared.busy.store(self.workers.len(), Ordering::Relaxed);
            shared.epoch.store(slot.epoch, Ordering::Release);
            shared.posted.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| shared.take_tasks(0, body, tasks)));
        let mut spins = 0;
        while shared.busy.load(Ordering::Acquire) > 0 && spins < SPINS {
            std::hint::spin_loop();
            spins += 1;
        }
        let mut slot = shared.lock();
        while shared.busy.load(Ordering::Acquire) > 0 {
            slot = shared.finished.wait(slot).expect("tasks run outside the lock");
        }
        slot.body = None;
        let panic = slot.panic.take();
        drop(slot);
        if let Some(panic) = own.err().or(panic) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let mut slot = self.shared.lock();
            slot.closed = true;
            slot.epoch += 1;
            self.shared.epoch.store(slot.epoch, Ordering::Release);
            self.shared.posted.notify_all();
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Slot> {
        self.slot.lock().expect("tasks run outside the lock")
    }

    /// The tasks that a thread does first.
    fn tasks_of(&self, thread: usize, tasks: usize) -> Range<usize> {
        let threads = self.next.len();
        thread * tasks / threads..(thread + 1) * tasks / threads
    }

    fn take_tasks(&self, own: usize, body: Body, tasks: usize) {
        let threads = self.next.len();
        for thread in (0..threads).map(|i| (own + i) % threads) {
            let end = self.tasks_of(thread, tasks).end;
            loop {
                let task = self.next[thread].0.fetch_add(1, Ordering::Relaxed);
                if task >= end {
                    break;
                }
                (body.0)(task);
            }
        }
    }

    fn work(&self, own: usize) {
        let mut seen = 0;
        loop {
            let mut spins = 0;
            while self.epoch.load(Ordering::Acquire) == seen && spins < SPINS {
                std::hint::spin_loop();
                spins += 1;
            }
            let (body, tasks) = {
                let mut slot = self.lock();
                while slot.epoch == seen {
                    slot = self.posted.wait(slot).expect("tasks run outside the lock");
                }
                if slot.closed {
                    return;
                }
                seen = slot.epoch;
                (slot.body.expect("an open epoch has a body"), slot.tasks)
            };
            let result = catch_unwind(AssertUnwindSafe(|| self.take_tasks(own, body, tasks)));
            let mut slot = self.lock();
            if let Err(panic) = result {
                slot.panic.get_or_insert(panic);
            }
            if self.busy.fetch_sub(1, Ordering::Release) == 1 {
                self.finished.notify_one();
            }
        }
    }
}

/// A slice whose disjoint parts are written by different tasks of one loop.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Disjoint` only hands out `&mut [T]` parts, and the caller of `part` promises that parts
// alive at the same time do not overlap; that is sending `&mut [T]`, sound for `T: Send`.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Shares `slice` among tasks.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// One part of the slice. Panics when `range` is outside it.
    ///
    /// # Safety
    /// No other part alive at the same time may overlap `range`.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: the range is inside the slice borrowed for 'a, and the caller promises that no
        // other reference to it is alive.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            let mut pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 3, 100, 1000] {
                let mut counts = vec![0u32; tasks];
                let parts = Disjoint::new(&mut counts);
                // SAFETY: each task takes its own element.
                pool.run(tasks, |i| unsafe { parts.part(i..i + 1)[0] += 1 });
                assert!(counts.iter().all(|&count| count == 1), "{threads} threads, {tasks} tasks");
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = Pool::new(3);
        for bad in [0, 57, 99] {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(100, |i| assert_ne!(i, bad))));
            assert!(result.is_err());
        }
        let done = AtomicUsize::new(0);
        pool.run(100, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 100);
    }
}
