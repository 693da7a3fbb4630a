//! Checks every field of text-embeddings-inference's published OpenAPI document, and the routes and
//! error formats on which its clients and those of Hugging Face and OpenAI rely.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../gte-core/tests/model/mod.rs"]
mod model;

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use clap::Parser;
use gte_server::config::Config;
use gte_server::routes::{Service, app};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

/// A model with prompts, none of which is the default unless `default_prompt` names it.
fn service(arguments: &[&str], default_prompt: Option<&str>) -> (Arc<Service>, tempfile::TempDir) {
    let dir = model::tiny_model();
    let prompts = json!({ "prompts": { "query": "今 ", "passage": "天 " }, "default_prompt_name": default_prompt });
    std::fs::write(dir.path().join("config_sentence_transformers.json"), prompts.to_string()).unwrap();
    let model = dir.path().to_str().unwrap().to_owned();
    let all = ["gte-server", "--model", &model, "--threads", "2"].into_iter().chain(arguments.iter().copied());
    (gte_server::load(Config::try_parse_from(all).unwrap(), None).unwrap(), dir)
}

async fn answer(service: &Arc<Service>, request: Request<Body>) -> (u16, Value) {
    let response = app(service.clone()).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
}

async fn post(service: &Arc<Service>, path: &str, body: &Value) -> (u16, Value) {
    answer(service, Request::post(path).body(Body::from(body.to_string())).unwrap()).await
}

async fn ask(service: &Arc<Service>, path: &str, body: Value) -> Value {
    let (status, found) = post(service, path, &body).await;
    assert_eq!(status, 200, "{path} {body}: {found}");
    found
}

async fn get(service: &Arc<Service>, path: &str) -> (u16, Value) {
    answer(service, Request::get(path).body(Body::empty()).unwrap()).await
}

/// For each request of text-embeddings-inference 1.9.3 (docs/openapi.json), all fields except the
/// texts, each with a value that changes the response and a value of a wrong type or out of range.
fn fields(path: &str) -> Vec<(&'static str, Value, Value)> {
    let truncate = ("truncate", json!(false), json!("no"));
    let direction = ("truncation_direction", json!("left"), json!("sideways"));
    let prompt = ("prompt_name", json!("query"), json!("nonsense"));
    match path {
        "/" | "/embed" | "/invocations" => vec![
            truncate,
            direction,
            prompt,
            ("normalize", json!(false), json!("no")),
            ("dimensions", json!(7), json!(0)),
        ],
        "/embed_all" | "/similarity" => vec![truncate, direction, prompt],
        "/tokenize" => vec![("add_special_tokens", json!(false), json!(1)), prompt],
        "/decode" => vec![("skip_special_tokens", json!(false), json!(1))],
        // OpenAICompatRequest
        "/v1/embeddings" | "/embeddings" => vec![
            ("dimensions", json!(7), json!(0)),
            ("encoding_format", json!("base64"), json!("md5")),
            // These two have no effect on the response, as documented.
            ("model", Value::Null, json!(1)),
            ("user", Value::Null, json!(1)),
        ],
        _ => panic!("{path}"),
    }
}

/// A request without options. Its text is longer than the model's limit.
fn plain(path: &str) -> Value {
    let long = format!("a {} c", "b ".repeat(300));
    match path {
        "/similarity" => json!({ "inputs": { "source_sentence": long, "sentences": ["b", "今"] } }),
        "/decode" => json!({ "ids": [2, 5, 3] }),
        "/v1/embeddings" | "/embeddings" => json!({ "input": "a" }),
        _ => json!({ "inputs": long }),
    }
}

fn with(path: &str, field: &str, value: &Value) -> Value {
    let mut body = plain(path);
    match path {
        "/similarity" => body["parameters"][field] = value.clone(),
        _ => body[field] = value.clone(),
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_teis_openapi_is_obeyed_or_refused_by_name() {
    let (service, _dir) = service(&[], None);
    for path in [
        "/",
        "/invocations",
        "/embed",
        "/embed_all",
        "/similarity",
        "/tokenize",
        "/decode",
        "/v1/embeddings",
        "/embeddings",
    ] {
        let (_, document) = get(&service, "/openapi.json").await;
        let before = ask(&service, path, plain(path)).await;
        for (field, other, wrong) in fields(path) {
            let (status, found) = post(&service, path, &with(path, field, &other)).await;
            match field {
                "truncate" => {
                    assert_eq!(status, 422, "{path}: the text is too long");
                    assert!(found["error"].as_str().unwrap().contains("must have less than 160 tokens"), "{found}");
                    assert_eq!(ask(&service, path, with(path, field, &json!(true))).await, before, "the default");
                }
                "model" | "user" => assert_eq!((status, &found), (200, &before), "{path} {field}"),
                _ => assert!(status == 200 && found != before, "{path}: {field} has no effect: {status}"),
            }
            assert_eq!(ask(&service, path, with(path, field, &Value::Null)).await, before, "{path}: {field} null");
            let (status, found) = post(&service, path, &with(path, field, &wrong)).await;
            let message = found["error"].as_str().or(found["error"]["message"].as_str()).unwrap_or_default();
            assert!(status == 422 && message.contains(field), "{path}: {field} {wrong}: {status} {found}");
        }
        // The server's own OpenAPI document must contain the field too.
        if let Some(operation) = document["paths"][path]["post"].as_object().filter(|_| path != "/") {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"]["$ref"];
            let schema = document.pointer(schema.as_str().unwrap().trim_start_matches('#')).unwrap();
            let properties = match path {
                "/similarity" => &document["components"]["schemas"]["SimilarityParameters"]["properties"],
                _ => &schema["properties"],
            };
            for (field, ..) in fields(path) {
                assert!(properties.get(field).is_some(), "{path}: {field} is not documented: {properties}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_text_is_cut_at_the_side_that_is_asked_for() {
    let (service, _dir) = service(&[], None);
    let max = service.embedder().unwrap().max_length();
    let words: Vec<_> = (0..max + 50).map(|i| ["a", "b", "c"][i * i % 3]).collect();
    let (first, last) = (words[..max - 2].join(" "), words[words.len() - (max - 2)..].join(" "));
    for (direction, same) in [("right", &first), ("Right", &first), ("left", &last), ("LEFT", &last)] {
        let cut =
            ask(&service, "/embed", json!({ "inputs": words.join(" "), "truncation_direction": direction })).await;
        assert_eq!(cut, ask(&service, "/embed", json!({ "inputs": same })).await, "{direction}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_stand_before_texts() {
    let (named, _dir) = service(&[], None);
    let embed = |text: &str| json!({ "inputs": text });
    let query = ask(&named, "/embed", json!({ "inputs": "a", "prompt_name": "query" })).await;
    assert_eq!(query, ask(&named, "/embed", embed("今 a")).await);
    let openai = ask(&named, "/v1/embeddings", json!({ "input": "a", "prompt_name": "query" })).await;
    assert_eq!(openai["data"][0]["embedding"], query[0]);
    let (status, found) = post(&named, "/embed", &json!({ "inputs": "a", "prompt_name": "nonsense" })).await;
    let message = found["error"].as_str().unwrap();
    assert!(status == 422 && ["query", "passage", "nonsense"].iter().all(|w| message.contains(w)), "{found}");
    let tokens = ask(&named, "/tokenize", json!({ "inputs": "a", "prompt_name": "query" })).await;
    assert_eq!((&tokens[0][1]["text"], &tokens[0][2]["text"]), (&json!("今"), &json!("a")));
    let (_, info) = get(&named, "/info").await;
    let names: Vec<&str> = named.embedder().unwrap().prompts().names().collect();
    assert_eq!((&info["prompts"], &info["default_prompt_name"], names.len()), (&json!(names), &Value::Null, 3));

    let (default, _dir) = service(&[], Some("query"));
    assert_eq!(ask(&default, "/embed", embed("a")).await, query, "the model's default");
    assert_eq!(ask(&default, "/v1/embedding", json!({ "text": "a" })).await["embedding"], query[0]);
    let passage = ask(&default, "/embed", json!({ "inputs": "a", "prompt_name": "passage" })).await;
    assert_eq!(passage, ask(&named, "/embed", embed("天 a")).await);
    let tokens = ask(&default, "/tokenize", embed("a")).await;
    assert_eq!(tokens[0].as_array().unwrap().len(), 4, "what is embedded: {tokens}");
}

#[tokio::test(flavor = "multi_thread")]
async fn token_ids_are_taken_only_where_the_server_was_started_for_them() {
    let (closed, _dir) = service(&[], None);
    for (path, field) in [("/v1/embeddings", "input"), ("/embed", "inputs"), ("/embed_all", "inputs"), ("/", "inputs")]
    {
        for ids in [json!([2, 5, 3]), json!([[2, 5, 3]]), json!(["a", [2, 5, 3]])] {
            let (status, found) = post(&closed, path, &json!({ field: ids })).await;
            let message = found["error"].as_str().or(found["error"]["message"].as_str()).unwrap();
            for word in [field, "--token-ids", "check_embedding_ctx_length=False"] {
                assert!(status == 422 && message.contains(word), "{path} {ids}: {status} {message}");
            }
        }
    }
    let (open, _dir) = service(&["--token-ids"], None);
    let text = ask(&open, "/embed", json!({ "inputs": ["a", "b"] })).await;
    assert_eq!(ask(&open, "/embed", json!({ "inputs": ["a", [2, 6, 3]] })).await, text, "mixed, as in TEI's document");
    assert_eq!(ask(&open, "/embed", json!({ "inputs": [2, 5, 3] })).await[0], text[0]);
    let (status, found) = post(&open, "/embed", &json!({ "inputs": [2, 5, 3], "prompt_name": "query" })).await;
    assert!(status == 422 && found["error"].as_str().unwrap().contains("prompt_name"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_address_is_enough() {
    let (service, _dir) = service(&[], None);
    let texts = json!({ "inputs": ["a", "b"] });
    let pair = json!({ "inputs": { "source_sentence": "a", "sentences": ["a", "b"] }, "parameters": {} });
    for path in ["/", "/invocations"] {
        assert_eq!(ask(&service, path, texts.clone()).await, ask(&service, "/embed", texts.clone()).await);
        assert_eq!(ask(&service, path, pair.clone()).await, ask(&service, "/similarity", pair.clone()).await);
        for (body, word) in [
            (json!({}), "inputs"),
            (json!({ "inputs": 5 }), "inputs"),
            (json!({ "inputs": {} }), "source_sentence"),
            (json!({ "inputs": ["a", ["b"]] }), "inputs[1][0]"),
            (json!([]), "object"),
        ] {
            let (status, found) = post(&service, path, &body).await;
            assert!(status == 422 && found["error"].as_str().unwrap().contains(word), "{body}: {status} {found}");
        }
    }
    let (status, page) = get(&service, "/").await;
    assert!(status == 200 && page.as_str().unwrap().contains("<html"), "the page");
    assert_eq!(get(&service, "/ping").await, (200, json!("ok")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_never_an_object() {
    let (service, _dir) = service(&[], None);
    for (path, body, word) in [
        ("/embed", json!(["a"]), "object"),
        ("/similarity", json!({ "inputs": ["a", ["b"]] }), "inputs"),
        (
            "/similarity",
            json!({ "inputs": { "source_sentence": "a", "sentences": ["b"] }, "parameters": [] }),
            "parameters",
        ),
        ("/tokenize", json!(["a", true, "query"]), "object"),
        ("/decode", json!([[1]]), "object"),
    ] {
        let (status, found) = post(&service, path, &body).await;
        assert!(status == 422 && found["error"].as_str().unwrap().contains(word), "{path} {body}: {status} {found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_found_by_name() {
    let (service, _dir) = service(&[], None);
    let name = service.embedder().unwrap().name().to_owned();
    for base in ["/v1/models", "/models"] {
        let (status, list) = get(&service, base).await;
        assert_eq!((status, &list["data"][0]["id"]), (200, &json!(name)));
        assert_eq!(get(&service, &format!("{base}/{name}")).await, (200, list["data"][0].clone()));
        for other in ["thenlper/gte-large-zh", "thenlper%2Fgte-large-zh"] {
            let (status, found) = get(&service, &format!("{base}/{other}")).await;
            let message = found["error"]["message"].as_str().unwrap();
            assert!(status == 404 && message.contains("thenlper/gte-large-zh") && message.contains(&name), "{found}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_shape_that_each_apis_clients_read() {
    let (service, _dir) = service(&[], None);
    for path in ["/", "/embed", "/embed_all", "/similarity", "/tokenize", "/decode"] {
        let (status, found) = post(&service, path, &json!({ "inputs": [], "ids": [] })).await;
        let kind = found["error_type"].as_str().unwrap();
        assert!(
            status == 422 && found["error"].is_string() && ["Empty", "Validation"].contains(&kind),
            "{path}: {found}"
        );
        assert_eq!(found.as_object().unwrap().len(), 2, "{found}");
    }
    for (path, word) in [("/rerank", "rerank"), ("/predict", "classify"), ("/embed_sparse", "sparse")] {
        let (status, found) = post(&service, path, &json!({ "inputs": "a", "query": "a", "texts": ["a"] })).await;
        assert_eq!((status, &found["error_type"]), (424, &json!("Backend")), "{path}");
        assert!(found["error"].as_str().unwrap().contains(word), "{found}");
    }
    for path in ["/v1/embeddings", "/v1/embedding", "/v1/similarity"] {
        let (status, found) = post(&service, path, &json!({})).await;
        let error = &found["error"];
        assert_eq!(
            (status, &error["type"], &error["code"]),
            (422, &json!("invalid_request_error"), &json!(422)),
            "{path}"
        );
        assert!(error["message"].is_string() && error["param"].is_string(), "{path}: {found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn info_has_what_teis_clients_look_for_and_the_precision_that_it_became() {
    let (service, _dir) = service(&[], None);
    let (_, info) = get(&service, "/info").await;
    for field in [
        "model_id",
        "model_dtype",
        "served_model_name",
        "model_type",
        "max_concurrent_requests",
        "max_input_length",
        "max_batch_tokens",
        "max_client_batch_size",
        "auto_truncate",
        "tokenization_workers",
        "version",
    ] {
        assert!(!info[field].is_null(), "{field} in {info}");
    }
    assert_eq!(service.config.precision, gte_core::Precision::Auto, "the default");
    let auto = info["model_dtype"].as_str().unwrap();
    assert!(["bf16", "f32"].contains(&auto) && auto == service.embedder().unwrap().precision().name(), "{auto}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tokens_vector_comes_for_more_than_a_batch_and_within_a_limit() {
    let (service, _dir) = service(&["--max-batch-tokens", "64"], None);
    let texts: Vec<_> = (1..40).map(|n| "a b c ".repeat(n % 9 + 1)).collect();
    let all = ask(&service, "/embed_all", json!({ "inputs": texts })).await;
    for (text, states) in texts.iter().zip(all.as_array().unwrap()) {
        assert_eq!(states, &ask(&service, "/embed_all", json!({ "inputs": text })).await[0], "in its place");
    }
    let many = vec!["a ".repeat(150); 60];
    let (status, found) = post(&service, "/embed_all", &json!({ "inputs": many })).await;
    assert!(status == 413 && found["error"].as_str().unwrap().contains("8192"), "{status} {found}");
}
