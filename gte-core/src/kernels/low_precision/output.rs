//! C: where the results of a matrix multiplication are stored, and in what format.

use ndarray::{ArrayViewMut2, Axis};
use rayon::iter::Either;
use rayon::prelude::*;

use super::Microkernel;
use crate::kernels::matmul::part_of;

/// Where f32 values are stored.
pub(crate) enum Output<'a> {
    /// (rows × columns)
    F32(ArrayViewMut2<'a, f32>),
    /// Rounded to bf16, for the next matrix multiplication in bf16.
    Bf16 {
        /// (rows × ⌈columns / k_group⌉)
        words: ArrayViewMut2<'a, u32>,
        columns: usize,
        /// Values in a word: one or two.
        k_group: usize,
    },
}

impl<'a> Output<'a> {
    /// The first `rows` rows, and the others.
    pub(crate) fn split_at(self, rows: usize) -> (Self, Self) {
        match self {
            Self::F32(c) => {
                let (first, rest) = c.split_at(Axis(0), rows);
                (Self::F32(first), Self::F32(rest))
            }
            Self::Bf16 { words, columns, k_group } => {
                let (first, rest) = words.split_at(Axis(0), rows);
                (Self::Bf16 { words: first, columns, k_group }, Self::Bf16 { words: rest, columns, k_group })
            }
        }
    }

    /// Pieces of `width` columns, whole words, in parallel.
    pub(crate) fn pieces(&mut self, width: usize) -> impl ParallelIterator<Item = (usize, Output<'_>)> {
        match self {
            Self::F32(c) => Either::Left(
                c.axis_chunks_iter_mut(Axis(1), width).into_par_iter().enumerate().map(|(i, c)| (i, Output::F32(c))),
            ),
            Self::Bf16 { words, columns, k_group } => {
                let (columns, k_group) = (*columns, *k_group);
                let piece =
                    move |(i, words)| (i, Output::Bf16 { words, columns: width.min(columns - i * width), k_group });
                Either::Right(
                    words.axis_chunks_iter_mut(Axis(1), width / k_group).into_par_iter().enumerate().map(piece),
                )
            }
        }
    }

    /// `width` columns of row `row`, from `column` on, where a word begins.
    #[inline(always)]
    pub(crate) fn part(&mut self, row: usize, column: usize, width: usize) -> Part<'_> {
        match self {
            Self::F32(c) => Part::F32(part_of(c, row, column, width)),
            Self::Bf16 { words, k_group, .. } => {
                Part::Bf16(part_of(words, row, column / *k_group, width.div_ceil(*k_group)), *k_group)
            }
        }
    }

    /// Whether a word begins at every multiple of `width` columns.
    pub(crate) fn splits_at(&self, width: usize) -> bool {
        match self {
            Self::F32(_) => true,
            Self::Bf16 { k_group, .. } => width.is_multiple_of(*k_group),
        }
    }

    /// Rows and columns.
    pub(crate) fn dim(&self) -> (usize, usize) {
        match self {
            Self::F32(c) => c.dim(),
            Self::Bf16 { words, columns, .. } => (words.nrows(), *columns),
        }
    }

    /// Whether rows are contiguous and, of bf16, as long as they must be.
    pub(super) fn is_in_rows(&self) -> bool {
        match self {
            Self::F32(c) => c.ncols() < 2 || c.strides()[1] == 1,
            Self::Bf16 { words, columns, k_group } => {
                words.ncols() == columns.div_ceil(*k_group) && (words.ncols() < 2 || words.strides()[1] == 1)
            }
        }
    }
}

/// Columns of one row of an [`Output`].
pub(crate) enum Part<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [u32], usize),
}

impl Part<'_> {
    /// Writes as many values.
    #[inline(always)]
    pub(crate) fn write<D: Microkernel>(self, d: D, values: &[f32]) {
        match self {
            Self::F32(part) => part.copy_from_slice(values),
            Self::Bf16(part, k_group) => d.words(values, k_group, part),
        }
    }

    #[inline(always)]
    pub(super) fn prefetch<D: Microkernel>(self, d: D) {
        match self {
            Self::F32(part) => d.prefetch_row(part),
            Self::Bf16(part, _) => d.prefetch_row(part),
        }
    }
}
