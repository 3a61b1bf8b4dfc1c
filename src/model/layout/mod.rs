//! From the tensors of a checkpoint to weights, as the table of the architecture says ([`architecture`]).

mod cold;
mod experts;
mod stored;
mod types;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

pub use cold::{COLD_OF, identity};
pub use stored::{Piece, Stored, locate};
pub use types::Types;

use self::cold::Cold;
use self::experts::{EXPERT_FIELDS, experts_in};
use super::architecture::{self, Arrangement, Field, LayerField, Part, Role, Source};
use super::config::{Config, FfnShape, LayerShape, MixerShape, MoeShape};
use super::experts::store::{Store, StoreOptions};
use super::experts::stored::StoredExperts;
use super::experts::tiers::Tiers;
use super::experts::trace::{Header, LayerHeader, Recorded};
use super::experts::warm::Remembered;
use super::experts::{Budget, ExpertOptions, MappedExperts};
use super::weights::{Layer, MixerWeights, WeightBytes, Weights};
use crate::base::dtype::DType;
use crate::base::memory;
use crate::compute::experts::{ExpertBytes, ExpertShape};
use crate::compute::{
    AttentionBias, AttentionShape, AttentionWeights, Backend, DeltaProjection, DeltaShape, DeltaWeights,
    ExpertWeights, HeadWeights, MoeWeights, RoutedWeights, SharedWeights, StoredMatrix, TableUse,
};
use crate::format::{Description, MappedFile, ModelDir};

/// Reads all weights of `dir` into `backend`, checking every shape against `config`.
pub fn load<B: Backend>(
    dir: &ModelDir,
    config: &Config,
    options: &ExpertOptions,
    backend: &mut B,
) -> Result<Weights<B>> {
    let parts = architecture::tensors(config).into_iter().map(|part| (part.field, part)).collect();
    let mut loader = Loader {
        dir,
        config,
        options,
        parts,
        backend,
        bytes: Bytes::default(),
        expert_layers: Vec::new(),
        store: None,
        cold_files: Vec::new(),
    };
    loader.open_store()?;
    loader.load()
}

/// The names of the tensors that every token needs, in files of either kind; scales of FP8 matrices included.
pub fn trunk_names(config: &Config) -> HashSet<String> {
    let parts = architecture::tensors(config).into_iter().filter(|part| !part.role.is_of_experts());
    let sources = parts.flat_map(|part| part.gguf.into_iter().chain(part.checkpoint));
    let names = sources.flat_map(|source| source.tensors.into_iter().map(|rows| rows.tensor));
    names.flat_map(|name| [format!("{name}_scale_inv"), name]).collect()
}

/// Bytes of the tensors that every token needs.
pub fn trunk_bytes(dir: &ModelDir, config: &Config) -> u64 {
    let names = trunk_names(config);
    let tensors = names.iter().filter(|name| dir.contains(name)).filter_map(|name| dir.tensor(name).ok());
    tensors.map(|tensor| tensor.bytes.len() as u64).sum()
}

/// Bytes of the embedding, with its type.
pub fn embedding(dir: &ModelDir, config: &Config) -> Result<(DType, u64)> {
    table(dir, config, |part| part.field == Field::Embedding)
}

/// Bytes of the head's matrix, with its type; the embedding's where they are tied.
pub fn head(dir: &ModelDir, config: &Config) -> Result<(DType, u64)> {
    table(dir, config, |part| part.role == Role::Head)
}

fn table(dir: &ModelDir, config: &Config, is_it: impl Fn(&Part) -> bool) -> Result<(DType, u64)> {
    let parts = architecture::tensors(config);
    let part = parts.iter().find(|part| is_it(part)).context("a model without embedding or head")?;
    let tensor = dir.tensor(&locate(dir, part)?.tensors[0].tensor)?;
    Ok((tensor.dtype, tensor.bytes.len() as u64))
}

/// The routed experts of a layer, where it has some, without their bytes.
pub fn expert_header(layer: &LayerShape) -> Option<LayerHeader> {
    match &layer.ffn {
        FfnShape::Dense { .. } => None,
        FfnShape::Moe(moe) => Some(LayerHeader { experts: moe.experts, top_k: moe.top_k, record_bytes: 0 }),
    }
}

/// The layers of `dir` that have routed experts, and the type of most of its weights. Only headers are read.
pub fn expert_layers(dir: &ModelDir, config: &Config) -> Result<(Vec<LayerHeader>, DType)> {
    let mut headers: Vec<_> = config.layers.iter().map(expert_header).collect();
    let (mut dtype, _) = embedding(dir, config)?;
    for part in architecture::tensors(config) {
        let Field::Layer(layer, _) = part.field else { continue };
        let stored = dir.tensor(&locate(dir, &part)?.tensors[0].tensor)?;
        let is_matrix = part.shape.len() > 1 && part.role != Role::Exact;
        dtype = if is_matrix { stored.dtype } else { dtype };
        let Some(header) = headers[layer].as_mut().filter(|_| part.role.is_of_experts()) else { continue };
        let bytes = stored.dtype.bytes(part.cols()).context("rows are whole blocks")? * part.rows();
        header.record_bytes += bytes / header.experts;
    }
    Ok((headers.into_iter().flatten().collect(), dtype))
}

/// Bytes of the smaller copy at `path` of the routed experts of `dir`, and the type of most of it. Fails where it is no copy, or
/// that of another model.
pub fn cold_copy(path: &Path, dir: &ModelDir, config: &Config) -> Result<(u64, DType)> {
    let parts = architecture::tensors(config).into_iter().map(|part| (part.field, part)).collect();
    let cold = Cold::open(path, dir, config, &parts)?;
    let layer = cold.layers.iter().flatten().next().context("a model without experts")?;
    Ok((cold.bytes(), layer.shape.matrices[0].dtype))
}

struct Loader<'a, B> {
    dir: &'a ModelDir,
    config: &'a Config,
    options: &'a ExpertOptions,
    parts: HashMap<Field, Part>,
    backend: &'a mut B,
    bytes: Bytes,
    /// The layers that have experts, so far.
    expert_layers: Vec<LayerHeader>,
    /// What keeps experts where memory does not hold all of them.
    store: Option<Arc<Store>>,
    /// The mapped files of a smaller copy of its experts.
    cold_files: Vec<Arc<MappedFile>>,
}

/// What was handed to the backend so far.
#[derive(Clone, Copy, Default)]
struct Bytes {
    all: u64,
    /// Those of routed experts.
    experts: u64,
}

impl<B: Backend> Loader<'_, B> {
    /// Opens a store for the experts if they do not fit the budget.
    fn open_store(&mut self) -> Result<()> {
        let (budget, is_given) = match self.options.budget {
            Budget::Unlimited => return Ok(()),
            Budget::Given(bytes) => (bytes, true),
            Budget::Free(bytes) => (bytes, false),
        };
        let mut layers = self.stored_experts()?;
        let headers: Vec<LayerHeader> = layers.iter().flatten().map(StoredExperts::header).collect();
        let trunk = if self.options.is_on_device { 0 } else { trunk_bytes(self.dir, self.config) };
        let is_mapped = layers.iter().flatten().all(StoredExperts::is_mapped);
        if headers.is_empty() || !is_mapped || Tiers::fits(budget, trunk, &headers) {
            return Ok(());
        }
        let open = |path: &PathBuf| Cold::open(path, self.dir, self.config, &self.parts);
        let cold = self.options.cold.as_ref().map(open).transpose()?;
        let cold_bytes = cold.as_ref().map_or(0, Cold::bytes);
        let tiers = match Tiers::choose(cold_bytes, is_given, budget, trunk, &headers) {
            Ok(tiers) => tiers,
            Err(error) if is_given => bail!("{}: {error}", self.dir.origin()),
            Err(error) => {
                tracing::warn!(
                    "{}: {error}; the system reads its experts when they are touched",
                    self.dir.origin()
                );
                return Ok(());
            }
        };
        if tiers.cold_bytes < cold_bytes {
            tracing::warn!(
                "{}: memory does not hold the {:.2} GB of the smaller copy of its experts beside what every token reads; the \
                 copy is not used",
                self.dir.origin(),
                cold_bytes as f64 / 1e9
            );
        }
        if let Some(cold) = cold.filter(|_| tiers.cold_bytes > 0) {
            self.cold_files = cold.dir.files();
            for (layer, cold) in layers.iter_mut().zip(cold.layers) {
                if let Some(layer) = layer {
                    layer.cold = cold;
                }
            }
        }
        let options = StoreOptions {
            // What memory could cache is read through it.
            wants_direct: trunk + tiers.expert_bytes > memory::host().free,
            wants_lock: self.options.locks,
            others_bytes: self.options.others_bytes,
            reader: self.options.reader,
            remembered: self.remembered(),
        };
        let store = Store::open(layers, &tiers, options);
        self.store = Some(Arc::new(store.with_context(|| self.dir.origin().to_owned())?));
        Ok(())
    }

    /// Where it is remembered which experts were useful.
    fn remembered(&self) -> Option<Remembered> {
        let (dir, files) = (self.options.remembered_in.as_deref()?, self.dir.files());
        let file = files.first()?;
        Remembered::new(dir, file.path()).inspect_err(|error| tracing::warn!("{error:#}")).ok()
    }

    /// The experts of every layer.
    fn stored_experts(&self) -> Result<Vec<Option<StoredExperts>>> {
        let layers = self.config.layers.iter().enumerate();
        let stored = layers.map(|(layer, shape)| match &shape.ffn {
            FfnShape::Dense { .. } => Ok(None),
            FfnShape::Moe(moe) => {
                let (shape, mapped) = self.mapped(layer, moe)?;
                Ok(Some(StoredExperts { shape, top_k: moe.top_k, parts: mapped.into_parts(), cold: None }))
            }
        });
        stored.collect()
    }

    fn load(mut self) -> Result<Weights<B>> {
        let config = self.config;
        let mut layers = Vec::with_capacity(config.layers.len());
        let (mut attention_layers, mut delta_layers) = (0, 0);
        for (i, layer) in config.layers.iter().enumerate() {
            let mixer = match &layer.mixer {
                MixerShape::Attention(shape) => {
                    attention_layers += 1;
                    MixerWeights::Attention(self.attention(i, shape)?.into(), attention_layers - 1)
                }
                MixerShape::DeltaNet(shape) => {
                    delta_layers += 1;
                    MixerWeights::Delta(self.delta(i, shape)?.into(), delta_layers - 1)
                }
            };
            layers.push(Layer { mixer, moe: self.ffn(i, &layer.ffn)?.into() });
        }
        let before = self.bytes;
        let embedding = self.table(Field::Embedding, TableUse::Embedding)?;
        let embedding_bytes = self.bytes.all - before.all;
        let head = self.head()?.into();
        let bytes = WeightBytes {
            embedding: embedding_bytes,
            vocab: config.vocab as u64,
            experts: self.bytes.experts,
            experts_visited: config
                .moe_shapes()
                .next()
                .map_or(0.0, |moe| moe.top_k as f64 / moe.experts as f64),
            rest: self.bytes.all - self.bytes.experts - embedding_bytes,
        };
        if let Some(recorder) = self.options.recorder.as_ref().filter(|_| !self.expert_layers.is_empty()) {
            let header = Header::new(bytes.rest, self.expert_layers);
            // A device says which experts are visited, and not which are next.
            let ranks_per_visit = if self.options.is_on_device { 1 } else { header.ranks_per_visit };
            recorder.begin(Header { ranks_per_visit, ..header })?;
        }
        let files = if self.store.is_some() { self.cold_files } else { self.dir.files() };
        Ok(Weights { embedding, layers, head, bytes, files, store: self.store })
    }

    fn head(&mut self) -> Result<HeadWeights<B>> {
        let has_own = self.parts.contains_key(&Field::Head);
        let output = if has_own { Field::Head } else { Field::Embedding };
        let eps = self.config.eps;
        Ok(HeadWeights {
            norm: self.vector(Field::OutputNorm)?,
            eps,
            output: self.table(output, TableUse::Head)?,
        })
    }

    fn attention(&mut self, layer: usize, shape: &AttentionShape) -> Result<AttentionWeights<B>> {
        let at = |field| Field::Layer(layer, field);
        Ok(AttentionWeights {
            shape: *shape,
            norm: self.vector(at(LayerField::MixerNorm))?,
            query: self.matrix(at(LayerField::Query))?,
            key: self.matrix(at(LayerField::Key))?,
            value: self.matrix(at(LayerField::Value))?,
            bias: self.bias(layer)?,
            output: self.matrix(at(LayerField::AttentionOutput))?,
            query_norm: self.optional_vector(at(LayerField::QueryNorm))?,
            key_norm: self.optional_vector(at(LayerField::KeyNorm))?,
        })
    }

    fn bias(&mut self, layer: usize) -> Result<Option<AttentionBias<B>>> {
        let fields = [LayerField::QueryBias, LayerField::KeyBias, LayerField::ValueBias];
        let [query, key, value] = fields.map(|field| self.optional_vector(Field::Layer(layer, field)));
        let all = query?.zip(key?).zip(value?);
        Ok(all.map(|((query, key), value)| AttentionBias { query, key, value }))
    }

    fn delta(&mut self, layer: usize, shape: &DeltaShape) -> Result<DeltaWeights<B>> {
        let at = |field| Field::Layer(layer, field);
        Ok(DeltaWeights {
            shape: *shape,
            norm: self.vector(at(LayerField::MixerNorm))?,
            projection: self.projection(layer)?,
            ba: self.ba(layer)?,
            conv: self.vector(at(LayerField::DeltaConv))?,
            decay: self.vector(at(LayerField::DeltaDecay))?,
            dt_bias: self.vector(at(LayerField::DeltaDtBias))?,
            output_norm: self.vector(at(LayerField::DeltaNorm))?,
            output: self.matrix(at(LayerField::DeltaOutput))?,
        })
    }

    /// The projections of b and a, which some architectures have in one.
    fn ba(&mut self, layer: usize) -> Result<B::Matrix> {
        let at = |field| Field::Layer(layer, field);
        if self.parts.contains_key(&at(LayerField::DeltaBa)) {
            return self.matrix(at(LayerField::DeltaBa));
        }
        let both = self.stored(at(LayerField::DeltaBeta))?.above(self.stored(at(LayerField::DeltaAlpha))?);
        let matrix = both.matrix(0..both.rows)?;
        self.take(matrix)
    }

    /// One matrix where the file has one: rows that are grouped by head would have to be copied.
    fn projection(&mut self, layer: usize) -> Result<DeltaProjection<B>> {
        let [channels, z] =
            [LayerField::DeltaChannels, LayerField::DeltaZ].map(|field| Field::Layer(layer, field));
        let [first, second] = [channels, z].map(|field| locate(self.dir, &self.parts[&field]));
        let (first, second) = (&first?.tensors[0], &second?.tensors[0]);
        if first.tensor != second.tensor {
            return Ok(DeltaProjection::Split { channels: self.matrix(channels)?, z: self.matrix(z)? });
        }
        let whole = Source::whole(&first.tensor, &first.shape);
        let stored = self.open(&whole, self.config.hidden)?;
        let matrix = stored.matrix(0..stored.rows)?;
        Ok(DeltaProjection::Grouped(self.take(matrix)?))
    }

    fn ffn(&mut self, layer: usize, shape: &FfnShape) -> Result<MoeWeights<B>> {
        let norm = self.vector(Field::Layer(layer, LayerField::FfnNorm))?;
        let (routed, has_shared) = match shape {
            FfnShape::Dense { .. } => (None, true),
            FfnShape::Moe(shape) => (Some(self.routed(layer, shape)?), shape.shared_width.is_some()),
        };
        let shared = if has_shared { Some(self.shared(layer)?) } else { None };
        Ok(MoeWeights { norm, eps: self.config.eps, routed, shared })
    }

    fn routed(&mut self, layer: usize, shape: &MoeShape) -> Result<RoutedWeights<B>> {
        Ok(RoutedWeights {
            router: self.matrix(Field::Layer(layer, LayerField::Router))?,
            experts: self.experts(layer, shape)?,
            top_k: shape.top_k,
            normalize: shape.normalize,
        })
    }

    fn shared(&mut self, layer: usize) -> Result<SharedWeights<B>> {
        let at = |field| Field::Layer(layer, field);
        let expert = ExpertWeights {
            gate: self.matrix(at(LayerField::SharedGate))?,
            up: self.matrix(at(LayerField::SharedUp))?,
            down: self.matrix(at(LayerField::SharedDown))?,
        };
        let gate = at(LayerField::SharedExpertGate);
        let gate = if self.parts.contains_key(&gate) { Some(self.matrix(gate)?) } else { None };
        Ok(SharedWeights { expert, gate })
    }

    fn experts(&mut self, layer: usize, moe: &MoeShape) -> Result<B::Experts> {
        let (shape, mapped) = self.mapped(layer, moe)?;
        let bytes = (shape.experts * shape.record_bytes()) as u64;
        self.bytes.all += bytes;
        self.bytes.experts += bytes;
        let owner: Arc<dyn ExpertBytes> = match &self.store {
            Some(store) => store.clone(),
            None => Arc::new(mapped.with_locks(self.options.locks)),
        };
        let owner = self.recorded(moe.top_k, shape, owner);
        self.backend.experts(layer, shape, owner)
    }

    /// The experts of a layer as files have them, and how they are stored.
    fn mapped(&self, layer: usize, shape: &MoeShape) -> Result<(ExpertShape, MappedExperts)> {
        if matches!(self.dir.description(), Description::Gguf(_)) {
            for field in EXPERT_FIELDS {
                let source = locate(self.dir, &self.parts[&Field::Layer(layer, field)])?;
                source.tensors.iter().try_for_each(|rows| self.check_alone(&rows.tensor))?;
            }
        }
        experts_in(self.dir, self.config, &self.parts, layer, shape)
    }

    /// The experts of the next layer, recorded if that is wanted.
    fn recorded(
        &mut self,
        top_k: usize,
        shape: ExpertShape,
        bytes: Arc<dyn ExpertBytes>,
    ) -> Arc<dyn ExpertBytes> {
        let index = self.expert_layers.len();
        let record_bytes = shape.record_bytes();
        self.expert_layers.push(LayerHeader { experts: shape.experts, top_k, record_bytes });
        match &self.options.recorder {
            Some(recorder) => Arc::new(Recorded { bytes, recorder: recorder.clone(), index }),
            None => bytes,
        }
    }

    /// What a table may leave out.
    fn optional_vector(&mut self, field: Field) -> Result<Option<B::Vector>> {
        if self.parts.contains_key(&field) { self.vector(field).map(Some) } else { Ok(None) }
    }

    fn vector(&mut self, field: Field) -> Result<B::Vector> {
        let part = &self.parts[&field];
        let stored = Stored::open(self.dir, self.config, locate(self.dir, part)?, part.cols())?;
        let values = match part.arrangement {
            Arrangement::Transposed => transpose(&stored.values(), stored.cols),
            _ => stored.values(),
        };
        self.bytes.all += size_of_val(&values[..]) as u64;
        self.backend.vector(values)
    }

    fn matrix(&mut self, field: Field) -> Result<B::Matrix> {
        let stored = self.arranged(field)?;
        self.take(stored)
    }

    fn table(&mut self, field: Field, of: TableUse) -> Result<B::Table> {
        let stored = self.arranged(field)?;
        let counted = self.counted(stored);
        self.backend.table(counted, of)
    }

    /// The weight `field`, with its rows where they belong.
    fn arranged(&self, field: Field) -> Result<StoredMatrix> {
        let stored = self.stored(field)?;
        match &self.parts[&field].arrangement {
            Arrangement::Rows(ranges) => stored.stacked(ranges),
            _ => stored.matrix(0..stored.rows),
        }
    }

    fn take(&mut self, matrix: StoredMatrix) -> Result<B::Matrix> {
        let counted = self.counted(matrix);
        self.backend.matrix(counted)
    }

    fn counted(&mut self, mut matrix: StoredMatrix) -> StoredMatrix {
        if self.store.is_some() {
            // The system would give up its pages for those of files that are read.
            matrix.values.bytes = matrix.values.bytes.to_owned();
        }
        let scales = matrix.scale.as_ref().map_or(0, |scale| size_of_val(&scale.values[..]));
        self.bytes.all += (matrix.values.bytes.len() + scales) as u64;
        matrix
    }

    /// The weight `field`, which must be all there is of it.
    fn stored(&self, field: Field) -> Result<Stored> {
        let part = &self.parts[&field];
        self.open(locate(self.dir, part)?, part.cols())
    }

    fn open(&self, source: &Source, cols: usize) -> Result<Stored> {
        if matches!(self.dir.description(), Description::Gguf(_)) {
            source.tensors.iter().try_for_each(|rows| self.check_alone(&rows.tensor))?;
        }
        Stored::open(self.dir, self.config, source, cols)
    }

    /// A GGUF file has no bias and no scale of the tensor `name` that the table does not know of.
    fn check_alone(&self, name: &str) -> Result<()> {
        for sibling in ["bias", "scale"].map(|kind| format!("{}.{kind}", name.trim_end_matches(".weight"))) {
            let mut sources = self.parts.values().flat_map(|part| &part.gguf);
            let mut is_known =
                || sources.any(|source| source.tensors.iter().any(|rows| rows.tensor == sibling));
            ensure!(
                !self.dir.contains(&sibling) || is_known(),
                "{}: tensor {sibling} exists, which the architecture does not have",
                self.dir.origin()
            );
        }
        Ok(())
    }
}

/// From `[rows, cols]` to `[cols, rows]`.
fn transpose(values: &[f32], cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| values.iter().skip(col).step_by(cols)).copied().collect()
}
