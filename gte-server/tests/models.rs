//! Several models in one process: which of them a request gets, what each route returns for each
//! kind of model, whether the results equal the engine's own bit for bit, and repeated texts.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use clap::Parser;
use gte_core::{Embedder, ModelFiles, PairOptions, Precision, Reranker};
use gte_server::config::Config;
use gte_server::routes::{Service, app};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

fn dir(family: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gte-core/tests/fixtures/families");
    root.join(family).to_str().unwrap().to_owned()
}

fn service(models: &[&str], arguments: &[&str]) -> Arc<Service> {
    let mut all = vec!["gte-server".to_owned(), "--threads=2".into(), "--precision=f32".into()];
    all.extend(models.iter().map(|family| format!("--model={family}={}", dir(family))));
    all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    let service = gte_server::load(Config::try_parse_from(all).unwrap(), None).unwrap();
    gte_server::load_others(&service).unwrap();
    service
}

fn embedder(family: &str) -> Embedder {
    Embedder::from_files(ModelFiles::from_dir(dir(family)).unwrap()).precision(Precision::F32).build().unwrap()
}

fn reranker(family: &str) -> Reranker {
    Reranker::from_files(ModelFiles::from_dir(dir(family)).unwrap()).precision(Precision::F32).build().unwrap()
}

async fn send(service: &Arc<Service>, request: Request<Body>) -> (u16, HeaderMap, Vec<u8>) {
    let response = app(service.clone()).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status.as_u16(), parts.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

async fn post(service: &Arc<Service>, path: &str, body: &Value) -> (u16, Value) {
    let (status, _, bytes) = send(service, Request::post(path).body(Body::from(body.to_string())).unwrap()).await;
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

async fn ask(service: &Arc<Service>, path: &str, body: Value) -> Value {
    let (status, found) = post(service, path, &body).await;
    assert_eq!(status, 200, "{path} {body}: {found}");
    found
}

async fn get(service: &Arc<Service>, path: &str) -> (u16, Value) {
    let (status, _, bytes) = send(service, Request::get(path).body(Body::empty()).unwrap()).await;
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into()))
}

fn floats(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

const DOCUMENTS: [&str; 4] = ["退货需要七天", "水壶坏了可以换", "the shop is open on Sundays", "退款到账时间"];

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_its_model() {
    let service = service(&["bge-m3", "xlmr-reranker", "gte"], &[]);
    let answer = |model: Value| {
        let service = service.clone();
        async move { post(&service, "/v1/embeddings", &json!({ "input": "退货", "model": model })).await }
    };
    for family in ["bge-m3", "gte"] {
        let expected = embedder(family).embed(&["退货"]).unwrap();
        let (status, found) = answer(json!(family)).await;
        assert_eq!((status, floats(&found["data"][0]["embedding"])), (200, expected.as_slice().to_vec()), "{family}");
        assert_eq!(found["model"], family);
    }
    // A request without a name gets the first model that can handle it.
    assert_eq!(answer(Value::Null).await.1["model"], "bge-m3");
    let by_id = answer(json!(dir("gte"))).await;
    assert_eq!(by_id.1["model"], "gte", "by its id");
    let (status, refused) = answer(json!("text-embedding-ada-002")).await;
    assert_eq!(status, 404);
    for word in ["text-embedding-ada-002", "bge-m3", "xlmr-reranker", "gte"] {
        assert!(refused["error"]["message"].as_str().unwrap().contains(word), "{refused}");
    }
    let (status, refused) = answer(json!("xlmr-reranker")).await;
    assert_eq!(status, 424);
    assert!(refused["message"].as_str().unwrap().contains("reranker"), "{refused}");
    let (_, models) = get(&service, "/v1/models").await;
    let ids: Vec<_> = models["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
    assert_eq!(ids, ["bge-m3", "xlmr-reranker", "gte"]);
    assert_eq!(get(&service, "/v1/models/gte").await.0, 200);
    assert_eq!(get(&service, "/v1/models/other").await.0, 404);
    assert_eq!(get(&service, "/readyz").await.0, 200);
    let (_, info) = get(&service, "/info?model=xlmr-reranker").await;
    assert_eq!(info["model_type"]["reranker"]["id2label"], json!({ "0": "LABEL_0" }));
    assert_eq!(info["models"], json!(["bge-m3", "xlmr-reranker", "gte"]));
    let (_, info) = get(&service, "/info").await;
    assert!(info["model_type"]["embedding"]["pooling"].is_string() && info["sparse"] == true, "{info}");
    assert_eq!(get(&service, "/info?model=other").await.0, 404);
    let (_, metrics) = get(&service, "/metrics").await;
    for line in [
        r#"gte_requests_total{route="/v1/embeddings",status="200",model="gte"} 2"#,
        r#"gte_tokens_total{model="bge-m3"}"#,
        r#"gte_queue_delay_seconds 0"#,
        r#"gte_model_info{model="xlmr-reranker","#,
    ] {
        assert!(metrics.as_str().unwrap().contains(line), "{line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reranker_ranks_in_both_dialects() {
    let families = ["xlmr-reranker", "new-reranker", "modernbert-reranker", "qwen3-reranker", "qwen3-seqcls"];
    for family in families {
        let (service, own) = (service(&[family], &[]), reranker(family));
        let expected = own.scores("怎么退货？", &DOCUMENTS).unwrap();
        let order: Vec<usize> = own.rank("怎么退货？", &DOCUMENTS).unwrap().iter().map(|hit| hit.index).collect();
        for path in ["/rerank", "/v1/rerank", "/v2/rerank"] {
            let body = json!({ "query": "怎么退货？", "documents": DOCUMENTS, "model": "any", "top_n": null });
            let found = ask(&service, path, body).await;
            let results = found["results"].as_array().unwrap();
            assert_eq!(results.iter().map(|r| r["index"].as_u64().unwrap() as usize).collect::<Vec<_>>(), order);
            for result in results {
                let index = result["index"].as_u64().unwrap() as usize;
                assert_eq!(result["relevance_score"].as_f64().unwrap() as f32, expected[index], "{family}");
                assert!(result.get("document").is_none(), "absent unless it is requested: {result}");
            }
            assert!(found["usage"]["total_tokens"].as_u64().unwrap() > 20 && found["id"].is_string(), "{found}");
        }
        let found = ask(&service, "/rerank", json!({ "query": "怎么退货？", "texts": DOCUMENTS })).await;
        let places: Vec<usize> =
            found.as_array().unwrap().iter().map(|r| r["index"].as_u64().unwrap() as usize).collect();
        assert_eq!((places, found[0].get("text")), (order.clone(), None));
        let body = json!({
            "query": "怎么退货？", "documents": DOCUMENTS.map(|text| json!({ "text": text })), "top_n": 2,
            "return_documents": "true", "raw_scores": true,
        });
        let found = ask(&service, "/rerank", body).await;
        assert_eq!(found["results"].as_array().unwrap().len(), 2);
        assert_eq!(found["results"][0]["document"]["text"], DOCUMENTS[order[0]]);
        let logits = own.logits(&own.tokenize("怎么退货？", &DOCUMENTS, &PairOptions::default()).unwrap()).unwrap();
        assert_eq!(found["results"][0]["relevance_score"].as_f64().unwrap() as f32, logits[order[0]]);
        // A language model uses the instruction; a cross-encoder refuses it.
        let body = json!({ "query": "q", "documents": ["d"], "instruction": "Is it about tea?" });
        let status = post(&service, "/rerank", &body).await.0;
        assert_eq!(status, if own.takes_instruction() { 200 } else { 422 }, "{family}");
        let many: Vec<String> = (0..1000).map(|i| format!("{} {i}", DOCUMENTS[i % 4])).collect();
        let found = ask(&service, "/rerank", json!({ "query": "退货", "documents": many, "top_n": 0 })).await;
        assert_eq!(found["results"].as_array().unwrap().len(), 1000);
        assert_eq!(post(&service, "/v1/embeddings", &json!({ "input": "a" })).await.0, 424);
        assert_eq!(post(&service, "/embed", &json!({ "inputs": "a" })).await.0, 424);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_a_ranking_name_what_is_wrong() {
    let service = service(&["xlmr-reranker", "bge-m3"], &[]);
    for (body, status, word) in [
        (json!({ "documents": ["d"] }), 422, "query"),
        (json!({ "query": "q" }), 422, "documents"),
        (json!({ "query": "q", "documents": [] }), 422, "documents"),
        (json!({ "query": "q", "documents": ["d"], "texts": ["d"] }), 422, "texts"),
        (json!({ "query": "q", "documents": ["d", 3] }), 422, "documents"),
        (json!({ "query": "q", "documents": ["d"], "rank_fields": ["title"] }), 422, "rank_fields"),
        (json!({ "query": "q", "documents": ["d"], "return_documents": "perhaps" }), 422, "return_documents"),
        (json!({ "query": "q", "documents": ["d"], "max_chunks_per_doc": 0 }), 422, "max_chunks_per_doc"),
        (json!({ "query": "q", "documents": ["无关的话。".repeat(2000)], "truncate": false }), 422, "documents"),
        (json!({ "query": "q", "documents": vec!["d"; 2049] }), 413, "2049"),
        (json!({ "query": "q", "documents": ["d"], "model": "bge-m3" }), 424, "bge-m3"),
        (json!({ "query": "q", "documents": ["d"], "model": "x" }), 404, "xlmr-reranker"),
    ] {
        let (found, answer) = post(&service, "/v1/rerank", &body).await;
        assert_eq!(found, status, "{answer}");
        // For a wrong field, a list as FastAPI sends it: infinity's client reads no other form.
        let detail = if status == 422 { &answer["detail"][0]["msg"] } else { &answer["detail"] };
        for message in [&answer["error"]["message"], &answer["message"], detail] {
            assert!(message.as_str().unwrap().contains(word), "{word}: {answer}");
        }
    }
    for (body, kind) in [
        (json!({ "query": "q", "texts": [] }), "Empty"),
        (json!({ "query": "q", "texts": [1] }), "Validation"),
        (json!({ "texts": ["d"] }), "Validation"),
    ] {
        let (status, answer) = post(&service, "/rerank", &body).await;
        assert_eq!((status, &answer["error_type"]), (422, &json!(kind)), "as text-embeddings-inference writes errors");
    }
    // Small requests that would take much time or memory.
    let long = "长".repeat(300_000);
    for (path, body) in [
        ("/rerank", json!({ "query": long, "documents": vec!["d"; 1000] })),
        ("/score", json!({ "queries": long, "documents": vec!["d"; 1000] })),
        ("/rerank", json!({ "query": "q", "instruction": long, "documents": vec!["d"; 1000] })),
        ("/score", json!({ "queries": vec!["q"; 1000], "instruction": long, "documents": vec!["d"; 1000] })),
        ("/v1/embeddings", json!({ "prompt": long, "input": vec!["d"; 1000] })),
    ] {
        let (status, answer) = post(&service, path, &body).await;
        assert!(status == 413 && answer["message"].as_str().unwrap().contains("bytes"), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_documents_are_cut_and_it_is_said_or_read_in_pieces() {
    let service = service(&["xlmr-reranker"], &["--max-length", "32"]);
    let long = format!("{}{}", "无关的话。".repeat(20), "怎么退货？");
    let body = json!({ "query": "怎么退货？", "documents": [long, "短"] });
    let (_, headers, _) = send(&service, Request::post("/rerank").body(Body::from(body.to_string())).unwrap()).await;
    assert_eq!(headers["x-truncated"], "1");
    let cut = ask(&service, "/rerank", body).await;
    assert!(cut["meta"]["warnings"][0].as_str().unwrap().starts_with("1 of the texts"), "{cut}");
    let score = |answer: &Value| {
        let results = answer["results"].as_array().unwrap();
        results.iter().find(|r| r["index"] == 0).unwrap()["relevance_score"].as_f64().unwrap()
    };
    let body =
        json!({ "query": "怎么退货？", "documents": [long, "短"], "max_chunks_per_doc": 50, "overlap_tokens": 5 });
    let whole = ask(&service, "/rerank", body).await;
    assert!(whole["meta"].get("warnings").is_none(), "nothing is lost: {whole}");
    assert!(score(&whole) >= score(&cut), "the best piece counts, and the first is one of them");
    assert!(service.embedder().is_none(), "the only model is a reranker");
    let body = json!({ "query": "q", "documents": ["无关的话。"], "raw_scores": true });
    let short = ask(&service, "/rerank", body).await;
    let count =
        reranker("xlmr-reranker").tokenizer().pieces("无关的话。").unwrap().iter().filter(|p| !p.special).count();
    let body =
        json!({ "query": "q", "documents": ["无关的话。退货"], "raw_scores": true, "max_tokens_per_doc": count });
    let of_beginning = ask(&service, "/rerank", body).await;
    let difference = score(&short) - score(&of_beginning);
    assert!(difference.abs() < 1e-6, "{short} {of_beginning}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_are_scored_in_their_order() {
    let service = service(&["xlmr-reranker", "gte"], &[]);
    let expected = reranker("xlmr-reranker").scores("退货", &DOCUMENTS).unwrap();
    let scores = |answer: &Value| -> Vec<f32> {
        answer["data"].as_array().unwrap().iter().map(|item| item["score"].as_f64().unwrap() as f32).collect()
    };
    for body in [
        json!({ "queries": "退货", "documents": DOCUMENTS }),
        json!({ "text_1": "退货", "text_2": DOCUMENTS }),
        json!({ "queries": vec!["退货"; 4], "documents": DOCUMENTS }),
    ] {
        for path in ["/score", "/v1/score"] {
            let found = ask(&service, path, body.clone()).await;
            assert_eq!((scores(&found), &found["scoring"]), (expected.clone(), &json!("sigmoid")));
        }
    }
    let found = ask(&service, "/score", json!({ "queries": "退货", "documents": "退货", "model": "gte" })).await;
    assert_eq!(found["scoring"], "cosine");
    assert!((scores(&found)[0] - 1.0).abs() < 1e-6);
    for body in [
        json!({ "queries": ["a", "b"], "documents": ["c"] }),
        json!({ "queries": "a", "documents": [] }),
        json!({ "queries": "a", "documents": "b", "model": "gte", "instruction": "i" }),
    ] {
        assert_eq!(post(&service, "/score", &body).await.0, 422, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_predicted() {
    let three = service(&["bert-classifier-3"], &[]);
    let own = reranker("bert-classifier-3");
    let one = ask(&three, "/predict", json!({ "inputs": "退货" })).await;
    let labels = one.as_array().unwrap();
    assert_eq!(labels.len(), 3);
    let sum: f64 = labels.iter().map(|label| label["score"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-5 && labels[0]["score"].as_f64() >= labels[1]["score"].as_f64(), "{one}");
    let raw = ask(&three, "/predict", json!({ "inputs": [["退货", "水壶"], ["退货"]], "raw_scores": true })).await;
    let logits = own.logits(&own.tokenize_pairs(&[("退货", "水壶")], &PairOptions::default()).unwrap()).unwrap();
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    assert_eq!(raw[0][0]["score"].as_f64().unwrap() as f32, largest);
    assert_eq!(raw[1].as_array().unwrap().len(), 3);
    assert_eq!(post(&three, "/rerank", &json!({ "query": "q", "documents": ["d"] })).await.0, 424, "no reranker");
    let pair = ask(&three, "/predict", json!({ "inputs": ["退货", "水壶"] })).await;
    assert!(pair[0]["label"].is_string(), "a list of two is a pair: {pair}");
    for inputs in [json!(["a", "b", "c"]), json!([["a", "b", "c"]]), json!([]), json!(3)] {
        assert_eq!(post(&three, "/predict", &json!({ "inputs": inputs })).await.0, 422, "{inputs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_outputs_of_one_pass() {
    // Some weights of these texts are above 0 in the tiny vocabulary.
    const TEXTS: [&str; 3] = [
        "董事会 board of directors",
        "这家火锅店服务特别周到，连手机套都给你准备好。 The service at this hot pot restaurant is thoughtful.",
        "",
    ];
    let (service, own) = (service(&["bge-m3"], &[]), embedder("bge-m3"));
    let tokens = own.tokenize(&TEXTS).unwrap();
    let all = own.embed_all(&tokens, own.outputs().with_states(false)).unwrap();
    let (dense, sparse, colbert) = (all.dense.unwrap(), all.sparse.unwrap(), all.colbert.unwrap());
    let found = ask(&service, "/v1/outputs", json!({ "input": TEXTS })).await;
    for (i, item) in found["data"].as_array().unwrap().iter().enumerate() {
        assert_eq!(floats(&item["dense"]), dense.get(i).unwrap());
        let (ids, weights) = sparse.get(i).unwrap();
        assert_eq!((&item["sparse"]["indices"], floats(&item["sparse"]["values"])), (&json!(ids), weights.to_vec()));
        let rows: Vec<f32> = item["colbert"].as_array().unwrap().iter().flat_map(floats).collect();
        assert_eq!(rows, colbert.get(i).unwrap());
    }
    let found = ask(&service, "/embed_sparse", json!({ "inputs": TEXTS })).await;
    let some = (0..3).find(|&i| !sparse.get(i).unwrap().0.is_empty()).unwrap();
    let (ids, weights) = sparse.get(some).unwrap();
    let first = &found[some][0];
    assert_eq!(
        (first["index"].as_u64().unwrap(), first["value"].as_f64().unwrap() as f32),
        (ids[0].into(), weights[0])
    );
    let some = ask(&service, "/v1/outputs", json!({ "input": "a", "outputs": ["sparse"] })).await;
    assert!(some["data"][0].get("dense").is_none() && some["data"][0]["sparse"]["indices"].is_array(), "{some}");
    let plain = crate::service(&["gte"], &[]);
    assert_eq!(post(&plain, "/embed_sparse", &json!({ "inputs": "a" })).await.0, 424);
    assert_eq!(post(&plain, "/v1/outputs", &json!({ "input": "a", "outputs": ["colbert"] })).await.0, 424);
    assert_eq!(post(&plain, "/v1/outputs", &json!({ "input": "a", "outputs": ["spase"] })).await.0, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_in_fewer_bits_and_as_bare_bytes() {
    let (service, own) = (service(&["gte"], &[]), embedder("gte"));
    let vectors = own.embed(&DOCUMENTS).unwrap();
    let request = |kind: &str| json!({ "input": DOCUMENTS, "output_dtype": kind });
    let rows = |answer: &Value, i: usize| -> Vec<i64> {
        serde_json::from_value(answer["data"][i]["embedding"].clone()).unwrap()
    };
    let int8 = ask(&service, "/v1/embeddings", request("int8")).await;
    let expected = vectors.to_int8();
    assert_eq!(
        rows(&int8, 1),
        expected.values[expected.dim..2 * expected.dim].iter().map(|&v| v.into()).collect::<Vec<i64>>()
    );
    let uint8 = ask(&service, "/v1/embeddings", request("uint8")).await;
    assert_eq!(rows(&uint8, 1), rows(&int8, 1).iter().map(|v| v + 128).collect::<Vec<_>>());
    let (ubinary, binary) = (
        ask(&service, "/v1/embeddings", request("ubinary")).await,
        ask(&service, "/v1/embeddings", request("binary")).await,
    );
    assert_eq!(rows(&ubinary, 0), rows(&binary, 0).iter().map(|v| v + 128).collect::<Vec<_>>());
    assert_eq!(rows(&ubinary, 0)[0], i64::from(vectors.to_binary().values[0]));
    assert_eq!(post(&service, "/v1/embeddings", &request("int4")).await.0, 422);
    for path in ["/v1/embeddings", "/embed"] {
        let body = json!({ "input": DOCUMENTS, "inputs": DOCUMENTS });
        let request = Request::post(path).header("accept", "application/octet-stream");
        let (status, headers, bytes) = send(&service, request.body(Body::from(body.to_string())).unwrap()).await;
        let shape = format!("4,{}", vectors.dim());
        assert_eq!(
            (status, &headers["x-embedding-shape"], &headers["x-embedding-type"]),
            (200, &shape.parse().unwrap(), &"float32".parse().unwrap())
        );
        let values: Vec<f32> = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        assert_eq!(values, vectors.as_slice());
    }
    let body = json!({ "texts": DOCUMENTS, "input_type": "search_document", "embedding_types": ["float", "int8", "base64"], "output_dimension": 8 });
    let found = ask(&service, "/v2/embed", body).await;
    assert_eq!(floats(&found["embeddings"]["float"][2]), vectors.truncate(8).unwrap().get(2).unwrap());
    assert_eq!(found["embeddings"]["int8"][0].as_array().unwrap().len(), 8);
    assert!(found["embeddings"].get("binary").is_none() && found["meta"]["api_version"]["version"] == "2", "{found}");
    for (body, word) in [
        (json!({ "texts": ["a"], "images": ["data:"] }), "images"),
        (json!({ "inputs": [{ "content": [{ "type": "image_url" }] }] }), "image_url"),
        (json!({ "texts": ["a"], "embedding_types": ["int4"] }), "embedding_types"),
        (json!({ "texts": ["a"], "truncate": "MIDDLE" }), "truncate"),
        (json!({ "texts": ["a"], "input_type": "poetry" }), "poetry"),
        (json!({ "texts": ["a"], "max_tokens": 3 }), "max_tokens"),
        (json!({ "texts": ["a"], "output_dimension": 9999 }), "output_dimension"),
        (json!({}), "texts"),
    ] {
        let (status, answer) = post(&service, "/v2/embed", &body).await;
        assert_eq!(status, 422, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(word), "{word}: {answer}");
    }
}

async fn metric(service: &Arc<Service>, name: &str) -> f64 {
    let (_, metrics) = get(service, "/metrics").await;
    let line = metrics.as_str().unwrap().lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_come_again_are_not_computed_again() {
    for (arguments, again) in [(&["--cache-mb", "10"][..], 0.0), (&[], 1.0)] {
        let service = service(&["gte", "bge-m3"], arguments);
        let texts: Vec<String> = (0..60).map(|i| DOCUMENTS[i % 4].to_owned()).collect();
        let first = ask(&service, "/v1/embeddings", json!({ "input": texts })).await;
        let tokens = metric(&service, r#"gte_tokens_total{model="gte"}"#).await;
        assert_eq!(metric(&service, r#"gte_texts_total{model="gte"}"#).await, 4.0, "the others are repeated");
        assert_eq!(metric(&service, r#"gte_repeated_texts_total{model="gte"}"#).await, 56.0);
        let second = ask(&service, "/v1/embeddings", json!({ "input": texts })).await;
        assert_eq!(first, second, "the same bits, tokens and all");
        assert_eq!(metric(&service, r#"gte_tokens_total{model="gte"}"#).await, tokens * (1.0 + again));
        assert_eq!(metric(&service, r#"gte_cache_hits_total{model="gte"}"#).await, 4.0 * (1.0 - again));
        assert_eq!(metric(&service, "gte_cache_bytes").await > 0.0, again == 0.0);
        // Dimensions and formats are derived from the cached output. Another model, prompt or
        // truncation makes another text.
        let own = embedder("gte").embed(&DOCUMENTS[..1]).unwrap();
        let short = ask(&service, "/v1/embeddings", json!({ "input": DOCUMENTS[0], "dimensions": 8 })).await;
        assert_eq!(floats(&short["data"][0]["embedding"]), own.truncate(8).unwrap().as_slice());
        let other = ask(&service, "/v1/embeddings", json!({ "input": DOCUMENTS[0], "model": "bge-m3" })).await;
        assert_eq!(
            floats(&other["data"][0]["embedding"]),
            embedder("bge-m3").embed(&DOCUMENTS[..1]).unwrap().as_slice()
        );
        let prompted = ask(&service, "/embed", json!({ "inputs": DOCUMENTS[0], "prompt": "问：" })).await;
        let expected = embedder("gte").embed(&[format!("问：{}", DOCUMENTS[0])]).unwrap();
        assert_eq!(floats(&prompted[0]), expected.as_slice());
        let sparse = ask(&service, "/v1/outputs", json!({ "input": DOCUMENTS[0], "model": "bge-m3" })).await;
        assert!(sparse["data"][0]["sparse"]["indices"].is_array(), "other outputs are another entry");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_per_request_on_every_route() {
    let (service, own) = (service(&["gte"], &[]), embedder("gte"));
    let expected = own.embed(&["问：退货"]).unwrap();
    let openai = ask(&service, "/v1/embeddings", json!({ "input": "退货", "prompt": "问：" })).await;
    assert_eq!(floats(&openai["data"][0]["embedding"]), expected.as_slice());
    // A model without prompts ignores the input types query and document, and refuses names of
    // prompts.
    let plain = own.embed(&["退货"]).unwrap();
    for kind in ["query", "document", "passage", "search_query"] {
        let found = ask(&service, "/v1/embeddings", json!({ "input": "退货", "input_type": kind })).await;
        assert_eq!(floats(&found["data"][0]["embedding"]), plain.as_slice(), "{kind}");
    }
    for task in ["retrieval.query", "retrieval.passage"] {
        let found = ask(&service, "/v1/embeddings", json!({ "input": "退货", "task": task })).await;
        assert_eq!(floats(&found["data"][0]["embedding"]), plain.as_slice(), "{task}");
    }
    for body in [
        json!({ "input": "a", "task": "separation" }),
        json!({ "input": "a", "input_type": "poem" }),
        json!({ "input": "a", "prompt": "p", "prompt_name": "query" }),
        json!({ "input": "a", "prompt": "p", "input_type": "query" }),
    ] {
        assert_eq!(post(&service, "/v1/embeddings", &body).await.0, 422, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_passes_a_ranking_of_another_model() {
    let service = service(&["xlmr-reranker", "gte"], &["--max-batch-tokens", "64"]);
    let documents: Vec<String> = (0..1500).map(|i| format!("{} {i}", "水壶坏了可以换。".repeat(3))).collect();
    let ranking = {
        let service = service.clone();
        tokio::spawn(async move { ask(&service, "/rerank", json!({ "query": "换", "documents": documents })).await })
    };
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    let mut answered = 0;
    while !ranking.is_finished() {
        ask(&service, "/v1/embeddings", json!({ "input": format!("退货 {answered}"), "model": "gte" })).await;
        answered += 1;
    }
    assert!(answered >= 2, "{answered} queries were answered while documents were ranked");
    assert_eq!(ranking.await.unwrap()["results"].as_array().unwrap().len(), 1500);
}
