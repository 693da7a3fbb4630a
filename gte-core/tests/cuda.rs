//! Whole models through the CUDA backend, on a GPU that the CPU emulates: the kernels are the real
//! ones, matrix products are plain loops. `families.rs` has the comparison with transformers in
//! f32; here is what needs other models, and what a device does when it is full, busy or gone.
//!
//! The tiny models of `families.rs` have heads of 6 to 24 values, which f16 and bf16 do not take:
//! those are computed by models of the same families with seeded weights and heads of 32, 64 and
//! 128.
#![cfg(feature = "cuda-emulator")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod emulator;
mod model;
mod resized;

use std::path::Path;
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use gte_core::{
    Builder, Device, Door, Embedder, Error, MaxBatchTokens, ModelFiles, Outputs, Pooling, Precision, Reranker,
    SparseEmbedder,
};
use resized::{Resized, fixture, resized};

/// Those that change the device are alone.
static DEVICE: RwLock<()> = RwLock::new(());

fn shared() -> RwLockReadGuard<'static, ()> {
    emulator::gpu();
    DEVICE.read().unwrap_or_else(|e| e.into_inner())
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    emulator::gpu();
    DEVICE.write().unwrap_or_else(|e| e.into_inner())
}

fn builder<D: Door>(dir: &Path, device: Device, precision: Precision) -> Builder<D> {
    let builder = Builder::from_files(ModelFiles::from_dir(dir).unwrap());
    builder.device(device).precision(precision).threads(2).max_batch_tokens(MaxBatchTokens::new(400).unwrap())
}

fn embedder(dir: &Path, device: Device, precision: Precision, pooling: Pooling) -> Embedder {
    builder(dir, device, precision).pooling(pooling).build().unwrap()
}

/// Texts of the given lengths, of ids that every fixture's vocabulary has.
fn texts(lengths: &[usize]) -> Vec<Vec<u32>> {
    lengths.iter().enumerate().map(|(i, &n)| model::ids(i as u64, n).iter().map(|id| id % 20 + 4).collect()).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// 1 - cosine of fp8, the mean of the texts, is at most this many times that of bf16: each rounding
/// is 16 times as coarse, and 1 - cosine grows with the square.
const COARSER: f64 = 256.0;

/// 1 - cosine of fp8, the mean of the texts, on a card whose products have no scale per row is at
/// most this many times that of a card whose products have. Both round each operand to e4m3, which
/// costs most; the one rounds sums to bf16 before it scales them, the other after.
const SCALED_AFTER: f64 = 1.25;

/// The precisions of a model on the first GPU, and fp8 on the second, which has no scale per row;
/// each with how far the cosine with f32 may be from 1.
fn on_each_gpu(model: &Resized) -> Vec<(Device, Precision, f64)> {
    let mut runs: Vec<_> = model.precisions().map(|(precision, off)| (Device::Cuda(0), precision, off)).collect();
    let fp8 = runs.iter().find(|(_, precision, _)| *precision == Precision::Fp8).copied();
    runs.extend(fp8.map(|(_, precision, off)| (Device::Cuda(1), precision, off)));
    runs
}

/// Tensor cores and plain ones are near the CPU in f32, and a text is the same bit for bit alone,
/// recorded and repeated, and in any batch.
#[test]
fn every_type_of_attention_is_near_and_alone_in_any_batch() {
    let _device = shared();
    let lengths = [1, 2, 70, 33, 7, 8, 150, 15, 64, 65];
    for model in resized() {
        let dir = model.write();
        let longest = if model.fixture == "xlmr" { 60 } else { 512 };
        let texts = texts(&lengths.map(|length| length.min(longest)));
        let expected = embedder(dir.path(), Device::Cpu, Precision::F32, model.pooling).embed_tokens(&texts).unwrap();
        let mut before = f64::INFINITY;
        for (device, precision, off) in on_each_gpu(&model) {
            let embedder = embedder(dir.path(), device, precision, model.pooling);
            assert_eq!((embedder.engine().device(), embedder.precision()), (device, precision));
            let found = embedder.embed_tokens(&texts).unwrap();
            let off_by: Vec<f64> = found.rows().zip(expected.rows()).map(|(a, b)| 1.0 - cosine(a, b)).collect();
            let (mean, worst) =
                (off_by.iter().sum::<f64>() / texts.len() as f64, off_by.iter().copied().fold(0.0, f64::max));
            eprintln!("{}, {precision} on {device}: cosine 1 - {mean:.2e}, the worst 1 - {worst:.1e}", model.fixture);
            assert!(worst < off, "{}, {precision} on {device}: cosine 1 - {worst:e}", model.fixture);
            let most = match (precision, device) {
                (Precision::Fp8, Device::Cuda(0)) => COARSER * before,
                (Precision::Fp8, _) => SCALED_AFTER * before,
                _ => off,
            };
            assert!(mean <= most, "{}, {precision} on {device}: cosine 1 - {mean:e}, at most {most:e}", model.fixture);
            before = mean;
            for (i, text) in texts.iter().enumerate() {
                // The second time it is recorded, the third repeated.
                for time in 0..if text.len() < 40 { 3 } else { 1 } {
                    let alone = embedder.embed_tokens(&[text]).unwrap();
                    assert_eq!(
                        bits(alone.as_slice()),
                        bits(found.get(i).unwrap()),
                        "{}, {precision} on {device}, {}: {time}",
                        model.fixture,
                        text.len()
                    );
                }
            }
            let order = [9, 2, 5, 0];
            let some: Vec<_> = order.iter().map(|&i| texts[i].clone()).collect();
            for (row, i) in embedder.embed_tokens(&some).unwrap().rows().zip(order) {
                assert_eq!(
                    bits(row),
                    bits(found.get(i).unwrap()),
                    "{}, {precision} on {device}: text {i}",
                    model.fixture
                );
            }
        }
    }
}

/// What is tested here are the kernels that a driver compiles.
#[test]
fn the_emulated_gpu_has_every_kernel_of_the_ptx() {
    let gpu = emulator::gpu();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/cuda/kernels/ptx");
    let mut kernels = 0;
    for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
        let text = std::fs::read_to_string(&file).unwrap();
        for kernel in text.lines().filter_map(|line| line.strip_prefix(".visible .entry ")?.split('(').next()) {
            assert!(gpu.has_kernel(kernel), "{}: {kernel}", file.display());
            kernels += 1;
        }
    }
    assert!(kernels > 40 && !gpu.has_kernel("no_such_kernel"), "{kernels} kernels");
}

/// What an address sanitizer looks at: each buffer lies by itself, and every kernel of every type
/// writes to some.
#[test]
fn no_kernel_leaves_its_buffers() {
    let _device = shared();
    for model in resized() {
        let dir = model.write();
        for (device, precision, _) in on_each_gpu(&model) {
            for pooling in [model.pooling, Pooling::Mean] {
                let embedder = embedder(dir.path(), device, precision, pooling);
                let found = embedder.embed_tokens(&texts(&[3, 17, 1])).unwrap();
                assert!(found.as_slice().iter().all(|value| value.is_finite()), "{}, {precision}", model.fixture);
            }
        }
    }
    // And the layers after the encoder.
    for name in ["bge-m3", "bert-dense-2"] {
        let embedder: Embedder = builder(&fixture(name), Device::Cuda(0), Precision::F32).build().unwrap();
        embedder.embed_all(&texts(&[3, 17, 1]), embedder.outputs()).unwrap();
    }
    let reranker: Reranker = builder(&fixture("modernbert-reranker"), Device::Cuda(0), Precision::F32).build().unwrap();
    reranker.logits(&texts(&[3, 17, 1])).unwrap();
}

/// How often each kernel is launched by `compute`.
fn launches(engine: &gte_core::Engine, compute: &dyn Fn()) -> impl Fn(&str) -> u64 + use<> {
    engine.time_kernels(true);
    compute();
    let times = engine.kernel_times();
    engine.time_kernels(false);
    move |name: &str| times.iter().find(|time| time.name == name).map_or(0, |time| time.calls)
}

/// Where products have no scale per row, the kernels that read their sums scale them. Only queries,
/// keys and values need a launch for it.
#[test]
fn fp8_without_a_scale_per_row_adds_one_launch_per_layer() {
    let _device = alone();
    let model = &resized()[0];
    let (dir, texts) = (model.write(), texts(&[9, 4]));
    for (device, expected) in [(Device::Cuda(0), [2, 8, 4]), (Device::Cuda(1), [4, 8, 4])] {
        let embedder = embedder(dir.path(), device, Precision::Fp8, model.pooling);
        let calls = launches(embedder.engine(), &|| drop(embedder.embed_tokens(&texts).unwrap()));
        let found = ["activate_bf16", "quantize_fp8", "add_norm_bf16"].map(calls);
        assert_eq!(found, expected, "{device}: two layers");
    }
}

/// The layers after the encoder run on the device: each is one launch, or two with a product.
#[test]
fn heads_run_on_the_device() {
    let _device = alone();
    let texts = texts(&[9, 4]);
    let bge: Embedder = builder(&fixture("bge-m3"), Device::Cuda(0), Precision::F32).build().unwrap();
    let calls = launches(bge.engine(), &|| drop(bge.embed_all(&texts, bge.outputs()).unwrap()));
    let width = bge.config().hidden;
    assert_eq!((calls("dense"), calls("unit"), calls(&format!("product {width} → {width}"))), (1, 1, 3));
    let dense: Embedder = builder(&fixture("bert-dense-2"), Device::Cuda(0), Precision::F32).build().unwrap();
    let calls = launches(dense.engine(), &|| drop(dense.embed_tokens(&texts).unwrap()));
    assert_eq!((calls("dense"), calls("unit")), (3, 0));
    let reranker: Reranker = builder(&fixture("modernbert-reranker"), Device::Cuda(0), Precision::F32).build().unwrap();
    let calls = launches(reranker.engine(), &|| drop(reranker.logits(&texts).unwrap()));
    assert_eq!(calls("dense"), 2);
}

/// Texts with a common beginning go on from its keys and values, on other streams than it was
/// computed on.
#[test]
fn a_shared_beginning_changes_nothing() {
    let _device = shared();
    let dir = resized()[2].write();
    let mut all = texts(&[30, 9, 70, 12, 26, 44]);
    let beginning = texts(&[21]).remove(0);
    all.iter_mut().for_each(|text| *text = [&beginning[..], &text[..]].concat());
    for precision in [Precision::F32, Precision::Bf16] {
        let embedder = embedder(dir.path(), Device::Cuda(0), precision, Pooling::LastToken);
        let together = embedder.embed_tokens(&all).unwrap();
        for (text, found) in all.iter().zip(together.rows()) {
            assert_eq!(bits(embedder.embed_tokens(&[text]).unwrap().as_slice()), bits(found), "{precision}");
        }
    }
}

#[test]
fn every_door_is_the_same_in_any_batch() {
    let _device = shared();
    let texts = texts(&[5, 20, 1, 33]);
    for name in ["bge-m3", "new-sparse", "xlmr-mean"] {
        let embedder: Embedder = builder(&fixture(name), Device::Cuda(0), Precision::F32).build().unwrap();
        let wanted = embedder.outputs().with_states(true);
        let all = embedder.embed_all(&texts, wanted).unwrap();
        for (i, text) in texts.iter().enumerate() {
            let one = embedder.embed_all(&[text], wanted).unwrap();
            assert_eq!(all.states.as_ref().unwrap().get(i), one.states.as_ref().unwrap().get(0), "{name}: text {i}");
            let [vectors, alone] = [&all, &one].map(|outputs| outputs.colbert.as_ref());
            assert_eq!(vectors.map(|v| v.get(i)), alone.map(|v| v.get(0)), "{name}: text {i}");
            let [all, one] = [&all, &one].map(|outputs| outputs.sparse.as_ref());
            assert_eq!(all.map(|sparse| sparse.get(i)), one.map(|sparse| sparse.get(0)), "{name}: text {i}");
        }
        // Pooled on the device, and here.
        assert_eq!(all.dense.unwrap(), embedder.embed_tokens(&texts).unwrap(), "{name}");
    }
    let sparse: SparseEmbedder = builder(&fixture("bge-m3"), Device::Cuda(0), Precision::F32).build().unwrap();
    let together = sparse.embed_tokens(&texts).unwrap();
    assert_eq!(sparse.embed_tokens(&texts[3..]).unwrap().get(0), together.get(3));
    for name in ["xlmr-reranker", "new-reranker", "modernbert-reranker-cls", "qwen3-reranker"] {
        let reranker: Reranker = builder(&fixture(name), Device::Cuda(0), Precision::F32).build().unwrap();
        let together = reranker.logits(&texts).unwrap();
        for (text, found) in texts.iter().zip(together.chunks(reranker.labels())) {
            assert_eq!(bits(&reranker.logits(&[text]).unwrap()), bits(found), "{name}");
        }
    }
}

/// A pass that is no larger than one before asks the driver for nothing, and small ones are
/// repeated by a graph.
#[test]
fn a_warm_device_allocates_nothing() {
    let _device = alone();
    let gpu = emulator::gpu();
    let dir = model::tiny_model();
    let embedder = embedder(dir.path(), Device::Cuda(0), Precision::F32, Pooling::Cls);
    let (long, short) = (texts(&[100, 90, 80]), texts(&[12]));
    for _ in 0..3 {
        embedder.embed_tokens(&long).unwrap();
        embedder.embed_tokens(&short).unwrap();
    }
    let (used, allocations, launches, repeats) = gpu.counts();
    embedder.embed_tokens(&long).unwrap();
    let after = gpu.counts();
    assert_eq!((after.0, after.1, after.3), (used, allocations, repeats), "a long pass");
    // Embedding, and of two layers three products, attention, two norms and an activation; pooling:
    // none by texts.
    assert!((10..30).contains(&(after.2 - launches)), "{} kernels", after.2 - launches);
    for length in [9, 12, 16] {
        embedder.embed_tokens(&texts(&[length])).unwrap();
    }
    let last = gpu.counts();
    assert_eq!((last.0, last.1, last.3), (used, allocations, repeats + 3), "three short ones");
    drop(embedder);
    assert_eq!(gpu.counts().0, 0, "all memory goes back");
}

#[test]
fn a_full_device_halves_its_batches() {
    let _device = alone();
    let gpu = emulator::gpu();
    let dir = model::tiny_model();
    let texts = texts(&[100, 40, 60, 90, 150, 3, 70, 20]);
    let expected = embedder(dir.path(), Device::Cuda(0), Precision::F32, Pooling::Mean).embed_tokens(&texts).unwrap();
    let [embedder, other] = [(); 2].map(|()| embedder(dir.path(), Device::Cuda(0), Precision::F32, Pooling::Mean));
    let weights = gpu.counts().0;
    // Some 1.4 KiB per token: the longest text fits by itself, and no batch of `max_batch_tokens`
    // does.
    gpu.set_memory(weights + (300 << 10));
    let found = embedder.embed_tokens(&texts);
    let states = embedder.embed_all(&texts, Outputs::DENSE.with_states(true));
    gpu.set_memory(gpu.counts().0 + (100 << 10));
    let too_long = other.embed_tokens(&texts[4..5]);
    gpu.set_memory(1 << 30);
    let found = found.unwrap();
    assert_eq!(bits(found.as_slice()), bits(expected.as_slice()));
    assert_eq!(states.unwrap().dense.unwrap().len(), texts.len());
    assert!(embedder.max_batch_tokens().tokens() < 400, "{:?}", embedder.max_batch_tokens());
    let error = too_long.expect_err("there is no room for it");
    assert!(matches!(error, Error::DeviceMemory { .. }) && error.to_string().contains("cuda:0"), "{error}");
    // And when there is room again it is computed.
    other.embed_tokens(&texts[4..5]).unwrap();
}

#[test]
fn a_device_that_is_lost_says_so() {
    let _device = alone();
    let gpu = emulator::gpu();
    let dir = model::tiny_model();
    let embedder = embedder(dir.path(), Device::Cuda(0), Precision::F32, Pooling::Mean);
    embedder.embed_tokens(&texts(&[5])).unwrap();
    gpu.set_lost(true);
    let (short, long) =
        (embedder.embed_tokens(&texts(&[5])), embedder.embed_tokens(&texts(&[100, 90, 80, 70, 60, 99])));
    let loaded = builder::<Embedder>(dir.path(), Device::Cuda(0), Precision::F32).build();
    gpu.set_lost(false);
    for error in [short.err(), long.err(), loaded.err()] {
        let error = error.expect("it is lost");
        assert!(
            matches!(error, Error::DeviceLost { .. }) && error.to_string().contains("fallen off the bus"),
            "{error}"
        );
    }
}

#[test]
fn max_batch_tokens_is_found_if_none_is_given() {
    let _device = alone();
    let gpu = emulator::gpu();
    let dir = resized()[0].write();
    let build = || {
        let files = ModelFiles::from_dir(dir.path()).unwrap();
        Embedder::from_files(files).device(Device::Cuda(0)).threads(2).pooling(Pooling::Cls).build()
    };
    // Room for batches of 1,024 tokens, and for none of 4,096.
    gpu.set_memory(3 << 20);
    let found = build();
    gpu.set_memory(1 << 30);
    let found = found.unwrap();
    assert!((1024..4096).contains(&found.max_batch_tokens().tokens()), "{:?}", found.max_batch_tokens());
    assert_eq!(found.precision(), Precision::Bf16);
    let state = found.engine().device_state().unwrap();
    assert_eq!((state.name.as_str(), state.memory), ("emulated GPU", 1 << 30));
    assert!(state.free < state.memory);
}

#[test]
fn devices_and_precisions_are_taken_or_refused_by_name() {
    let _device = shared();
    let tiny = model::tiny_model();
    let build = |device, precision| builder::<Embedder>(tiny.path(), device, precision).pooling(Pooling::Cls).build();
    let placed = |device, precision| {
        let embedder = build(device, precision).unwrap();
        (embedder.engine().device(), embedder.precision())
    };
    // Heads of 16: f32.
    assert_eq!(placed(Device::Auto, Precision::Auto), (Device::Cuda(0), Precision::F32));
    assert_eq!(placed(Device::Auto, Precision::Int8), (Device::Cpu, Precision::Int8));
    assert_eq!(placed(Device::Auto, Precision::Bf16), (Device::Cpu, Precision::Bf16));
    assert_eq!(placed(Device::Cpu, Precision::F32), (Device::Cpu, Precision::F32));
    let refused = |device, precision, words: [&str; 2]| {
        let error = build(device, precision).err().unwrap().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    refused(Device::Cuda(0), Precision::Int8, ["int8", "f32, f16, bf16, fp8 or auto on a GPU"]);
    refused(Device::Cuda(0), Precision::Bf16, ["heads of 32, 64 or 128", "16"]);
    refused(Device::Cuda(0), Precision::Fp8, ["heads of 32, 64 or 128", "16"]);
    refused(Device::Cpu, Precision::Fp8, ["fp8", "GPUs of compute capability 8.9 or newer"]);
    refused(Device::Auto, Precision::Fp8, ["fp8", "GPUs of compute capability 8.9 or newer"]);
    let odd = resized()[3].write();
    let builder = builder::<Embedder>(odd.path(), Device::Cuda(0), Precision::Fp8).pooling(Pooling::Cls);
    let error = builder.build().err().unwrap().to_string();
    assert!(error.contains("multiples of 16") && error.contains("88"), "{error}");
    refused(Device::Metal(0), Precision::F32, ["metal:0", "`metal` adds it"]);
}

#[test]
fn many_threads_share_one_device() {
    let _device = shared();
    let dir = model::tiny_model();
    let embedder = embedder(dir.path(), Device::Cuda(0), Precision::F32, Pooling::Mean);
    let texts = texts(&(0..24).map(|i| 1 + (i * 7) % 60).collect::<Vec<_>>());
    let expected = embedder.embed_tokens(&texts).unwrap();
    std::thread::scope(|scope| {
        for first in 0..6 {
            let (embedder, texts, expected) = (&embedder, &texts, &expected);
            scope.spawn(move || {
                for i in (first..24).step_by(2) {
                    let found = embedder.embed_tokens(&texts[i..=i]).unwrap();
                    assert_eq!(bits(found.as_slice()), bits(expected.get(i).unwrap()), "text {i}");
                }
            });
        }
    });
}

#[test]
fn kernels_are_timed_when_they_are_asked_to_be() {
    let _device = alone();
    let dir = model::tiny_model();
    let embedder = embedder(dir.path(), Device::Cuda(0), Precision::F32, Pooling::Mean);
    embedder.engine().time_kernels(true);
    embedder.embed_tokens(&texts(&[9])).unwrap();
    let times = embedder.engine().kernel_times();
    embedder.engine().time_kernels(false);
    let calls = |name: &str| times.iter().find(|time| time.name == name).map_or(0, |time| time.calls);
    assert_eq!((calls("attention_f32"), calls("pool"), calls("product 48 → 144")), (2, 1, 2), "{times:?}");
    assert!(embedder.engine().kernel_times().is_empty());
}
