//! From the tensors of a checkpoint to weights, as the table of the architecture says ([`architecture`]).

mod stored;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anyhow::{Result, ensure};

pub use stored::{Piece, Stored, locate};

use super::architecture::{self, Arrangement, Field, LayerField, Part, Source};
use super::config::{Config, FfnShape, MixerShape, MoeShape};
use super::experts::MappedExperts;
use super::weights::{Layer, MixerWeights, WeightBytes, Weights};
use crate::compute::{
    AttentionBias, AttentionShape, AttentionWeights, Backend, DeltaProjection, DeltaShape, DeltaWeights,
    ExpertWeights, HeadWeights, MoeWeights, RoutedWeights, SharedWeights, StoredMatrix,
};
use crate::format::{Description, ModelDir};

/// Reads all weights of `dir` into `backend`, checking every shape against `config`.
pub fn load<B: Backend>(dir: &ModelDir, config: &Config, backend: &mut B) -> Result<Weights<B>> {
    let parts = architecture::tensors(config).into_iter().map(|part| (part.field, part)).collect();
    Loader { dir, config, parts, backend, bytes: Bytes::default() }.load()
}

/// The names of the tensors that every token needs, in files of either kind; scales of FP8 matrices included.
pub fn trunk_names(config: &Config) -> HashSet<String> {
    let parts = architecture::tensors(config).into_iter().filter(|part| !part.role.is_of_experts());
    let sources = parts.flat_map(|part| part.gguf.into_iter().chain(part.checkpoint));
    let names = sources.flat_map(|source| source.tensors.into_iter().map(|rows| rows.tensor));
    names.flat_map(|name| [format!("{name}_scale_inv"), name]).collect()
}

struct Loader<'a, B> {
    dir: &'a ModelDir,
    config: &'a Config,
    parts: HashMap<Field, Part>,
    backend: &'a mut B,
    bytes: Bytes,
}

/// What was handed to the backend so far.
#[derive(Clone, Copy, Default)]
struct Bytes {
    all: u64,
    /// Those of routed experts.
    experts: u64,
}

impl<B: Backend> Loader<'_, B> {
    fn load(mut self) -> Result<Weights<B>> {
        let config = self.config;
        let mut layers = Vec::with_capacity(config.layers.len());
        let (mut attention_layers, mut delta_layers) = (0, 0);
        for (i, layer) in config.layers.iter().enumerate() {
            let mixer = match &layer.mixer {
                MixerShape::Attention(shape) => {
                    attention_layers += 1;
                    MixerWeights::Attention(self.attention(i, shape)?, attention_layers - 1)
                }
                MixerShape::DeltaNet(shape) => {
                    delta_layers += 1;
                    MixerWeights::Delta(self.delta(i, shape)?, delta_layers - 1)
                }
            };
            layers.push(Layer { mixer, moe: self.ffn(i, &layer.ffn)? });
        }
        let before = self.bytes;
        let embedding = self.matrix(Field::Embedding)?;
        let embedding_bytes = self.bytes.all - before.all;
        let head = self.head()?;
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
        Ok(Weights { embedding, layers, head, bytes })
    }

    fn head(&mut self) -> Result<HeadWeights<B>> {
        let has_own = self.parts.contains_key(&Field::Head);
        let output = if has_own { Field::Head } else { Field::Embedding };
        let eps = self.config.eps;
        Ok(HeadWeights { norm: self.vector(Field::OutputNorm)?, eps, output: self.matrix(output)? })
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

    fn experts(&mut self, layer: usize, shape: &MoeShape) -> Result<B::Experts> {
        let fields = [LayerField::ExpertsGate, LayerField::ExpertsUp, LayerField::ExpertsDown];
        let [gate, up, down] = fields.map(|field| self.stored(Field::Layer(layer, field)));
        let (gate, up, down) = (gate?, up?, down?);
        let matrix = |e: usize, all: &Stored| {
            let rows = all.rows / shape.experts;
            all.matrix(e * rows..(e + 1) * rows)
        };
        let expert = |e| Ok([matrix(e, &gate)?, matrix(e, &up)?, matrix(e, &down)?]);
        let (shape, mapped) = MappedExperts::new((0..shape.experts).map(expert).collect::<Result<_>>()?)?;
        let bytes = (shape.experts * shape.record_bytes()) as u64;
        self.bytes.all += bytes;
        self.bytes.experts += bytes;
        self.backend.experts(layer, shape, Arc::new(mapped))
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
        let stored = self.stored(field)?;
        let matrix = match &self.parts[&field].arrangement {
            Arrangement::Rows(ranges) => stored.stacked(ranges)?,
            _ => stored.matrix(0..stored.rows)?,
        };
        self.take(matrix)
    }

    fn take(&mut self, matrix: StoredMatrix) -> Result<B::Matrix> {
        let scales = matrix.scale.as_ref().map_or(0, |scale| size_of_val(&scale.values[..]));
        self.bytes.all += (matrix.values.bytes.len() + scales) as u64;
        self.backend.matrix(matrix)
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
