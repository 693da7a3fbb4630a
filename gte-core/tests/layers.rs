//! The structure of the crate: imports go down, `unsafe` stays in the kernel folders, files stay
//! short.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};

/// The layers, lowest first: a module only imports from those before it.
const ORDER: [&str; 34] = [
    "error",
    "env",
    "threads",
    "kernels",
    "device",
    "files",
    "json",
    "models",
    "modules",
    "prompts",
    "config",
    "tokenizer",
    "batch",
    "weights",
    "profile",
    "dense",
    "backend",
    "heads",
    "encoder",
    "calibration",
    "quantize",
    "embedding",
    "similarity",
    "outputs",
    "engine",
    "compute",
    "windows",
    "options",
    "template",
    "embedder",
    "sparse",
    "reranker",
    "model_files",
    "rankings",
];

/// Every source file with its path inside `src`.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push((path.strip_prefix(root).unwrap().to_path_buf(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    assert!(found.len() > 20, "the test must find the sources");
    found
}

/// The layer of a file: its name, or that of its folder.
fn layer(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The code without its tests, which may use anything.
fn code(source: &str) -> &str {
    let tests = ["#[cfg(test)]\nmod tests", "#[cfg(test)]\npub(crate) mod tests"];
    tests.iter().fold(source, |code, tests| code.split(tests).next().unwrap())
}

/// How many modules a file is below the root of the crate.
fn depth(path: &Path) -> usize {
    path.components().count() - usize::from(path.ends_with("mod.rs"))
}

/// The layers that are named after `crate::`, or after the number of `super::` that leads there.
fn imports(code: &str, depth: usize) -> Vec<String> {
    let code = code.replace(&"super::".repeat(depth), "crate::");
    let mut found = Vec::new();
    for (i, path) in code.match_indices("crate::") {
        let rest = &code[i + path.len()..];
        let mut nested = 0;
        let mut item = String::new();
        for c in rest.chars() {
            match c {
                '{' => nested += 1,
                '}' => nested -= 1,
                ',' if nested == 1 => found.push(std::mem::take(&mut item)),
                c if nested < 2 => item.push(c),
                _ => {}
            }
            // A single name ends at the first character that cannot be part of it, a list in braces
            // where the braces close.
            if nested == 0 && !(c.is_alphanumeric() || c == '_') {
                break;
            }
        }
        found.push(item);
    }
    // A glob of the whole crate counts as a separate name, which is not a layer.
    let name =
        |item: String| item.trim().chars().take_while(|c| c.is_alphanumeric() || "_*".contains(*c)).collect::<String>();
    // `use crate::{Error, Result}` and `crate::Result` are the error layer, re-exported.
    let layer = |name: String| if name.starts_with(char::is_uppercase) { "error".to_owned() } else { name };
    found.into_iter().map(name).filter(|name| !name.is_empty()).map(layer).collect()
}

#[test]
fn imports_are_seen_however_they_are_written() {
    assert_eq!(imports("use crate::ops::cpu::Cpu; let x = crate::threads::f();", 1), ["ops", "threads"]);
    assert_eq!(imports("use crate::{Error, embedder::{A, B}, batch};", 1), ["error", "embedder", "batch"]);
    assert_eq!(imports("use crate::{\n    weights::Weights,\n};", 1), ["weights"]);
    assert_eq!(imports("use super::embedder::Embedder;", 1), ["embedder"]);
    assert_eq!(imports("use crate::*; use crate::{*};", 1), ["*", "*"]);
    assert_eq!(imports("use super::lanes::Lanes; use super::super::{config};", 2), ["config"]);
    assert_eq!(depth(Path::new("kernels/x86_64/mod.rs")), 2);
    assert_eq!(depth(Path::new("kernels/x86_64/avx2.rs")), 3);
}

#[test]
fn imports_go_down() {
    for (path, source) in sources() {
        let own = layer(&path);
        if own == "lib" {
            continue;
        }
        let place = ORDER
            .iter()
            .position(|&l| l == own)
            .unwrap_or_else(|| panic!("{}: not in the order of layers", path.display()));
        for used in imports(code(&source), depth(&path)) {
            let used_place = ORDER
                .iter()
                .position(|&l| l == used)
                .unwrap_or_else(|| panic!("{}: imports `{used}`, which is not a layer", path.display()));
            assert!(used_place <= place, "{} imports from `{used}`, which is above it", path.display());
            assert!(own != "kernels" || used == "kernels", "{}: kernels may only import kernels", path.display());
        }
    }
}

#[test]
fn the_environment_is_read_in_one_file() {
    for (path, source) in sources() {
        let reads = code(&source).contains("env::var") && !path.ends_with("model_files.rs"); // this file is a test
        assert!(!reads || path.ends_with("env.rs") || path.ends_with("tests.rs"), "{}", path.display());
    }
}

/// A tensor's name is only spelled in the file of its family: no part of it occurs in a string
/// elsewhere.
#[test]
fn tensor_names_stay_with_the_models() {
    const PARTS: [&str; 14] = [
        "word_embeddings",
        "tok_embeddings",
        "embed_tokens",
        "encoder.layer",
        "attention.self",
        "self_attn",
        "_proj",
        "layernorm",
        "attn_ln",
        "attn_norm",
        "Wqkv",
        "lm_head",
        "pooler.",
        "LayerNorm.",
    ];
    for (path, source) in
        sources().iter().filter(|(path, _)| !path.starts_with("models") && !path.ends_with("tests.rs"))
    {
        for (i, line) in code(source).lines().enumerate() {
            let line = line.split("//").next().unwrap();
            let strings = line.split('"').skip(1).step_by(2).collect::<Vec<_>>().join(" ");
            let found = PARTS.iter().find(|part| strings.contains(*part));
            assert!(found.is_none(), "{}:{}: {}", path.display(), i + 1, found.unwrap());
        }
    }
}

#[test]
fn unsafe_stays_with_the_instructions() {
    for (path, source) in sources() {
        let allowed = path.starts_with("kernels/x86_64")
            || path.starts_with("kernels/aarch64")
            || path.ends_with("kernels/arena.rs")
            || path.starts_with("backend/cuda");
        let found = source.lines().find(|line| {
            line.split("//").next().unwrap().split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe")
        });
        assert!(allowed || found.is_none(), "{}: {}", path.display(), found.unwrap_or_default());
    }
}

#[test]
fn files_are_short() {
    for (path, source) in sources() {
        let lines = source.lines().count();
        assert!(lines <= 600, "{} has {lines} lines: split it", path.display());
    }
}
