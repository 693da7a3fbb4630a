//! Matrices in reusable buffers: a batch that is no larger than an earlier one allocates nothing.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder, s};
use rayon::prelude::*;

use crate::kernels::{Aligned, row_stride};
use crate::profile::{operation, piece};

/// Number of values per task of a row-wise operation, in whole rows: 32 KiB.
const VALUES: usize = 8 << 10;

/// Buffers that are free for the next matrix.
#[derive(Default)]
pub(super) struct Buffers<T>(Mutex<Vec<Aligned<T>>>);

impl<T: Pod> Buffers<T> {
    /// A matrix with arbitrary content.
    pub(super) fn matrix(home: &Arc<Self>, rows: usize, columns: usize) -> Matrix<T> {
        let stride = row_stride(columns);
        Matrix { data: home.take(rows * stride), rows, columns, stride, home: home.clone() }
    }

    /// The smallest free buffer that is large enough; otherwise the largest one, which is grown.
    fn take(&self, len: usize) -> Aligned<T> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = (0..free.len()).filter(|&i| free[i].len() >= len).min_by_key(|&i| free[i].len());
        let index = fitting.or_else(|| (0..free.len()).max_by_key(|&i| free[i].len()));
        let mut buffer = index.map_or_else(Aligned::default, |i| free.swap_remove(i));
        buffer.at_least(len);
        buffer
    }

    fn give(&self, buffer: Aligned<T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// A (rows × columns) matrix in a borrowed buffer, which is returned when the matrix is dropped.
pub(crate) struct Matrix<T: Pod> {
    pub(super) data: Aligned<T>, // at least rows · stride values
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) stride: usize,
    home: Arc<Buffers<T>>,
}

impl<T: Pod> Matrix<T> {
    pub(super) fn view(&self) -> ArrayView2<'_, T> {
        let shape = (self.rows, self.columns).strides((self.stride, 1));
        ArrayView2::from_shape(shape, &self.data).expect("`take` made the buffer for this shape")
    }

    pub(super) fn view_mut(&mut self) -> ArrayViewMut2<'_, T> {
        let shape = (self.rows, self.columns).strides((self.stride, 1));
        ArrayViewMut2::from_shape(shape, &mut self.data).expect("`take` made the buffer for this shape")
    }

    pub(super) fn row(&self, row: usize) -> &[T] {
        &self.data[row * self.stride..][..self.columns]
    }
}

impl<T: Pod> Matrix<T> {
    /// All rows of the matrix.
    pub(super) fn all(&self) -> Block<'_, T> {
        Block { matrix: self, first: 0, rows: self.rows }
    }
}

/// Consecutive rows of a matrix.
#[derive(Clone, Copy)]
pub(super) struct Block<'a, T: Pod> {
    matrix: &'a Matrix<T>,
    first: usize,
    pub(super) rows: usize,
}

impl<'a, T: Pod> Block<'a, T> {
    /// `rows` rows, beginning with row `first`.
    pub(super) fn rows(self, first: usize, rows: usize) -> Self {
        Self { first: self.first + first, rows, ..self }
    }

    pub(super) fn columns(&self) -> usize {
        self.matrix.columns
    }

    pub(super) fn stride(&self) -> usize {
        self.matrix.stride
    }

    pub(super) fn row(&self, row: usize) -> &'a [T] {
        self.matrix.row(self.first + row)
    }

    /// The values from the first row on.
    pub(super) fn data(&self) -> &'a [T] {
        &self.matrix.data[self.first * self.matrix.stride..]
    }

    pub(super) fn view(&self) -> ArrayView2<'a, T> {
        self.matrix.view().slice_move(s![self.first..self.first + self.rows, ..])
    }
}

impl<T: Pod + Send> Matrix<T> {
    /// Calls `f` with the number and the values of every row, in parallel.
    pub(super) fn for_each_row(&mut self, f: impl Fn(usize, &mut [T]) + Sync) {
        self.for_each_row_of(0..self.rows, f);
    }

    /// Calls `f` with the number and the values of each of `rows`, in parallel.
    pub(super) fn for_each_row_of(&mut self, rows: Range<usize>, f: impl Fn(usize, &mut [T]) + Sync) {
        let (stride, columns) = (self.stride, self.columns);
        let used = &mut self.data[rows.start * stride..rows.end * stride];
        let count = (VALUES / columns.max(1)).max(1);
        let of_chunk = |(chunk, chunk_rows): (usize, &mut [T])| {
            for (i, row) in chunk_rows.chunks_mut(stride).enumerate() {
                f(rows.start + chunk * count + i, &mut row[..columns]);
            }
        };
        let chunks = used.par_chunks_mut((count * stride).max(1)).enumerate();
        operation(|| chunks.for_each(|chunk| piece(|| of_chunk(chunk))));
    }
}

impl<T: Pod> Drop for Matrix<T> {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.data));
    }
}
