//! Bytes on disk as typed tensors. Knows file formats, not models.

pub mod blocks;
pub mod gguf;
mod mmap;
mod safetensors;

use std::collections::HashMap;
use std::fs;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use memmap2::Mmap;
use serde::Deserialize;

use crate::base::dtype::DType;

/// A stretch of a mapped file or of the binary itself. Clones share it.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Embedded(&'static [u8]),
    Mapped(Arc<Mmap>),
}

impl Bytes {
    /// Bytes that are part of the program.
    pub fn embedded(bytes: &'static [u8]) -> Self {
        Self { owner: Owner::Embedded(bytes), range: 0..bytes.len() }
    }

    fn mapped(map: Arc<Mmap>) -> Self {
        let range = 0..map.len();
        Self { owner: Owner::Mapped(map), range }
    }

    /// A part of these bytes, `range` counting from their start. Panics when it is outside.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.range.len());
        Self {
            owner: self.owner.clone(),
            range: self.range.start + range.start..self.range.start + range.end,
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.owner {
            Owner::Embedded(bytes) => bytes,
            Owner::Mapped(map) => map,
        };
        &all[self.range.clone()]
    }
}

/// A tensor as stored: row-major, little-endian, in the element type of the file.
#[derive(Clone)]
pub struct Tensor {
    /// Its name in the checkpoint.
    pub name: Arc<str>,
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// The elements: exactly `dtype.bytes(shape.product())` bytes, at any alignment. Blocks lie along the
    /// last dimension, which is a multiple of their length.
    pub bytes: Bytes,
}

impl Tensor {
    /// All elements as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.bytes.len() / self.dtype.block_bytes() * self.dtype.block_len()];
        blocks::to_f32(self.dtype, &self.bytes, &mut values);
        values
    }
}

/// A model as its files lie on disk or in the program: a configuration, perhaps a tokenizer, and
/// tensors by name.
pub struct ModelDir {
    origin: String,
    config: Vec<u8>,
    tokenizer: Option<Bytes>,
    tensors: HashMap<Arc<str>, safetensors::Entry>,
}

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl ModelDir {
    /// Opens a checkpoint folder, or one `.safetensors` file with `config.json` beside it. Only headers
    /// are read; tensors are mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata =
            fs::metadata(path).with_context(|| format!("cannot open the model {}", path.display()))?;
        let (dir, index, files) = if metadata.is_dir() {
            let index = Index::read(path)?;
            let files = index.as_ref().map_or_else(|| Ok(vec![single(path)?]), |index| index.shards(path))?;
            (path.to_owned(), index, files)
        } else if path.extension().is_some_and(|extension| extension == "safetensors") {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            (dir.to_owned(), None, vec![path.to_owned()])
        } else {
            bail!("{} is neither a checkpoint folder nor a .safetensors file", path.display());
        };
        let config_path = dir.join(CONFIG);
        let config =
            fs::read(&config_path).with_context(|| format!("cannot read {}", config_path.display()))?;
        let tokenizer_path = dir.join(TOKENIZER);
        let tokenizer =
            tokenizer_path.exists().then(|| mmap::map(&tokenizer_path)).transpose()?.map(Bytes::mapped);

        let mut model =
            Self { origin: path.display().to_string(), config, tokenizer, tensors: HashMap::new() };
        for file in files {
            let bytes = Bytes::mapped(mmap::map(&file)?);
            model.add(&file.display().to_string(), &bytes)?;
        }
        if let Some(index) = &index {
            index.check(&model)?;
        }
        Ok(model)
    }

    /// A model that is part of the program.
    pub fn embedded(
        origin: &str,
        config: &'static [u8],
        tokenizer: &'static [u8],
        weights: &'static [u8],
    ) -> Result<Self> {
        let mut model = Self {
            origin: origin.to_owned(),
            config: config.to_vec(),
            tokenizer: Some(Bytes::embedded(tokenizer)),
            tensors: HashMap::new(),
        };
        model.add(origin, &Bytes::embedded(weights))?;
        Ok(model)
    }

    /// What to call this model in messages: the path it was opened by.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The text of `config.json`.
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    /// The text of `tokenizer.json`, where there is one.
    pub fn tokenizer(&self) -> Option<&[u8]> {
        self.tokenizer.as_deref()
    }

    /// Whether a tensor of this name exists.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensor of this name. Fails when it is missing or of a type fimd does not compute with.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let Some((name, entry)) = self.tensors.get_key_value(name) else {
            bail!("{}: tensor {name} is missing; the checkpoint is incomplete", self.origin);
        };
        let Some(dtype) = entry.dtype() else {
            bail!(
                "{}: tensor {name} has type {}; fimd computes with F32, F16, BF16 and F8_E4M3",
                self.origin,
                entry.type_name()
            );
        };
        Ok(Tensor { name: name.clone(), dtype, shape: entry.shape.clone(), bytes: entry.bytes.clone() })
    }

    fn add(&mut self, file: &str, bytes: &Bytes) -> Result<()> {
        for (name, entry) in safetensors::read(file, bytes)? {
            ensure!(!self.tensors.contains_key(&*name), "{file}: tensor {name} is also in another shard");
            self.tensors.insert(name.into(), entry);
        }
        Ok(())
    }
}

/// `model.safetensors.index.json`: which shard holds which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl Index {
    fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(INDEX);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let index = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not an index of safetensors shards", path.display()))?;
        Ok(Some(index))
    }

    /// The files it names, in `dir`.
    fn shards(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let mut names: Vec<&str> = self.weight_map.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .map(|name| {
                let plain = Path::new(name).file_name().is_some_and(|file| file == name);
                ensure!(
                    plain,
                    "{}: {INDEX} names the shard {name:?}, which is not a plain file name",
                    dir.display()
                );
                Ok(dir.join(name))
            })
            .collect()
    }

    /// Fails when a tensor it promises is missing.
    fn check(&self, model: &ModelDir) -> Result<()> {
        for (name, shard) in &self.weight_map {
            ensure!(
                model.contains(name),
                "{}: tensor {name} is missing; {INDEX} promises it in {shard}",
                model.origin
            );
        }
        Ok(())
    }
}

fn single(dir: &Path) -> Result<PathBuf> {
    let path = dir.join(WEIGHTS);
    ensure!(path.exists(), "{}: there is neither {WEIGHTS} nor {INDEX}", dir.display());
    Ok(path)
}
