//! Jobs on a real NATS server, while workers and the broker are killed.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A process that is killed when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A NATS server that keeps its streams in `store`.
fn nats(port: u16, store: &Path) -> Process {
    let child = Command::new("nats-server")
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd", store.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn()
        .expect("this test needs nats-server: apt-get install nats-server");
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        assert!(Instant::now() < end, "nats-server does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    Process(child)
}

/// A server with the bundled model, and its address.
fn server(arguments: &[&str]) -> (Process, SocketAddr) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gte-server"))
        .args(["--host", "127.0.0.1", "--port", "0", "--threads", "1", "--log-format", "json", "--drain-delay", "0"])
        .args(arguments)
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = loop {
        let line: Value = serde_json::from_str(&lines.next().expect("it starts").unwrap()).unwrap();
        if let Some(address) = line["address"].as_str() {
            break address.parse().unwrap();
        }
    };
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            eprintln!("{line}");
        }
    });
    (Process(child), address)
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

fn json(mut answer: ureq::http::Response<ureq::Body>) -> Value {
    serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
}

fn submit(address: SocketAddr, body: &str, kind: &str, key: Option<&str>) -> (u16, Value) {
    let mut request = agent().post(format!("http://{address}/v1/jobs")).header("content-type", kind);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let answer = request.send(body).unwrap();
    (answer.status().as_u16(), json(answer))
}

fn get(address: SocketAddr, path: &str) -> (u16, Value) {
    let answer = agent().get(format!("http://{address}{path}")).call().unwrap();
    (answer.status().as_u16(), json(answer))
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("第{i}号订单：我想退货，请问怎么办理？运费由谁来承担？")).collect()
}

/// Waits until `is_so` returns true.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < end, "not in two minutes: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn nothing_is_lost_or_seen_twice_when_workers_and_broker_are_killed() {
    let (store, port) = (TempDir::new().unwrap(), free_port());
    let broker = nats(port, store.path());
    let url = format!("nats://127.0.0.1:{port}");
    let (_gateway, gateway) = server(&["--nats", &url]);
    let (first, _) = server(&["--worker", &url]);
    let (_second, _) = server(&["--worker", &url]);

    let texts = texts(6000);
    let body = json!({ "texts": texts }).to_string();
    let (status, job) = submit(gateway, &body, "application/json", Some("today's"));
    assert_eq!((status, job["texts"].as_u64()), (202, Some(6000)), "{job}");
    let id = job["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/jobs/{id}");
    let done = || get(gateway, &path).1["done"].as_u64().unwrap_or(0);

    // A client that got no response repeats its request.
    assert_eq!(submit(gateway, &body, "application/json", Some("today's")).1["id"], id.as_str());
    until("the workers work", || done() > 200);
    drop(first); // SIGKILL
    until("the other worker continues", || done() > 1000);
    drop(broker); // SIGKILL
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(get(gateway, &path).0, 503, "a broker that is away");
    let _broker = nats(port, store.path());
    until("they find the broker again", || done() > 1500);
    assert!(done() < 6000, "the drills came too late to prove anything");
    let (_third, _) = server(&["--worker", &url]);

    let answer = agent().get(format!("http://{gateway}{path}/results")).call().unwrap();
    let lines = BufReader::new(answer.into_body().into_reader()).lines();
    let results: Vec<Value> = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    let indices: HashSet<u64> = results.iter().map(|r| r["index"].as_u64().unwrap()).collect();
    assert_eq!((results.len(), indices.len()), (6000, 6000), "each text once");
    let status = get(gateway, &path).1;
    assert_eq!((status["done"].as_u64(), status["status"].as_str()), (Some(6000), Some("done")));

    // The vectors equal those of a server without a broker, bit for bit.
    for result in results.iter().step_by(500) {
        let text = &texts[result["index"].as_u64().unwrap() as usize];
        let body = json!({ "inputs": text }).to_string();
        let answer =
            agent().post(format!("http://{gateway}/embed")).header("content-type", "application/json").send(&body);
        let own = json(answer.unwrap());
        assert_eq!(result["embedding"], own[0], "{text}");
        assert_eq!(result["truncated"], false);
    }

    // A repeated request finds the results: nothing is computed.
    assert_eq!(submit(gateway, &body, "application/json", Some("today's")).1["id"], id.as_str());
    assert_eq!(get(gateway, &path).1["status"], "done");
    let gone = agent().delete(format!("http://{gateway}{path}")).call().unwrap();
    assert_eq!((gone.status().as_u16(), get(gateway, &path).0), (204, 404));
}

#[test]
fn a_broker_that_comes_late_and_requests_that_are_wrong() {
    let (store, port) = (TempDir::new().unwrap(), free_port());
    let url = format!("nats://127.0.0.1:{port}");
    let (_worker, address) = server(&["--worker", &url, "--body-limit", "4000000"]);
    let (status, error) = submit(address, r#"{"texts": ["一"]}"#, "application/json", None);
    assert_eq!(status, 503, "{error}");
    assert_eq!(
        agent().get(format!("http://{address}/readyz")).call().unwrap().status().as_u16(),
        200,
        "other requests are answered meanwhile"
    );
    let _broker = nats(port, store.path());

    let mut taken = Value::Null;
    until("a job is taken", || {
        let (status, job) =
            submit(address, "\"一\"\n\n{\"text\": \"二\"}\n", "application/x-ndjson; charset=utf-8", None);
        taken = job;
        status == 202
    });
    assert_eq!(taken["texts"], 2);
    let path = format!("/v1/jobs/{}", taken["id"].as_str().unwrap());
    until("it is done", || get(address, &path).1["status"] == "done");

    for (body, kind, named) in [
        ("{\"texts\": []}", "application/json", "texts"),
        ("{\"texts\": [1]}", "application/json", "texts[0]"),
        ("{\"text\": \"一\"}", "application/json", "texts"),
        ("\"一\"\n{\"txt\": 1}", "application/jsonl", "line 2"),
        ("", "application/jsonl", "texts"),
        (&json!({ "texts": ["一", "字".repeat(1_000_000)] }).to_string(), "application/json", "texts[1]"),
    ] {
        let (status, error) = submit(address, body, kind, None);
        assert_eq!(status, 422, "{error}");
        assert!(error["message"].as_str().unwrap().contains(named), "{named}: {error}");
    }
    for path in ["/v1/jobs/nothing", "/v1/jobs/0123456789abcdef0123456789abcdef", "/v1/jobs/%3E/results"] {
        assert_eq!(get(address, path).0, 404, "{path}");
    }
    // Without a broker these routes do not exist.
    let (_plain, plain) = server(&[]);
    assert_eq!(submit(plain, "{}", "application/json", None).0, 404);
}

/// The broker reports both with the same code. Only its wording differs, and that may change.
#[tokio::test]
async fn a_full_queue_is_told_from_a_result_that_is_there() {
    use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
    let (store, port) = (TempDir::new().unwrap(), free_port());
    let _broker = nats(port, store.path());
    let url = format!("nats://127.0.0.1:{port}");
    let context = async_nats::jetstream::new(async_nats::connect(&url).await.unwrap());
    let work = Config {
        name: "GTE_WORK".into(),
        subjects: vec!["gte.work.>".into()],
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        max_messages: 2,
        ..Default::default()
    };
    context.create_stream(work).await.unwrap();
    let (_gateway, gateway) = server(&["--nats", &url]);
    let (status, job) = submit(gateway, r#"{"texts": ["一", "二"]}"#, "application/json", None);
    assert_eq!(status, 202, "{job}");
    let (status, error) = submit(gateway, r#"{"texts": ["三"]}"#, "application/json", None);
    assert!(status == 429 && error["message"].as_str().unwrap().contains("GTE_WORK"), "{status} {error}");

    // Another worker has stored a different result for one of the texts, and was killed before it
    // removed the text from the queue.
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    let subject = format!("gte.job.{}.text.1", job["id"].as_str().unwrap());
    context.publish(subject, 1f32.to_le_bytes().to_vec().into()).await.unwrap().await.unwrap();
    let (_worker, _) = server(&["--worker", &url]);
    until("it is done", || get(gateway, &path).1["status"] == "done");
    let mut work = context.get_stream("GTE_WORK").await.unwrap();
    let mut waiting = 2;
    for _ in 0..200 {
        waiting = work.info().await.unwrap().state.messages;
        if waiting == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(waiting, 0, "a text with a stored result leaves the queue");
    let answer = agent().get(format!("http://{gateway}{path}/results")).call().unwrap();
    let lines = BufReader::new(answer.into_body().into_reader()).lines();
    let results: Vec<Value> = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    let lengths: HashSet<_> =
        results.iter().map(|r| (r["index"].as_u64().unwrap(), r["embedding"].as_array().unwrap().len())).collect();
    assert_eq!(lengths, HashSet::from([(0, 384), (1, 1)]), "the first that was stored stays");
}
