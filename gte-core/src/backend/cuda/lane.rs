//! A lane: a stream with the memory of one pass. A pass has a lane by itself, so that several may be on the device at
//! once; as many lanes are made as passes have met.

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
    // Graphs are recorded here, all on the same memory: one of a lane runs at a time.
    recorded: Arc<Mutex<Arena>>,
    graphs: Mutex<HashMap<Shape, Recorded>>,
    /// What host and device exchange, kept between passes.
    pub(super) inputs: Mutex<Option<Pinned>>,
    pub(super) results: Mutex<Option<Pinned>>,
}

/// A pass that is repeated with other texts of the same shape.
pub(super) struct Recorded {
    pub(super) driver: Arc<dyn Driver>,
    pub(super) graph: Graph,
    pub(super) inputs: Pinned,
    pub(super) results: Pinned,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // SAFETY: the graph of `end_recording`; whoever repeats one waits for it before this can go.
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

    /// A buffer of any content, for a pass that is recorded or not.
    pub(super) fn buffer(&self, bytes: usize, recording: bool) -> Result<Arc<Buffer>> {
        Arena::buffer(if recording { &self.recorded } else { &self.arena }, bytes)
    }

    pub(super) fn wait(&self) -> Result<()> {
        self.driver.wait(self.stream)
    }

    pub(super) fn graphs(&self) -> MutexGuard<'_, HashMap<Shape, Recorded>> {
        self.graphs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pinned memory of at least `bytes` bytes out of `kept`, where it goes back to afterwards.
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
        // Whatever it says: nothing runs afterwards, for a lost device runs nothing.
        let _ = self.driver.wait(self.stream);
        self.graphs().clear();
        // SAFETY: `open_stream` gave it, and no pass has the lane any more.
        unsafe { self.driver.close_stream(self.stream) }
    }
}

/// The lanes that no pass has.
pub(super) struct Lanes {
    driver: Arc<dyn Driver>,
    idle: Mutex<Vec<Arc<Lane>>>,
    reserved: Mutex<Vec<(ThreadId, Arc<Lane>, Shape)>>,
}

impl Lanes {
    pub(super) fn new(driver: &Arc<dyn Driver>) -> Self {
        Self { driver: driver.clone(), idle: Mutex::default(), reserved: Mutex::default() }
    }

    /// A lane for a pass: the one that was used last, whose memory is warm.
    pub(super) fn take(&self) -> Result<Arc<Lane>> {
        let idle = locked(&self.idle).pop();
        idle.map_or_else(|| Lane::new(&self.driver).map(Arc::new), Ok)
    }

    /// Gives a lane back whose work is done.
    pub(super) fn give(&self, lane: Arc<Lane>) {
        Arena::settle(&lane.arena);
        locked(&self.idle).push(lane);
    }

    /// Gives the driver back what no pass uses.
    pub(super) fn shrink(&self) {
        for lane in locked(&self.idle).iter() {
            lane.graphs().clear();
            Arena::shrink(&lane.arena);
            Arena::shrink(&lane.recorded);
        }
    }

    /// Keeps a lane for the pass that this thread begins next, which is to be recorded.
    pub(super) fn reserve(&self, lane: Arc<Lane>, shape: Shape) {
        locked(&self.reserved).push((std::thread::current().id(), lane, shape));
    }

    /// The lane that was kept for this thread.
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
