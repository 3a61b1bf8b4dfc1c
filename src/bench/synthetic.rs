//! Models with the exact sizes of a real one, fewer layers and random weights: they take the time the real
//! one takes.

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};

use super::random::{self, RandomTensor};
use super::vocabulary;
use crate::compute::{AttentionShape, DeltaShape};
use crate::format::gguf::{TensorInfo, Writer};
use crate::hub;
use crate::model::architecture::{Field, LayerField};
use crate::model::config::{Architecture, Config, FfnShape, LayerShape, MixerShape, MoeShape};
use crate::model::export::{self, Recipe, Vocabulary};

/// Layers of Qwen3-Coder-Next.
pub const LAYERS: usize = 48;

/// Layers that repeat: three of DeltaNet and one of attention. Depths that are multiples of it have the
/// same mix of layers.
pub const GROUP: usize = 4;

/// Raised whenever the same request makes another file, so that old ones are not taken for it.
const GENERATOR: u32 = 1;

/// Bytes made at a time.
const PIECE: usize = 64 << 20;

/// Qwen3-Coder-Next with `layers` layers.
pub fn qwen3_coder_next(layers: usize) -> Config {
    let eps = 1e-6;
    let attention = AttentionShape {
        heads: 16,
        kv_heads: 2,
        head_dim: 256,
        rotary_dim: 64,
        rope_theta: 5e6,
        gated: true,
        eps,
    };
    let delta = DeltaShape {
        key_heads: 16,
        value_heads: 32,
        key_dim: 128,
        value_dim: 128,
        conv_kernel: 4,
        tiled: false,
        eps,
    };
    let moe = MoeShape { experts: 512, top_k: 10, width: 512, normalize: true, shared_width: Some(512) };
    let layer = |layer: usize| LayerShape {
        mixer: match (layer + 1).is_multiple_of(GROUP) {
            true => MixerShape::Attention(attention),
            false => MixerShape::DeltaNet(delta),
        },
        ffn: FfnShape::Moe(moe),
    };
    Config {
        architecture: Architecture::Qwen3Next,
        vocab: 151_936,
        hidden: 2048,
        layers: (0..layers).map(layer).collect(),
        eps,
        context_max: 262_144,
        tied: false,
        dense_width: 0,
        fp8_block: None,
        checkpoint_root: "model",
    }
}

/// A model that can be written.
pub struct Synthetic {
    name: String,
    config: Config,
    recipe: Recipe,
    tensors: Vec<(Field, TensorInfo)>,
}

impl Synthetic {
    /// The model `config` in the types of `recipe`. Fails for models that GGUF has no names for.
    pub fn new(name: &str, config: Config, recipe: Recipe) -> Result<Self> {
        let layers = config.layers.len();
        let tensors = export::tensors(&config)?.into_iter().map(|(tensor, part)| {
            let dtype = recipe.choose(&tensor, layers).dtype;
            (part.field, TensorInfo { name: tensor.name, dtype, shape: tensor.shape })
        });
        Ok(Self { name: name.into(), tensors: tensors.collect(), config, recipe })
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> Result<u64> {
        self.tensors.iter().map(|(_, info)| Ok(info.bytes()? as u64)).sum()
    }

    /// Writes the model to `path`, which holds it complete or not at all. Equal seeds make equal files.
    /// `progress` is told how many bytes were written since it was told last.
    pub fn write(&self, path: &Path, seed: u64, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let tokenizer = vocabulary::grow(hub::STARTER_TOKENIZER, self.config.vocab)?;
        let vocabulary = Vocabulary { tokenizer: &tokenizer, chat_template: None, eos: None };
        let metadata = export::metadata(&self.config, &self.recipe, &self.name, Some(vocabulary))?;
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

/// Where a file of this request is kept, so that it is made only once.
pub fn cached(name: &str, layers: usize, quant: &str) -> Result<PathBuf> {
    let cache = dirs::cache_dir().context("the system names no cache folder; say --write FILE.gguf")?;
    Ok(cache.join("fimd").join(file_name(name, layers, quant)))
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
