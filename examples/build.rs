//! Makes a test of every block of Rust in the documents, for `tests/pages.rs` to run.
//!
//! A block is the body of a function that may fail. Models from a hub become tiny ones of the same
//! kind, so that nothing is downloaded. A block that is a part of something larger is marked
//! `rust,ignore`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

const PAGES: [&str; 3] = ["README.md", "README.zh-CN.md", "gte-core/README.md"];

/// Models of the hub, and what stands in for them: a folder, or the bundled model.
const MODELS: [(&str, Option<&str>); 4] = [
    ("thenlper/gte-large-zh", None),
    ("BAAI/bge-m3", Some("bge-m3")),
    ("BAAI/bge-reranker-v2-m3", Some("xlmr-reranker")),
    ("Qwen/Qwen3-Embedding-0.6B", Some("qwen3")),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut tests = String::new();
    for page in PAGES {
        let path = root.join(page);
        println!("cargo:rerun-if-changed={}", path.display());
        // In an image that is built from the sources alone there are no pages.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (line, block) in blocks(&text) {
            let name = page.to_lowercase().replace(|c: char| !c.is_alphanumeric(), "_");
            let body = with_models(&block, &root);
            writeln!(tests, "#[test]\nfn {name}_line_{line}() -> Result<(), Box<dyn std::error::Error>> {{")?;
            writeln!(tests, "{body}\nOk(())\n}}\n")?;
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    Ok(std::fs::write(out.join("pages.rs"), tests)?)
}

/// The blocks of Rust that are to be run, each with the number of its first line.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line == "```rust" {
            let block: Vec<&str> = lines.by_ref().map(|(_, line)| line).take_while(|&line| line != "```").collect();
            found.push((number + 2, block.join("\n")));
        }
    }
    found
}

fn with_models(block: &str, root: &Path) -> String {
    let families = root.join("gte-core/tests/fixtures/families");
    MODELS.iter().fold(block.to_owned(), |block, &(id, folder)| match folder {
        None => block.replace(&format!("from_hub(\"{id}\")"), "bundled()").replace(&format!("\"{id}\""), "\"bundled\""),
        Some(folder) => block
            .replace(&format!("from_hub(\"{id}\")"), &format!("from_dir({:?})", families.join(folder)))
            .replace(&format!("\"{id}\""), &format!("{:?}", families.join(folder))),
    })
}
