//! Models split over several files, `NAME-00001-of-0000N.gguf` and so on.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Metadata, read};
use crate::format::{Bytes, Entry, mmap};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Opens a file and, where it is one part of several, all others: the metadata of the first part, the tensors
/// of all. Fails when a part is missing or belongs to another model.
pub(crate) fn open(path: &Path) -> Result<(Metadata, Vec<(String, Entry)>)> {
    let (metadata, tensors) = open_part(path)?;
    let count = metadata.count(COUNT).with_context(|| path.display().to_string())?.unwrap_or(1);
    if count <= 1 {
        return Ok((metadata, tensors));
    }
    let name = path.display();
    let (prefix, number, total) = part_name(path)
        .with_context(|| format!("{name} is one of {count} parts, but its name does not say which"))?;
    ensure!(total == count, "{name} is one of {count} parts, but its name says {total}");
    let mut opened = Some((metadata, tensors));
    let mut first = None;
    let mut all = Vec::new();
    for part in 1..=count {
        let path = path.with_file_name(format!("{prefix}-{part:05}-of-{count:05}.gguf"));
        let own = if part == number { opened.take() } else { None };
        let (metadata, tensors) = own.map_or_else(|| open_other(&path, count), Ok)?;
        check_part(&metadata, part, count).with_context(|| path.display().to_string())?;
        all.extend(tensors);
        first.get_or_insert(metadata);
    }
    let first = first.context("there is no part")?;
    let promised = first.count(TENSORS)?.unwrap_or(all.len());
    ensure!(promised == all.len(), "{name}: the parts hold {} tensors, not {promised}", all.len());
    Ok((first, all))
}

/// Whether a file is named as a part of a model that is not its first.
pub(crate) fn is_later_part(path: &Path) -> bool {
    part_name(path).is_some_and(|(_, number, _)| number > 1)
}

fn open_part(path: &Path) -> Result<(Metadata, Vec<(String, Entry)>)> {
    let bytes = Bytes::mapped(mmap::map(path, u64::MAX)?);
    read(&path.display().to_string(), &bytes)
}

fn open_other(path: &Path, count: usize) -> Result<(Metadata, Vec<(String, Entry)>)> {
    let path_name = path.display();
    ensure!(path.exists(), "{path_name} is missing; it is one of the model's {count} parts");
    open_part(path)
}

fn check_part(metadata: &Metadata, part: usize, count: usize) -> Result<()> {
    let own_count = metadata.count(COUNT)?.unwrap_or(1);
    ensure!(own_count == count, "it is one of {own_count} parts, another is one of {count}");
    let own = metadata.count(NO)?.with_context(|| format!("{NO} is missing"))?;
    ensure!(own + 1 == part, "it is part {} by its metadata, part {part} by its name", own + 1);
    Ok(())
}

/// The name without its ending, the part's number from 1 on, and how many parts there are.
fn part_name(path: &Path) -> Option<(&str, usize, usize)> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, total) = stem.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| {
        let is_number = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().ok()).flatten()
    };
    Some((prefix, parse(number)?, parse(total)?))
}
