//! One file, from where the last attempt has left it to its checksum.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use ureq::http::HeaderMap;

use super::Event;
use super::hash::Hasher;
use super::http::{Failure, Http, Method};

/// What is known of a file before its first byte.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub path: String,
    pub url: String,
    pub bytes: u64,
    /// What the hub calls its content: the checksum of a large file.
    pub etag: String,
}

/// As much of a file as there is.
struct Partial<'r> {
    remote: &'r Remote,
    file: File,
    bytes: u64,
    hasher: Hasher,
}

impl Remote {
    /// Whether its name is its SHA-256.
    fn has_checksum(&self) -> bool {
        self.etag.len() == 64 && self.etag.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

/// Downloads a file to `path`, where a part of it may be already. What is not as the checksum says is deleted.
pub(super) fn fetch(http: &Http, remote: &Remote, path: &Path, events: &mut dyn FnMut(Event)) -> Result<()> {
    let mut partial = Partial::open(remote, path)?;
    events(Event::File { path: &remote.path, bytes: remote.bytes, had: partial.bytes });
    let fetched = http.persist(events, |events, got_on| partial.attempt(http, events, got_on));
    fetched.with_context(|| {
        let (path, bytes, all) = (&remote.path, partial.bytes, remote.bytes);
        format!("{bytes} of {all} bytes of {path} are on disk; repeat the command to resume")
    })?;
    let is_checked = remote.has_checksum();
    let hash = partial.hasher.finish();
    if is_checked && !hash.eq_ignore_ascii_case(&remote.etag) {
        fs::remove_file(path).with_context(|| format!("cannot delete {}", path.display()))?;
        bail!(
            "{} arrived damaged: its SHA-256 is {hash}, not {}; it was deleted, the same command fetches it again",
            remote.path,
            remote.etag
        );
    }
    Ok(())
}

impl<'r> Partial<'r> {
    fn open(remote: &'r Remote, path: &Path) -> Result<Self> {
        let describe = || format!("cannot write {}", path.display());
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
        let mut this = Self { remote, file: file.with_context(describe)?, bytes: 0, hasher: Hasher::start() };
        if this.file.metadata().with_context(describe)?.len() > remote.bytes {
            this.file.set_len(0).with_context(describe)?;
        }
        this.read().with_context(describe)?;
        Ok(this)
    }

    /// Takes in what is there already.
    fn read(&mut self) -> std::io::Result<()> {
        loop {
            let mut block = self.hasher.block();
            let length = self.file.read(&mut block)?;
            self.hasher.take(block, length);
            self.bytes += length as u64;
            if length == 0 {
                return Ok(());
            }
        }
    }

    /// Begins anew.
    fn clear(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.bytes, self.hasher) = (0, Hasher::start());
        Ok(())
    }

    /// Downloads what is missing; `got_on` says whether anything came.
    fn attempt(
        &mut self,
        http: &Http,
        events: &mut dyn FnMut(Event),
        got_on: &mut bool,
    ) -> Result<(), Failure> {
        if self.bytes == self.remote.bytes {
            return Ok(());
        }
        let answer = http.send(Method::Get, &self.remote.url, &self.range())?;
        let status = answer.status().as_u16();
        if self.bytes > 0 && !(status == 206 && starts_at(answer.headers(), self.bytes)) {
            self.clear().map_err(unwritten)?;
            events(Event::Restart);
            if status != 200 {
                return Err(Failure::Passing(
                    anyhow!("the server has no such part of {}", self.remote.path),
                    None,
                ));
            }
        }
        let mut body = answer.into_body().into_reader();
        while self.bytes < self.remote.bytes {
            let mut block = self.hasher.block();
            let wanted = (self.remote.bytes - self.bytes).min(block.len() as u64) as usize;
            let length = match body.read(&mut block[..wanted]) {
                Ok(0) => return Err(cut(ErrorKind::UnexpectedEof.into())),
                Ok(length) => length,
                Err(error) => return Err(cut(error)),
            };
            self.file.write_all(&block[..length]).map_err(unwritten)?;
            self.hasher.take(block, length);
            self.bytes += length as u64;
            *got_on = true;
            events(Event::Bytes(length as u64));
        }
        Ok(())
    }

    /// The headers that ask for what is missing. A name that is a checksum needs no `If-Range`: it says which content
    /// this is, whatever the server that has it calls it.
    fn range(&self) -> Vec<(&'static str, String)> {
        let range = ("range", format!("bytes={}-", self.bytes));
        match (self.bytes, self.remote.has_checksum()) {
            (0, _) => Vec::new(),
            (_, true) => vec![range],
            (_, false) => vec![range, ("if-range", format!("\"{}\"", self.remote.etag))],
        }
    }
}

/// Why nothing more can be read.
fn cut(error: std::io::Error) -> Failure {
    let is_timeout = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref())
        .is_some_and(|inner| matches!(inner, ureq::Error::Timeout(_)));
    let what = if is_timeout { "no more came" } else { "the connection broke" };
    Failure::Passing(anyhow!(error).context(what), None)
}

/// Whether a response resumes at byte `start`.
fn starts_at(headers: &HeaderMap, start: u64) -> bool {
    let range = headers.get("content-range").and_then(|value| value.to_str().ok());
    range.is_some_and(|range| range.trim().starts_with(&format!("bytes {start}-")))
}

fn unwritten(error: std::io::Error) -> Failure {
    Failure::Lasting(anyhow!(error).context("cannot write the file"))
}
