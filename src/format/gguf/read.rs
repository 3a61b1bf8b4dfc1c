//! Reading a file's header. Everything in it is checked against the bytes that are there before memory is
//! taken for it.

use std::collections::HashSet;

use anyhow::{Context, Result, bail, ensure};

use super::{Array, DIMS_MAX, MAGIC, Metadata, TYPE_NAMES, VERSION, Value, alignment, kind, tensor_bytes};
use crate::base::dtype::DType;
use crate::format::{Bytes, Entry};

/// Longest header: a vocabulary of a million tokens takes less.
const HEADER_BYTES_MAX: usize = 256 << 20;

/// How deep arrays may lie in arrays.
const NESTING_MAX: usize = 4;

/// Fewest bytes of a metadata entry: the length of its key, its type, a value of one byte.
const ENTRY_BYTES_MIN: usize = 8 + 4 + 1;

/// Fewest bytes of the header entry of a tensor: the length of its name, one dimension, type, offset.
const TENSOR_BYTES_MIN: usize = 8 + 4 + 8 + 4 + 8;

/// Reads the header of the file called `file`.
pub(crate) fn read(file: &str, bytes: &Bytes) -> Result<(Metadata, Vec<(String, Entry)>)> {
    read_header(bytes).with_context(|| format!("{file} is not a valid GGUF file"))
}

fn read_header(bytes: &Bytes) -> Result<(Metadata, Vec<(String, Entry)>)> {
    let mut cursor = Cursor { rest: &bytes[..bytes.len().min(HEADER_BYTES_MAX)] };
    let header_max = cursor.rest.len();
    check_version(&mut cursor)?;
    let tensors = cursor.count("tensors", TENSOR_BYTES_MIN)?;
    let entries = cursor.count("metadata entries", ENTRY_BYTES_MIN)?;
    let metadata = read_metadata(&mut cursor, entries)?;
    let infos = (0..tensors).map(|_| read_info(&mut cursor)).collect::<Result<Vec<_>>>()?;
    let alignment = alignment(&metadata.0)?;
    let start = (header_max - cursor.rest.len()).next_multiple_of(alignment);
    let data = bytes.slice(start.min(bytes.len())..bytes.len());

    let mut names = HashSet::new();
    for info in &infos {
        ensure!(names.insert(&info.name), "tensor {} is listed twice", info.name);
    }
    let entries = infos.iter().map(|info| Ok((info.name.clone(), entry(info, &data, alignment)?)));
    let entries = entries.collect::<Result<_>>()?;
    Ok((metadata, entries))
}

fn check_version(cursor: &mut Cursor) -> Result<()> {
    let magic: [u8; 4] = cursor.array().context("it is shorter than its first word")?;
    ensure!(magic == MAGIC, "it begins with {:?}, not with \"GGUF\"", String::from_utf8_lossy(&magic));
    let version = cursor.u32()?;
    ensure!(
        version == 0 || version & 0xffff != 0,
        "it is big-endian; fimd reads little-endian files, as almost all are"
    );
    ensure!(
        (2..=VERSION).contains(&version),
        "it has version {version}; fimd reads 2 and 3, which every present tool writes"
    );
    Ok(())
}

fn read_metadata(cursor: &mut Cursor, len: usize) -> Result<Metadata> {
    let mut keys = HashSet::new();
    let mut entries = Vec::new();
    for i in 0..len {
        let key = cursor.string().with_context(|| format!("metadata key {i}"))?;
        let value = read_value(cursor).with_context(|| format!("metadata {key}"))?;
        ensure!(keys.insert(key), "metadata {key} is listed twice");
        entries.push((key.to_owned(), value));
    }
    Ok(Metadata(entries))
}

fn read_value(cursor: &mut Cursor) -> Result<Value> {
    Ok(match cursor.u32()? {
        kind::U8 => Value::U8(u8::from_le_bytes(cursor.array()?)),
        kind::I8 => Value::I8(i8::from_le_bytes(cursor.array()?)),
        kind::U16 => Value::U16(u16::from_le_bytes(cursor.array()?)),
        kind::I16 => Value::I16(i16::from_le_bytes(cursor.array()?)),
        kind::U32 => Value::U32(u32::from_le_bytes(cursor.array()?)),
        kind::I32 => Value::I32(i32::from_le_bytes(cursor.array()?)),
        kind::F32 => Value::F32(f32::from_le_bytes(cursor.array()?)),
        kind::BOOL => Value::Bool(bool_from(cursor.array()?)?),
        kind::STRING => Value::String(cursor.string()?.to_owned()),
        kind::ARRAY => Value::Array(read_array(cursor, NESTING_MAX)?),
        kind::U64 => Value::U64(u64::from_le_bytes(cursor.array()?)),
        kind::I64 => Value::I64(i64::from_le_bytes(cursor.array()?)),
        kind::F64 => Value::F64(f64::from_le_bytes(cursor.array()?)),
        other => bail!("value type {other} does not exist"),
    })
}

fn read_array(cursor: &mut Cursor, nesting_max: usize) -> Result<Array> {
    ensure!(nesting_max > 0, "arrays lie more than {NESTING_MAX} deep in arrays");
    Ok(match cursor.u32()? {
        kind::U8 => Array::U8(cursor.items(u8::from_le_bytes)?),
        kind::I8 => Array::I8(cursor.items(i8::from_le_bytes)?),
        kind::U16 => Array::U16(cursor.items(u16::from_le_bytes)?),
        kind::I16 => Array::I16(cursor.items(i16::from_le_bytes)?),
        kind::U32 => Array::U32(cursor.items(u32::from_le_bytes)?),
        kind::I32 => Array::I32(cursor.items(i32::from_le_bytes)?),
        kind::F32 => Array::F32(cursor.items(f32::from_le_bytes)?),
        kind::BOOL => Array::Bool(cursor.items(bool_from)?.into_iter().collect::<Result<_>>()?),
        kind::STRING => Array::String(cursor.nested(8, |cursor| Ok(cursor.string()?.to_owned()))?),
        kind::ARRAY => Array::Array(cursor.nested(4 + 8, |cursor| read_array(cursor, nesting_max - 1))?),
        kind::U64 => Array::U64(cursor.items(u64::from_le_bytes)?),
        kind::I64 => Array::I64(cursor.items(i64::from_le_bytes)?),
        kind::F64 => Array::F64(cursor.items(f64::from_le_bytes)?),
        other => bail!("value type {other} does not exist"),
    })
}

fn bool_from([byte]: [u8; 1]) -> Result<bool> {
    ensure!(byte <= 1, "{byte} is neither true nor false");
    Ok(byte == 1)
}

/// The header entry of a tensor of any type.
struct Info {
    name: String,
    shape: Vec<usize>,
    type_id: u32,
    offset: u64,
}

fn read_info(cursor: &mut Cursor) -> Result<Info> {
    let name = cursor.string().context("the name of a tensor")?.to_owned();
    let dims = cursor.u32()? as usize;
    ensure!((1..=DIMS_MAX).contains(&dims), "tensor {name} has {dims} dimensions, not 1 to {DIMS_MAX}");
    let mut shape = (0..dims)
        .map(|_| usize::try_from(cursor.u64()?).with_context(|| format!("tensor {name} is too large")))
        .collect::<Result<Vec<_>>>()?;
    shape.reverse();
    Ok(Info { name, shape, type_id: cursor.u32()?, offset: cursor.u64()? })
}

/// Locates the bytes of a tensor. Unsupported types have none, since their size is unknown.
fn entry(info: &Info, data: &Bytes, alignment: usize) -> Result<Entry> {
    let Info { name, shape, .. } = info;
    let known = TYPE_NAMES.split_whitespace().nth(info.type_id as usize);
    let Some(dtype) = known.and_then(|name| name.parse::<DType>().ok()) else {
        let type_name = known.map_or_else(|| format!("number {}", info.type_id), Into::into);
        return Ok(Entry { dtype: Err(type_name), shape: shape.clone(), bytes: data.slice(0..0) });
    };
    let len = tensor_bytes(name, dtype, shape)?;
    let start = usize::try_from(info.offset).ok().filter(|start| start.is_multiple_of(alignment));
    let start = start.with_context(|| {
        format!("tensor {name} lies at byte {}, which is no multiple of {alignment}", info.offset)
    })?;
    let end = start.checked_add(len).filter(|&end| end <= data.len()).with_context(|| {
        format!(
            "tensor {name} takes {len} bytes from byte {start} on, but there are {}; the file was cut short",
            data.len()
        )
    })?;
    Ok(Entry { dtype: Ok(dtype), shape: shape.clone(), bytes: data.slice(start..end) })
}

/// What is left of the header.
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            bail!("{len} bytes are needed where {} are left; the file was cut short", self.rest.len());
        };
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(*self.take(N)?.first_chunk().expect("N bytes were taken"))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The count of things that take at least `bytes_min` each.
    fn count(&mut self, things: &str, bytes_min: usize) -> Result<usize> {
        let count = self.u64()?;
        ensure!(
            count <= (self.rest.len() / bytes_min) as u64,
            "it promises {count} {things} in the {} bytes left; it was cut short or is damaged",
            self.rest.len()
        );
        Ok(count as usize)
    }

    fn string(&mut self) -> Result<&'a str> {
        let len = self.count("bytes of text", 1)?;
        std::str::from_utf8(self.take(len)?).context("the text is not UTF-8")
    }

    /// The items of an array, each of N bytes.
    fn items<const N: usize, T>(&mut self, from: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let len = self.count("items", N)?;
        Ok(self.take(len * N)?.as_chunks().0.iter().map(|bytes| from(*bytes)).collect())
    }

    /// The items of an array, each of at least `bytes_min` bytes.
    fn nested<T>(&mut self, bytes_min: usize, read: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let len = self.count("items", bytes_min)?;
        (0..len).map(|_| read(self)).collect()
    }
}
