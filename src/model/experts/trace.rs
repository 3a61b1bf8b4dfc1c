//! Records of routing: which experts the tokens of real requests visit, for `fimd bench experts`.
//!
//! A trace is a line of JSON, [`Header`], and then passes. A pass is its number of tokens (u32) and for each layer of
//! the header the experts of each token, the ones it visits and then those that its router ranked next,
//! `[tokens, ranked]` (u16), all little-endian. It holds no text.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::compute::experts::{ExpertBytes, ExpertId, ExpertParts, ExpertShape, RANKS_PER_VISIT, Ranking};
use crate::format::Memory;

/// The version of the format.
const VERSION: u32 = 1;

/// What a trace is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format, 1.
    pub fimd_trace: u32,
    /// Bytes of the weights that every token reads.
    pub trunk_bytes: u64,
    /// How many times as many experts as a token visits are recorded of it, or all that there are.
    #[serde(default = "visits_only")]
    pub ranks_per_visit: usize,
    /// The layers that have experts, in order.
    pub layers: Vec<LayerHeader>,
}

fn visits_only() -> usize {
    1
}

/// A layer that has experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerHeader {
    /// Routed experts.
    pub experts: usize,
    /// Experts that a token visits.
    pub top_k: usize,
    /// Bytes of an expert.
    pub record_bytes: usize,
}

impl Header {
    /// Of a model with these layers, whose routers tell the ranks of experts.
    pub fn new(trunk_bytes: u64, layers: Vec<LayerHeader>) -> Self {
        Self { fimd_trace: VERSION, trunk_bytes, ranks_per_visit: RANKS_PER_VISIT, layers }
    }

    /// The recorded experts of a pass in the `index`-th layer.
    pub fn ranking<'a>(&self, index: usize, experts: &'a [u32]) -> Ranking<'a> {
        Ranking::new(self.layers[index].top_k, self.ranked(index), experts)
    }

    /// Experts that are recorded of a token in the `index`-th layer.
    fn ranked(&self, index: usize) -> usize {
        let LayerHeader { experts, top_k, .. } = self.layers[index];
        top_k.saturating_mul(self.ranks_per_visit).min(experts)
    }

    fn pass_bytes(&self, tokens: usize) -> usize {
        4 + 2 * tokens * (0..self.layers.len()).map(|index| self.ranked(index)).sum::<usize>()
    }
}

/// A recorded trace.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What it is of.
    pub header: Header,
    /// For each pass and each layer the experts of its tokens, `[tokens, ranked]`.
    pub passes: Vec<Vec<Vec<u32>>>,
    /// Bytes up to the end of the last whole pass.
    whole_bytes: usize,
}

impl Trace {
    /// Of these passes, each with the experts of its tokens for every layer of the header.
    pub fn new(header: Header, passes: Vec<Vec<Vec<u32>>>) -> Self {
        Self { header, passes, whole_bytes: 0 }
    }

    /// Reads a trace. A last pass that was cut short is left out.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("{} is not a trace of experts", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let end = bytes.iter().position(|&byte| byte == b'\n').context("it has no header")?;
        let header: Header = serde_json::from_slice(&bytes[..end]).context("its header is invalid")?;
        ensure!(header.fimd_trace == VERSION, "it has version {}; this is {VERSION}", header.fimd_trace);
        let is_valid = |layer: &LayerHeader| (1..=layer.experts).contains(&layer.top_k);
        ensure!(
            header.ranks_per_visit > 0 && !header.layers.is_empty() && header.layers.iter().all(is_valid),
            "its header names invalid layers"
        );
        let mut this = Self { whole_bytes: end + 1, ..Self::new(header, Vec::new()) };
        while let Some(pass) = this.pass(&bytes[this.whole_bytes..])? {
            this.whole_bytes += this.header.pass_bytes(this.header.ranking(0, &pass[0]).rows().len());
            this.passes.push(pass);
        }
        Ok(this)
    }

    /// The pass that `bytes` begin with, if it is whole.
    fn pass(&self, bytes: &[u8]) -> Result<Option<Vec<Vec<u32>>>> {
        let Some((tokens, mut rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let tokens = u32::from_le_bytes(*tokens) as usize;
        ensure!(tokens > 0, "pass {} has no tokens", self.passes.len());
        if tokens > bytes.len() || self.header.pass_bytes(tokens) > bytes.len() {
            return Ok(None);
        }
        let mut layers = Vec::with_capacity(self.header.layers.len());
        for (index, layer) in self.header.layers.iter().enumerate() {
            let (own, later) = rest.split_at(2 * tokens * self.header.ranked(index));
            let experts: Vec<u32> =
                own.as_chunks().0.iter().map(|&expert| u16::from_le_bytes(expert).into()).collect();
            let last = experts.iter().copied().max().unwrap_or_default() as usize;
            ensure!(last < layer.experts, "pass {} visits expert {last}", self.passes.len());
            layers.push(experts);
            rest = later;
        }
        Ok(Some(layers))
    }
}

/// Writes a trace while a model runs. What cannot be written is reported once, and ends the trace.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// None before the header and after a failure.
    file: Option<File>,
    header: Option<Header>,
    /// The layers of the pass in progress, as far as they have been visited.
    pass: Vec<Vec<u16>>,
}

impl Recorder {
    /// A recorder of the model that is loaded next.
    pub fn new(path: &Path) -> Arc<Self> {
        Arc::new(Self { path: path.to_owned(), state: Mutex::default() })
    }

    /// Begins the file, or continues one of the same model with as many ranks or fewer. Fails where there is a file of something
    /// else.
    pub(crate) fn begin(&self, mut header: Header) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let describe = || format!("cannot write {}", self.path.display());
        let exists = fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() > 0);
        let mut options = OpenOptions::new();
        let mut file =
            options.create(true).truncate(false).write(true).open(&self.path).with_context(describe)?;
        if exists {
            let trace = Trace::read(&self.path)?;
            let ranks_per_visit = trace.header.ranks_per_visit;
            ensure!(
                ranks_per_visit <= header.ranks_per_visit,
                "{} is a trace with more ranks than a GPU tells; remove it or choose another file",
                self.path.display()
            );
            header.ranks_per_visit = ranks_per_visit;
            ensure!(
                trace.header == header,
                "{} is a trace of another model; remove it or choose another file",
                self.path.display()
            );
            file.set_len(trace.whole_bytes as u64).with_context(describe)?;
            file.seek(SeekFrom::End(0)).with_context(describe)?;
        } else {
            let line = serde_json::to_string(&header)? + "\n";
            file.write_all(line.as_bytes()).with_context(describe)?;
        }
        *state = State { file: Some(file), header: Some(header), pass: Vec::new() };
        Ok(())
    }

    /// The experts of a pass in the `index`-th layer of the header. A pass that ends before the last layer is not recorded,
    /// nor is one of which fewer ranks are known.
    fn record(&self, index: usize, ranking: Ranking) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let (Some(file), Some(header)) = (&mut state.file, &state.header) else { return };
        state.pass.truncate(index);
        let ranked = header.ranked(index);
        if ranking.rows().any(|row| row.len() < ranked) {
            return;
        }
        state.pass.push(ranking.rows().flat_map(|row| &row[..ranked]).map(|&expert| expert as u16).collect());
        if state.pass.len() < header.layers.len() || index + 1 < header.layers.len() {
            return;
        }
        if let Err(error) = write_pass(file, header, &state.pass) {
            tracing::warn!("the trace ends here: cannot write {}: {error}", self.path.display());
            state.file = None;
        }
        state.pass.clear();
    }
}

fn write_pass(file: &mut File, header: &Header, pass: &[Vec<u16>]) -> io::Result<()> {
    let tokens = pass[0].len() / header.ranked(0);
    let mut bytes = (tokens as u32).to_le_bytes().to_vec();
    bytes.extend(pass.iter().flatten().flat_map(|expert| expert.to_le_bytes()));
    file.write_all(&bytes)
}

/// The experts of a layer, whose visits are recorded.
pub(crate) struct Recorded {
    pub bytes: Arc<dyn ExpertBytes>,
    pub recorder: Arc<Recorder>,
    /// Which of the layers of the header it is.
    pub index: usize,
}

impl ExpertBytes for Recorded {
    fn resident(&self, id: ExpertId) -> Option<ExpertParts> {
        self.bytes.resident(id)
    }

    fn fetch(&self, ids: &[ExpertId], into: &mut [u8]) -> io::Result<()> {
        self.bytes.fetch(ids, into)
    }

    fn memory(&self, layer: usize) -> Vec<Memory> {
        self.bytes.memory(layer)
    }

    fn cold_shape(&self, layer: usize) -> Option<ExpertShape> {
        self.bytes.cold_shape(layer)
    }

    fn cold(&self, id: ExpertId) -> Option<ExpertParts> {
        self.bytes.cold(id)
    }

    fn is_told(&self) -> bool {
        true
    }

    fn visited(&self, layer: usize, ranking: Ranking) {
        self.bytes.visited(layer, ranking);
    }

    fn is_recorded(&self) -> bool {
        true
    }

    fn routed(&self, ranking: Ranking) {
        self.recorder.record(self.index, ranking);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let layer = LayerHeader { experts: 9, top_k: 2, record_bytes: 100 };
        Header { ranks_per_visit: 2, ..Header::new(7, vec![layer, LayerHeader { top_k: 1, ..layer }]) }
    }

    fn record(recorder: &Recorder, index: usize, experts: &[u32]) {
        recorder.record(index, header().ranking(index, experts));
    }

    #[test]
    fn traces_are_read_as_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        let recorder = Recorder::new(&path);
        recorder.begin(header()).unwrap();
        record(&recorder, 0, &[1, 2, 3, 4, 8, 7, 6, 5]);
        record(&recorder, 1, &[5, 6, 1, 2]);
        record(&recorder, 0, &[8, 8, 0, 0]);
        // The pass before was interrupted.
        record(&recorder, 0, &[0, 7, 3, 4]);
        record(&recorder, 1, &[8, 2]);
        let expected =
            [vec![vec![1, 2, 3, 4, 8, 7, 6, 5], vec![5, 6, 1, 2]], vec![vec![0, 7, 3, 4], vec![8, 2]]];
        assert_eq!(Trace::read(&path).unwrap().passes, expected);

        // Cut short, and continued.
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(fs::metadata(&path).unwrap().len() - 1).unwrap();
        assert_eq!(Trace::read(&path).unwrap().passes, expected[..1]);
        let recorder = Recorder::new(&path);
        recorder.begin(header()).unwrap();
        record(&recorder, 0, &[0, 7, 3, 4]);
        record(&recorder, 1, &[8, 2]);
        // A device that knows the visits only.
        recorder.record(0, Ranking::of_visits(2, &[0, 7]));
        recorder.record(1, Ranking::of_visits(1, &[8]));
        assert_eq!(Trace::read(&path).unwrap().passes, expected);
        let other = Header { trunk_bytes: 8, ..header() };
        assert!(format!("{:#}", Recorder::new(&path).begin(other).unwrap_err()).contains("another model"));
    }

    #[test]
    fn a_trace_is_continued_with_as_few_ranks_as_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        let visits = Header { ranks_per_visit: 1, ..header() };
        let recorder = Recorder::new(&path);
        recorder.begin(visits.clone()).unwrap();
        recorder.record(0, visits.ranking(0, &[1, 2]));
        recorder.record(1, visits.ranking(1, &[3]));
        let recorder = Recorder::new(&path);
        recorder.begin(header()).unwrap();
        record(&recorder, 0, &[4, 5, 6, 7]);
        record(&recorder, 1, &[8, 0]);
        let trace = Trace::read(&path).unwrap();
        assert_eq!((trace.header, trace.passes.len()), (visits.clone(), 2));
        assert_eq!(trace.passes[1], [vec![4, 5], vec![8]]);
        fs::remove_file(&path).unwrap();
        Recorder::new(&path).begin(header()).unwrap();
        let error = Recorder::new(&path).begin(visits).unwrap_err();
        assert!(format!("{error:#}").contains("more ranks than a GPU tells"), "{error:#}");
    }

    #[test]
    fn damaged_traces_are_errors() {
        let header = serde_json::to_string(&header()).unwrap();
        let pass = |tokens: u32, experts: &[u16]| {
            let experts = experts.iter().flat_map(|expert| expert.to_le_bytes());
            [header.as_bytes(), b"\n"]
                .concat()
                .into_iter()
                .chain(tokens.to_le_bytes())
                .chain(experts)
                .collect()
        };
        let invalid: [(Vec<u8>, &str); 6] = [
            (vec![], "no header"),
            (b"{}\n".to_vec(), "header is invalid"),
            (header.replace("\"fimd_trace\":1", "\"fimd_trace\":2").into_bytes(), "no header"),
            ((header.replace("\"fimd_trace\":1", "\"fimd_trace\":2") + "\n").into_bytes(), "version 2"),
            (pass(0, &[]), "no tokens"),
            (pass(1, &[1, 9, 3, 2, 1, 1]), "visits expert 9"),
        ];
        for (bytes, expected) in invalid {
            let error = format!("{:#}", Trace::parse(&bytes).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
        assert!(Trace::parse(&pass(u32::MAX, &[1, 2, 3])).unwrap().passes.is_empty());
    }
}
