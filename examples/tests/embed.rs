//! `embed` takes lines exactly as they are, prints results in their order, and names lines that it
//! cannot read.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

fn command() -> Command {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/models/all-MiniLM-L6-v2");
    assert!(std::path::Path::new(model).join("config.json").exists(), "run `make models`");
    let mut command = Command::new(env!("CARGO_BIN_EXE_embed"));
    command
        .args(["--model", model, "--threads", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn embed(input: &[u8]) -> Output {
    let mut child = command().spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn lines(output: &Output) -> Vec<serde_json::Value> {
    output.stdout.split(|&b| b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect()
}

#[test]
fn lines_are_kept_byte_for_byte() {
    let output = embed("今天天气真好\n  spaces \t\n\n\r\nwindows\r\n\"quoted\"\\\nno newline at the end".as_bytes());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = lines(&output);
    let texts: Vec<&str> = lines.iter().map(|l| l["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["今天天气真好", "  spaces \t", "", "\r", "windows\r", "\"quoted\"\\", "no newline at the end"]);
    for line in &lines {
        let embedding: Vec<f32> = serde_json::from_value(line["embedding"].clone()).unwrap();
        assert_eq!(embedding.len(), 384);
        assert!((embedding.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5);
        assert_eq!(line["truncated"], false);
    }
    assert_eq!(lines[2]["tokens"], 2);
    assert!(embed(b"").stdout.is_empty());
}

#[test]
fn a_line_that_is_no_text_is_named_and_nothing_before_it_is_lost() {
    let output = embed(b"one\ntwo\n\xff\xfe\nfour\n");
    assert!(!output.status.success());
    assert_eq!(lines(&output).len(), 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("line 3"));
}

#[test]
fn an_answer_does_not_wait_for_the_next_question() {
    let mut child = command().spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    for text in ["first", "second"] {
        writeln!(input, "{text}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.contains(text), "{line}");
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn arguments_are_texts_too_and_long_ones_are_marked() {
    let long = "word ".repeat(600);
    let output = command().args(["--", "-dash", &long]).output().unwrap();
    let lines = lines(&output);
    assert_eq!(
        (lines[0]["text"].as_str(), lines[1]["truncated"].as_bool(), lines[1]["tokens"].as_u64()),
        (Some("-dash"), Some(true), Some(256))
    );
    let output = Command::new(env!("CARGO_BIN_EXE_embed")).args(["--model", "/no/such", "x"]).output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("/no/such"));
}

#[test]
fn a_prompt_goes_before_each_text_and_the_precision_is_told() {
    let vector = |arguments: &[&str]| {
        let output = command().args(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{told}");
        // The precision that `auto` chose is reported, and gives the same result when requested by
        // name.
        assert!(["f32", "bf16"].iter().any(|precision| told.contains(precision)), "{told}");
        lines(&output)[0]["embedding"].clone()
    };
    let prompted = vector(&["--prompt", "query: ", "a kettle"]);
    assert_eq!(prompted, vector(&["query: a kettle"]));
    assert_ne!(prompted, vector(&["--prompt", "", "a kettle"]));
    let unknown = command().args(["--prompt-name", "nonsense", "a kettle"]).output().unwrap();
    let told = String::from_utf8_lossy(&unknown.stderr);
    assert!(!unknown.status.success() && told.contains("prompt_name") && told.contains("nonsense"), "{told}");
    let both = command().args(["--prompt-name", "query", "--prompt", "x", "a"]).output().unwrap();
    assert!(!both.status.success());
}
