//! Ownership of memory: weights for as long as a model is loaded, activations from an arena, pinned
//! memory of the host.
//!
//! An arena allocates from the driver only while batches grow. A returned buffer can be reused
//! immediately, although pending work still uses it, because all work on an arena is in one stream
//! and therefore in order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::driver::{Driver, Pointer};
use crate::error::{Error, Result};

/// Buffers begin at multiples of this.
const ALIGNMENT: usize = 256;

/// The smallest block that an arena allocates, if there is room.
const BLOCK: usize = 1 << 20;

/// Memory with constant content.
pub(super) struct Resident {
    driver: Arc<dyn Driver>,
    pointer: Pointer,
    bytes: usize,
}

impl Resident {
    /// A copy of `content` on the device.
    pub(super) fn new(driver: &Arc<dyn Driver>, content: &[u8]) -> Result<Self> {
        let bytes = content.len().max(1);
        let own = Self { driver: driver.clone(), pointer: driver.allocate(bytes)?, bytes };
        // SAFETY: it has just been allocated with this size, and nothing else has the address yet.
        unsafe { driver.store(content, own.pointer)? };
        Ok(own)
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it. A model's passes borrow its weights until they have waited,
        // and lanes wait before they are dropped (`lane.rs`).
        unsafe { self.driver.free(self.pointer) }
    }
}

/// Memory that can be an argument of a kernel.
pub(super) trait Place {
    fn pointer(&self) -> Pointer;
    fn bytes(&self) -> usize;
}

impl Place for Resident {
    fn pointer(&self) -> Pointer {
        self.pointer
    }
    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Place for Buffer {
    fn pointer(&self) -> Pointer {
        self.pointer
    }
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Pinned memory of the host, which the device copies from and to.
pub(super) struct Pinned {
    driver: Arc<dyn Driver>,
    pointer: *mut u8,
    bytes: usize,
}

// SAFETY: the memory has one owner, and the driver may be called from any thread.
unsafe impl Send for Pinned {}
// SAFETY: a shared reference only allows reading the bytes.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(super) fn new(driver: &Arc<dyn Driver>, bytes: usize) -> Result<Self> {
        Ok(Self { driver: driver.clone(), pointer: driver.pin(bytes.max(1))?, bytes: bytes.max(1) })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `pin` returned this many bytes, filled with zeros.
        unsafe { std::slice::from_raw_parts(self.pointer, self.bytes) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes it the host's only access, and callers have
        // waited for copies.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }

    /// The target of a copy from the device, which must be waited for before the bytes are read.
    pub(super) fn address(&self) -> *mut u8 {
        self.pointer
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: `pin` returned it; lanes wait for their copies before they drop their pinned
        // memory.
        unsafe { self.driver.unpin(self.pointer, self.bytes) }
    }
}

/// Memory for activations, which returns to its arena when it is dropped.
pub(super) struct Buffer {
    arena: Arc<Mutex<Arena>>,
    pointer: Pointer,
    bytes: usize,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        locked(&self.arena).give(self.pointer, self.bytes);
    }
}

/// Blocks of the device's memory, and their free parts.
pub(super) struct Arena {
    driver: Arc<dyn Driver>,
    blocks: Vec<Block>,
    // Whether blocks are kept: the memory of a recorded graph must not move.
    stays: bool,
}

struct Block {
    start: Pointer,
    bytes: usize,
    free: Vec<(usize, usize)>, // offset and bytes, in order, never adjacent
}

impl Block {
    fn is_free(&self) -> bool {
        self.free == [(0, self.bytes)]
    }
}

fn locked(arena: &Mutex<Arena>) -> MutexGuard<'_, Arena> {
    arena.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Arena {
    /// An empty arena. One that `stays` keeps its blocks.
    pub(super) fn new(driver: &Arc<dyn Driver>, stays: bool) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { driver: driver.clone(), blocks: Vec::new(), stays }))
    }

    /// A buffer with undefined content.
    pub(super) fn buffer(arena: &Arc<Mutex<Self>>, bytes: usize) -> Result<Arc<Buffer>> {
        let pointer = locked(arena).take(bytes)?;
        Ok(Arc::new(Buffer { arena: arena.clone(), pointer, bytes }))
    }

    /// Replaces several blocks by one if none is in use, so that the next batch of this size fits
    /// into it.
    pub(super) fn settle(arena: &Mutex<Self>) {
        let mut arena = locked(arena);
        if arena.blocks.len() > 1 && !arena.stays && arena.blocks.iter().all(Block::is_free) {
            let bytes = arena.blocks.iter().map(|block| block.bytes).sum();
            arena.release();
            // If there is no room for it in one piece, the next batch allocates what it needs.
            let _ = arena.grow(bytes);
        }
    }

    /// Frees all blocks that are not in use, even of an arena that stays: there is no graph left
    /// that was recorded on it.
    pub(super) fn shrink(arena: &Mutex<Self>) {
        locked(arena).release_all();
    }

    fn take(&mut self, bytes: usize) -> Result<Pointer> {
        if self.driver.properties().apart {
            return self.driver.allocate(bytes.max(1));
        }
        let bytes = rounded(bytes);
        if let Some(pointer) = self.blocks.iter_mut().find_map(|block| block.take(bytes)) {
            return Ok(pointer);
        }
        self.grow(bytes)?;
        self.blocks
            .last_mut()
            .and_then(|block| block.take(bytes))
            .ok_or_else(|| Error::DeviceMemory { device: self.driver.properties().label.clone(), bytes })
    }

    /// Adds a block as large as all others together, or of `bytes` bytes if there is less room.
    fn grow(&mut self, bytes: usize) -> Result<()> {
        let all: usize = self.blocks.iter().map(|block| block.bytes).sum();
        let wanted = rounded(bytes.max(all).max(BLOCK));
        let mut got = self.driver.allocate(wanted).map(|start| (start, wanted));
        if matches!(got, Err(Error::DeviceMemory { .. })) {
            self.release();
            got = self.driver.allocate(bytes).map(|start| (start, bytes));
        }
        let (start, bytes) = got?;
        self.blocks.push(Block { start, bytes, free: vec![(0, bytes)] });
        Ok(())
    }

    fn give(&mut self, pointer: Pointer, bytes: usize) {
        if self.driver.properties().apart {
            // SAFETY: `take` allocated it; a driver with separate allocations executes work
            // immediately.
            return unsafe { self.driver.free(pointer) };
        }
        let holds = |block: &&mut Block| (block.start..block.start + block.bytes as u64).contains(&pointer);
        if let Some(block) = self.blocks.iter_mut().find(holds) {
            block.give((pointer - block.start) as usize, rounded(bytes));
        }
    }

    fn release(&mut self) {
        if !self.stays {
            self.release_all();
        }
    }

    fn release_all(&mut self) {
        let driver = &self.driver;
        self.blocks.retain(|block| {
            if block.is_free() {
                // SAFETY: this arena allocated it and no part of it is in use; `cuMemFree` itself
                // waits for pending work.
                unsafe { driver.free(block.start) };
            }
            !block.is_free()
        });
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for block in &self.blocks {
            // SAFETY: no buffer is left, because each holds the arena; lanes wait before they are
            // dropped.
            unsafe { self.driver.free(block.start) }
        }
    }
}

impl Block {
    /// Takes the first piece that is large enough, so that the same requests in the same order get
    /// the same addresses.
    fn take(&mut self, bytes: usize) -> Option<Pointer> {
        let i = self.free.iter().position(|&(_, free)| free >= bytes)?;
        let (offset, free) = self.free[i];
        if free == bytes {
            self.free.remove(i);
        } else {
            self.free[i] = (offset + bytes, free - bytes);
        }
        Some(self.start + offset as u64)
    }

    fn give(&mut self, offset: usize, bytes: usize) {
        let i = self.free.partition_point(|&(other, _)| other < offset);
        self.free.insert(i, (offset, bytes));
        let joins = |free: &[(usize, usize)], i: usize| free[i].0 + free[i].1 == free[i + 1].0;
        if i + 1 < self.free.len() && joins(&self.free, i) {
            self.free[i].1 += self.free.remove(i + 1).1;
        }
        if i > 0 && joins(&self.free, i - 1) {
            self.free[i - 1].1 += self.free.remove(i).1;
        }
    }
}

fn rounded(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_block_come_back_and_join() {
        let mut block = Block { start: 4096, bytes: 1024, free: vec![(0, 1024)] };
        let taken: Vec<_> = (0..4).map(|_| block.take(256).expect("room")).collect();
        assert_eq!(taken, [4096, 4352, 4608, 4864]);
        assert!(block.take(256).is_none() && block.free.is_empty());
        for offset in [256, 768, 0, 512] {
            block.give(offset, 256);
        }
        assert!(block.is_free(), "{:?}", block.free);
        let (_, second) = (block.take(512), block.take(256));
        block.give(0, 512);
        assert_eq!((block.take(768), block.take(512), second), (None, Some(4096), Some(4608)));
    }
}
