//! Importance matrices, as llama.cpp's `llama-imatrix` writes them: how large the activations are that each column of
//! a matrix meets.
//!
//! For a tensor NAME a GGUF file has `NAME.in_sum2`, `[matrices, columns]` sums of squares, and `NAME.counts`, of how
//! many activations. Older files list names with the same sums. A tensor of routed experts has a matrix for each.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::gguf::{Array, TensorInfo, Value, Writer};
use super::{Bytes, ModelDir};
use crate::base::dtype::DType;

const SQUARES: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// The least weight of a column: even one that met nothing but zeros is not for free.
const WEIGHT_MIN: f32 = 1e-4;

/// The importance of the columns of a model's matrices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance {
    /// By the names of tensors in GGUF files.
    pub tensors: BTreeMap<String, Sums>,
}

/// Sums over the activations that one tensor was multiplied with.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// Of the squares, `[matrices, columns]`.
    pub squares: Vec<f32>,
    /// How many activations each matrix met, `[matrices]`.
    pub counts: Vec<f32>,
}

impl Importance {
    /// Reads a file in either format. Fails when it is no importance matrix, or is damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {name}"))?;
        let read = if bytes.starts_with(b"GGUF") {
            read_gguf(&name, bytes)
        } else {
            read_list(&bytes).context(name)
        };
        let importance = read?;
        for (tensor, sums) in &importance.tensors {
            let is_valid = |value: &&f32| value.is_finite() && **value >= 0.0;
            ensure!(
                sums.squares.iter().all(|value| is_valid(&value)),
                "{}: the sums of {tensor} are no squares; the file is damaged",
                path.display()
            );
        }
        Ok(importance)
    }

    /// How many matrices met nothing.
    pub fn unvisited(&self) -> usize {
        let counts = self.tensors.values().flat_map(|sums| &sums.counts);
        counts.filter(|&&count| count == 0.0).count()
    }

    /// Writes a GGUF file: sums over `chunks` chunks of `chunk_tokens` tokens of `texts`.
    pub fn write(&self, path: &Path, texts: &[String], chunks: u32, chunk_tokens: u32) -> Result<()> {
        let metadata = [
            ("general.type", "imatrix".into()),
            ("imatrix.datasets", Value::Array(Array::String(texts.to_vec()))),
            ("imatrix.chunk_count", Value::U32(chunks)),
            ("imatrix.chunk_size", Value::U32(chunk_tokens)),
        ];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
        let info = |name: &str, end: &str, shape: [usize; 2]| TensorInfo {
            name: format!("{name}{end}"),
            dtype: DType::F32,
            shape: shape.to_vec(),
        };
        let infos = self.tensors.iter().flat_map(|(name, sums)| {
            let matrices = sums.counts.len();
            let columns = sums.squares.len() / matrices.max(1);
            [info(name, SQUARES, [matrices, columns]), info(name, COUNTS, [matrices, 1])]
        });
        let mut writer = Writer::create(path, &metadata, &infos.collect::<Vec<_>>())?;
        for sums in self.tensors.values() {
            let values = sums.squares.iter().chain(&sums.counts);
            writer.write(&values.flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
        }
        writer.finish()
    }
}

impl Sums {
    /// The same as sums of `matrices` matrices: the older format does not say of how many they are.
    pub fn split(&self, matrices: usize) -> Self {
        Self { squares: self.squares.clone(), counts: vec![self.counts[0]; matrices] }
    }

    /// What an error in each column counts, `[matrices, columns]`: the mean square of what it meets, as a part of
    /// the mean of its matrix. A matrix that met nothing weighs all alike.
    pub fn weights(&self) -> Vec<f32> {
        let mut weights = self.squares.clone();
        let columns = self.squares.len() / self.counts.len().max(1);
        for row in weights.chunks_exact_mut(columns.max(1)) {
            let mean = row.iter().map(|&value| f64::from(value)).sum::<f64>() / row.len() as f64;
            for weight in row {
                let part = (f64::from(*weight) / mean) as f32;
                *weight = if mean > 0.0 { part.max(WEIGHT_MIN) } else { 1.0 };
            }
        }
        weights
    }
}

fn read_gguf(name: &str, bytes: Vec<u8>) -> Result<Importance> {
    let file = ModelDir::from_gguf(name, &Bytes::from(bytes))?;
    let mut tensors = BTreeMap::new();
    for tensor in file.names().filter_map(|tensor| tensor.strip_suffix(SQUARES)) {
        let squares = file.tensor(&format!("{tensor}{SQUARES}"))?.to_f32();
        let counts = file.tensor(&format!("{tensor}{COUNTS}"))?.to_f32();
        let is_whole = !counts.is_empty() && squares.len().is_multiple_of(counts.len());
        ensure!(is_whole, "{name}: {tensor} has {} sums of {} matrices", squares.len(), counts.len());
        tensors.insert(tensor.to_owned(), Sums { squares, counts });
    }
    ensure!(!tensors.is_empty(), "{name} is no importance matrix: no tensor ends in {SQUARES}");
    Ok(Importance { tensors })
}

/// The older format: a count of entries, each a name, a count of chunks, and sums; lengths and counts have 32 bits.
fn read_list(bytes: &[u8]) -> Result<Importance> {
    let mut rest = bytes;
    let mut tensors = BTreeMap::new();
    for _ in 0..take_count(&mut rest)? {
        let length = take_count(&mut rest)?;
        let name = std::str::from_utf8(take(&mut rest, length)?);
        let name = name.context("it is no importance matrix: the name of a tensor is not UTF-8")?.to_owned();
        let chunks = take_count(&mut rest)? as f32;
        let length = take_count(&mut rest)?;
        let values = take(&mut rest, length.saturating_mul(4))?.as_chunks().0;
        let squares = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
        tensors.insert(name, Sums { squares, counts: vec![chunks] });
    }
    ensure!(!tensors.is_empty(), "it is no importance matrix: it lists no tensors");
    Ok(Importance { tensors })
}

fn take_count(rest: &mut &[u8]) -> Result<usize> {
    let count = i32::from_le_bytes(*take(rest, 4)?.first_chunk().expect("four bytes were taken"));
    usize::try_from(count).context("it is no importance matrix: a count is negative")
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, left) =
        rest.split_at_checked(length).context("it is no importance matrix, or was cut short")?;
    *rest = left;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.imatrix");
        let experts = Sums { squares: vec![1.0, 3.0, 0.0, 0.0], counts: vec![2.0, 0.0] };
        assert_eq!(experts.weights(), [0.5, 1.5, 1.0, 1.0]);
        let written = Importance { tensors: BTreeMap::from([("blk.0.a.weight".into(), experts)]) };
        written.write(&path, &["text".into()], 3, 512).unwrap();
        assert_eq!(Importance::read(&path).unwrap(), written);

        let list: Vec<u8> = [
            &1i32.to_le_bytes()[..],
            &3i32.to_le_bytes(),
            b"a.w",
            &7i32.to_le_bytes(),
            &2i32.to_le_bytes(),
            &0f32.to_le_bytes(),
            &8f32.to_le_bytes(),
            &9i32.to_le_bytes(),
        ]
        .concat();
        std::fs::write(&path, &list).unwrap();
        let sums = &Importance::read(&path).unwrap().tensors["a.w"];
        assert_eq!((&sums.squares[..], sums.weights()), (&[0.0, 8.0][..], vec![WEIGHT_MIN, 2.0]));

        for (at, byte) in
            [(3, 0x80), (6, 0x7f), (8, 0xff), (13, 0xff), (17, 0x7f), (21, 0xff), (0, 0), (0, 2)]
        {
            let mut damaged = list.clone();
            damaged[at..at + 2].fill(byte);
            std::fs::write(&path, damaged).unwrap();
            let error = format!("{:#}", Importance::read(&path).unwrap_err());
            assert!(error.contains("a.imatrix"), "{at}: {error}");
        }
    }
}
