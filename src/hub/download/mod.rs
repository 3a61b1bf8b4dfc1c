//! Downloading a model from Hugging Face, or a server that speaks like it, into the cache that its tools share.
//!
//! `http` is one request with its redirects and retries, `file` one file that may have been begun before, and `hash` its
//! checksum. An interrupted download resumes.

mod file;
mod hash;
mod http;

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use ureq::http::HeaderMap;

use self::file::Remote;
use self::http::{Failure, Http, Method};
use super::cache::Cache;
use super::reference::{Reference, Repo};
use super::select::{Listed, Selected, Variant, select};
use crate::base::client::Token;
use crate::base::disk;

/// Bytes that stay free on the disk.
const SPARE_BYTES: u64 = 64 << 20;
/// The longest listing of a repository, in bytes.
const LISTING_BYTES_MAX: u64 = 1 << 26;

/// Where to download from and to.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address of the hub.
    pub endpoint: String,
    /// For models that not everybody may have. It is sent to the endpoint only.
    pub token: Option<Token>,
    /// The folder of the cache.
    pub cache: PathBuf,
    /// How long nothing may come before a connection counts as broken.
    pub stall: Duration,
    /// The wait before the first new attempt; it doubles with each.
    pub back_off: Duration,
    /// New attempts in a row that come to nothing.
    pub retries: u32,
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum Event<'e> {
    /// The bytes and the files to download.
    Start { bytes: u64, files: usize },
    /// A file begins, of which `had` bytes are there.
    File { path: &'e str, bytes: u64, had: u64 },
    /// More bytes came.
    Bytes(u64),
    /// The file begins anew: the server cannot go on where it has stopped.
    Restart,
    /// Something went wrong and is tried again.
    Note(&'e str),
}

/// What became of it.
#[derive(Debug)]
pub enum Outcome {
    /// The model is on disk.
    Pulled {
        /// What opens it.
        path: PathBuf,
        bytes: u64,
        /// Whether all of it was there before.
        was_here: bool,
    },
    /// The repository has several models, or none that is meant.
    Choices(Vec<Variant>),
}

/// Downloads a model, as far as it is not on disk.
pub fn pull(options: &Options, reference: &Reference, events: &mut dyn FnMut(Event)) -> Result<Outcome> {
    let (http, repo) = (Http::new(options)?, &reference.repo);
    let listing = Listing::read(&http, repo, events)?;
    let variant = match select(&listing.files, reference.file.as_deref()) {
        Selected::One(variant) => variant,
        Selected::Choices(variants) => return Ok(Outcome::Choices(variants)),
        Selected::Incomplete { name, missing } => {
            bail!("{reference}: {name} is incomplete there: {missing} is missing")
        }
    };
    let cache = Cache::new(&options.cache);
    let remotes = variant.files.iter().map(|file| describe(&http, repo, &listing.commit, file, events));
    let remotes = remotes.collect::<Result<Vec<Remote>>>()?;
    let is_here = |remote: &Remote| {
        let has_size = |path: PathBuf| path.metadata().is_ok_and(|metadata| metadata.len() == remote.bytes);
        let name = cache.pointer(repo, &listing.commit, &remote.path);
        has_size(cache.blob(repo, &remote.etag)) || has_size(name)
    };
    let missing: Vec<&Remote> = remotes.iter().filter(|remote| !is_here(remote)).collect();
    check_space(&cache, repo, &missing)?;
    events(Event::Start { bytes: missing.iter().map(|remote| remote.bytes).sum(), files: missing.len() });
    for remote in &missing {
        let _lock = cache.lock(repo, &remote.etag)?;
        if is_here(remote) {
            // Another process was faster.
            continue;
        }
        let partial = cache.partial(repo, &remote.etag);
        file::fetch(&http, remote, &partial, events)?;
        let blob = cache.blob(repo, &remote.etag);
        fs::rename(&partial, &blob).with_context(|| format!("cannot write {}", blob.display()))?;
    }
    for remote in remotes.iter().filter(|remote| cache.blob(repo, &remote.etag).exists()) {
        cache.link(repo, &listing.commit, &remote.path, &remote.etag)?;
    }
    cache.set_main(repo, &listing.commit)?;
    Ok(Outcome::Pulled {
        path: cache.pointer(repo, &listing.commit, &variant.name),
        bytes: remotes.iter().map(|remote| remote.bytes).sum(),
        was_here: missing.is_empty(),
    })
}

/// The files of a repository at its newest commit.
struct Listing {
    commit: String,
    files: Vec<Listed>,
}

impl Listing {
    fn read(http: &Http, repo: &Repo, events: &mut dyn FnMut(Event)) -> Result<Self> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
            size: Option<u64>,
        }
        let url = http.address(&format!("api/models/{}/revision/main", repo.name())) + "?blobs=true";
        let text = http.persist(events, |_, _| {
            let answer = http.send(Method::Get, &url, &[])?;
            let body = answer.into_body().into_with_config().limit(LISTING_BYTES_MAX).read_to_string();
            body.map_err(|error| Failure::Passing(anyhow!(error).context("the listing broke off"), None))
        });
        let text = text.with_context(|| format!("cannot list {}", repo.name()))?;
        let answer: Answer =
            serde_json::from_str(&text).with_context(|| format!("{url} is no listing of a repository"))?;
        ensure!(is_plain(&answer.sha), "{}: {:?} is not the name of a commit", repo.name(), answer.sha);
        let files = answer.siblings.into_iter().filter(|file| is_inside(&file.rfilename));
        let files = files.map(|file| Listed { path: file.rfilename, bytes: file.size });
        Ok(Self { commit: answer.sha, files: files.collect() })
    }
}

/// Asks what content a file has and how large it is.
fn describe(
    http: &Http,
    repo: &Repo,
    commit: &str,
    file: &Listed,
    events: &mut dyn FnMut(Event),
) -> Result<Remote> {
    let url = http.address(&format!("{}/resolve/{commit}/{}", repo.name(), file.path));
    let answer = http.persist(events, |_, _| http.send(Method::Head, &url, &[]));
    let answer = answer.with_context(|| format!("cannot get {}", file.path))?;
    let first = |names: [&str; 2]| names.into_iter().find_map(|name| header(answer.headers(), name));
    let etag = first(["x-linked-etag", "etag"]).map(|etag| {
        let etag = etag.trim().trim_start_matches("W/").trim_matches('"');
        etag.to_owned()
    });
    let etag = etag.filter(|etag| is_plain(etag));
    let is_redirect = answer.status().is_redirection();
    let bytes = match header(answer.headers(), "x-linked-size") {
        None if is_redirect => file.bytes,
        None => header(answer.headers(), "content-length").and_then(|bytes| bytes.trim().parse().ok()),
        Some(bytes) => bytes.trim().parse().ok(),
    };
    match (etag, bytes.or(file.bytes)) {
        (Some(etag), Some(bytes)) => Ok(Remote { path: file.path.clone(), url, bytes, etag }),
        _ => bail!(
            "the server does not say how large {} is or what is in it; is it a hub of models?",
            file.path
        ),
    }
}

/// Fails when the disk has no room for what is missing.
fn check_space(cache: &Cache, repo: &Repo, missing: &[&Remote]) -> Result<()> {
    let blobs = cache.create(repo)?;
    let had =
        |remote: &&Remote| cache.partial(repo, &remote.etag).metadata().map_or(0, |metadata| metadata.len());
    let needed: u128 =
        missing.iter().map(|remote| u128::from(remote.bytes.saturating_sub(had(remote)))).sum();
    let Some(free) = disk::free_space(&blobs) else { return Ok(()) };
    let gigabytes = |bytes: u128| bytes as f64 / 1e9;
    ensure!(
        needed == 0 || needed + u128::from(SPARE_BYTES) <= u128::from(free),
        "{} needs {:.1} GB more, and the disk of {} has {:.1} GB free; make room (`fimd models rm`), or set HF_HOME to a folder on another disk",
        repo.name(),
        gigabytes(needed),
        blobs.display(),
        gigabytes(u128::from(free))
    );
    Ok(())
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a name is one of a file, and nothing else.
fn is_plain(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// Whether a path stays in the folder that it is read from.
fn is_inside(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    !path.contains('\\') && parts.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_a_server_stay_where_they_belong() {
        for (path, expected) in [
            ("a.gguf", true),
            ("a/b.gguf", true),
            ("../a.gguf", false),
            ("a/../../b", false),
            ("/a", false),
            ("./a", false),
            ("a\\..\\b", false),
        ] {
            assert_eq!(is_inside(path), expected, "{path}");
        }
        assert!(is_plain("0a-B_") && !is_plain("") && !is_plain("..") && !is_plain("a/b"));
    }
}
