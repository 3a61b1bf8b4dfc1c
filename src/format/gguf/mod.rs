//! The GGUF format: a header of typed metadata and of tensor names, shapes and offsets, then the tensors.
//!
//! Little-endian throughout. Version 3 is written; versions 2 and 3, which differ only in what they say of
//! byte order, are read. Described by ggml-org/ggml, `docs/gguf.md`.

mod read;
mod split;
mod write;

pub use write::Writer;
pub(super) use {read::read, split::is_later_part, split::open};

use anyhow::{Context, Result, bail, ensure};

use crate::base::dtype::DType;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is named after its type")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of metadata, all of one type.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is named after its type")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::String(text.to_owned())
    }
}

/// The metadata of a file: values by key, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(Vec<(String, Value)>);

impl Metadata {
    /// All entries, in the form that [`Writer::create`] takes.
    pub fn entries(&self) -> &[(String, Value)] {
        &self.0
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(own, _)| own == key).map(|(_, value)| value)
    }

    /// The value of a key that counts something, if present. Fails when it is no integer, or negative.
    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        self.parsed(key, "a count", |value| match *value {
            Value::U8(value) => Some(value.into()),
            Value::I8(value) => value.try_into().ok(),
            Value::U16(value) => Some(value.into()),
            Value::I16(value) => value.try_into().ok(),
            Value::U32(value) => value.try_into().ok(),
            Value::I32(value) => value.try_into().ok(),
            Value::U64(value) => value.try_into().ok(),
            Value::I64(value) => value.try_into().ok(),
            _ => None,
        })
    }

    /// The value of a key that is a real number, if present. Fails when it is no float.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.parsed(key, "a number", |value| match *value {
            Value::F32(value) => Some(value.into()),
            Value::F64(value) => Some(value),
            _ => None,
        })
    }

    /// The value of a key that is true or false, if present. Fails on another type.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.parsed(key, "true or false", |value| match *value {
            Value::Bool(value) => Some(value),
            _ => None,
        })
    }

    /// The value of a key that is text, if present. Fails on another type.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.parsed(key, "text", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The value of a key that is a list of strings, if present. Fails on another type.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>> {
        self.parsed(key, "a list of strings", |value| match value {
            Value::Array(Array::String(texts)) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// The value of a key that is a list of integers or of booleans, if present; a single one counts as a
    /// list of one. Fails on another type.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        fn all<T: Copy + Into<i64>>(items: &[T]) -> Option<Vec<i64>> {
            Some(items.iter().map(|&item| item.into()).collect())
        }
        let of_array = |array: &Array| match array {
            Array::U8(items) => all(items),
            Array::I8(items) => all(items),
            Array::U16(items) => all(items),
            Array::I16(items) => all(items),
            Array::U32(items) => all(items),
            Array::I32(items) => all(items),
            Array::I64(items) => all(items),
            Array::Bool(items) => all(items),
            Array::U64(items) => items.iter().map(|&item| item.try_into().ok()).collect(),
            _ => None,
        };
        if let Some(Value::Array(_)) = self.get(key) {
            return self.parsed(key, "a list of integers", |value| match value {
                Value::Array(array) => of_array(array),
                _ => None,
            });
        }
        let one = self.count(key)?.map(|count| i64::try_from(count).context("a count is too large"));
        Ok(one.transpose()?.map(|count| vec![count]))
    }

    fn parsed<'a, T>(
        &'a self,
        key: &str,
        kind: &str,
        parse: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match parse(value) {
            Some(value) => Ok(Some(value)),
            None => bail!("{key} is {}; it must be {kind}", value.describe()),
        }
    }
}

impl Value {
    /// A short description for errors.
    fn describe(&self) -> String {
        match self {
            Value::Array(_) => "a list".into(),
            Value::String(text) if text.len() > 40 => "a long string".into(),
            other => format!("{other:?}"),
        }
    }
}

/// The header entry of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Its name, at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first: the reverse of how the file lists them. One to [`DIMS_MAX`] of them; blocks
    /// lie along the last.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Size in bytes. Fails unless each row is a multiple of the block length, and on overflow.
    pub fn bytes(&self) -> Result<usize> {
        tensor_bytes(&self.name, self.dtype, &self.shape)
    }
}

/// Longest name of a tensor in bytes: other readers keep names in 64 bytes with a final zero.
pub const NAME_BYTES_MAX: usize = 63;

/// Most dimensions of a tensor.
pub const DIMS_MAX: usize = 4;

const MAGIC: [u8; 4] = *b"GGUF";
const VERSION: u32 = 3;
const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT_DEFAULT: u32 = 32;

/// Types of metadata values as the file numbers them.
mod kind {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}

/// Every element type that ggml has or had, by the number that files give it.
const TYPE_NAMES: &str = "F32 F16 Q4_0 Q4_1 Q4_2 Q4_3 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K \
    IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 Q4_0_4_4 Q4_0_4_8 \
    Q4_0_8_8 TQ1_0 TQ2_0 IQ4_NL_4_4 IQ4_NL_4_8 IQ4_NL_8_8 MXFP4 NVFP4 Q1_0 Q2_0";

/// The number that files give an element type; none for types that GGUF does not have.
fn type_id(dtype: DType) -> Option<u32> {
    TYPE_NAMES.split_whitespace().position(|name| name == dtype.to_string()).map(|id| id as u32)
}

/// What tensors are aligned to, in bytes from the start of the first.
fn alignment(metadata: &[(String, Value)]) -> Result<usize> {
    let alignment = match metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
        None => ALIGNMENT_DEFAULT,
        Some((_, Value::U32(alignment))) => *alignment,
        Some((_, value)) => bail!("{ALIGNMENT_KEY} is {}; it must be a 32-bit count", value.describe()),
    };
    ensure!(alignment.is_power_of_two(), "{ALIGNMENT_KEY} is {alignment}; it must be a power of two");
    Ok(alignment as usize)
}

fn tensor_bytes(name: &str, dtype: DType, shape: &[usize]) -> Result<usize> {
    let row = *shape.last().context("no dimensions")?;
    ensure!(
        row.is_multiple_of(dtype.block_len()),
        "tensor {name} has rows of {row} elements, which blocks of {} ({dtype}) do not divide",
        dtype.block_len()
    );
    shape
        .iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .and_then(|len| dtype.bytes(len))
        .with_context(|| format!("tensor {name} has shape {shape:?}, which is too large"))
}
