//! Compares the CUDA backend with our CPU kernels, in f32, f16 and bf16. `make check-cuda` compiles
//! it on any machine and runs it on machines with a GPU. In other builds this file is empty.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod model;

use gte_core::{Device, Embedder, ModelFiles, Pooling, Precision};

#[test]
fn a_gpu_gives_the_vectors_of_the_cpu() {
    let dir = model::tiny_model();
    let texts: Vec<Vec<u32>> = (0..60).map(|i| model::ids(i, 1 + (i as usize * 11) % 150)).collect();
    for pooling in [Pooling::Cls, Pooling::Mean, Pooling::LastToken] {
        let build = |device, precision| {
            let builder = Embedder::from_files(ModelFiles::from_dir(dir.path()).unwrap());
            builder.device(device).precision(precision).pooling(pooling).build().unwrap().embed_tokens(&texts).unwrap()
        };
        let expected = build(Device::Cpu, Precision::F32);
        for (precision, allowed) in [(Precision::F32, 1e-5), (Precision::F16, 1e-3), (Precision::Bf16, 1e-2)] {
            let found = build(Device::Cuda(0), precision);
            for (a, b) in found.rows().zip(expected.rows()) {
                let cosine = gte_core::similarity::cosine(a, b).unwrap();
                assert!(1.0 - cosine <= allowed, "{precision}, {pooling}: cosine {cosine}");
            }
        }
    }
}
