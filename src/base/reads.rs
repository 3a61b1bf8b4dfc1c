//! Explicit reads of large files: past the page cache where a file does not fit there, several at a time.

use std::cell::RefCell;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Instant, SystemTime};

use super::random::SplitMix64;

/// What offsets, lengths and memory of a direct read are multiples of.
const ALIGNMENT: usize = 4096;
/// Bytes of one direct read at most.
const PIECE_BYTES: usize = 1 << 20;
/// Most reads that are tried at a time.
pub const IN_FLIGHT_MAX: usize = 16;
/// Bytes that are read to measure one number of reads in flight.
const PROBE_BYTES: u64 = 32 << 20;
/// The share of the best rate that is good enough.
const KNEE: f64 = 0.95;

/// Reads what follows an offset of a file, as much as there is at once; 0 at its end.
type ReadAt = dyn Fn(&File, u64, &mut [u8]) -> io::Result<usize> + Send + Sync;

/// How parts of files are read: by the system, or by a function that fails or waits where the system does not.
#[derive(Clone, Copy)]
pub struct Reader(&'static ReadAt);

impl Reader {
    /// The system.
    pub const SYSTEM: Self = Self(&read_at);

    /// A function in its place.
    pub fn new(read_at: &'static ReadAt) -> Self {
        Self(read_at)
    }

    fn read_exact_at(self, file: &File, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            match (self.0)(file, offset, into) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    offset += len as u64;
                    into = &mut into[len..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads whole aligned pieces and copies what is wanted of them.
    fn read_direct(self, file: &File, mut offset: u64, mut into: &mut [u8]) -> io::Result<()> {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(PIECE_BYTES + ALIGNMENT, 0);
            let start = buffer.as_ptr().align_offset(ALIGNMENT);
            let piece = &mut buffer[start..start + PIECE_BYTES];
            while !into.is_empty() {
                let skipped = (offset % ALIGNMENT as u64) as usize;
                let wanted = (skipped + into.len()).min(PIECE_BYTES);
                let aligned = &mut piece[..wanted.next_multiple_of(ALIGNMENT)];
                let len = match (self.0)(file, offset - skipped as u64, aligned) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    len => len?.min(wanted),
                };
                if len <= skipped {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                let (now, later) = std::mem::take(&mut into).split_at_mut(len - skipped);
                now.copy_from_slice(&aligned[skipped..len]);
                offset += now.len() as u64;
                into = later;
            }
            Ok(())
        })
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Reader")
    }
}

/// A file whose parts are read.
#[derive(Debug)]
pub struct ReadFile {
    path: PathBuf,
    reader: Reader,
    file: File,
    /// The same file, past the page cache.
    direct: Option<File>,
    state: State,
}

/// What tells whether a file has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    len: u64,
    modified: Option<SystemTime>,
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self { len: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// How fast a file can be read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub bytes_per_s: f64,
    /// The fewest reads in flight that reach about this rate.
    pub in_flight: usize,
}

thread_local! {
    /// Aligned memory for direct reads.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl ReadFile {
    /// Opens a file; with `wants_direct` past the page cache, where a read shows that the system can.
    pub fn open(path: &Path, wants_direct: bool) -> io::Result<Self> {
        Self::open_with(path, wants_direct, Reader::SYSTEM)
    }

    /// The same, read by `reader`.
    pub fn open_with(path: &Path, wants_direct: bool, reader: Reader) -> io::Result<Self> {
        let file = File::open(path)?;
        let state = State::of(&file.metadata()?);
        let direct = if wants_direct { open_direct(path) } else { None };
        let this = Self { path: path.to_owned(), reader, file, direct, state };
        let mut probe = vec![0; ALIGNMENT.min(state.len as usize)];
        let fails = |direct: &File| reader.read_direct(direct, 0, &mut probe).is_err();
        if this.direct.as_ref().is_some_and(fails) {
            return Ok(Self { direct: None, ..this });
        }
        Ok(this)
    }

    /// Whether reads go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.state.len
    }

    /// Whether it was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.state.len == 0
    }

    /// When it was last modified before it was opened.
    pub fn modified(&self) -> Option<SystemTime> {
        self.state.modified
    }

    /// Fails when the file was written to since it was opened. One that another file replaced under its name is still
    /// the old one here.
    pub fn check(&self) -> io::Result<()> {
        let now = State::of(&self.file.metadata()?);
        if now == self.state {
            return Ok(());
        }
        let what = if now.len < self.state.len { "truncated" } else { "changed" };
        Err(self
            .error(ErrorKind::InvalidData, format!("was {what} after it was opened; load the model again")))
    }

    /// Reads what follows `offset`. A read that fails is repeated once.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let once = |into: &mut [u8]| match &self.direct {
            Some(direct) => self.reader.read_direct(direct, offset, into),
            None => self.reader.read_exact_at(&self.file, offset, into),
        };
        let result = once(into).or_else(|_| once(into));
        result.map_err(|error| {
            let (len, start) = (into.len(), offset);
            let why = match error.kind() {
                ErrorKind::UnexpectedEof => "it ends before; it was truncated".into(),
                _ => error.to_string(),
            };
            self.error(error.kind(), format!("cannot be read: {len} bytes at {start}: {why}"))
        })
    }

    /// Measures what it takes to read the file at its full speed.
    pub fn rate(&self) -> io::Result<Rate> {
        let steps = [1, 2, 4, 8, IN_FLIGHT_MAX];
        let rates = steps.map(|in_flight| self.rate_with(in_flight));
        let mut measured = Vec::new();
        for (rate, in_flight) in rates.into_iter().zip(steps) {
            measured.push(Rate { bytes_per_s: rate?, in_flight });
        }
        let best = measured.iter().map(|rate| rate.bytes_per_s).fold(0.0, f64::max);
        let knee = measured.into_iter().find(|rate| rate.bytes_per_s >= KNEE * best);
        Ok(Rate { bytes_per_s: best, ..knee.expect("the best one reaches itself") })
    }

    fn rate_with(&self, in_flight: usize) -> io::Result<f64> {
        let pieces = (self.state.len / PIECE_BYTES as u64).max(1);
        let total = PROBE_BYTES.min(self.state.len);
        let (begun, piece) = (AtomicU64::new(0), PIECE_BYTES.min(self.state.len as usize));
        let work = || -> io::Result<()> {
            let mut buffer = vec![0; piece];
            loop {
                let n = begun.fetch_add(1, Ordering::Relaxed);
                if n * piece as u64 >= total {
                    return Ok(());
                }
                // Not in order: nothing may read ahead.
                let at = SplitMix64::skipped(in_flight as u64, n).bits() % pieces;
                self.read(at * piece as u64, &mut buffer)?;
            }
        };
        let started = Instant::now();
        thread::scope(|scope| {
            let readers: Vec<_> = (0..in_flight).map(|_| scope.spawn(work)).collect();
            readers.into_iter().try_for_each(|reader| reader.join().expect("reading cannot panic"))
        })?;
        Ok(total as f64 / started.elapsed().as_secs_f64().max(1e-9))
    }

    fn error(&self, kind: ErrorKind, what: String) -> io::Error {
        io::Error::new(kind, format!("{} {what}", self.path.display()))
    }
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::DIRECT.bits() as i32;
    File::options().read(true).custom_flags(flags).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path) -> Option<File> {
    None
}

#[cfg(unix)]
fn read_at(file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, into, offset)
}

#[cfg(windows)]
fn read_at(file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, into, offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_part_is_read_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..PIECE_BYTES + 3 * ALIGNMENT + 77).map(|i| ((i * i) >> 7) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        for wants_direct in [false, true] {
            let file = ReadFile::open(&path, wants_direct).unwrap();
            for (start, end) in [(0, 1), (1, ALIGNMENT), (77, bytes.len()), (ALIGNMENT, PIECE_BYTES + 9)] {
                let mut into = vec![0; end - start];
                file.read(start as u64, &mut into).unwrap();
                assert!(into == bytes[start..end], "{start}..{end}");
            }
            let past = file.read(bytes.len() as u64 - 5, &mut [0; 6]).unwrap_err().to_string();
            assert!(past.contains("it was truncated") && past.contains("file"), "{past}");
            let rate = file.rate().unwrap();
            assert!(rate.bytes_per_s > 0.0 && (1..=IN_FLIGHT_MAX).contains(&rate.in_flight));
        }
    }

    #[test]
    fn a_read_that_fails_once_is_repeated_and_one_that_fails_names_the_file() {
        static FAILURES: AtomicU64 = AtomicU64::new(0);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, [7; 100]).unwrap();
        // At most 9 bytes at once.
        let reader = Reader::new(&|file, offset, into| match FAILURES.fetch_update(
            Ordering::Relaxed,
            Ordering::Relaxed,
            |left| left.checked_sub(1),
        ) {
            Ok(_) => Err(io::Error::other("a fault that the test wants")),
            Err(_) => {
                let len = into.len().min(9);
                read_at(file, offset, &mut into[..len])
            }
        });
        let file = ReadFile::open_with(&path, false, reader).unwrap();
        let mut into = [0; 100];
        FAILURES.store(1, Ordering::Relaxed);
        file.read(0, &mut into).unwrap();
        assert_eq!(into, [7; 100]);
        FAILURES.store(2, Ordering::Relaxed);
        let error = file.read(3, &mut into[..50]).unwrap_err().to_string();
        assert!(error.contains("file cannot be read: 50 bytes at 3: a fault"), "{error}");
        file.read(0, &mut into).unwrap();
    }

    #[test]
    fn changes_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, [1; 100]).unwrap();
        let file = ReadFile::open(&path, false).unwrap();
        file.check().unwrap();
        let other = dir.path().join("other");
        fs::write(&other, [2; 100]).unwrap();
        fs::rename(&other, &path).unwrap();
        file.check().unwrap();
        let mut into = [0; 100];
        file.read(0, &mut into).unwrap();
        assert_eq!(into, [1; 100], "the old file stays open");

        let file = ReadFile::open(&path, false).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(50).unwrap();
        assert!(file.check().unwrap_err().to_string().contains("was truncated"));
    }
}
