//! The GGUF format: a header of typed metadata and of tensor names, shapes and offsets, then the tensors.
//!
//! Little-endian throughout. Version 3 is written; versions 2 and 3, which differ only in what they say of
//! byte order, are read. Described by ggml-org/ggml, `docs/gguf.md`.

mod write;

pub use write::Writer;

use anyhow::{Context, Result, ensure};

use crate::base::dtype::DType;

/// What a metadata key stands for.
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

/// What the header says of a tensor.
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
    /// How many bytes its elements take. Fails when they are no whole number of blocks in each row, or too
    /// many to count.
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
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}

/// The number that files give an element type; none for types that GGUF does not have.
fn type_id(dtype: DType) -> Option<u32> {
    match dtype {
        DType::F32 => Some(0),
        DType::F16 => Some(1),
        DType::Q4_0 => Some(2),
        DType::Q5_0 => Some(6),
        DType::Q8_0 => Some(8),
        DType::Q4K => Some(12),
        DType::Q5K => Some(13),
        DType::Q6K => Some(14),
        DType::Iq4Nl => Some(20),
        DType::Iq4Xs => Some(23),
        DType::BF16 => Some(30),
        DType::Mxfp4 => Some(39),
        DType::F8E4M3 => None,
    }
}

/// What tensors are aligned to, in bytes from the start of the first.
fn alignment(metadata: &[(String, Value)]) -> Result<usize> {
    let alignment = match metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
        None => ALIGNMENT_DEFAULT,
        Some((_, Value::U32(alignment))) => *alignment,
        Some((_, value)) => anyhow::bail!("{ALIGNMENT_KEY} is {value:?}; it must be a 32-bit count"),
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
