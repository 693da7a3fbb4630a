//! A real NVIDIA GPU beside our CPU kernels, in f32, f16 and bf16, and a text alone and in a batch.
//! Where there is none, it is asked for in vain: the error says what is missing, and `Device::Auto`
//! is the CPU. `GTE_REQUIRE_GPU=1` fails there.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod model;
mod resized;

use std::path::Path;

use gte_core::{Device, Embedder, Error, ModelFiles, Pooling, Precision};
use resized::resized;

fn build(dir: &Path, device: Device, precision: Precision, pooling: Pooling) -> gte_core::Result<Embedder> {
    let builder = Embedder::from_files(ModelFiles::from_dir(dir).unwrap()).device(device).precision(precision);
    builder.pooling(pooling).threads(2).max_batch_tokens(gte_core::MaxBatchTokens::new(400)?).build()
}

/// Whether there is a GPU; says why not.
fn is_here(dir: &Path) -> bool {
    let Err(error) = build(dir, Device::Cuda(0), Precision::F32, Pooling::Cls) else { return true };
    eprintln!("NOT TESTED on a GPU: {error}");
    assert!(std::env::var_os("GTE_REQUIRE_GPU").is_none(), "{error}");
    let error = error.to_string();
    assert!(
        error.contains("cuda:0") && ["no CUDA driver", "no such GPU", "cublas"].iter().any(|why| error.contains(why)),
        "{error}"
    );
    let auto = build(dir, Device::Auto, Precision::F32, Pooling::Cls).unwrap();
    assert_eq!(auto.engine().device(), Device::Cpu);
    false
}

#[test]
fn a_gpu_gives_the_vectors_of_the_cpu() {
    if !is_here(model::tiny_model().path()) {
        return;
    }
    let texts: Vec<Vec<u32>> =
        (0..60).map(|i| model::ids(i, 1 + (i as usize * 11) % 60).iter().map(|id| id % 20 + 4).collect()).collect();
    for model in resized() {
        let dir = model.write();
        let cpu = build(dir.path(), Device::Cpu, Precision::F32, model.pooling).unwrap();
        let expected = cpu.embed_tokens(&texts).unwrap();
        for (precision, off) in model.precisions() {
            let gpu = match build(dir.path(), Device::Cuda(0), precision, model.pooling) {
                Err(error @ Error::InvalidOption { .. }) if matches!(precision, Precision::Fp8 | Precision::Bf16) => {
                    eprintln!("NOT TESTED on this GPU: {error}");
                    continue;
                }
                gpu => gpu.unwrap(),
            };
            let found = gpu.embed_tokens(&texts).unwrap();
            for (i, (a, b)) in found.rows().zip(expected.rows()).enumerate() {
                let cosine = gte_core::similarity::cosine(a, b).unwrap();
                assert!(f64::from(1.0 - cosine) <= off, "{}, {precision}: cosine {cosine}", model.fixture);
                // Plain, recorded, repeated.
                for _ in 0..3 {
                    let alone = gpu.embed_tokens(&texts[i..=i]).unwrap();
                    assert!(alone.as_slice() == a, "{}, {precision}: text {i} is another alone", model.fixture);
                }
            }
        }
    }
}
