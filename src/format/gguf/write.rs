//! Writing a file as a stream.

use std::collections::HashSet;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use tempfile::NamedTempFile;

use super::{Array, DIMS_MAX, MAGIC, NAME_BYTES_MAX, TensorInfo, VERSION, Value, alignment, kind, type_id};

/// Bytes gathered before they are handed to the system.
const BUFFER_BYTES: usize = 1 << 20;

/// Writes one file, tensor after tensor. The file is written atomically: until
/// [`Writer::finish`] the bytes are in a temporary file beside it, which is removed when the writer is dropped.
pub struct Writer {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
    alignment: usize,
    /// Name and size in bytes of every tensor.
    tensors: Vec<(String, usize)>,
    /// Tensors that are complete.
    done: usize,
    /// Bytes of tensor `done` that were written.
    written: usize,
}

impl Writer {
    /// Writes the header. Tensors are aligned to `general.alignment` of the metadata, or to 32 bytes.
    ///
    /// Fails when a key or a tensor is listed twice, when a tensor is of a type that GGUF does not have or of
    /// a shape it cannot hold, and when the folder of `path` cannot be written to.
    pub fn create(path: &Path, metadata: &[(String, Value)], tensors: &[TensorInfo]) -> Result<Self> {
        let describe = || format!("cannot write {}", path.display());
        let alignment = alignment(metadata).with_context(describe)?;
        let header = header(metadata, tensors, alignment).with_context(describe)?;
        let sizes = tensors.iter().map(|tensor| Ok((tensor.name.clone(), tensor.bytes()?)));
        let tensors = sizes.collect::<Result<_>>().with_context(describe)?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, temporary(path).with_context(describe)?);
        let mut this = Self { path: path.to_owned(), file, alignment, tensors, done: 0, written: 0 };
        this.put(&header)?;
        Ok(this)
    }

    /// Appends bytes of the tensors, in the order of the header. A call may end inside a tensor or span
    /// several. Fails when there are more bytes than tensors to hold them, and when the disk is full.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some(&(_, size)) = self.tensors.get(self.done) else {
                bail!("{}: {} bytes come after the last tensor", self.path.display(), bytes.len());
            };
            let (now, later) = bytes.split_at(bytes.len().min(size - self.written));
            self.put(now)?;
            self.written += now.len();
            if self.written == size {
                self.put(&vec![0; padding(size, self.alignment)])?;
                (self.done, self.written) = (self.done + 1, 0);
            }
            bytes = later;
        }
        Ok(())
    }

    /// Gives the file its name, once everything is on the disk. Fails when a tensor is incomplete.
    pub fn finish(self) -> Result<()> {
        let path = self.path.display();
        if let Some((name, size)) = self.tensors.get(self.done) {
            bail!("{path}: tensor {name} is incomplete; {} of its {size} bytes were written", self.written);
        }
        let file = self.file.into_inner().map_err(|error| error.into_error());
        let file = file.with_context(|| format!("cannot write {path}"))?;
        file.as_file().sync_all().with_context(|| format!("cannot write {path}"))?;
        file.persist(&self.path).with_context(|| format!("cannot write {path}"))?;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// A file beside `path`, so that renaming never copies, with the permissions of any new file.
fn temporary(path: &Path) -> Result<NamedTempFile> {
    let name = path.file_name().context("the path ends in no file name")?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut prefix = name.to_owned();
    prefix.push(".");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(dir).with_context(|| format!("cannot create a file in {}", dir.display()))
}

/// All that comes before the first tensor, padding included.
fn header(metadata: &[(String, Value)], tensors: &[TensorInfo], alignment: usize) -> Result<Vec<u8>> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    put_len(&mut out, tensors.len());
    put_len(&mut out, metadata.len());
    let mut keys = HashSet::new();
    for (key, value) in metadata {
        ensure!(!key.is_empty() && keys.insert(key), "metadata key {key:?} is empty or listed twice");
        put_string(&mut out, key);
        put_value(&mut out, value);
    }
    let (mut offset, mut names) = (0usize, HashSet::new());
    for tensor in tensors {
        ensure!(names.insert(&tensor.name), "tensor {} is listed twice", tensor.name);
        put_tensor(&mut out, tensor, offset)?;
        let size = tensor.bytes()?;
        offset = offset
            .checked_add(size)
            .and_then(|end| end.checked_add(padding(size, alignment)))
            .context("the tensors are too large")?;
    }
    out.resize(out.len() + padding(out.len(), alignment), 0);
    Ok(out)
}

fn put_tensor(out: &mut Vec<u8>, tensor: &TensorInfo, offset: usize) -> Result<()> {
    let TensorInfo { name, dtype, shape } = tensor;
    let id = type_id(*dtype).with_context(|| format!("tensor {name}: GGUF has no type {dtype}"))?;
    ensure!(name.len() <= NAME_BYTES_MAX, "the name of tensor {name} is longer than {NAME_BYTES_MAX} bytes");
    ensure!(
        (1..=DIMS_MAX).contains(&shape.len()) && !shape.contains(&0),
        "tensor {name} has shape {shape:?}; GGUF holds 1 to {DIMS_MAX} dimensions, none of them 0"
    );
    put_string(out, name);
    out.extend((shape.len() as u32).to_le_bytes());
    shape.iter().rev().for_each(|&size| put_len(out, size));
    out.extend(id.to_le_bytes());
    put_len(out, offset);
    Ok(())
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |kind: u32, bytes: &[u8]| {
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(value) => put(kind::U8, &value.to_le_bytes()),
        Value::I8(value) => put(kind::I8, &value.to_le_bytes()),
        Value::U16(value) => put(kind::U16, &value.to_le_bytes()),
        Value::I16(value) => put(kind::I16, &value.to_le_bytes()),
        Value::U32(value) => put(kind::U32, &value.to_le_bytes()),
        Value::I32(value) => put(kind::I32, &value.to_le_bytes()),
        Value::F32(value) => put(kind::F32, &value.to_le_bytes()),
        Value::Bool(value) => put(kind::BOOL, &[u8::from(*value)]),
        Value::U64(value) => put(kind::U64, &value.to_le_bytes()),
        Value::I64(value) => put(kind::I64, &value.to_le_bytes()),
        Value::F64(value) => put(kind::F64, &value.to_le_bytes()),
        Value::String(text) => {
            put(kind::STRING, &[]);
            put_string(out, text);
        }
        Value::Array(array) => {
            put(kind::ARRAY, &[]);
            put_array(out, array);
        }
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    match array {
        Array::U8(items) => put_items(out, kind::U8, items, |out, item| out.push(*item)),
        Array::I8(items) => put_items(out, kind::I8, items, |out, item| out.extend(item.to_le_bytes())),
        Array::U16(items) => put_items(out, kind::U16, items, |out, item| out.extend(item.to_le_bytes())),
        Array::I16(items) => put_items(out, kind::I16, items, |out, item| out.extend(item.to_le_bytes())),
        Array::U32(items) => put_items(out, kind::U32, items, |out, item| out.extend(item.to_le_bytes())),
        Array::I32(items) => put_items(out, kind::I32, items, |out, item| out.extend(item.to_le_bytes())),
        Array::F32(items) => put_items(out, kind::F32, items, |out, item| out.extend(item.to_le_bytes())),
        Array::Bool(items) => put_items(out, kind::BOOL, items, |out, item| out.push((*item).into())),
        Array::String(items) => put_items(out, kind::STRING, items, |out, item| put_string(out, item)),
        Array::Array(items) => put_items(out, kind::ARRAY, items, put_array),
        Array::U64(items) => put_items(out, kind::U64, items, |out, item| out.extend(item.to_le_bytes())),
        Array::I64(items) => put_items(out, kind::I64, items, |out, item| out.extend(item.to_le_bytes())),
        Array::F64(items) => put_items(out, kind::F64, items, |out, item| out.extend(item.to_le_bytes())),
    }
}

fn put_items<T>(out: &mut Vec<u8>, kind: u32, items: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    out.extend(kind.to_le_bytes());
    put_len(out, items.len());
    items.iter().for_each(|item| put(out, item));
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend(text.as_bytes());
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend((len as u64).to_le_bytes());
}

/// Bytes from `len` to the next multiple of `alignment`.
fn padding(len: usize, alignment: usize) -> usize {
    len.wrapping_neg() % alignment
}
