//! Bytes on disk as typed tensors. Knows file formats, not models.

pub mod blocks;
pub mod gguf;
pub mod imatrix;
mod mmap;
mod safetensors;
pub mod slots;

use std::collections::HashMap;
use std::fs;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::base::dtype::DType;
use crate::base::file;
pub use mmap::MappedFile;
use slots::{SlotBytes, SlotMemory};

/// A byte range of a mapped file, of the program itself or of memory. Clones share it.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Embedded(&'static [u8]),
    Mapped(Arc<MappedFile>),
    Owned(Arc<[u8]>),
    Slot(SlotBytes),
}

/// What bytes can be a part of, and stay in the same place.
#[derive(Clone)]
pub enum Memory {
    /// A mapped file, which is only read.
    File(Arc<MappedFile>),
    /// Memory of the program.
    Slots(Arc<SlotMemory>),
}

impl Memory {
    /// Where it is: its first address, and its bytes.
    pub fn span(&self) -> (*const u8, usize) {
        match self {
            Self::File(file) => (file.as_ptr(), file.len()),
            Self::Slots(slots) => slots.span(),
        }
    }

    /// Whether it cannot be written.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self { range: 0..bytes.len(), owner: Owner::Owned(bytes.into()) }
    }
}

impl Bytes {
    /// Bytes that are part of the program.
    pub fn embedded(bytes: &'static [u8]) -> Self {
        Self { owner: Owner::Embedded(bytes), range: 0..bytes.len() }
    }

    fn mapped(map: Arc<MappedFile>) -> Self {
        let range = 0..map.len();
        Self { owner: Owner::Mapped(map), range }
    }

    fn of_slot(slot: SlotBytes) -> Self {
        let range = 0..slot.len();
        Self { owner: Owner::Slot(slot), range }
    }

    /// The mapped file that they are in, and where they begin there.
    pub fn place(&self) -> Option<(&Arc<MappedFile>, u64)> {
        match &self.owner {
            Owner::Mapped(file) => Some((file, self.range.start as u64)),
            _ => None,
        }
    }

    /// The memory they are a part of, where that is a file or slots.
    pub fn memory(&self) -> Option<Memory> {
        match &self.owner {
            Owner::Mapped(file) => Some(Memory::File(file.clone())),
            Owner::Slot(slot) => Some(Memory::Slots(slot.memory().clone())),
            _ => None,
        }
    }

    /// The same bytes in memory of the program.
    pub fn to_owned(&self) -> Self {
        self.to_vec().into()
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
            Owner::Owned(bytes) => bytes,
            Owner::Slot(slot) => slot,
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

    /// A part of it along the outermost of two or more dimensions, sharing its bytes. Panics when `range` is
    /// outside.
    pub fn rows(&self, range: Range<usize>) -> Self {
        let row_bytes = self.bytes.len() / self.shape[0].max(1);
        let mut shape = self.shape.clone();
        shape[0] = range.len();
        Self {
            name: self.name.clone(),
            dtype: self.dtype,
            shape,
            bytes: self.bytes.slice(range.start * row_bytes..range.end * row_bytes),
        }
    }
}

/// A tensor of a file, of whatever type its format knows.
struct Entry {
    /// The element type, or the name of one that fimd does not compute with.
    dtype: Result<DType, String>,
    shape: Vec<usize>,
    bytes: Bytes,
}

/// The files of a model, on disk or in the program: its description, and tensors by name.
pub struct ModelDir {
    origin: String,
    description: Description,
    tensors: HashMap<Arc<str>, Entry>,
}

/// The files of a model except its tensors.
pub enum Description {
    /// The files that lie beside safetensors.
    Folder(Folder),
    /// The metadata of a GGUF file.
    Gguf(gguf::Metadata),
}

/// The files that lie beside safetensors.
pub struct Folder {
    /// The text of `config.json`.
    pub config: Vec<u8>,
    /// The text of `tokenizer.json`, where there is one.
    pub tokenizer: Option<Bytes>,
    path: Option<PathBuf>,
}

/// The key of [`ModelDir::prompt_profile`], in `config.json` and in GGUF files.
pub const PROMPT_PROFILE: &str = "fimd.prompt_profile";

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Largest `config.json` and chat template, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Largest file that lists tokens or tensors, in bytes: several times the largest known.
const TABLE_BYTES_MAX: u64 = 1 << 26;

impl ModelDir {
    /// Opens a checkpoint folder, one `.safetensors` file with `config.json` beside it, a `.gguf` file, any
    /// part of a split one, or a folder with one model in GGUF and no safetensors. Only headers are read;
    /// tensors are mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let metadata =
            fs::metadata(path).with_context(|| format!("cannot open the model {}", path.display()))?;
        let has_extension = |wanted| path.extension().is_some_and(|extension| extension == wanted);
        if metadata.is_dir() {
            match gguf_in(path)? {
                Some(file) => Self::open_gguf(&file),
                None => Self::open_folder(path),
            }
        } else if has_extension("gguf") {
            Self::open_gguf(path)
        } else if has_extension("safetensors") {
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Self::open_safetensors(path, dir, &[path.to_owned()])
        } else {
            bail!("{} is neither a checkpoint folder nor a .safetensors or .gguf file", path.display());
        }
    }

    /// A safetensors model that is in memory. `origin` names it in errors.
    pub fn from_safetensors(
        origin: &str,
        config: &[u8],
        tokenizer: Option<Bytes>,
        weights: &Bytes,
    ) -> Result<Self> {
        let folder = Folder { config: config.to_vec(), tokenizer, path: None };
        let mut model = Self::new(origin, Description::Folder(folder));
        model.add(origin, safetensors::read(origin, weights)?)?;
        Ok(model)
    }

    /// A model in GGUF that is in memory. `origin` names it in errors.
    pub fn from_gguf(origin: &str, bytes: &Bytes) -> Result<Self> {
        let (metadata, tensors) = gguf::read(origin, bytes)?;
        let mut model = Self::new(origin, Description::Gguf(metadata));
        model.add(origin, tensors)?;
        Ok(model)
    }

    /// Name of this model for messages: the path it was opened by.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Its configuration and tokenizer files, or GGUF metadata.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The Jinja template of chats with this model, where it has one. Fails when a file that should hold it
    /// cannot be read.
    pub fn chat_template(&self) -> Result<Option<String>> {
        match &self.description {
            Description::Folder(folder) => folder.chat_template(),
            Description::Gguf(metadata) => {
                let template =
                    metadata.text("tokenizer.chat_template").with_context(|| self.origin.clone())?;
                Ok(template.map(str::to_owned))
            }
        }
    }

    /// What prompts suit this model, a JSON object, where its files say so.
    pub fn prompt_profile(&self) -> Result<Option<String>> {
        match &self.description {
            Description::Folder(folder) => {
                let config: serde_json::Value = serde_json::from_slice(&folder.config)?;
                Ok(config.get(PROMPT_PROFILE).map(serde_json::Value::to_string))
            }
            Description::Gguf(metadata) => Ok(metadata.text(PROMPT_PROFILE)?.map(str::to_owned)),
        }
    }

    /// The names of all tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(|name| &**name)
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
        let dtype = match &entry.dtype {
            Ok(dtype) => *dtype,
            Err(stored) => {
                let known = DType::ALL.map(|dtype| dtype.to_string()).join(", ");
                bail!("{}: tensor {name} has type {stored}; fimd computes with {known}", self.origin);
            }
        };
        Ok(Tensor { name: name.clone(), dtype, shape: entry.shape.clone(), bytes: entry.bytes.clone() })
    }

    /// The mapped files that hold tensors.
    pub fn files(&self) -> Vec<Arc<MappedFile>> {
        let mut files: Vec<_> =
            self.tensors.values().filter_map(|entry| Some(entry.bytes.place()?.0.clone())).collect();
        files.sort_by(|a, b| a.path().cmp(b.path()));
        files.dedup_by(|a, b| Arc::ptr_eq(a, b));
        files
    }

    fn new(origin: &str, description: Description) -> Self {
        Self { origin: origin.to_owned(), description, tensors: HashMap::new() }
    }

    fn open_gguf(path: &Path) -> Result<Self> {
        let (metadata, tensors) = gguf::open(path)?;
        let origin = path.display().to_string();
        let mut model = Self::new(&origin, Description::Gguf(metadata));
        model.add(&origin, tensors)?;
        Ok(model)
    }

    fn open_folder(path: &Path) -> Result<Self> {
        let Some(index) = Index::read(path)? else {
            return Self::open_safetensors(path, path, &[single(path)?]);
        };
        let model = Self::open_safetensors(path, path, &index.shards(path)?)?;
        index.check(&model)?;
        Ok(model)
    }

    fn open_safetensors(path: &Path, dir: &Path, files: &[PathBuf]) -> Result<Self> {
        let folder = Folder::open(dir)?;
        let mut model = Self::new(&path.display().to_string(), Description::Folder(folder));
        for file in files {
            let name = file.display().to_string();
            model.add(&name, safetensors::read(&name, &Bytes::mapped(mmap::map(file, u64::MAX)?))?)?;
        }
        Ok(model)
    }

    fn add(&mut self, file: &str, entries: Vec<(String, Entry)>) -> Result<()> {
        for (name, entry) in entries {
            ensure!(!self.tensors.contains_key(&*name), "{file}: tensor {name} is in two parts of the model");
            self.tensors.insert(name.into(), entry);
        }
        Ok(())
    }
}

/// The one model in GGUF of a folder without safetensors.
fn gguf_in(dir: &Path) -> Result<Option<PathBuf>> {
    if dir.join(WEIGHTS).exists() || dir.join(INDEX).exists() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
        let is_gguf = path.extension().is_some_and(|extension| extension == "gguf");
        if is_gguf && !gguf::is_later_part(&path) {
            found.push(path);
        }
    }
    found.sort();
    if let [first, second, ..] = &found[..] {
        bail!(
            "{} holds several models; name one of them, {} or {}",
            dir.display(),
            first.display(),
            second.display()
        );
    }
    Ok(found.pop())
}

impl Folder {
    fn open(dir: &Path) -> Result<Self> {
        let config = file::read(&dir.join(CONFIG), CONFIG_BYTES_MAX)?;
        let tokenizer_path = dir.join(TOKENIZER);
        let tokenizer = tokenizer_path
            .exists()
            .then(|| mmap::map(&tokenizer_path, TABLE_BYTES_MAX))
            .transpose()?
            .map(Bytes::mapped);
        Ok(Self { config, tokenizer, path: Some(dir.to_owned()) })
    }

    /// The text of `chat_template.jinja`, or what `tokenizer_config.json` has in its place.
    fn chat_template(&self) -> Result<Option<String>> {
        let Some(dir) = &self.path else { return Ok(None) };
        let (own, settings) = (dir.join(CHAT_TEMPLATE), dir.join(TOKENIZER_CONFIG));
        if own.exists() {
            return file::read_text(&own, CONFIG_BYTES_MAX).map(Some);
        }
        if !settings.exists() {
            return Ok(None);
        }
        let text = file::read(&settings, TABLE_BYTES_MAX)?;
        let settings: TokenizerConfig = serde_json::from_slice(&text)
            .with_context(|| format!("{} does not describe a tokenizer", settings.display()))?;
        Ok(settings.chat_template.and_then(ChatTemplate::default))
    }
}

#[derive(Deserialize)]
struct TokenizerConfig {
    chat_template: Option<ChatTemplate>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ChatTemplate {
    One(String),
    Several(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl ChatTemplate {
    fn default(self) -> Option<String> {
        match self {
            ChatTemplate::One(text) => Some(text),
            ChatTemplate::Several(all) => {
                all.into_iter().find(|one| one.name == "default").map(|one| one.template)
            }
        }
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
        let text = file::read(&path, TABLE_BYTES_MAX)?;
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
    ensure!(path.exists(), "{}: there is neither {WEIGHTS} nor {INDEX} nor a .gguf file", dir.display());
    Ok(path)
}
