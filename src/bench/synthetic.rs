//! Models with the exact shapes of a real one, fewer layers and random weights, for the same speed per layer.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};

use super::random::{self, RandomTensor};
use super::vocabulary;
use crate::compute::{AttentionShape, DeltaShape};
use crate::format::gguf::{TensorInfo, Value, Writer};
use crate::hub;
use crate::model::architecture::{Field, LayerField};
use crate::model::config::{Architecture, Config, FfnShape, LayerShape, MixerShape, MoeShape};
use crate::model::export::{self, ExpertLayout, ExportTensor, Recipe, Vocabulary};

/// Layers that repeat in hybrid models: three of DeltaNet and one of attention. Depths that are multiples of it have
/// the same mix of layers.
pub const GROUP: usize = 4;

/// Incremented when the generated file changes, so that cached ones are not reused.
const GENERATOR: u32 = 1;

/// Bytes generated at a time.
const PIECE: usize = 64 << 20;

/// A published model whose sizes are known here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// What it is called on the command line.
    pub name: &'static str,
    /// How many layers it has, a multiple of [`GROUP`].
    pub layers: usize,
    architecture: Architecture,
    vocab: usize,
    hidden: usize,
    context_max: usize,
    tied: bool,
    heads: [usize; 2],
    head_dim: usize,
    rope_theta: f64,
    /// Value heads of DeltaNet, where the architecture has it: 16 key heads, all 128 wide.
    value_heads: usize,
    /// Inner width of a dense block or of an expert.
    width: usize,
    /// Experts and how many a token visits; 0 in dense models.
    experts: [usize; 2],
}

/// Sizes as the models' `config.json` give them.
pub const MODELS: [Published; 9] = [
    Published {
        name: "qwen3-coder-next",
        layers: 48,
        architecture: Architecture::Qwen3Next,
        vocab: 151_936,
        hidden: 2048,
        context_max: 262_144,
        tied: false,
        heads: [16, 2],
        head_dim: 256,
        rope_theta: 5e6,
        value_heads: 32,
        width: 512,
        experts: [512, 10],
    },
    Published {
        name: "qwen3.6-35b-a3b",
        layers: 40,
        architecture: Architecture::Qwen35Moe,
        vocab: 248_320,
        hidden: 2048,
        context_max: 262_144,
        tied: false,
        heads: [16, 2],
        head_dim: 256,
        rope_theta: 1e7,
        value_heads: 32,
        width: 512,
        experts: [256, 8],
    },
    Published {
        name: "qwen3-coder-30b-a3b",
        layers: 48,
        architecture: Architecture::Qwen3Moe,
        vocab: 151_936,
        hidden: 2048,
        context_max: 262_144,
        tied: false,
        heads: [32, 4],
        head_dim: 128,
        rope_theta: 1e7,
        value_heads: 0,
        width: 768,
        experts: [128, 8],
    },
    Published {
        name: "qwen3.6-27b",
        layers: 64,
        architecture: Architecture::Qwen35,
        vocab: 248_320,
        hidden: 5120,
        context_max: 262_144,
        tied: false,
        heads: [24, 4],
        head_dim: 256,
        rope_theta: 1e7,
        value_heads: 48,
        width: 17408,
        experts: [0, 0],
    },
    Published {
        name: "qwen3.5-9b",
        layers: 32,
        architecture: Architecture::Qwen35,
        vocab: 248_320,
        hidden: 4096,
        context_max: 262_144,
        tied: false,
        heads: [16, 4],
        head_dim: 256,
        rope_theta: 1e7,
        value_heads: 32,
        width: 12288,
        experts: [0, 0],
    },
    Published {
        name: "qwen3.5-4b",
        layers: 32,
        architecture: Architecture::Qwen35,
        vocab: 248_320,
        hidden: 2560,
        context_max: 262_144,
        tied: true,
        heads: [16, 4],
        head_dim: 256,
        rope_theta: 1e7,
        value_heads: 32,
        width: 9216,
        experts: [0, 0],
    },
    Published {
        name: "qwen3.5-2b",
        layers: 24,
        architecture: Architecture::Qwen35,
        vocab: 248_320,
        hidden: 2048,
        context_max: 262_144,
        tied: true,
        heads: [8, 2],
        head_dim: 256,
        rope_theta: 1e7,
        value_heads: 16,
        width: 6144,
        experts: [0, 0],
    },
    Published {
        name: "qwen3.5-0.8b",
        layers: 24,
        architecture: Architecture::Qwen35,
        vocab: 248_320,
        hidden: 1024,
        context_max: 262_144,
        tied: true,
        heads: [8, 2],
        head_dim: 256,
        rope_theta: 1e7,
        value_heads: 16,
        width: 3584,
        experts: [0, 0],
    },
    Published {
        name: "qwen2.5-coder-1.5b",
        layers: 28,
        architecture: Architecture::Qwen2,
        vocab: 151_936,
        hidden: 1536,
        context_max: 32_768,
        tied: true,
        heads: [12, 2],
        head_dim: 128,
        rope_theta: 1e6,
        value_heads: 0,
        width: 8960,
        experts: [0, 0],
    },
];

impl Published {
    /// The model called `name`.
    pub fn of_name(name: &str) -> Option<Self> {
        MODELS.into_iter().find(|model| model.name == name)
    }

    /// The model with `layers` layers, its heads in the order of a GGUF file.
    pub fn config(&self, layers: usize) -> Config {
        let eps = 1e-6;
        let is_hybrid = self.architecture.is_hybrid();
        let [heads, kv_heads] = self.heads;
        let attention = AttentionShape {
            heads,
            kv_heads,
            head_dim: self.head_dim,
            rotary_dim: if is_hybrid { self.head_dim / 4 } else { self.head_dim },
            rope_theta: self.rope_theta,
            gated: is_hybrid,
            eps,
        };
        let delta = DeltaShape {
            key_heads: 16,
            value_heads: self.value_heads,
            key_dim: 128,
            value_dim: 128,
            conv_kernel: 4,
            tiled: false,
            eps,
        };
        let layer = |layer: usize| LayerShape {
            mixer: match is_hybrid && !(layer + 1).is_multiple_of(GROUP) {
                true => MixerShape::DeltaNet(delta),
                false => MixerShape::Attention(attention),
            },
            ffn: self.ffn(),
        };
        let config = Config {
            architecture: self.architecture,
            vocab: self.vocab,
            hidden: self.hidden,
            layers: (0..layers).map(layer).collect(),
            eps,
            context_max: self.context_max,
            tied: self.tied,
            dense_width: if self.architecture.has_experts() { 0 } else { self.width },
            fp8_block: None,
            checkpoint_root: "model",
        };
        config.as_in_gguf()
    }

    fn ffn(&self) -> FfnShape {
        let ([experts, top_k], width) = (self.experts, self.width);
        if !self.architecture.has_experts() {
            return FfnShape::Dense { width };
        }
        let shared_width = self.architecture.has_shared_expert().then_some(width);
        FfnShape::Moe(MoeShape { experts, top_k, width, normalize: true, shared_width })
    }
}

/// A model that can be written.
pub struct Synthetic {
    name: String,
    config: Config,
    recipe: Recipe,
    tensors: Vec<(Field, TensorInfo)>,
    /// What tensors are aligned to, where that is not usual.
    alignment: Option<u32>,
}

impl Synthetic {
    /// The model `config` in the types of `recipe`. Fails for models that GGUF has no names for.
    pub fn new(name: &str, config: Config, recipe: Recipe, layout: ExpertLayout) -> Result<Self> {
        let layers = config.layers.len();
        let info = |tensor: ExportTensor, dtype| TensorInfo { name: tensor.name, dtype, shape: tensor.shape };
        let mut chosen = Vec::new();
        for (tensor, part) in export::tensors(&config)? {
            let dtype = recipe.choose(&tensor, layers).dtype;
            chosen.push((tensor, (part.field, dtype)));
        }
        let in_pieces = layout == ExpertLayout::Pieces;
        let chosen = if in_pieces { export::by_expert(chosen, |&of_all, _| of_all) } else { chosen };
        let tensors =
            chosen.into_iter().map(|(tensor, (field, dtype))| (field, info(tensor, dtype))).collect();
        let alignment = in_pieces.then_some(export::EXPERT_ALIGNMENT);
        Ok(Self { name: name.into(), tensors, config, recipe, alignment })
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> Result<u64> {
        self.tensors.iter().map(|(_, info)| Ok(info.bytes()? as u64)).sum()
    }

    /// Writes the model to `path`, atomically. Equal seeds make equal files.
    /// `progress` is told how many bytes were written since it was told last.
    pub fn write(&self, path: &Path, seed: u64, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let tokenizer = vocabulary::grow(hub::STARTER_TOKENIZER, self.config.vocab)?;
        let vocabulary = Vocabulary { tokenizer: &tokenizer, chat_template: None, eos: None };
        let mut metadata = export::metadata(&self.config, &self.recipe, &self.name, Some(vocabulary))?;
        metadata.extend(self.alignment.map(|bytes| ("general.alignment".to_owned(), Value::U32(bytes))));
        let infos: Vec<TensorInfo> = self.tensors.iter().map(|(_, info)| info.clone()).collect();

        let mut writer = Writer::create(path, &metadata, &infos)?;
        let mut buffer = Vec::new();
        for (field, info) in &self.tensors {
            let values = Values::of(*field, info, seed);
            let (bytes, mut start) = (info.bytes()?, 0);
            while start < bytes {
                buffer.resize(values.piece().min(bytes - start), 0);
                values.fill(start, &mut buffer);
                writer.write(&buffer)?;
                progress(buffer.len() as u64);
                start += buffer.len();
            }
        }
        writer.finish()
    }
}

/// The folder of generated files.
pub fn folder() -> Result<PathBuf> {
    let cache = dirs::cache_dir().context("the system names no cache folder; say --write FILE.gguf")?;
    let folder = cache.join("fimd");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
    Ok(folder)
}

/// Where a file of this request is kept, so that it is made only once.
pub fn cached(name: &str, layers: usize, quant: &str) -> Result<PathBuf> {
    Ok(folder()?.join(file_name(name, layers, quant)))
}

/// What to call the file of a request.
pub fn file_name(name: &str, layers: usize, quant: &str) -> String {
    format!("{name}-{layers}-layers-{}-synthetic-{GENERATOR}.gguf", quant.to_lowercase())
}

/// What a tensor is filled with.
enum Values {
    /// Weights that keep activations at the size they have: rows with a norm of about one.
    Matrix(Box<RandomTensor>),
    /// f32 values of a range.
    Range { key: u64, low: f32, high: f32 },
}

impl Values {
    fn of(field: Field, info: &TensorInfo, seed: u64) -> Self {
        let key = random::key(seed, &info.name);
        match field {
            field if field.is_norm() => Values::Range { key, low: 1.0, high: 1.0 },
            Field::Layer(_, LayerField::QueryBias | LayerField::KeyBias | LayerField::ValueBias) => {
                Values::Range { key, low: -1.0, high: 1.0 }
            }
            // -exp(A_log) and the bias of the time step as Mamba-2 initialises them (arXiv:2405.21060):
            // decay rates of 1 to 16, time steps of 0.001 to 0.1.
            Field::Layer(_, LayerField::DeltaDecay) => Values::Range { key, low: -16.0, high: -1.0 },
            Field::Layer(_, LayerField::DeltaDtBias) => Values::Range { key, low: -7.0, high: -2.2 },
            _ => {
                let cols = info.shape.last().copied().unwrap_or(1);
                Values::Matrix(Box::new(RandomTensor::new(info.dtype, 1.0 / (cols as f32).sqrt(), key)))
            }
        }
    }

    /// Bytes to fill at a time.
    fn piece(&self) -> usize {
        PIECE.next_multiple_of(self.granularity())
    }

    fn granularity(&self) -> usize {
        match self {
            Values::Matrix(tensor) => tensor.granularity(),
            Values::Range { .. } => size_of::<f32>(),
        }
    }

    /// Writes the bytes from `start` of the tensor on to `out`, on all cores.
    fn fill(&self, start: usize, out: &mut [u8]) {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let share = out.len().div_ceil(cores).next_multiple_of(self.granularity());
        thread::scope(|scope| {
            for (i, out) in out.chunks_mut(share).enumerate() {
                scope.spawn(move || self.fill_share(start + i * share, out));
            }
        });
    }

    fn fill_share(&self, start: usize, out: &mut [u8]) {
        match self {
            Values::Matrix(tensor) => tensor.fill(start, out),
            Values::Range { key, low, high } => {
                for (i, bytes) in (start / 4..).zip(out.as_chunks_mut().0) {
                    let value = low + (high - low) * random::fraction(*key, i as u64);
                    *bytes = value.to_le_bytes();
                }
            }
        }
    }
}
