//! What a process leaves behind when the system ends it: the name of the signal on stderr, no image of its memory.

#![cfg_attr(unix, expect(unsafe_code, reason = "signal handlers are set by the system's interface"))]

use std::path::Path;

/// Keeps the memory of this process, which holds documents and tokens, out of core dumps and debuggers of other
/// processes.
pub fn forbid_dumps() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// Says on stderr which signal ends this process, and of which file where a mapped one was cut short.
#[cfg(unix)]
pub fn name_signals() {
    unix::install();
}

/// Does nothing: such faults have no signals here.
#[cfg(not(unix))]
pub fn name_signals() {}

/// A mapped file, which is named when its pages cannot be read.
pub struct MappedFile {
    #[cfg(unix)]
    slot: Option<usize>,
}

impl MappedFile {
    /// Notes that the file at `path` is mapped at `bytes`, until this is dropped.
    pub fn note(path: &Path, bytes: &[u8]) -> Self {
        #[cfg(unix)]
        return Self { slot: unix::note(path, bytes) };
        #[cfg(not(unix))]
        {
            let _ = (path, bytes);
            Self {}
        }
    }
}

#[cfg(unix)]
impl Drop for MappedFile {
    fn drop(&mut self) {
        self.slot.into_iter().for_each(unix::forget);
    }
}

#[cfg(unix)]
mod unix {
    use std::cell::UnsafeCell;
    use std::mem::MaybeUninit;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst};

    use libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, c_int, c_void, sigaction, siginfo_t};

    /// Signals that end a process by its own doing.
    const SIGNALS: [(c_int, &str); 5] = [
        (SIGABRT, "SIGABRT"),
        (SIGBUS, "SIGBUS"),
        (SIGFPE, "SIGFPE"),
        (SIGILL, "SIGILL"),
        (SIGSEGV, "SIGSEGV"),
    ];
    /// Mapped files that are remembered; a model has fewer parts.
    const FILES: usize = 256;

    /// What was done before on each of [`SIGNALS`].
    struct Before(UnsafeCell<[MaybeUninit<sigaction>; SIGNALS.len()]>);

    // SAFETY: it is written once, before a handler is set that reads it.
    unsafe impl Sync for Before {}

    static BEFORE: Before = Before(UnsafeCell::new([MaybeUninit::uninit(); SIGNALS.len()]));

    struct Slot {
        is_taken: AtomicBool,
        start: AtomicUsize,
        len: AtomicUsize,
        /// A path, which is never freed: a handler may read it at any time.
        path: AtomicPtr<Vec<u8>>,
    }

    static SLOTS: [Slot; FILES] = [const {
        Slot {
            is_taken: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            path: AtomicPtr::new(std::ptr::null_mut()),
        }
    }; FILES];

    pub(super) fn note(path: &Path, bytes: &[u8]) -> Option<usize> {
        let free = |slot: &Slot| slot.is_taken.compare_exchange(false, true, SeqCst, SeqCst).is_ok();
        let index = SLOTS.iter().position(free)?;
        let name = Box::leak(Box::new(path.as_os_str().as_bytes().to_vec()));
        SLOTS[index].path.store(name, SeqCst);
        SLOTS[index].start.store(bytes.as_ptr().addr(), SeqCst);
        SLOTS[index].len.store(bytes.len(), SeqCst);
        Some(index)
    }

    pub(super) fn forget(index: usize) {
        SLOTS[index].len.store(0, SeqCst);
        SLOTS[index].is_taken.store(false, SeqCst);
    }

    pub(super) fn install() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            for (i, (signal, _)) in SIGNALS.into_iter().enumerate() {
                // SAFETY: the action is a plain structure, filled in before use; the handler only writes to stderr and
                // sets an action, which signals allow; what was done before is kept before a signal can come.
                unsafe {
                    let mut action: sigaction = MaybeUninit::zeroed().assume_init();
                    action.sa_sigaction = on_signal as *const () as usize;
                    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                    let before = (*BEFORE.0.get())[i].as_mut_ptr();
                    libc::sigaction(signal, std::ptr::null(), before);
                    libc::sigaction(signal, &raw const action, std::ptr::null_mut());
                }
            }
        });
    }

    /// Names the signal, and has it handled as before: the standard library tells of stack overflows.
    extern "C" fn on_signal(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
        let Some(i) = SIGNALS.iter().position(|(own, _)| *own == signal) else { return };
        write(b"fimd ends with ");
        write(SIGNALS[i].1.as_bytes());
        if signal == SIGBUS {
            // SAFETY: the system passes information on this signal, which has an address.
            let address = unsafe { (*info).si_addr() }.addr();
            let holds = |slot: &&Slot| address.wrapping_sub(slot.start.load(SeqCst)) < slot.len.load(SeqCst);
            if let Some(slot) = SLOTS.iter().find(holds) {
                // SAFETY: paths are never freed.
                let path = unsafe { &*slot.path.load(SeqCst) };
                write(b": the mapped file ");
                write(path);
                write(b" cannot be read; it was cut short, or its disk failed");
            }
        }
        write(b"\n");
        // SAFETY: what was done before was kept before this handler was set, and signals allow both calls. A fault comes
        // again when this returns, a signal that a process has sent does not.
        unsafe {
            libc::sigaction(signal, (*BEFORE.0.get())[i].as_ptr(), std::ptr::null_mut());
            if (*info).si_code <= 0 {
                libc::raise(signal);
            }
        }
    }

    fn write(bytes: &[u8]) {
        // SAFETY: the bytes are readable for as long as they are.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
    }
}
