//! A lane: a stream with the memory of one pass. Each pass has its own lane, so that several can be
//! on the device at once. There are as many lanes as there were passes at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use super::driver::{Driver, Graph, Stream};
use super::memory::{Arena, Buffer, Pinned};
use super::texts::Shape;
use crate::error::Result;

/// A stream with its memory.
pub(super) struct Lane {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) stream: Stream,
    arena: Arc<Mutex<Arena>>,
    // All graphs of a lane share this memory, because one of them runs at a time.
    recorded: Arc<Mutex<Arena>>,
    graphs: Mutex<HashMap<Shape, Recorded>>,
    /// Pinned memory for inputs and results, kept between passes.
    pub(super) inputs: Mutex<Option<Pinned>>,
    pub(super) results: Mutex<Option<Pinned>>,
}

/// A recorded pass, which can be repeated with other texts of the same shape.
pub(super) struct Recorded {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) graph: Graph,
    pub(super) inputs: Pinned,
    pub(super) results: Pinned,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // SAFETY: `end_recording` returned the graph, and `repeat_on` waits for a graph before it
        // can be dropped.
        unsafe { self.driver.forget(self.graph) }
    }
}

impl Lane {
    fn new(driver: &Arc<dyn Driver>) -> Result<Self> {
        Ok(Self {
            driver: driver.clone(),
            stream: driver.open_stream()?,
            arena: Arena::new(driver, false),
            recorded: Arena::new(driver, true),
            graphs: Mutex::default(),
            inputs: Mutex::default(),
            results: Mutex::default(),
        })
    }

    /// A buffer with undefined content, for a pass that is recorded or not.
    pub(super) fn buffer(&self, bytes: usize, recording: bool) -> Result<Arc<Buffer>> {
        Arena::buffer(if recording { &self.recorded } else { &self.arena }, bytes)
    }

    pub(super) fn wait(&self) -> Result<()> {
        self.driver.wait(self.stream)
    }

    pub(super) fn graphs(&self) -> MutexGuard<'_, HashMap<Shape, Recorded>> {
        self.graphs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pinned memory of at least `bytes` bytes: that of `kept` if it is large enough. The caller
    /// puts it back there afterwards.
    pub(super) fn pinned(&self, kept: &Mutex<Option<Pinned>>, bytes: usize) -> Result<Pinned> {
        let old = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        match old.filter(|old| old.bytes().len() >= bytes) {
            Some(old) => Ok(old),
            None => Pinned::new(&self.driver, bytes.next_power_of_two()),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // An error is ignored: a lost device runs nothing.
        let _ = self.driver.wait(self.stream);
        self.graphs().clear();
        // SAFETY: `open_stream` returned it, and no pass has the lane any longer.
        unsafe { self.driver.close_stream(self.stream) }
    }
}

/// The lanes without a pass.
pub(super) struct Lanes {
    driver: Arc<dyn Driver>,
    idle: Mutex<Vec<Arc<Lane>>>,
    reserved: Mutex<Vec<(ThreadId, Arc<Lane>, Shape)>>,
}

impl Lanes {
    pub(super) fn new(driver: &Arc<dyn Driver>) -> Self {
        Self { driver: driver.clone(), idle: Mutex::default(), reserved: Mutex::default() }
    }

    /// A lane for a pass: the most recently used one, whose memory has been allocated already.
    pub(super) fn take(&self) -> Result<Arc<Lane>> {
        let idle = locked(&self.idle).pop();
        idle.map_or_else(|| Lane::new(&self.driver).map(Arc::new), Ok)
    }

    /// Returns a lane whose work is complete.
    pub(super) fn give(&self, lane: Arc<Lane>) {
        Arena::settle(&lane.arena);
        locked(&self.idle).push(lane);
    }

    /// Frees the memory that no pass uses.
    pub(super) fn shrink(&self) {
        for lane in locked(&self.idle).iter() {
            lane.graphs().clear();
            Arena::shrink(&lane.arena);
            Arena::shrink(&lane.recorded);
        }
    }

    /// Reserves a lane for the next pass of this thread, which will be recorded.
    pub(super) fn reserve(&self, lane: Arc<Lane>, shape: Shape) {
        locked(&self.reserved).push((std::thread::current().id(), lane, shape));
    }

    /// The lane that is reserved for this thread.
    pub(super) fn reserved(&self) -> Option<(Arc<Lane>, Shape)> {
        let mut reserved = locked(&self.reserved);
        let i = reserved.iter().position(|(thread, ..)| *thread == std::thread::current().id())?;
        let (_, lane, shape) = reserved.swap_remove(i);
        Some((lane, shape))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
