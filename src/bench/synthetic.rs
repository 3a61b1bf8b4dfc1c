//! Models with the exact shapes of a real one, fewer layers and random weights, for the same speed per layer.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;

use anyhow::{Context, Result};

use super::random::{self, RandomTensor, Tokens};
use super::vocabulary;
use crate::base::dtype::DType;
use crate::compute::{AttentionShape, DeltaShape};
use crate::format::blocks;
use crate::format::gguf::{TensorInfo, Value, Writer};
use crate::hub;
use crate::model::architecture::{Field, LayerField};
use crate::model::config::{Architecture, Config, FfnShape, LayerShape, MixerShape, MoeShape};
use crate::model::export::{self, ExpertLayout, ExportTensor, Recipe, Vocabulary};

/// Layers that repeat in hybrid models: three of DeltaNet and one of attention. Depths that are multiples of it have
/// the same mix of layers.
pub const GROUP: usize = 4;

/// Incremented when the generated file changes, so that cached ones are not reused.
const GENERATOR: u32 = 2;

/// Bytes generated at a time.
const PIECE: usize = 64 << 20;

/// How tokens choose experts in a random model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// With no pattern.
    #[default]
    Uniform,
    /// As text does: a few experts are popular, and those of a topic return while it lasts.
    Text,
}

impl FromStr for Routing {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "uniform" => Ok(Self::Uniform),
            "text" => Ok(Self::Text),
            _ => Err("must be uniform or text".into()),
        }
    }
}

impl Routing {
    /// The tokens of a benchmark of `vocab` tokens.
    pub fn tokens(self, vocab: usize) -> Tokens {
        match self {
            Self::Uniform => Tokens::alike(vocab),
            Self::Text => Tokens::of_topics(vocab, TOPICS),
        }
    }
}

/// Topics of [`Routing::Text`]: token i is of topic `i % TOPICS`.
const TOPICS: usize = 64;
/// What an embedding is made of, as shares of its square: what all tokens have in common, its topic, its own. With the
/// mixers and experts as quiet as [`OUTPUTS`] makes them, this gives the statistics published for Qwen3-Next: of 512
/// experts with 10 visited, the 32, 64, 128 and 256 most popular ones hold 23, 38, 59 and 85 % of the visits, and LRU
/// with 128 slots hits 82 %.
const EMBEDDING: [f32; 3] = [0.1, 0.45, 0.45];
/// What the outputs of mixers and experts are multiplied by: a token's embedding is to be recognised in all layers.
const OUTPUTS: f32 = 0.1;

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
    routing: Routing,
    tensors: Vec<(Field, TensorInfo)>,
    /// What tensors are aligned to, where that is not usual.
    alignment: Option<u32>,
}

impl Synthetic {
    /// The model `config` in the types of `recipe`. Fails for models that GGUF has no names for.
    pub fn new(
        name: &str,
        config: Config,
        recipe: Recipe,
        layout: ExpertLayout,
        routing: Routing,
    ) -> Result<Self> {
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
        Ok(Self { name: name.into(), tensors, config, recipe, routing, alignment })
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
        let (mut buffer, mut matrices) = (Vec::new(), Matrices::default());
        for (field, info) in &self.tensors {
            let values = Values::of(*field, info, seed, self.routing, &mut matrices);
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
    /// The embeddings of [`Routing::Text`].
    Topics { key: u64, dtype: DType, cols: usize },
}

/// One random matrix of each type, number of columns and scale: finding its scales takes longer than filling an expert.
type Matrices = HashMap<(DType, usize, u32), RandomTensor>;

impl Values {
    fn of(field: Field, info: &TensorInfo, seed: u64, routing: Routing, matrices: &mut Matrices) -> Self {
        let key = random::key(seed, &info.name);
        let cols = info.shape.last().copied().unwrap_or(1);
        let mut matrix = |scale: f32| {
            let known = matrices.entry((info.dtype, cols, scale.to_bits()));
            let known =
                known.or_insert_with(|| RandomTensor::new(info.dtype, scale / (cols as f32).sqrt(), seed));
            Values::Matrix(Box::new(known.with_key(key)))
        };
        let is_text = routing == Routing::Text;
        match field {
            field if field.is_norm() => Values::Range { key, low: 1.0, high: 1.0 },
            Field::Layer(_, LayerField::QueryBias | LayerField::KeyBias | LayerField::ValueBias) => {
                Values::Range { key, low: -1.0, high: 1.0 }
            }
            // -exp(A_log) and the bias of the time step as Mamba-2 initialises them (arXiv:2405.21060):
            // decay rates of 1 to 16, time steps of 0.001 to 0.1.
            Field::Layer(_, LayerField::DeltaDecay) => Values::Range { key, low: -16.0, high: -1.0 },
            Field::Layer(_, LayerField::DeltaDtBias) => Values::Range { key, low: -7.0, high: -2.2 },
            Field::Embedding if is_text && blocks::is_writable(info.dtype) => {
                Values::Topics { key, dtype: info.dtype, cols }
            }
            Field::Layer(
                _,
                LayerField::AttentionOutput
                | LayerField::DeltaOutput
                | LayerField::ExpertsDown
                | LayerField::SharedDown,
            ) if is_text => matrix(OUTPUTS),
            _ => matrix(1.0),
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
            Values::Topics { dtype, cols, .. } => dtype.bytes(*cols).expect("rows are whole blocks"),
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
            &Values::Topics { key, dtype, cols } => {
                let row_bytes = self.granularity();
                let mut values = vec![0.0; cols];
                for (token, out) in (start / row_bytes..).zip(out.chunks_exact_mut(row_bytes)) {
                    embedding(key, token, &mut values);
                    blocks::from_f32(dtype, &values, out).expect("embeddings are whole blocks");
                }
            }
        }
    }
}

/// The embedding of a token where routing is that of text.
fn embedding(key: u64, token: usize, values: &mut [f32]) {
    let sources = [0, 1 + token % TOPICS, 1 + TOPICS + token];
    values.fill(0.0);
    for (share, source) in EMBEDDING.into_iter().zip(sources) {
        // Uniform values from -1 to 1 have a mean square of a third.
        let scale = (3.0 * share).sqrt();
        let first = source as u64 * values.len() as u64;
        for (counter, value) in (first..).zip(values.iter_mut()) {
            *value += scale * (2.0 * random::fraction(key, counter) - 1.0);
        }
    }
}
