//! Checks that the tables of keys and `docs/model-files.md` agree.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write;
use std::path::Path;

use crate::json::{Fate, Key};
use crate::{models, modules, tokenizer};

/// The tables, in the order of the document, each with its heading; without one, the headings are
/// the files of its keys.
fn tables_of_keys() -> Vec<(Option<String>, &'static [Key])> {
    let common = (Some("config.json, of every family".to_owned()), models::COMMON);
    let family =
        |family: &&models::Family| (Some(format!("config.json, {}", family.model_types.join(", "))), family.keys);
    let families = models::FAMILIES.iter().map(family);
    [common].into_iter().chain(families).chain([(None, tokenizer::KEYS), (None, modules::KEYS)]).collect()
}

/// The line of the document before the tables.
const MARK: &str = "<!-- tables: written by `GTE_WRITE_DOCS=1 cargo test -p gte-core --lib model_files` -->\n";

fn tables() -> String {
    let mut text = String::new();
    let mut file = String::new();
    for (heading, key) in tables_of_keys().iter().flat_map(|(heading, keys)| keys.iter().map(move |key| (heading, key)))
    {
        let heading = heading.as_deref().unwrap_or(key.file);
        if heading != file {
            file.clear();
            file.push_str(heading);
            write!(text, "\n## `{file}`\n\n| key | here | what it does, and why |\n|---|---|---|\n").unwrap();
        }
        let fate = match key.fate {
            Fate::Obeyed => "obeyed",
            Fate::Refused => "refused",
            Fate::Harmless => "harmless",
        };
        writeln!(text, "| `{}` | {fate} | {} |", key.key, key.why).unwrap();
    }
    text
}

#[test]
fn the_document_shows_the_tables() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/model-files.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (text, written) =
        document.split_once(MARK).expect("the line before the tables is missing in docs/model-files.md");
    if std::env::var_os("GTE_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{text}{MARK}{}", tables())).unwrap();
    } else {
        assert!(written == tables(), "docs/model-files.md is outdated: run with GTE_WRITE_DOCS=1");
    }
}

#[test]
fn a_key_stands_once_in_its_table_and_says_why() {
    for (_, keys) in tables_of_keys() {
        for (i, key) in keys.iter().enumerate() {
            assert!(!key.why.is_empty() && !key.why.contains('|'), "{}: {}", key.file, key.key);
            let twice = keys[..i].iter().any(|k| (k.file, k.key) == (key.file, key.key));
            assert!(!twice, "{}: `{}` occurs twice", key.file, key.key);
        }
    }
}
