//! `Aligned`: a buffer that begins on a cache line, so that no vector load or store crosses two. A
//! large buffer is on huge pages.

use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::MmapMut;

use super::arena::{Arena, HUGE, Piece, ask_for_huge_pages};

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// A number of values, the first of them on a cache line; from 2 MiB on, at the beginning of a huge
/// page.
pub(crate) struct Aligned<T> {
    memory: Memory<T>,
    start: usize,
    len: usize,
}

enum Memory<T> {
    Small(Vec<T>), // a line longer than needed, to begin where a line does
    Large(MmapMut), /* a huge page longer than needed, to begin where one does; what lies behind the last that is
                    * used is never touched */
    Piece(Box<Piece<T>>), // in a box, or every buffer would be a word longer
}

impl<T> Default for Aligned<T> {
    fn default() -> Self {
        Self { memory: Memory::Small(Vec::new()), start: 0, len: 0 }
    }
}

impl<T: Pod> Aligned<T> {
    /// `len` values of zero.
    pub(crate) fn zeroed(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        let large = if bytes < HUGE { None } else { MmapMut::map_anon(bytes + HUGE).ok() };
        let (memory, alignment) = match large {
            Some(memory) => {
                ask_for_huge_pages(&memory);
                (Memory::Large(memory), HUGE)
            }
            None => (Memory::Small(vec![T::zeroed(); len + LINE / size_of::<T>()]), LINE),
        };
        let mut buffer = Self { memory, start: 0, len };
        let offset = buffer.all().as_ptr().align_offset(alignment);
        // `align_offset` may decline in theory; what is not aligned is slower, not wrong.
        buffer.start = if offset + len <= buffer.all().len() { offset } else { 0 };
        buffer
    }

    /// The same for weights of a model, in `arena`: it wastes less memory, and puts short weights
    /// on huge pages too.
    pub(crate) fn zeroed_in(arena: &Arena, len: usize) -> Self {
        match arena.zeroed(len) {
            Some(piece) => Self { memory: Memory::Piece(Box::new(piece)), start: 0, len },
            None => Self::zeroed(len),
        }
    }

    /// The first `len` values, of any content: of this buffer, or of a new one where it is too
    /// short. The old content is not copied.
    pub(crate) fn at_least(&mut self, len: usize) -> &mut [T] {
        if self.len < len {
            *self = Self::zeroed(len);
        }
        &mut self[..len]
    }

    fn all(&self) -> &[T] {
        match &self.memory {
            Memory::Small(values) => values,
            Memory::Large(bytes) => bytemuck::cast_slice(bytes),
            Memory::Piece(piece) => piece,
        }
    }
}

impl<T: Pod> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.all()[self.start..self.start + self.len]
    }
}

impl<T: Pod> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let all = match &mut self.memory {
            Memory::Small(values) => values,
            Memory::Large(bytes) => bytemuck::cast_slice_mut(bytes),
            Memory::Piece(piece) => piece,
        };
        &mut all[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_where_they_say_and_hold_zeros() {
        fn check<T: Pod + PartialEq + std::fmt::Debug>(one: T) {
            let huge = HUGE / size_of::<T>();
            let small = (0..70).chain([1000, huge - 1]).map(|len| (len, LINE));
            for (len, alignment) in small.chain([(huge, HUGE), (3 * huge + 12_345, HUGE)]) {
                let mut buffer = Aligned::<T>::zeroed(len);
                assert_eq!((buffer.len(), buffer.as_ptr().addr() % alignment), (len, 0), "{len}");
                assert!(buffer.iter().all(|&x| x == T::zeroed()));
                buffer.fill(one);
                assert!(buffer.at_least(len / 2).iter().all(|&x| x == one), "kept where it is long enough");
                let longer = buffer.at_least(len + 1);
                assert!(
                    longer.len() == len + 1 && longer.iter().all(|&x| x == T::zeroed()),
                    "a new one where it is not"
                );
            }
        }
        check(1f32);
        check(1u16);
        check(1u32);
    }
}
