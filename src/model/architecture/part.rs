//! A row of an architecture's table.

use std::iter::once;
use std::ops::Range;

/// A tensor that a model computes with, and where files keep it.
///
/// Its form in a GGUF file is the common one: [`Source`]s say how to come to it, [`Arrangement`] how the weights
/// follow from it.
#[derive(Clone, Debug)]
pub struct Part {
    /// The weights it becomes.
    pub field: Field,
    /// What it does, as far as that decides how precisely and where it is stored.
    pub role: Role,
    /// Its sizes in a GGUF file, outermost first.
    pub shape: Vec<usize>,
    /// Where a GGUF file keeps it: in a tensor of its own, or together with others in those that follow. Empty where
    /// the architecture has no name for it.
    pub gguf: Vec<Source>,
    /// Where a checkpoint keeps it, the usual place first.
    pub checkpoint: Vec<Source>,
    /// From its form in a GGUF file to the weights.
    pub arrangement: Arrangement,
}

/// The weights that a tensor becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// `[vocab, hidden]`.
    Embedding,
    /// The norm before the head, `[hidden]`.
    OutputNorm,
    /// `[vocab, hidden]`; a model without it uses the embedding.
    Head,
    /// A part of a layer.
    Layer(usize, LayerField),
}

/// The weights of a layer that a tensor becomes, with the sizes that `compute` gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the weights of the same names tell")]
pub enum LayerField {
    MixerNorm,
    Query,
    Key,
    Value,
    QueryBias,
    KeyBias,
    ValueBias,
    QueryNorm,
    KeyNorm,
    AttentionOutput,
    DeltaChannels,
    DeltaZ,
    DeltaBa,
    /// The first half of `DeltaBa`, where files have it alone.
    DeltaBeta,
    /// The second half.
    DeltaAlpha,
    DeltaConv,
    DeltaDtBias,
    DeltaDecay,
    DeltaNorm,
    DeltaOutput,
    FfnNorm,
    Router,
    ExpertsGate,
    ExpertsUp,
    ExpertsDown,
    /// Of the shared expert, or of a dense block.
    SharedGate,
    SharedUp,
    SharedDown,
    SharedExpertGate,
}

/// What a tensor does, as far as that decides how precisely and where it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Looks tokens up, and does nothing else.
    Embedding,
    /// Turns the last layer into logits; the embedding too where both are one.
    Head,
    /// Gate or up of the routed experts.
    Experts,
    /// Down of the routed experts.
    ExpertsDown,
    /// Any other matrix that every token meets.
    Trunk,
    /// Values of attention (with what is fused to them) or down of a block that every token visits.
    TrunkSensitive,
    /// Vectors, convolutions and the router: small, and always F32.
    Exact,
}

/// Where a part lies in files of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Rows of stored tensors, to be set one below the other.
    pub tensors: Vec<Rows>,
    /// Which elements of each row, in this order; all where it is empty.
    pub columns: Vec<Range<usize>>,
    /// What is done to each element.
    pub change: Change,
}

/// Some rows of a stored tensor; a vector is one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// The tensor's name.
    pub tensor: String,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
    /// Which rows, in this order, where a row is as long as one of the part.
    pub ranges: Vec<Range<usize>>,
}

/// What is done to each element of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// `1 + w`: checkpoints store norms as their distance from one.
    AddOne,
    /// `-exp(w)`: checkpoints store the decay as a logarithm.
    NegativeExp,
}

/// How weights follow from a tensor of a GGUF file.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrangement {
    /// As they are.
    AsStored,
    /// With rows and columns exchanged.
    Transposed,
    /// These rows one below the other.
    Rows(Vec<Range<usize>>),
}

impl Part {
    /// A tensor that both kinds of files keep alone and in this shape, under its names in a GGUF file and in a
    /// checkpoint.
    pub fn new(field: Field, role: Role, names: [&str; 2], shape: &[usize]) -> Self {
        let [gguf, checkpoint] = names.map(|name| vec![Source::whole(name, shape)]);
        Self { field, role, shape: shape.to_vec(), gguf, checkpoint, arrangement: Arrangement::AsStored }
    }

    /// Its name in a GGUF file, where it has one.
    pub fn gguf_name(&self) -> Option<&str> {
        self.gguf.first().map(|source| &*source.tensors[0].tensor)
    }

    /// Length of a row.
    pub fn cols(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    /// Checkpoints store it in another form.
    pub fn changed(&mut self, change: Change) -> &mut Self {
        self.checkpoint[0].change = change;
        self
    }

    /// Checkpoints give it other dimensions.
    pub fn checkpoint_shape(&mut self, shape: &[usize]) -> &mut Self {
        self.checkpoint[0].tensors[0].shape = shape.to_vec();
        self
    }

    /// Checkpoints store it as rows of a tensor that holds other parts too.
    pub fn checkpoint_rows(&mut self, shape: &[usize], ranges: Vec<Range<usize>>) -> &mut Self {
        let rows = &mut self.checkpoint[0].tensors[0];
        (rows.shape, rows.ranges) = (shape.to_vec(), ranges);
        self
    }

    /// Some GGUF files store it as rows of a tensor that holds other parts too.
    pub fn fused(
        &mut self,
        tensor: &str,
        shape: &[usize],
        ranges: impl IntoIterator<Item = Range<usize>>,
    ) -> &mut Self {
        self.gguf.push(Source::of(Rows::new(tensor, shape, ranges)));
        self
    }

    /// Some checkpoints store it as rows of a tensor that holds other parts too, or is named in another way.
    pub fn checkpoint_fused(
        &mut self,
        tensor: &str,
        shape: &[usize],
        ranges: impl IntoIterator<Item = Range<usize>>,
    ) -> &mut Self {
        self.checkpoint.push(Source::of(Rows::new(tensor, shape, ranges)));
        self
    }

    /// The weights follow from it so.
    pub fn arranged(&mut self, arrangement: Arrangement) -> &mut Self {
        self.arrangement = arrangement;
        self
    }
}

impl Field {
    /// Its layer.
    pub fn layer(self) -> Option<usize> {
        match self {
            Field::Layer(layer, _) => Some(layer),
            Field::Embedding | Field::OutputNorm | Field::Head => None,
        }
    }

    /// Whether it is the weight of a norm.
    pub fn is_norm(self) -> bool {
        match self {
            Field::OutputNorm => true,
            Field::Embedding | Field::Head => false,
            Field::Layer(_, field) => matches!(
                field,
                LayerField::MixerNorm
                    | LayerField::QueryNorm
                    | LayerField::KeyNorm
                    | LayerField::DeltaNorm
                    | LayerField::FfnNorm
            ),
        }
    }
}

impl Role {
    /// Whether a token needs only few rows of it.
    pub fn is_of_experts(self) -> bool {
        matches!(self, Role::Experts | Role::ExpertsDown)
    }
}

/// The name of one expert of a stacked tensor of a GGUF file, where files keep experts apart.
pub fn expert_name(stacked: &str, expert: usize) -> String {
    match stacked.strip_suffix(".weight") {
        Some(stem) => format!("{stem}.{expert}.weight"),
        None => format!("{stacked}.{expert}"),
    }
}

impl Source {
    /// All of a tensor.
    pub fn whole(tensor: &str, shape: &[usize]) -> Self {
        let rows = shape[..shape.len().saturating_sub(1)].iter().product();
        Self::of(Rows::new(tensor, shape, once(0..rows)))
    }

    /// These rows as they are.
    pub fn of(rows: Rows) -> Self {
        Self { tensors: vec![rows], columns: Vec::new(), change: Change::None }
    }

    /// Some of its rows.
    pub fn part(&self, rows: Range<usize>) -> Self {
        let mut start = 0;
        let mut tensors = Vec::new();
        for own in &self.tensors {
            let mut ranges = Vec::new();
            for range in &own.ranges {
                let from = rows.start.max(start) - start;
                let to = rows.end.min(start + range.len()).saturating_sub(start);
                if from < to {
                    ranges.push(range.start + from..range.start + to);
                }
                start += range.len();
            }
            if !ranges.is_empty() {
                tensors.push(Rows { ranges, ..own.clone() });
            }
        }
        Self { tensors, ..self.clone() }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.tensors.iter().flat_map(|rows| &rows.ranges).map(ExactSizeIterator::len).sum()
    }
}

impl Rows {
    /// Some rows of the tensor `tensor`, whose shape is `shape`.
    pub fn new(tensor: &str, shape: &[usize], ranges: impl IntoIterator<Item = Range<usize>>) -> Self {
        Self { tensor: tensor.into(), shape: shape.to_vec(), ranges: ranges.into_iter().collect() }
    }
}

impl Change {
    /// Changes `values`.
    pub fn apply(self, values: &mut [f32]) {
        match self {
            Change::None => {}
            Change::AddOne => values.iter_mut().for_each(|value| *value += 1.0),
            Change::NegativeExp => values.iter_mut().for_each(|value| *value = -value.exp()),
        }
    }
}
