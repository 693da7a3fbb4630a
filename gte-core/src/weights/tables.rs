//! Tables of embeddings, of which rows are gathered: read block after block, or a single row.

use half::f16;
use half::vec::HalfFloatVecExt;

use super::{Dtype, Entry, Tensor, Values, Weights};
use crate::error::{Error, Result};
use crate::models::Architecture;

/// Size of the blocks in which a table is read. It is below the size from which allocators get
/// memory from the system: blocks of 4 MB left holes of 80 MB.
const BLOCK_BYTES: usize = 64 << 10;

impl Weights {
    /// Reads the table of token types, with the first row of the table of tasks added to each row.
    /// `None` without either table.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn read_types(&self, architecture: &Architecture) -> Result<Option<Tensor>> {
        let read = |name: &str| self.read(&format!("{name}.weight"));
        let types = (architecture.token_types > 0).then(|| read(self.spelling.types)).transpose()?;
        if architecture.task_types == 0 {
            return Ok(types);
        }
        let task = self.read_row(&format!("{}.weight", self.spelling.tasks), 0)?;
        let (shape, mut rows) = match types {
            Some(types) => (types.shape.clone(), types.into_f32()),
            None => (vec![1, task.len()], vec![0.0; task.len()]),
        };
        for row in rows.chunks_exact_mut(task.len()) {
            row.iter_mut().zip(&task).for_each(|(x, t)| *x += t);
        }
        Ok(Some(Tensor { shape, values: Values::F32(rows) }))
    }

    /// Reads a matrix from which rows are gathered, as it is stored. With `half`, f32 values become
    /// f16, unless one of them is too large for that. It is read block after block: a multilingual
    /// model has a gigabyte of them, and must not need twice its size while it loads.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn read_table(&self, name: &str, half: bool) -> Result<Tensor> {
        let Some(entry) = self.in_rows(name) else { return self.read(name) };
        let (rows, columns) = (entry.shape[0], entry.shape[1]);
        let rows_of_block = (BLOCK_BYTES / (columns * entry.dtype.size()).max(1)).max(1);
        let mut table: Option<Values> = None;
        for first in (0..rows).step_by(rows_of_block) {
            let of_block = entry.rows(first, rows_of_block.min(rows - first));
            let mut block = self.read_entry(name, &of_block).map_err(|e| at_offset(e, first * columns))?.values;
            if half && let Values::F32(values) = &block {
                match halves(values) {
                    Some(values) => block = Values::F16(values),
                    None => return self.read_table(name, false),
                }
            }
            match (&mut table, block) {
                (Some(Values::F32(table)), Values::F32(block)) => table.extend(block),
                (Some(Values::F16(table)), Values::F16(block)) => table.extend(block),
                (Some(Values::Bf16(table)), Values::Bf16(block)) => table.extend(block),
                (table, block) => *table = Some(block.with_capacity(rows * columns)),
            }
        }
        match table {
            Some(values) => Ok(Tensor { shape: entry.shape.clone(), values }),
            None => self.read(name),
        }
    }

    /// Reads only row `row` of a matrix, by the matrix's canonical name, as f32.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn read_row(&self, name: &str, row: usize) -> Result<Vec<f32>> {
        let Some(entry) = self.in_rows(name).filter(|entry| row < entry.shape[0]) else {
            let table = self.read(name)?;
            let mut out = vec![0.0; table.shape.last().copied().unwrap_or(0)];
            table.row_into(row, &mut out);
            return Ok(out);
        };
        Ok(self.read_entry(name, &entry.rows(row, 1))?.into_f32())
    }

    /// The matrix of this name, if its rows are stored one after the other and need nothing else.
    fn in_rows(&self, name: &str) -> Option<&Entry> {
        self.tensors.get(name).filter(|entry| {
            entry.shape.len() == 2 && entry.strides.is_none() && !matches!(entry.dtype, Dtype::I8 | Dtype::Other(_))
        })
    }
}

impl Entry {
    /// `count` rows of a matrix from row `first` on.
    fn rows(&self, first: usize, count: usize) -> Self {
        let columns = self.shape[1];
        let offset = self.offset + (first * columns * self.dtype.size()) as u64;
        Self { offset, shape: vec![count, columns], ..self.clone() }
    }
}

impl Values {
    /// The same values, with room for `len` values in total.
    fn with_capacity(mut self, len: usize) -> Self {
        match &mut self {
            Self::F32(values) => values.reserve_exact(len.saturating_sub(values.len())),
            Self::F16(values) => values.reserve_exact(len.saturating_sub(values.len())),
            Self::Bf16(values) => values.reserve_exact(len.saturating_sub(values.len())),
            Self::Int8 { .. } => {}
        }
        self
    }
}

/// The error of a part that begins `first` values after the beginning of its tensor.
fn at_offset(error: Error, first: usize) -> Error {
    match error {
        Error::NotFinite { file, name, index, value } => Error::NotFinite { file, name, index: first + index, value },
        other => other,
    }
}

/// Values as f16, unless one of them is too large.
fn halves(values: &[f32]) -> Option<Vec<f16>> {
    let fits = values.iter().fold(true, |all, v| all & (v.abs() <= f16::MAX.to_f32()));
    fits.then(|| Vec::from_f32_slice(values))
}

#[cfg(test)]
mod tests;
