//! `docs/configuration.md` has every flag and every variable. Its table of flags is written by
//! `GTE_WRITE_DOCS=1 cargo test --release --workspace --test configuration`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, CommandFactory};
use gte_server::config::Config;

const BEGIN: &str =
    "<!-- flags: written by `GTE_WRITE_DOCS=1 cargo test --release --workspace --test configuration` -->\n";
const END: &str = "<!-- end of flags -->";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page() -> (PathBuf, String) {
    let path = root().join("docs/configuration.md");
    let text = std::fs::read_to_string(&path).unwrap();
    (path, text)
}

/// What the flag takes, as the help shows it: nothing for a switch.
fn value(argument: &Arg) -> String {
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        return String::new();
    }
    let possible: Vec<_> = argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    match possible.is_empty() {
        false => format!(" {}", possible.join("\\|")),
        true => format!(" {}", argument.get_value_names().unwrap_or_default().join(" ")),
    }
}

fn row(argument: &Arg) -> String {
    let flag = format!("`--{}{}`", argument.get_long().unwrap(), value(argument));
    let variable = argument.get_env().unwrap().to_str().unwrap();
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|value| format!("`{}`", value.to_str().unwrap())).collect();
    let defaults =
        if matches!(argument.get_action(), ArgAction::SetTrue) { String::new() } else { defaults.join(", ") };
    let help = argument.get_long_help().or(argument.get_help()).unwrap().to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    format!("| {flag} | `{variable}` | {defaults} | {help} |")
}

fn table() -> String {
    let mut table = "\n| flag | variable | default | |\n|---|---|---|---|\n".to_owned();
    let command = Config::command();
    for argument in command.get_arguments().filter(|argument| argument.get_env().is_some()) {
        writeln!(table, "{}", row(argument)).unwrap();
    }
    table + "\n"
}

#[test]
fn the_table_of_flags_is_that_of_the_program() {
    let (path, text) = page();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    if std::env::var_os("GTE_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
        return;
    }
    assert!(found == table(), "docs/configuration.md is not that of the flags: run with GTE_WRITE_DOCS=1");
}

#[test]
fn every_flag_has_a_variable() {
    let command = Config::command();
    let without = command.get_arguments().filter(|argument| argument.get_env().is_none());
    let names: Vec<_> = without.map(|argument| argument.get_id().as_str()).collect();
    assert_eq!(names, Vec::<&str>::new());
}

/// The names in capitals that stand as strings in the sources of both crates.
fn variables() -> Vec<String> {
    fn walk(dir: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                found.extend(code.split('"').skip(1).step_by(2).filter(|word| is_variable(word)).map(str::to_owned));
            }
        }
    }
    let mut found = Vec::new();
    for source in ["gte-core/src", "gte-server/src"] {
        walk(&root().join(source), &mut found);
    }
    found.sort();
    found.dedup();
    found
}

fn is_variable(word: &str) -> bool {
    let first = ["GTE_", "HF_", "HUGGING", "MODELSCOPE_", "TRANSFORMERS_", "XDG_", "RUST_", "OTEL_"];
    first.iter().any(|first| word.starts_with(first)) && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

#[test]
fn every_variable_that_is_read_is_told() {
    let (_, text) = page();
    let all = variables();
    assert!(all.len() > 40, "the sources are where the test looks for them: {all:?}");
    // Streams of the broker, and what only tests read.
    let no_variables = ["GTE_WORK", "GTE_RESULTS", "GTE_WRITE_DOCS", "GTE_REQUIRE_ISA"];
    for name in all.iter().filter(|name| !no_variables.contains(&name.as_str())) {
        assert!(text.contains(&format!("`{name}`")), "docs/configuration.md does not tell of {name}");
    }
}
