//! `Aligned`: a buffer that begins on a cache line, so that no vector load or store crosses two.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// A number of values, the first of them on a cache line.
#[derive(Default)]
pub(crate) struct Aligned<T> {
    buffer: Vec<T>, // a line longer than needed, to begin where a line does
    start: usize,
    len: usize,
}

impl<T: Clone + Default> Aligned<T> {
    /// `len` values of zero.
    pub(crate) fn zeroed(len: usize) -> Self {
        let buffer = vec![T::default(); len + LINE / size_of::<T>()];
        let offset = buffer.as_ptr().align_offset(LINE);
        // `align_offset` may decline in theory; what is not aligned is slower, not wrong.
        let start = if offset < LINE / size_of::<T>() { offset } else { 0 };
        Self { buffer, start, len }
    }

    /// The first `len` values, of any content: of this buffer, or of a new one where it is too short. The old content is not copied.
    pub(crate) fn at_least(&mut self, len: usize) -> &mut [T] {
        if self.len < len {
            *self = Self::zeroed(len);
        }
        &mut self[..len]
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.buffer[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.buffer[self.start..self.start + self.len]
    }
}
