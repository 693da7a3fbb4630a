//! Tests of every route in its clients' own format, of every refusal as JSON that names what is
//! wrong, of the queue's limits, and of the drain.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../gte-core/tests/model/mod.rs"]
mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use clap::Parser;
use gte_server::config::Config;
use gte_server::routes::{Service, app};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

fn service(arguments: &[&str]) -> (Arc<Service>, tempfile::TempDir) {
    let dir = model::tiny_model();
    let model = dir.path().to_str().unwrap().to_owned();
    let all = ["gte-server", "--model", &model, "--threads", "2"].into_iter().chain(arguments.iter().copied());
    let config = Config::try_parse_from(all).unwrap();
    (gte_server::load(config, None).unwrap(), dir)
}

async fn send(service: &Arc<Service>, request: Request<Body>) -> (StatusCode, Value, axum::http::HeaderMap) {
    let response: Response<Body> = app(service.clone()).oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let body =
        serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    (parts.status, body, parts.headers)
}

fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header("content-type", "application/json").body(body.into()).unwrap()
}

async fn ask(service: &Arc<Service>, path: &str, body: Value) -> Value {
    let (status, body, _) = send(service, post(path, body.to_string())).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    body
}

fn vector(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tutorials_routes() {
    let (service, _dir) = service(&[]);
    let expected = service.embedder().unwrap().embed(&["今天 a", "今天 b", "c"]).unwrap();
    let answer = ask(&service, "/v1/embedding", json!({ "text": "今天 a", "unknown": 1 })).await;
    assert_eq!(vector(&answer["embedding"]), expected.get(0).unwrap(), "the engine's bits, through JSON");
    assert_eq!((&answer["dimension"], &answer["tokens"], &answer["truncated"]), (&json!(48), &json!(5), &json!(false)));
    let answer = ask(
        &service,
        "/v1/similarity",
        json!({ "source_text": "今天 a", "candidate_texts": ["c", "今天 a"], "top_k": 1 }),
    )
    .await;
    assert_eq!(answer["ranking"], json!([1]));
    assert!((answer["scores"][1].as_f64().unwrap() - 1.0).abs() < 1e-6);
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_route() {
    let (service, _dir) = service(&["--token-ids"]);
    let expected = service.embedder().unwrap().embed(&["a", "b 今"]).unwrap();
    let answer = ask(&service, "/v1/embeddings", json!({ "input": ["a", "b 今"], "model": "any", "user": "u" })).await;
    assert_eq!(
        (&answer["object"], &answer["usage"]),
        (&json!("list"), &json!({ "prompt_tokens": 7, "total_tokens": 7 }))
    );
    for (i, item) in answer["data"].as_array().unwrap().iter().enumerate() {
        assert_eq!(
            (item["index"].as_u64(), vector(&item["embedding"]).as_slice()),
            (Some(i as u64), expected.get(i).unwrap())
        );
    }
    let answer = ask(&service, "/v1/embeddings", json!({ "input": "a", "encoding_format": "base64" })).await;
    use base64::Engine;
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(answer["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    assert_eq!(values, expected.get(0).unwrap());
    for input in [json!([2, 5, 3]), json!([[2, 5, 3]])] {
        let answer = ask(&service, "/v1/embeddings", json!({ "input": input, "dimensions": 8 })).await;
        assert_eq!(vector(&answer["data"][0]["embedding"]), expected.truncate(8).unwrap().get(0).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_embeddings_inferences_routes() {
    let (service, _dir) = service(&[]);
    let expected = service.embedder().unwrap().embed(&["a"]).unwrap();
    assert_eq!(vector(&ask(&service, "/embed", json!({ "inputs": "a" })).await[0]), expected.get(0).unwrap());
    // Without normalization the vector has another length and the same direction.
    let raw = vector(&ask(&service, "/embed", json!({ "inputs": "a", "normalize": false })).await[0]);
    assert_eq!(service.embedder().unwrap().normalize(raw.clone()).unwrap().as_slice(), expected.as_slice());
    assert!((raw.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() > 1e-3);
    let short = ask(&service, "/embed", json!({ "inputs": "a", "normalize": false, "dimensions": 5 })).await;
    assert_eq!(vector(&short[0]), raw[..5]);
    assert_eq!(ask(&service, "/embed_all", json!({ "inputs": ["a", "b c"] })).await[1].as_array().unwrap().len(), 4);
    let scores =
        ask(&service, "/similarity", json!({ "inputs": { "source_sentence": "a", "sentences": ["a", "c"] } })).await;
    assert_eq!(scores.as_array().unwrap().len(), 2);
    let tokens = ask(&service, "/tokenize", json!({ "inputs": "今 a" })).await;
    assert_eq!(tokens[0][1], json!({ "id": 10, "text": "今", "special": false, "start": 0, "stop": 3 }));
    assert_eq!(tokens[0][0]["start"], Value::Null);
    assert_eq!(ask(&service, "/decode", json!({ "ids": [2, 5, 6, 3] })).await, json!(["a b"]));
    let (status, info, _) = send(&service, Request::get("/info").body(Body::empty()).unwrap()).await;
    assert_eq!(
        (status, &info["dimension"], &info["model_type"]["embedding"]["pooling"]),
        (StatusCode::OK, &json!(48), &json!("cls"))
    );
    let long = json!({ "inputs": "a ".repeat(400), "truncate": false });
    let (status, body, _) = send(&service, post("/embed", long.to_string())).await;
    assert!(
        status == StatusCode::UNPROCESSABLE_ENTITY && body["error"].as_str().unwrap().contains("must have less than"),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_json_and_name_what_is_wrong() {
    let (service, _dir) = service(&["--body-limit", "10000", "--token-ids"]);
    let cases: [(&str, &[u8], u16, &str); 36] = [
        ("/v1/embedding", b"", 400, "not JSON"),
        ("/v1/embedding", b"{\"text\": \"a\"", 400, "not JSON"),
        ("/v1/embedding", b"{\"text\": \"a\"} x", 400, "trailing"),
        ("/v1/embedding", b"{\"text\": \"\xff\"}", 400, "byte 10 is not UTF-8"),
        ("/v1/embedding", b"{\"text\": \"\\x\"}", 400, "not JSON"),
        ("/v1/embedding", b"{}", 422, "text: the field is missing"),
        ("/v1/embedding", b"{\"text\": 5}", 422, "text: invalid type: integer `5`"),
        ("/v1/embedding", b"{\"text\": null}", 422, "text: "),
        ("/v1/embedding", b"[\"a\"]", 422, "expected an object"),
        ("/v1/embedding", b"[]", 422, "expected an object"),
        ("/v1/embedding", b"\"a\"", 422, "expected an object"),
        ("/v1/embedding", b"{\"text\": \"a\\ud83d\"}", 422, "text: the escape \\ud83d at byte 11"),
        ("/v1/embedding", b"{\"text\": \"a\", \"text\": \"b\"}", 422, "duplicate"),
        ("/v1/embeddings", b"{\"input\": [\"a\", \"\\udc00\"]}", 422, "input[1]: the escape \\udc00"),
        ("/v1/embeddings", b"{\"input\": {}}", 422, "input: "),
        ("/v1/embeddings", b"{\"input\": [\"a\", 5]}", 422, "input"),
        ("/v1/embeddings", b"{\"input\": [\"a\", null]}", 422, "input[1]: "),
        ("/v1/embeddings", b"{\"input\": [-5]}", 422, "input[0]: "),
        ("/v1/embeddings", b"{\"input\": [5.5]}", 422, "input[0]: "),
        ("/v1/embeddings", b"{\"input\": [5000000000]}", 422, "input[0]: "),
        ("/v1/embeddings", b"{\"input\": [[1, \"a\"]]}", 422, "input[0][1]: "),
        ("/v1/embeddings", b"{\"input\": []}", 422, "input is empty"),
        ("/v1/embeddings", b"{\"input\": [[]]}", 422, "input is empty"),
        ("/v1/embeddings", b"{\"input\": [99999]}", 422, "vocabulary"),
        ("/v1/embeddings", b"{\"input\": \"a\", \"dimensions\": 49}", 422, "dimensions: 49, expected"),
        ("/v1/embeddings", b"{\"input\": \"a\", \"dimensions\": 0}", 422, "dimensions: 0, expected"),
        ("/v1/embeddings", b"{\"input\": \"a\", \"dimensions\": \"8\"}", 422, "dimensions: "),
        ("/v1/embeddings", b"{\"input\": \"a\", \"dimensions\": 1e999}", 422, "dimensions: "),
        ("/v1/embeddings", b"{\"input\": \"a\", \"encoding_format\": \"md5\"}", 422, "expected float or base64"),
        ("/v1/embeddings", b"{\"input\": \"a\", \"encoding_format\": 1}", 422, "encoding_format: invalid type"),
        ("/v1/embeddings", b"{\"input\": \"a\", \"encoding_format\": []}", 422, "encoding_format: invalid type"),
        ("/v1/embeddings", b"{\"input\": \"a\", \"encoding_format\": {}}", 422, "encoding_format: invalid type"),
        ("/v1/embeddings", b"{\"input\": \"a\", \"user\": [1]}", 422, "user: "),
        ("/v1/similarity", b"{\"source_text\": \"a\"}", 422, "candidate_texts: the field is missing"),
        ("/v1/similarity", b"{\"source_text\": \"a\", \"candidate_texts\": \"b\"}", 422, "candidate_texts: "),
        ("/no/such", b"{}", 404, "/no/such"),
    ];
    for (path, body, expected, word) in cases {
        let (status, answer, headers) = send(&service, post(path, body.to_vec())).await;
        let message = answer["error"]["message"].as_str().unwrap_or_else(|| panic!("{path}: no JSON error: {answer}"));
        assert!(
            status.as_u16() == expected && message.contains(word),
            "{path} {:?}: {status} {message}",
            String::from_utf8_lossy(body)
        );
        let named = answer["error"]["param"].as_str().map(|param| message.starts_with(param));
        assert_eq!(named, (expected == 422).then_some(true), "the field is in `param`: {answer}");
        assert!(headers.contains_key("x-request-id"));
    }
    let (status, answer, _) = send(&service, post("/embed", json!({ "inputs": "a".repeat(20_000) }).to_string())).await;
    assert!(
        status == StatusCode::PAYLOAD_TOO_LARGE && answer["error"].as_str().unwrap().contains("--body-limit"),
        "{answer}"
    );
    let (status, ..) = send(&service, Request::get("/embed").body(Body::empty()).unwrap()).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_open_the_service() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "first\nsecond\n").unwrap();
    let (service, _dir) = service(&["--api-key-file", keys.path().to_str().unwrap()]);
    let with = |key: &str| {
        Request::post("/embed").header("authorization", key).body(Body::from(r#"{"inputs": "a"}"#)).unwrap()
    };
    for (key, expected) in [
        ("Bearer first", 200),
        ("Bearer second", 200),
        ("bearer first", 200),
        ("BEARER first", 200),
        ("Bearer   first", 200),
        ("Bearer third", 401),
        ("Bearer ", 401),
        ("Bearer", 401),
        ("second", 401),
        ("Basic first", 401),
        ("Bearer first second", 401),
    ] {
        assert_eq!(send(&service, with(key)).await.0.as_u16(), expected, "{key}");
    }
    for path in ["/embed", "/", "/invocations", "/v1/embeddings", "/v1/embedding", "/rerank"] {
        let (status, answer, headers) =
            send(&service, post(path, r#"{"inputs": "a", "text": "a", "input": "a"}"#)).await;
        assert_eq!((status, &headers["www-authenticate"]), (StatusCode::UNAUTHORIZED, &"Bearer".parse().unwrap()));
        let message =
            if path.starts_with("/v1") || path == "/rerank" { &answer["error"]["message"] } else { &answer["error"] };
        assert!(message.as_str().is_some_and(|m| m.contains("key")), "{path}: {answer}");
    }
    for closed in ["/info", "/v1/models", "/v1/models/x"] {
        assert_eq!(send(&service, Request::get(closed).body(Body::empty()).unwrap()).await.0, StatusCode::UNAUTHORIZED);
    }
    for open in ["/", "/ping", "/health", "/livez", "/readyz", "/metrics"] {
        assert_eq!(send(&service, Request::get(open).body(Body::empty()).unwrap()).await.0, StatusCode::OK, "{open}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_whole_requests_and_computes_what_it_took() {
    let (service, _dir) = service(&["--queue-texts", "40", "--queue-requests", "4"]);
    let texts: Vec<String> = (0..30).map(|i| format!("今天 {}", ["a", "b", "c"][i % 3])).collect();
    let body = json!({ "input": texts }).to_string();
    let requests = (0..24).map(|_| {
        let (service, body) = (service.clone(), body.clone());
        tokio::spawn(async move { send(&service, post("/v1/embeddings", body)).await })
    });
    let (mut done, mut refused) = (0, 0);
    for request in requests.collect::<Vec<_>>() {
        let (status, body, headers) = request.await.unwrap();
        match status.as_u16() {
            200 => {
                assert_eq!(body["data"].as_array().unwrap().len(), 30, "all of it or nothing");
                done += 1;
            }
            429 => {
                assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
                refused += 1;
            }
            other => panic!("{other}: {body}"),
        }
    }
    assert!(done >= 1 && done + refused == 24, "{done} done, {refused} refused");
    // A request that the queue can never hold gets another status: repeating it is useless.
    let many = json!({ "input": vec!["a"; 41] }).to_string();
    let (status, body, _) = send(&service, post("/v1/embeddings", many)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(body["error"]["message"].as_str().unwrap().contains("--queue-texts"), "{body}");
    let (_, text, _) = send(&service, Request::get("/metrics").body(Body::empty()).unwrap()).await;
    let text = text.as_str().unwrap();
    for name in [
        "gte_requests_total{",
        "gte_queued_tokens{model=\"",
        "gte_utilization_ratio",
        "gte_queue_delay_seconds 0",
        "gte_texts_total",
        "gte_model_info{",
    ] {
        assert!(text.contains(name), "{name} in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_do_not_depend_on_who_else_asks() {
    let (service, _dir) = service(&["--max-batch-tokens", "64"]);
    let texts: Vec<String> = (0..60).map(|i| ["a", "今", "b c", "天"][i % 4].repeat(1 + i % 7)).collect();
    let expected: Vec<_> = texts.iter().map(|t| service.embedder().unwrap().embed(&[t]).unwrap().into_vec()).collect();
    let asked: Vec<_> = texts
        .iter()
        .map(|text| {
            let (service, body) = (service.clone(), json!({ "inputs": text }));
            tokio::spawn(async move { vector(&ask(&service, "/embed", body).await[0]) })
        })
        .collect();
    for (asked, expected) in asked.into_iter().zip(expected) {
        assert_eq!(asked.await.unwrap(), expected);
    }
}

/// Long and short texts, many per request, several requests at once, and batches of only a few
/// texts: parts of requests preempt each other between layers, and every vector still ends up in
/// its place.
#[tokio::test(flavor = "multi_thread")]
async fn texts_of_a_request_come_back_in_their_order() {
    let (service, _dir) = service(&["--max-batch-tokens", "160"]);
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..200usize {
        let texts: Vec<String> = (0..1 + i % 7).map(|j| "今天 a b c ".repeat(1 + (i * 13 + j * 29) % 30)).collect();
        let service = service.clone();
        tasks.spawn(async move {
            tokio::time::sleep(std::time::Duration::from_micros(500 * i as u64)).await;
            let expected = service.embedder().unwrap().embed(&texts).unwrap();
            let answer = ask(&service, "/v1/embeddings", json!({ "input": texts, "model": "m" })).await;
            for (item, expected) in answer["data"].as_array().unwrap().iter().zip(expected.rows()) {
                assert_eq!(vector(&item["embedding"]), expected);
            }
            assert_eq!(answer["data"].as_array().unwrap().len(), texts.len());
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_what_came_and_ends() {
    let (service, _dir) = service(&["--drain-delay", "4", "--drain-timeout", "5"]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(gte_server::serve(listener, service, None, async { drop(stopped.await) }));
    let get = |path: &'static str| async move {
        let blocking = move || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect(address)?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            std::io::Result::Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
        };
        tokio::task::spawn_blocking(blocking).await.unwrap()
    };
    assert_eq!(get("/readyz").await.unwrap(), "200");
    stop.send(()).unwrap();
    while get("/readyz").await.unwrap() == "200" {}
    assert_eq!(get("/readyz").await.unwrap(), "503", "not ready at once");
    assert_eq!(get("/livez").await.unwrap(), "200", "and still answering");
    server.await.unwrap().unwrap();
    assert!(get("/readyz").await.is_err(), "closed");
}

/// Clients ask again until the probes are done, so that the queue is long on a machine of any
/// speed.
#[tokio::test(flavor = "multi_thread")]
async fn liveness_is_answered_at_once_while_the_queue_is_long() {
    // No request is refused for its time, however busy the machine is.
    let (service, _dir) = service(&["--max-batch-tokens", "100", "--request-timeout", "3600"]);
    // All texts differ: equal texts of a request are computed once.
    let letters = |i: usize| (0..10).map(|bit| ["a ", "b "][i >> bit & 1]).collect::<String>();
    let long: Vec<String> = (0..1000).map(|i| letters(i).repeat(10)).collect();
    let probed = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (service, long, probed) = (service.clone(), long.clone(), probed.clone());
            tokio::spawn(async move {
                while !probed.load(Ordering::Relaxed) {
                    ask(&service, "/embed", json!({ "inputs": long })).await;
                }
            })
        })
        .collect();
    let get = |path| send(&service, Request::get(path).body(Body::empty()).unwrap());
    let queued_tokens = async || {
        let (_, text, _) = get("/metrics").await;
        let line = text.as_str().unwrap().lines().find(|line| line.starts_with("gte_queued_tokens{")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let probes = async {
        let mut while_busy = 0;
        while while_busy < 20 {
            let before = queued_tokens().await;
            let (status, body, _) = get("/livez").await;
            assert_eq!((status, body), (StatusCode::OK, json!("ok")));
            while_busy += usize::from(before > 1_000.0 && queued_tokens().await > 1_000.0);
        }
    };
    let limit = std::time::Duration::from_secs(300);
    tokio::time::timeout(limit, probes).await.expect("20 probes are answered while texts wait");
    probed.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_origins_may_call_only_where_they_are_named() {
    let preflight = || {
        Request::options("/v1/embeddings")
            .header("origin", "https://app.example")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type,x-stainless-os,traceparent")
            .body(Body::empty())
            .unwrap()
    };
    let (closed, _dir) = service(&[]);
    let (_, _, headers) = send(&closed, preflight()).await;
    assert!(!headers.contains_key("access-control-allow-origin"), "closed by default");
    let (open, _dir) = service(&["--cors-origin", "https://app.example,https://other.example"]);
    let (status, _, headers) = send(&open, preflight()).await;
    assert_eq!(
        (status, &headers["access-control-allow-origin"]),
        (StatusCode::OK, &"https://app.example".parse().unwrap())
    );
    let allowed = headers["access-control-allow-headers"].to_str().unwrap().to_lowercase();
    for name in ["authorization", "content-type", "x-stainless-os", "traceparent"] {
        assert!(allowed.split(',').any(|allowed| allowed.trim() == name), "a client sends {name}: {allowed}");
    }
    let stranger = Request::get("/info").header("origin", "https://evil.example").body(Body::empty()).unwrap();
    assert!(!send(&open, stranger).await.2.contains_key("access-control-allow-origin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_the_document_of_the_api_are_in_the_binary() {
    let (service, _dir) = service(&[]);
    let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    let (status, document, _) = send(&service, get("/openapi.json")).await;
    assert_eq!((status, &document["openapi"]), (StatusCode::OK, &json!("3.1.0")));
    let paths = document["paths"].as_object().unwrap();
    for path in [
        "/",
        "/v1/models/{id}",
        "/v1/embedding",
        "/v1/similarity",
        "/v1/embeddings",
        "/embed",
        "/embed_all",
        "/similarity",
        "/tokenize",
        "/decode",
        "/info",
        "/livez",
        "/readyz",
        "/metrics",
    ] {
        assert!(paths.contains_key(path), "{path} is not documented");
    }
    assert_eq!(document["paths"]["/embed"]["post"]["responses"].as_object().unwrap().len(), 13);
    for path in ["/", "/page.js", "/page.css", "/docs/"] {
        let (status, body, headers) = send(&service, get(path)).await;
        assert_eq!(
            (status, &headers["x-content-type-options"]),
            (StatusCode::OK, &"nosniff".parse().unwrap()),
            "{path}"
        );
        assert!(!body.as_str().unwrap().contains("https://"), "{path} loads something from elsewhere");
    }
    let (_, _, headers) = send(&service, get("/")).await;
    assert!(headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_texts_as_info_promises_are_taken() {
    // With default limits the server accepts as many texts of ordinary length as it promises, and
    // as many short texts as a request may have.
    let (service, _dir) = service(&[]);
    let (_, info, _) = send(&service, Request::get("/info").body(Body::empty()).unwrap()).await;
    let promised = info["max_client_batch_size"].as_u64().unwrap() as usize;
    let ordinary = |i: usize| format!("{}{}", "今天 a b c ".repeat(39), "今天 abc".repeat(1 + i % 30));
    let ordinary: Vec<String> = (0..promised).map(ordinary).collect();
    let answer = ask(&service, "/embed", json!({ "inputs": ordinary })).await;
    assert_eq!(answer.as_array().unwrap().len(), promised);
    assert_eq!(ask(&service, "/embed", json!({ "inputs": vec!["a"; 2048] })).await.as_array().unwrap().len(), 2048);
    let (status, body, _) = send(&service, post("/embed", json!({ "inputs": vec!["a"; 2049] }).to_string())).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(body["error_type"], "Validation");
    assert!(
        body["error"].as_str().unwrap().contains("2049 texts") && body["error"].as_str().unwrap().contains("2048"),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_bodies_are_read_within_the_limit() {
    use std::io::Write;
    let (service, _dir) = service(&["--body-limit", "100000"]);
    let packed = |body: &str| {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(body.as_bytes()).unwrap();
        writer.finish().unwrap()
    };
    let with = |encoding: &str, body: Vec<u8>| {
        Request::post("/v1/embedding").header("content-encoding", encoding).body(Body::from(body)).unwrap()
    };
    let expected = ask(&service, "/v1/embedding", json!({ "text": "今天" })).await;
    let text = json!({ "text": "今天" }).to_string();
    for encoding in ["gzip", "GZIP", "x-gzip", "identity, gzip"] {
        assert_eq!(send(&service, with(encoding, packed(&text))).await.1, expected, "{encoding}");
    }
    assert_eq!(send(&service, with("identity", text.clone().into_bytes())).await.1, expected);
    let bomb = packed(&json!({ "text": "a".repeat(50_000_000) }).to_string());
    let small = packed(&json!({ "text": "a".repeat(200_000) }).to_string());
    assert!(small.len() < 100_000 && bomb.len() > 100_000);
    for (encoding, body, status, word) in [
        ("gzip", small, 413, "--body-limit"),
        ("gzip", bomb, 413, "--body-limit"),
        ("gzip", text.clone().into_bytes(), 400, "gzip"),
        ("gzip", packed(&text)[..20].to_vec(), 400, "gzip"),
        ("br", text.clone().into_bytes(), 415, "gzip"),
        ("gzip, gzip", packed(&text), 415, "gzip"),
    ] {
        let (found, answer, headers) = send(&service, with(encoding, body)).await;
        assert!(
            found.as_u16() == status && answer["message"].as_str().unwrap().contains(word),
            "{encoding}: {found} {answer}"
        );
        assert!(status != 415 || headers["accept-encoding"] == "gzip");
    }
}
