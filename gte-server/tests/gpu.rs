//! The server on a GPU that the CPU emulates: which device it takes, what it tells of it, two
//! batches at once, and what it does when the GPU is full or gone.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../gte-core/tests/emulator/mod.rs"]
mod emulator;
#[path = "../../gte-core/tests/model/mod.rs"]
mod model;

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use clap::Parser;
use gte_core::{Device, Embedder, MaxBatchTokens, ModelFiles, Precision};
use gte_server::config::Config;
use gte_server::routes::{Service, app};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

fn service(dir: &std::path::Path, arguments: &[&str]) -> Arc<Service> {
    emulator::gpu();
    let model = format!("--model={}", dir.display());
    let all = ["gte-server", &model, "--threads=2", "--precision=f32"].into_iter().chain(arguments.iter().copied());
    gte_server::load(Config::try_parse_from(all).unwrap(), None).unwrap()
}

async fn get(service: &Arc<Service>, path: &str) -> (u16, String) {
    let response = app(service.clone()).oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

async fn embed(service: &Arc<Service>, inputs: Vec<String>) -> (u16, Value) {
    let body = json!({ "inputs": inputs, "normalize": false }).to_string();
    let request = Request::post("/embed").header("content-type", "application/json").body(Body::from(body)).unwrap();
    let response = app(service.clone()).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

/// Texts of 4 to 60 tokens.
fn texts(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("今天 {}", "a b ".repeat(1 + (i * 5) % 29))).collect()
}

// One test: the GPU is the process's.
#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_serves_is_told_of_and_fails_the_probe_when_it_is_gone() {
    let dir = model::tiny_model();
    let gpu = emulator::gpu();
    let (expected, weights) = {
        let files = ModelFiles::from_dir(dir.path()).unwrap();
        let builder = Embedder::from_files(files).device(Device::Cuda(0)).precision(Precision::F32);
        let embedder = builder.max_batch_tokens(MaxBatchTokens::new(100).unwrap()).build().unwrap();
        let weights = gpu.counts().0;
        (embedder.embed(&texts(29)).unwrap(), weights)
    };
    // No room for two batches of 200 tokens, nor for one: they become smaller, and none is lost.
    gpu.set_memory(weights + (250 << 10));
    let service = service(dir.path(), &["--max-batch-tokens=200"]);
    let info: Value = serde_json::from_str(&get(&service, "/info").await.1).unwrap();
    assert_eq!((&info["device"], &info["device_name"]), (&json!("cuda:0"), &json!("emulated GPU")), "auto takes it");
    let max_batch_tokens = info["max_batch_tokens"].as_u64().unwrap();
    assert!((10..200).contains(&max_batch_tokens), "{max_batch_tokens} tokens");
    let metrics = get(&service, "/metrics").await.1;
    for line in ["gte_device_memory_bytes{device=\"cuda:0\",name=\"emulated GPU\"} ", "gte_device_memory_free_bytes{"] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }

    // Many requests, of which some are of several batches: each gets its own vectors, in order.
    let check = |answer: (u16, Value), first: usize, count: usize| {
        assert_eq!(answer.0, 200, "{}", answer.1);
        let rows: Vec<Vec<f32>> = serde_json::from_value(answer.1).unwrap();
        assert_eq!(rows.len(), count);
        for (i, row) in rows.iter().enumerate() {
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            let expected = expected.get((first + i) % 29).unwrap();
            assert!(row.iter().zip(expected).all(|(a, b)| (a / length - b).abs() < 1e-6), "text {i} of {count}");
        }
    };
    let ask = |first: usize, count: usize| {
        let (service, texts) = (service.clone(), texts(first + count)[first..].to_vec());
        async move { (embed(&service, texts).await, first, count) }
    };
    let requests = (0..12).map(|i| ask(i, if i % 3 == 0 { 40 } else { 2 }));
    for (answer, first, count) in futures_util::future::join_all(requests).await {
        check(answer, first, count);
    }

    assert_eq!(get(&service, "/livez").await.0, 200);
    gpu.set_lost(true);
    let (status, refused) = embed(&service, texts(1)).await;
    let (live, why) = get(&service, "/livez").await;
    gpu.set_lost(false);
    assert_eq!(status, 500, "{refused}");
    assert!(live >= 500 && why.contains("lost"), "{live}: {why}");
}
