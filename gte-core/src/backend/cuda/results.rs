//! How results reach the host: plain passes wait and copy, recorded ones are repeated with their
//! own pinned memory.

use std::sync::atomic::Ordering;

use super::lane::{Lane, Recorded};
use super::memory::{Pinned, Place};
use super::texts::{Layout, Shape};
use super::{Cuda, OnDevice, Rows, locked};
use crate::batch::Texts;
use crate::error::Result;

impl Cuda {
    /// Waits for all work, then copies rows to `out`.
    pub(super) fn fetch(&self, batch: &OnDevice, rows: &Rows, out: &mut [f32]) -> Result<()> {
        let (lane, bytes) = (&batch.lane, size_of_val(out));
        assert!(rows.bytes() >= bytes, "as many rows as are read");
        if let Some(shape) = batch.recording {
            return self.end_recording(batch, shape, rows, out);
        }
        let mut results = lane.pinned(&lane.results, bytes)?;
        // SAFETY: both have this many bytes, and exist until the work has been waited for.
        unsafe { lane.driver.download(lane.stream, rows.pointer(), results.address(), bytes)? };
        lane.wait()?;
        batch.waited.store(true, Ordering::Relaxed);
        bytemuck::cast_slice_mut(out).copy_from_slice(&results.bytes_mut()[..bytes]);
        *locked(&lane.results) = Some(results);
        Ok(())
    }

    /// Ends the recording, and runs what was recorded for the first time.
    fn end_recording(&self, batch: &OnDevice, shape: Shape, rows: &Rows, out: &mut [f32]) -> Result<()> {
        let (lane, bytes) = (&batch.lane, size_of_val(out));
        let results = Pinned::new(&lane.driver, bytes)?;
        // SAFETY: both have this many bytes, and exist for as long as the graph.
        unsafe { lane.driver.download(lane.stream, rows.pointer(), results.address(), bytes)? };
        batch.waited.store(true, Ordering::Relaxed); // the recording is ended below
        let graph = lane.driver.end_recording(lane.stream)?;
        let Some(inputs) = locked(&batch.staging).take() else { unreachable!("a batch has it until it goes") };
        let recorded = Recorded { driver: lane.driver.clone(), graph, inputs, results };
        // SAFETY: its memory belongs to the arena for recorded passes, which stays; this lane runs
        // nothing else.
        unsafe { lane.driver.repeat(graph, lane.stream)? };
        lane.wait()?;
        bytemuck::cast_slice_mut(out).copy_from_slice(&recorded.results.bytes()[..bytes]);
        lane.graphs().insert(shape, recorded);
        Ok(())
    }

    /// Computes texts with the graph of their shape. False if this lane has no such graph.
    pub(super) fn repeat_on(&self, lane: &Lane, shape: Shape, texts: Texts<'_>, out: &mut [f32]) -> Result<bool> {
        let mut graphs = lane.graphs();
        let (Some(recorded), Some(&asked)) = (graphs.get_mut(&shape), self.asked.get()) else { return Ok(false) };
        Layout::new(texts, Some(shape), asked).write(texts, asked, recorded.inputs.bytes_mut());
        // SAFETY: as in `end_recording`.
        unsafe { lane.driver.repeat(recorded.graph, lane.stream)? };
        lane.wait()?;
        let bytes = size_of_val(out);
        bytemuck::cast_slice_mut(out).copy_from_slice(&recorded.results.bytes()[..bytes]);
        Ok(true)
    }
}
