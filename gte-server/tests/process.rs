//! The binary as it runs: HTTPS, signals, slow clients, many connections, spans, and contradictory
//! options.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../gte-core/tests/model/mod.rs"]
mod model;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use serde_json::Value;
use tempfile::TempDir;

/// A running server with a tiny model. It is killed when this is dropped.
struct Server {
    child: Child,
    address: SocketAddr,
    logs: mpsc::Receiver<Value>,
    _model: TempDir,
}

impl Server {
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let model = model::tiny_model();
        let mut child = command(arguments, environment)
            .args(["--model", model.path().to_str().unwrap(), "--host", "127.0.0.1", "--port", "0", "--threads", "1"])
            .args(["--log-format", "json", "--drain-delay", "0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, logs) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        let mut server = Self { child, address: SocketAddr::from(([0; 4], 0)), logs, _model: model };
        server.address = server.log("address")["address"].as_str().unwrap().parse().unwrap();
        server
    }

    /// The next log line that has `field`.
    fn log(&self, field: &str) -> Value {
        loop {
            let line = self.logs.recv_timeout(Duration::from_secs(30)).expect("a log line in time");
            if line.get(field).is_some() {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn wait(&mut self) -> Option<i32> {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the server does not end");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gte-server"));
    command.args(arguments).env_remove("RUST_LOG").envs(environment.iter().copied());
    command
}

/// Everything that the server sends until it closes the connection. A reset counts as a close.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(e) => panic!("the connection stays open: {e}"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

const GET: &str = "GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn options_that_make_no_sense_stop_the_start_with_one_line() {
    for (arguments, environment, named) in [
        (&["--max-batch-tokens", "0"][..], &[][..], "--max-batch-tokens"),
        (&["--model", "/nowhere"], &[], "/nowhere"),
        (&[], &[("GTE_API_KEYS", " , ")], "GTE_API_KEYS"),
        (&[], &[("GTE_OFFLINE", "maybe")], "GTE_OFFLINE"),
        (&[], &[("GTE_PORT", "http")], "GTE_PORT"),
        (&[], &[("RUST_LOG", "verbose")], "RUST_LOG"),
        (&["--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.key", "--port", "0"], &[], "--tls-cert"),
        (&["--otlp-endpoint", "no address"], &[], "--otlp-endpoint"),
    ] {
        let output = command(arguments, environment).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(named), "{arguments:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn variables_that_are_empty_are_unset() {
    use clap::CommandFactory;
    let command = gte_server::config::Config::command();
    let names = command.get_arguments().filter_map(|a| a.get_env()?.to_str().map(str::to_owned));
    let names: Vec<String> = names.chain(["GTE_API_KEYS", "GTE_ISA", "RUST_LOG"].map(str::to_owned)).collect();
    let empty: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    assert!(empty.len() > 30);
    let server = Server::start(&[], &empty);
    let mut stream = server.connect();
    stream.write_all(GET.as_bytes()).unwrap();
    assert!(rest(stream).starts_with("HTTP/1.1 200"));
}

#[test]
fn the_start_says_which_precision_auto_became() {
    let model = model::tiny_model();
    let mut child = command(&["--port", "0", "--threads", "1", "--log-format", "json"], &[])
        .args(["--host", "127.0.0.1", "--model", model.path().to_str().unwrap()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut lines = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    let ready = lines.find(|line| line["message"].as_str().is_some_and(|m| m.starts_with("model ready"))).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ready["requested"], "auto");
    assert!(["bf16", "f32"].contains(&ready["precision"].as_str().unwrap()), "{ready}");
}

#[test]
fn what_kubernetes_injects_does_not_break_the_start() {
    let server = Server::start(&[], &[("GTE_METRICS_PORT", "tcp://10.0.0.1:80")]);
    let mut stream = server.connect();
    stream.write_all(GET.as_bytes()).unwrap();
    assert!(rest(stream).starts_with("HTTP/1.1 200"));
}

fn certificate(dir: &Path) -> ureq::Agent {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let root = ureq::tls::Certificate::from_der(made.cert.der()).to_owned();
    let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::new_with_certs(&[root])).build();
    ureq::Agent::new_with_config(ureq::Agent::config_builder().tls_config(tls).build())
}

#[test]
fn https_with_a_certificate_that_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let first = certificate(dir.path());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let server = Server::start(&["--tls-cert", &path("cert.pem"), "--tls-key", &path("key.pem")], &[]);
    let url = format!("https://localhost:{}/readyz", server.address.port());
    assert_eq!(first.get(&url).call().unwrap().status(), 200);

    let second = certificate(dir.path());
    assert!(second.get(&url).call().is_err(), "not read yet");
    server.signal("-HUP");
    server.log("message");
    let reloaded = |value: &Value| value["message"] == "certificate reloaded";
    while !reloaded(&server.log("message")) {}
    assert_eq!(second.get(&url).call().unwrap().status(), 200);

    std::fs::write(path("cert.pem"), "rubbish").unwrap();
    server.signal("-HUP");
    while !server.log("message")["message"].as_str().unwrap().starts_with("certificate not reloaded") {}
    assert_eq!(second.get(&url).call().unwrap().status(), 200);
}

#[test]
fn keys_are_reloaded_on_hangup() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, "old\n").unwrap();
    let server = Server::start(&["--api-key-file", file.to_str().unwrap()], &[]);
    let ask = |key: &str| {
        let mut stream = server.connect();
        write!(stream, "GET /info HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n")
            .unwrap();
        rest(stream)
    };
    assert!(ask("old").starts_with("HTTP/1.1 200") && ask("new").starts_with("HTTP/1.1 401"));
    std::fs::write(&file, "new\nother\n").unwrap();
    server.signal("-HUP");
    server.log("keys");
    assert!(ask("old").starts_with("HTTP/1.1 401") && ask("new").starts_with("HTTP/1.1 200"));
    std::fs::write(&file, "").unwrap();
    server.signal("-HUP");
    while !server.log("message")["message"].as_str().unwrap().starts_with("API keys not reloaded") {}
    assert!(ask("wrong").starts_with("HTTP/1.1 401"), "an empty file must not open the service");
}

#[test]
fn slow_clients_are_let_go() {
    let server = Server::start(&["--header-timeout", "1", "--body-timeout", "1", "--idle-timeout", "2"], &[]);
    // Slowloris: a head that arrives byte by byte and never ends.
    let mut dripping = server.connect();
    dripping.write_all(b"GET /readyz HTTP/1.1\r\n").unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(15) && dripping.write_all(b"X-Drip: 1\r\n").is_ok() {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(start.elapsed() < Duration::from_secs(15), "a head that never ends holds its connection");
    // A client that sends nothing.
    assert_eq!(rest(server.connect()), "");
    // A body that never arrives.
    let mut stream = server.connect();
    let head =
        "POST /v1/embedding HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"te";
    stream.write_all(head.as_bytes()).unwrap();
    let answer = rest(stream);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("--body-timeout"), "{answer}");
    // A second request that never arrives.
    let mut stream = server.connect();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(rest(stream).starts_with("HTTP/1.1 200"));
}

#[test]
fn one_connection_too_many_is_closed_and_the_others_go_on() {
    let server = Server::start(&["--max-connections", "3"], &[]);
    let ask = |stream: &mut TcpStream| {
        let mut start = [0; 12];
        let sent = stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n");
        sent.and_then(|()| stream.read_exact(&mut start)).is_ok() && start == *b"HTTP/1.1 200"
    };
    let mut open: Vec<TcpStream> = (0..3).map(|_| server.connect()).collect();
    assert!(open.iter_mut().all(ask));
    assert_eq!(rest(server.connect()), "", "the fourth");
    drop(open.pop());
    let end = Instant::now() + Duration::from_secs(20);
    let mut refused = 1;
    while !ask(&mut server.connect()) {
        assert!(Instant::now() < end, "no connection is accepted again");
        refused += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut stream = open.pop().unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let metrics = rest(stream);
    assert!(metrics.contains(&format!("\ngte_refused_connections_total {refused}\n")), "{metrics}");
    for name in
        ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"]
    {
        assert!(metrics.contains(&format!("\n{name} ")), "{name} in {metrics}");
    }
}

#[test]
fn spans_reach_a_collector_as_children_of_the_callers_trace() {
    // A collector that keeps what it receives.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).is_ok() && line.trim() != "" {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let _ = reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = sender.send(ExportTraceServiceRequest::decode(body.as_slice()).unwrap());
        }
    });
    let mut server = Server::start(&["--otlp-endpoint", &endpoint], &[]);
    let mut stream = server.connect();
    let body = r#"{"text": "今天 a"}"#;
    write!(
        stream,
        "POST /v1/embedding HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: mine\r\n\
         traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let answer = rest(stream);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-request-id: mine"), "{answer}");
    let line = server.log("ms");
    assert_eq!(line["span"]["id"], "\"mine\"", "the request's id is in its log line: {line}");
    server.signal("-TERM");
    assert_eq!(server.wait(), Some(0));

    let mut spans = Vec::new();
    while let Ok(request) = received.recv_timeout(Duration::from_secs(5)) {
        let scopes = request.resource_spans.into_iter().flat_map(|r| r.scope_spans);
        spans.extend(scopes.flat_map(|s| s.spans));
        if spans.len() >= 4 {
            break;
        }
    }
    let named = |name: &str| spans.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{name} in {spans:?}"));
    let request = named("/v1/embedding");
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&request.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&request.parent_span_id), "b7ad6b7169203331");
    for name in ["tokenize", "queue", "compute"] {
        let span = named(name);
        assert_eq!((&span.trace_id, &span.parent_span_id), (&request.trace_id, &request.span_id), "{name}");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    }
}
