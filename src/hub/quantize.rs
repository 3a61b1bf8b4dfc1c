//! Quantises any checkpoint to one GGUF file, each tensor in the type that a recipe gives it.
//!
//! Tensors are read from the mapped file, some rows at a time, encoded on several threads and written in order, so
//! memory does not grow with the model. Tensors that keep their type are copied bit for bit.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail, ensure};

use crate::base::dtype::DType;
use crate::format::gguf::{Metadata, TensorInfo, Value, Writer};
use crate::format::imatrix::Importance;
use crate::format::{Description, Folder, ModelDir, PROMPT_PROFILE, blocks};
use crate::model::Config;
use crate::model::architecture::{self, Source};
use crate::model::export::{self, Choice, ExportTensor, Recipe, Roles, Vocabulary};
use crate::model::layout::{self, Piece, Stored};

/// Elements that a thread converts at a time.
const PIECE_ELEMENTS: usize = 1 << 17;

/// Pieces between two writes.
const BATCH_PIECES: usize = 64;

const FILE_TYPE: &str = "general.file_type";
const ALIGNMENT: &str = "general.alignment";

/// A file to be written. Everything is validated but the elements.
pub struct Plan<'a> {
    dir: &'a ModelDir,
    config: Config,
    metadata: Vec<(String, Value)>,
    tensors: Vec<Planned>,
}

struct Planned {
    tensor: ExportTensor,
    choice: Choice,
    source: Source,
    /// What errors count, `[matrices, columns]`; empty where all count alike.
    weights: Vec<f32>,
}

/// Result for one tensor.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its name in the file.
    pub name: String,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// The type before.
    pub from: DType,
    /// The type after, and the requested one where that does not fit its rows.
    pub to: Choice,
    /// Quantisation error.
    pub deviation: Deviation,
}

/// Quantisation error of stored elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// Elements compared.
    pub count: usize,
    /// Sum of the squared errors.
    pub squared: f64,
    /// Sum of the squared elements.
    pub squared_elements: f64,
    /// Largest absolute error.
    pub max: f32,
}

impl Deviation {
    /// RMS error relative to the RMS of the elements.
    pub fn relative(&self) -> f64 {
        if self.squared_elements > 0.0 { (self.squared / self.squared_elements).sqrt() } else { 0.0 }
    }

    /// Adds the error of other elements.
    pub fn add(&mut self, other: &Deviation) {
        self.count += other.count;
        self.squared += other.squared;
        self.squared_elements += other.squared_elements;
        self.max = self.max.max(other.max);
    }

    fn between(values: &[f32], stored: &[f32]) -> Self {
        let mut sum = Self { count: values.len(), ..Self::default() };
        for (&value, &stored) in values.iter().zip(stored) {
            let difference = value - stored;
            sum.squared += f64::from(difference) * f64::from(difference);
            sum.squared_elements += f64::from(value) * f64::from(value);
            sum.max = sum.max.max(difference.abs());
        }
        sum
    }
}

impl<'a> Plan<'a> {
    /// Plans the file for the model in `dir`, to be called `name` in its metadata. Fails when the checkpoint
    /// is incomplete, has tensors of other shapes or types than its configuration asks for, or is of a kind
    /// that GGUF cannot describe.
    pub fn new(dir: &'a ModelDir, recipe: &Recipe, name: &str) -> Result<Self> {
        let config = Config::read(dir)?.as_in_gguf();
        let plan = match dir.description() {
            Description::Folder(folder) => Self::of_checkpoint(dir, folder, config, recipe, name),
            Description::Gguf(metadata) => Self::of_gguf(dir, metadata, config, recipe),
        };
        let plan = plan.with_context(|| dir.origin().to_owned())?;
        for planned in &plan.tensors {
            plan.open(planned)?;
        }
        Ok(plan)
    }

    fn of_checkpoint(
        dir: &'a ModelDir,
        folder: &Folder,
        config: Config,
        recipe: &Recipe,
        name: &str,
    ) -> Result<Self> {
        let chat_template = dir.chat_template()?;
        let vocabulary = folder.tokenizer.as_ref().map(|tokenizer| Vocabulary {
            tokenizer,
            chat_template: chat_template.as_deref(),
            eos: eos(&folder.config),
        });
        let mut metadata = export::metadata(&config, recipe, name, vocabulary)?;
        let profile = dir.prompt_profile()?;
        metadata.extend(profile.map(|profile| (PROMPT_PROFILE.to_owned(), Value::String(profile))));
        let planned = |(tensor, part)| {
            let choice = recipe.choose(&tensor, config.layers.len());
            let source = layout::locate(dir, &part)?.clone();
            Ok(Planned { choice, source, tensor, weights: Vec::new() })
        };
        let tensors = export::tensors(&config)?.into_iter().map(planned).collect::<Result<_>>()?;
        Ok(Self { dir, config, metadata, tensors })
    }

    /// Weighs errors as the importance matrix `importance`, read from `file`, says. Fails when it is that of another
    /// model.
    pub fn weighted(mut self, importance: &Importance, file: &Path) -> Result<Self> {
        let (file, mut count) = (file.display().to_string(), 0);
        for planned in &mut self.tensors {
            let Some(sums) = importance.tensors.get(&planned.tensor.name) else { continue };
            let (shape, found) = (&planned.tensor.shape, sums.counts.len());
            let matrices = if shape.len() > 2 { shape[0] } else { 1 };
            let columns = sums.squares.len() / found.max(1);
            let is_split =
                found == 1 && matrices > 1 && sums.squares.len() == matrices * shape[shape.len() - 1];
            ensure!(
                is_split || (found, Some(&columns)) == (matrices, shape.last()),
                "{file} has {found} x {columns} columns of tensor {}, which has the shape {shape:?}; it is that of another model",
                planned.tensor.name
            );
            planned.weights = if is_split { sums.split(matrices).weights() } else { sums.weights() };
            count += 1;
        }
        ensure!(count > 0, "{file} names none of the model's tensors; it is that of another model");
        self.metadata.push(("quantize.imatrix.file".into(), Value::String(file)));
        self.metadata.push(("quantize.imatrix.entries_count".into(), Value::U32(count)));
        Ok(self)
    }

    /// The same tensors and metadata, except for the keys on types and parts.
    fn of_gguf(dir: &'a ModelDir, metadata: &Metadata, config: Config, recipe: &Recipe) -> Result<Self> {
        let goes =
            |key: &str| key == FILE_TYPE || key.starts_with("split.") || key.starts_with("quantize.imatrix.");
        let mut metadata: Vec<_> = metadata.entries().iter().filter(|(key, _)| !goes(key)).cloned().collect();
        metadata.push((FILE_TYPE.into(), Value::U32(recipe.file_type())));

        let roles = Roles::new(&architecture::tensors(&config));
        let mut tensors = Vec::new();
        for name in dir.names() {
            let shape = dir.tensor(name)?.shape;
            let tensor = roles.tensor(name, &shape);
            let choice = recipe.choose(&tensor, config.layers.len());
            let source = Source::whole(name, &shape);
            tensors.push(Planned { source, choice, tensor, weights: Vec::new() });
        }
        tensors.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok(Self { dir, config, metadata, tensors })
    }

    /// The same with each expert in one piece. Fails where the experts are fused, or apart already.
    pub fn by_expert(mut self) -> Result<Self> {
        let has_fused = self.tensors.iter().any(|planned| planned.tensor.name.contains("gate_up_exps"));
        let has_stacked = self.tensors.iter().any(|planned| planned.tensor.role.is_of_experts());
        ensure!(has_stacked, "{}: the model has no experts", self.dir.origin());
        ensure!(!has_fused, "{}: gate and up of its experts are in one tensor", self.dir.origin());
        let tensors = self.tensors.into_iter().map(|planned| {
            let Planned { tensor, choice, source, weights } = planned;
            (tensor, (choice, source, weights))
        });
        let part = |(choice, source, weights): &(Choice, Source, Vec<f32>), rows: Range<usize>| {
            let cols = weights.len() / (source.rows() / rows.len());
            let first = rows.start / rows.len() * cols;
            (*choice, source.part(rows), weights[first..first + cols].to_vec())
        };
        let planned = |(tensor, (choice, source, weights))| Planned { tensor, choice, source, weights };
        self.tensors = export::by_expert(tensors.collect(), part).into_iter().map(planned).collect();
        self.metadata.retain(|(key, _)| key != ALIGNMENT);
        self.metadata.push((ALIGNMENT.into(), Value::U32(export::EXPERT_ALIGNMENT)));
        Ok(self)
    }

    /// A smaller copy of the routed experts, and nothing else of the model, for memory that holds it but not the model, see
    /// [`ExpertOptions::cold`](crate::model::experts::ExpertOptions::cold). Fails where there are none.
    pub fn experts_alone(mut self) -> Result<Self> {
        self.tensors.retain(|planned| planned.tensor.role.is_of_experts());
        ensure!(!self.tensors.is_empty(), "{}: the model has no experts", self.dir.origin());
        let stays = |key: &str| key == "general.architecture" || key.starts_with("quantize.imatrix.");
        self.metadata.retain(|(key, _)| stays(key));
        let of = layout::identity(self.dir, &Config::read(self.dir)?)?;
        self.metadata.push((layout::COLD_OF.into(), Value::String(of)));
        Ok(self)
    }

    /// Size of the file's tensors, in bytes.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|planned| planned.bytes() as u64).sum()
    }

    /// Elements of all tensors.
    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(|planned| planned.tensor.shape.iter().product::<usize>() as u64).sum()
    }

    /// Writes the file on `threads` threads; `progress` is told of bytes as they are written. The file is
    /// written atomically. Fails, naming the tensor, when an element is NaN or exceeds its type.
    pub fn write(&self, path: &Path, threads: usize, mut progress: impl FnMut(u64)) -> Result<Vec<Outcome>> {
        let infos: Vec<TensorInfo> = self.tensors.iter().map(Planned::info).collect();
        let mut writer = Writer::create(path, &self.metadata, &infos)?;
        let mut outcomes = Vec::with_capacity(self.tensors.len());
        for planned in &self.tensors {
            let conversion = self.open(planned)?;
            let mut deviation = Deviation::default();
            let mut out = Vec::new();
            for rows in conversion.batches() {
                deviation.add(&conversion.convert(rows, threads, &mut out)?);
                writer.write(&out)?;
                progress(out.len() as u64);
            }
            outcomes.push(Outcome {
                name: planned.tensor.name.clone(),
                shape: planned.tensor.shape.clone(),
                from: conversion.stored.pieces[0].tensor.dtype,
                to: planned.choice,
                deviation,
            });
        }
        writer.finish()?;
        Ok(outcomes)
    }

    /// Finds the stored rows of a tensor and checks their shapes.
    fn open<'p>(&self, planned: &'p Planned) -> Result<Conversion<'p>> {
        let cols = planned.tensor.shape.last().copied().context("a tensor without dimensions")?;
        let stored = Stored::open(self.dir, &self.config, &planned.source, cols)?;
        let (origin, dtype) = (self.dir.origin().to_owned(), planned.choice.dtype);
        Ok(Conversion { origin, stored, dtype, weights: &planned.weights })
    }
}

/// The end of what the model writes, as `config.json` says it.
fn eos(config: &[u8]) -> Option<u32> {
    let config: serde_json::Value = serde_json::from_slice(config).ok()?;
    let eos = config.get("eos_token_id")?;
    eos.get(0).unwrap_or(eos).as_u64()?.try_into().ok()
}

impl Planned {
    /// By layer, what is outside the layers first.
    fn order(&self) -> (Option<usize>, &str) {
        (self.tensor.layer, &self.tensor.name)
    }

    fn info(&self) -> TensorInfo {
        TensorInfo {
            name: self.tensor.name.clone(),
            dtype: self.choice.dtype,
            shape: self.tensor.shape.clone(),
        }
    }

    fn bytes(&self) -> usize {
        self.choice.dtype.bytes(self.tensor.shape.iter().product()).unwrap_or(0)
    }
}

/// A tensor on its way from one file to the other.
struct Conversion<'a> {
    origin: String,
    stored: Stored,
    dtype: DType,
    weights: &'a [f32],
}

impl Conversion<'_> {
    /// Rows to convert between two writes.
    fn batches(&self) -> impl Iterator<Item = Range<usize>> {
        let step = self.piece_rows() * BATCH_PIECES;
        let rows = self.stored.rows;
        (0..rows).step_by(step).map(move |start| start..rows.min(start + step))
    }

    fn piece_rows(&self) -> usize {
        (PIECE_ELEMENTS / self.stored.cols).max(1)
    }

    /// Converts `rows` into `out`, which holds them and nothing else afterwards.
    fn convert(&self, rows: Range<usize>, threads: usize, out: &mut Vec<u8>) -> Result<Deviation> {
        let row_bytes = self.dtype.bytes(self.stored.cols).context("rows are whole blocks")?;
        out.resize(rows.len() * row_bytes, 0);
        let piece_rows = self.piece_rows();
        let starts = rows.clone().step_by(piece_rows);
        let pieces = Mutex::new(starts.zip(out.chunks_mut(piece_rows * row_bytes)));
        let work = || -> Result<Deviation> {
            let (mut deviation, mut values) = (Deviation::default(), Vec::new());
            loop {
                let piece = pieces.lock().expect("the iterator does not panic").next();
                let Some((start, out)) = piece else { return Ok(deviation) };
                deviation.add(&self.convert_piece(start, out, row_bytes, &mut values)?);
            }
        };
        let threads = threads.min(rows.len().div_ceil(piece_rows));
        thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut deviation = work()?;
            for other in others {
                deviation.add(&other.join().expect("workers do not panic")?);
            }
            Ok(deviation)
        })
    }

    /// Converts the rows from `start` on that fill `out`.
    fn convert_piece(
        &self,
        start: usize,
        mut out: &mut [u8],
        row_bytes: usize,
        values: &mut Vec<f32>,
    ) -> Result<Deviation> {
        let mut deviation = Deviation::default();
        let mut row = start;
        while !out.is_empty() {
            let pieces = &self.stored.pieces;
            let piece = &pieces[pieces.partition_point(|piece| piece.start <= row) - 1];
            let count = (out.len() / row_bytes).min(piece.start + piece.rows - row);
            let (now, later) = out.split_at_mut(count * row_bytes);
            deviation.add(&self.convert_rows(piece, row, now, values)?);
            (row, out) = (row + count, later);
        }
        Ok(deviation)
    }

    /// Converts the rows from `row` on, all of one piece, that fill `out`.
    fn convert_rows(
        &self,
        piece: &Piece,
        row: usize,
        out: &mut [u8],
        values: &mut Vec<f32>,
    ) -> Result<Deviation> {
        let cols = self.stored.cols;
        let stored_row = piece.first + row - piece.start;
        let dtype = piece.tensor.dtype;
        let stored_row_bytes = dtype.bytes(cols).context("stored rows are whole blocks")?;
        let count = out.len() / self.dtype.bytes(cols).context("rows are whole blocks")?;
        let stored = &piece.tensor.bytes[stored_row * stored_row_bytes..][..count * stored_row_bytes];
        values.resize(2 * count * cols, 0.0);
        let (values, check) = values.split_at_mut(count * cols);
        blocks::to_f32(dtype, stored, values);
        if let Some(scale) = &piece.scale {
            for (i, values) in values.chunks_mut(cols).enumerate() {
                scale.apply(stored_row + i, values);
            }
        }
        self.stored.rearrange(values);
        let is_same = dtype == self.dtype && piece.scale.is_none() && self.stored.is_plain();
        if is_same {
            out.copy_from_slice(stored);
            ensure!(values.iter().all(|value| value.is_finite()), "{}", self.refusal(piece, f32::NAN));
            return Ok(Deviation::between(values, values));
        }
        if let Err(blocks::Ineligible(value)) = self.encode(row, values, out) {
            bail!("{}", self.refusal(piece, value));
        }
        blocks::to_f32(self.dtype, out, check);
        Ok(Deviation::between(values, check))
    }

    /// Encodes rows from `start` on, with the weights of their matrices.
    fn encode(&self, start: usize, values: &[f32], out: &mut [u8]) -> Result<(), blocks::Ineligible> {
        if self.weights.is_empty() {
            return blocks::from_f32(self.dtype, values, out);
        }
        let Stored { rows, cols, .. } = self.stored;
        let matrices = self.weights.len() / cols;
        let row_bytes = out.len() / (values.len() / cols);
        for (i, (values, out)) in values.chunks_exact(cols).zip(out.chunks_exact_mut(row_bytes)).enumerate() {
            let matrix = (start + i) * matrices / rows;
            blocks::from_f32_weighted(self.dtype, values, &self.weights[matrix * cols..][..cols], out)?;
        }
        Ok(())
    }

    fn refusal(&self, piece: &Piece, value: f32) -> String {
        let (origin, name, dtype) = (&self.origin, &piece.tensor.name, self.dtype);
        if value.is_finite() {
            format!("{origin}: tensor {name} holds {value}, more than {dtype} can; choose bf16 for it")
        } else {
            format!("{origin}: tensor {name} holds {value}, which is no number; the checkpoint is damaged")
        }
    }
}
