//! `Arena`: memory for the weights of a model, one after another on huge pages. Used through
//! `Aligned`.
#![allow(unsafe_code, reason = "several owners write to parts of one mapping")]

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Pod;
use memmap2::MmapMut;

/// Bytes of a huge page. All weights, hundreds of megabytes, are read for every batch: in pages of
/// 4 KiB each of these is a miss of the TLB, and in a virtual machine an expensive one.
pub(super) const HUGE: usize = 2 << 20;

/// Bytes of a block: many times what most weights need, so that little is left over. What is never
/// used of it is never touched, and takes no memory.
const BLOCK: usize = 64 << 20;

/// Bytes of the shortest buffer in a block.
const SMALLEST: usize = 64 << 10;

/// Bytes of a small page.
const PAGE: usize = 4 << 10;

/// Blocks of huge pages for weights that are loaded together and dropped together.
///
/// With huge pages of its own, each weight would waste half of one, and weights of less than 2 MiB
/// would have none: in int8, the products of 1024 × 1024 were at 55 % of the register peak where
/// the others were at 85 to 92 % (16 rows, one thread, Zen 4).
#[derive(Default)]
pub(crate) struct Arena(Mutex<Option<Block>>);

/// A block that has room.
struct Block {
    memory: Arc<MmapMut>,
    free: NonNull<u8>,
    room: usize, // bytes from `free` on
}

// SAFETY: `free` points into `memory`, whatever thread uses it.
unsafe impl Send for Block {}

/// Some values of a block, which no other piece has.
pub(super) struct Piece<T> {
    first: NonNull<T>,
    len: usize,
    _memory: Arc<MmapMut>, // unmapped with its last piece
}

// SAFETY: a piece owns its values as a `Vec` does: no other piece overlaps it.
unsafe impl<T: Send> Send for Piece<T> {}
// SAFETY: the same.
unsafe impl<T: Sync> Sync for Piece<T> {}

impl Arena {
    /// `len` zeros, which begin on a small page. None if they take less than [`SMALLEST`], or if
    /// the system has no memory for a block.
    pub(super) fn zeroed<T: Pod>(&self, len: usize) -> Option<Piece<T>> {
        let bytes = len.checked_mul(size_of::<T>())?;
        if bytes < SMALLEST {
            return None;
        }
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_none_or(|block| block.room < bytes) {
            *open = Block::new(bytes.max(BLOCK));
        }
        open.as_mut()?.take(len)
    }
}

impl Block {
    /// A block of at least `bytes` bytes, which begins where a huge page does.
    fn new(bytes: usize) -> Option<Self> {
        let mut memory = MmapMut::map_anon(bytes.checked_add(HUGE)?).ok()?;
        ask_for_huge_pages(&memory);
        // `align_offset` may decline in theory; what is not aligned is slower, not wrong.
        let offset = Some(memory.as_ptr().align_offset(HUGE)).filter(|&offset| offset < HUGE).unwrap_or(0);
        let free = NonNull::from(&mut memory[offset..]).cast();
        Some(Self { room: memory.len() - offset, free, memory: Arc::new(memory) })
    }

    /// The next `len` values, or None if there is no room for them.
    fn take<T: Pod>(&mut self, len: usize) -> Option<Piece<T>> {
        let bytes = len.checked_mul(size_of::<T>())?;
        if bytes > self.room {
            return None;
        }
        let used = bytes.next_multiple_of(PAGE).min(self.room);
        let first = self.free.cast();
        // SAFETY: no more than there is from `free` on.
        self.free = unsafe { self.free.add(used) };
        self.room -= used;
        Some(Piece { first, len, _memory: self.memory.clone() })
    }
}

impl<T: Pod> Deref for Piece<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the values are mapped as long as this piece lives, and its own. They begin on a
        // page, and were zeros, which are values of every `Pod`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T: Pod> DerefMut for Piece<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; this piece is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

/// A system without free huge pages uses small ones.
#[cfg(target_os = "linux")]
pub(super) fn ask_for_huge_pages(memory: &MmapMut) {
    if let Err(e) = memory.advise(memmap2::Advice::HugePage) {
        tracing::debug!("no huge pages: {e}");
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn ask_for_huge_pages(_memory: &MmapMut) {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Aligned;

    #[test]
    fn pieces_lie_one_after_another_and_outlive_the_arena() {
        let arena = Arena::default();
        let lens = [0, 2, SMALLEST - 2, SMALLEST, SMALLEST + 2, 3 << 20, 1 << 20, BLOCK - 2, BLOCK + HUGE, 1 << 20];
        let mut pieces: Vec<Aligned<u16>> = lens.iter().map(|len| Aligned::zeroed_in(&arena, len / 2)).collect();
        drop(arena);
        for (i, piece) in pieces.iter_mut().enumerate() {
            assert_eq!((piece.len(), piece.as_ptr().addr() % size_of::<u16>()), (lens[i] / 2, 0));
            assert!(piece.iter().all(|&x| x == 0), "nobody else's");
            piece.fill(i as u16 + 1);
        }
        assert!(pieces[3].as_ptr().addr().is_multiple_of(HUGE), "a block begins with a huge page");
        for i in 4..7 {
            let before = pieces[i - 1].as_ptr_range().end.addr();
            assert_eq!(pieces[i].as_ptr().addr(), before.next_multiple_of(PAGE), "right after the one before");
        }
        pieces.remove(4);
        for (piece, i) in pieces.iter().zip([1, 2, 3, 4, 6, 7, 8, 9, 10]) {
            assert!(piece.iter().all(|&x| x == i));
        }
    }
}
