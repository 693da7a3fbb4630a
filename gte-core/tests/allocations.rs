//! A forward pass allocates nothing that grows with its batch: hidden states, quantized rows and
//! scratch memory are reused.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod model;

use std::alloc::System;

use gte_core::{Embedder, MaxBatchTokens, ModelFiles, Precision};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn a_batch_that_fits_the_buffers_allocates_next_to_nothing() {
    let dir = model::tiny_model();
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let builder = Embedder::from_files(ModelFiles::from_dir(dir.path()).unwrap());
        let builder = builder.precision(precision).threads(2).max_batch_tokens(MaxBatchTokens::new(4096).unwrap());
        let embedder = builder.build().unwrap();
        let small = vec![model::ids(1, 4)];
        let large: Vec<Vec<u32>> = (0..60).map(|i| model::ids(i, 20 + i as usize % 40)).collect();
        let bytes_of = |texts: &[Vec<u32>]| {
            let mut out = vec![0.0; texts.len() * model::HIDDEN];
            let mut twenty_passes = || {
                let region = Region::new(ALLOCATOR);
                for _ in 0..20 {
                    embedder.embed_tokens_into(texts, &mut out).unwrap();
                }
                region.change()
            };
            // Repeated until each thread has met the longest text, and there are buffers for
            // everything that may be needed at the same time, because threads compute different
            // parts every time. Anything that allocates for each batch would not come to rest.
            let rest = (0..50).map(|_| twenty_passes()).min_by_key(|change| change.bytes_allocated).unwrap();
            eprintln!(
                "{precision}, {} texts: {} allocations, {} bytes in 20 passes",
                texts.len(),
                rest.allocations,
                rest.bytes_allocated
            );
            rest.bytes_allocated / 20
        };
        let (small, large) = (bytes_of(&small), bytes_of(&large));
        // What remains are the lengths by which batches are planned, the list of the parts that are
        // computed side by side (a hundred bytes for each 128 tokens, whose hidden states take
        // megabytes), and the pool's queue of jobs.
        assert!(small < 4 << 10, "{precision}: {small} bytes per pass");
        assert!(large < small + (8 << 10), "{precision}: {large} bytes per pass of 60 texts, {small} of one");
    }
}
