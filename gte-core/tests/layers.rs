//! The shape of the crate: imports go down, `unsafe` stays in the kernel folders, files stay short.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};

/// The layers, lowest first: a module imports only from those before it.
const ORDER: [&str; 13] = [
    "error",
    "threads",
    "kernels",
    "files",
    "config",
    "tokens",
    "batch",
    "weights",
    "ops",
    "encoder",
    "embedding",
    "similarity",
    "embedder",
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
    assert!(found.len() > 20, "the sources are where the test looks for them");
    found
}

/// The layer of a file: its name, or that of its folder.
fn layer(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The code without its tests, which may look at anything.
fn code(source: &str) -> &str {
    source.split("#[cfg(test)]\nmod tests").next().unwrap()
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
        let code = code(&source);
        for (i, _) in code.match_indices("crate::") {
            let rest = &code[i + "crate::".len()..];
            // `use crate::{Error, Result}` and `crate::Result` are the error layer, re-exported.
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let used = if name.is_empty() || name.starts_with(char::is_uppercase) { "error" } else { &name };
            let used_place = ORDER
                .iter()
                .position(|&l| l == used)
                .unwrap_or_else(|| panic!("{}: imports `{used}`, which is no layer", path.display()));
            assert!(used_place <= place, "{} imports from `{used}`, which lies above it", path.display());
            assert!(own != "kernels" || used == "kernels", "{}: the kernels know nothing but kernels", path.display());
        }
    }
}

#[test]
fn unsafe_stays_with_the_instructions() {
    for (path, source) in sources() {
        let allowed = path.starts_with("kernels/x86_64") || path.starts_with("kernels/aarch64");
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
        assert!(lines <= 600, "{} has {lines} lines: the design asks for a change", path.display());
    }
}
