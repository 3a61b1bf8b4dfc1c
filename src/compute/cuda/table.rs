//! The embedding and the matrix of the head, which may stay with the host where device memory is scarce.

use std::ops::Range;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::driver::Address;
use super::input::Input;
use super::matrix::{Matrix, Output};
use super::saved::Destination;
use super::sizes::input_words;
use super::workspace::Space;
use super::{Cuda, HEAD_ROWS, Rows, top};
use crate::compute::cpu::Cpu;
use crate::compute::logits::{LogitForm, TopLogits};
use crate::compute::{Backend, HeadWeights, StoredMatrix, TableUse};

/// Which of them stay with the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostTables {
    #[default]
    None,
    /// The embedding: its rows come to the device.
    Embedding,
    /// The head, too: rows of the device come to the CPU, which multiplies them.
    All,
}

/// A matrix `[vocab, hidden]`.
pub enum Table {
    Device(Matrix),
    Host(<Cpu as Backend>::Matrix),
}

impl HostTables {
    /// Whether such a matrix stays.
    pub fn has(self, of: TableUse) -> bool {
        self == Self::All || self == Self::Embedding && of == TableUse::Embedding
    }
}

impl Cuda {
    pub(super) fn take_table(&mut self, stored: StoredMatrix, of: TableUse) -> Result<Table> {
        match self.options.host_tables.has(of) {
            true => self.cpu.matrix(stored).map(Table::Host),
            false => self.matrix(stored).map(Table::Device),
        }
    }

    /// Enqueues looking up the rows of tokens.
    pub(super) fn look_up(&mut self, table: &Table, tokens: &[u32], x: &Rows) -> Result<()> {
        ensure!(tokens.len() <= x.rows_max, "a pass is larger than was stated");
        let to = x.buffer.address();
        match table {
            Table::Device(matrix) => {
                let [start, blocks, angles, _] = input_words(&self.sizes);
                let at = self.inputs()?.tokens;
                let bytes = tokens.iter().flat_map(|token| token.to_ne_bytes());
                self.put(4 * (start + blocks + angles), bytes, at)?;
                matrix.embed(&self.device, at, tokens.len(), to)
            }
            Table::Host(matrix) => {
                let mut rows = vec![0.0; tokens.len() * x.width];
                Cpu::look_up(matrix, tokens, &mut rows);
                self.device.upload(&rows, to)
            }
        }
    }

    /// Enqueues the head on these rows; where it stayed with the host, waits for them and computes.
    pub(super) fn logits_of(
        &mut self,
        weights: &HeadWeights<Self>,
        rows: Range<usize>,
        x: &Rows,
    ) -> Result<()> {
        let most = HEAD_ROWS.min(self.sizes.rows_max);
        for first in rows.clone().step_by(most) {
            let count = most.min(rows.end - first);
            let mut space = self.space()?;
            let normed = space.words(count * x.width)?;
            let from = x.buffer.address().plus(4 * first * x.width);
            self.norm(from, &weights.norm, normed, count, x.width, weights.eps)?;
            match &weights.output {
                Table::Device(matrix) => self.multiply_here(matrix, normed, count, &mut space)?,
                Table::Host(matrix) => {
                    self.save(normed, 4 * count * x.width, Destination::HeadRows)?;
                    self.multiply_there(matrix)?;
                }
            }
        }
        Ok(())
    }

    fn multiply_here(
        &mut self,
        matrix: &Matrix,
        normed: Address,
        count: usize,
        space: &mut Space,
    ) -> Result<()> {
        let vocab = matrix.rows();
        let logits = space.words(count * vocab)?;
        // A row has the same logits beside others as alone.
        matrix.multiply(&self.device, &Input::exact(normed), Output::to(logits), count)?;
        match self.pass.form {
            LogitForm::Whole => self.save(logits, 4 * count * vocab, Destination::Logits),
            LogitForm::Top => {
                let parts = top::Parts::new(space, count, vocab)?;
                let allowed = self.planned()?.allowed.address();
                self.top_kernels.reduce(&self.device, logits, allowed, &parts)?;
                self.save(parts.found, top::bytes(count), Destination::TopLogits)
            }
        }
    }

    fn multiply_there(&mut self, matrix: &<Cpu as Backend>::Matrix) -> Result<()> {
        self.read()?;
        let rows = std::mem::take(&mut self.pass.head_rows);
        let logits = self.cpu.multiply(matrix, &rows);
        match self.pass.form {
            LogitForm::Whole => self.pass.logits.whole.extend(logits),
            LogitForm::Top => {
                let rows = logits.chunks_exact(self.sizes.vocab);
                self.pass.logits.top.extend(rows.map(|row| TopLogits::of(row, &self.allowed)));
            }
        }
        Ok(())
    }
}
