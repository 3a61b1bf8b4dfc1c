//! The safetensors format: an 8-byte header length, a JSON header, then the tensors.

use ::safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};
use anyhow::{Error, Result, anyhow};

use super::{Bytes, Entry};
use crate::base::dtype::DType;

/// Reads the header of a safetensors file and checks it against the file's length.
pub(super) fn read(file: &str, bytes: &Bytes) -> Result<Vec<(String, Entry)>> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| explain(file, error))?;
    let data = 8 + header;
    let mut entries = Vec::new();
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let bytes = bytes.slice(data + start..data + end);
        entries.push((name, Entry { dtype: dtype(info.dtype), shape: info.shape.clone(), bytes }));
    }
    Ok(entries)
}

fn dtype(stored: Dtype) -> Result<DType, String> {
    match stored {
        Dtype::F32 => Ok(DType::F32),
        Dtype::F16 => Ok(DType::F16),
        Dtype::BF16 => Ok(DType::BF16),
        Dtype::F8_E4M3 => Ok(DType::F8E4M3),
        other => Err(format!("{other:?}")),
    }
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
