//! The safetensors format: an 8-byte header length, a JSON header, then the tensors.

use ::safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};
use anyhow::{Error, Result, anyhow};

use super::Bytes;
use crate::base::dtype::DType;

/// A tensor of one file, of whatever type the format knows.
pub struct Entry {
    stored: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// The elements.
    pub bytes: Bytes,
}

impl Entry {
    /// The element type, if fimd computes with it.
    pub fn dtype(&self) -> Option<DType> {
        match self.stored {
            Dtype::F32 => Some(DType::F32),
            Dtype::F16 => Some(DType::F16),
            Dtype::BF16 => Some(DType::BF16),
            Dtype::F8_E4M3 => Some(DType::F8E4M3),
            _ => None,
        }
    }

    /// The name of the element type in the file.
    pub fn type_name(&self) -> String {
        format!("{:?}", self.stored)
    }
}

/// Reads the header of a safetensors file and checks it against the file's length.
pub fn read(file: &str, bytes: &Bytes) -> Result<Vec<(String, Entry)>> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| explain(file, error))?;
    let data = 8 + header;
    let mut entries = Vec::new();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let bytes = bytes.slice(data + start..data + end);
        entries.push((name, Entry { stored: info.dtype, shape: info.shape.clone(), bytes }));
    }
    Ok(entries)
}

fn explain(file: &str, error: SafeTensorError) -> Error {
    let why = match &error {
        SafeTensorError::HeaderTooSmall => "the file is shorter than its 8-byte header length".into(),
        SafeTensorError::HeaderTooLarge => "the header claims more than 100 MB".into(),
        SafeTensorError::InvalidHeaderLength => "the header is longer than the file; it was cut short".into(),
        SafeTensorError::MetadataIncompleteBuffer => {
            "the tensors do not fill the file exactly; it was cut short or has trailing bytes".into()
        }
        SafeTensorError::InvalidOffset(name) => {
            format!("tensor {name} overlaps another or lies outside the file")
        }
        SafeTensorError::TensorInvalidInfo => "a tensor's size does not match its shape and type".into(),
        SafeTensorError::ValidationOverflow => "a tensor's shape overflows".into(),
        other => other.to_string(),
    };
    anyhow!("{file} is not a valid safetensors file: {why}")
}
