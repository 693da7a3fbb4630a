//! Imports go down: each file uses only files above it in this list, so there are no cycles, and
//! names them directly.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

const ORDER: [&str; 27] = [
    "error",
    "json",
    "reading",
    "api",
    "refusal",
    "config",
    "environment",
    "metrics",
    "telemetry",
    "connections",
    "registry",
    "cache",
    "scheduler",
    "jobs",
    "service",
    "body",
    "guard",
    "pages",
    "jobs/routes",
    "jobs/worker",
    "routes/native",
    "routes/openai",
    "routes/operation",
    "routes/rerank",
    "routes/cohere",
    "routes/tei",
    "routes",
];

fn files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

/// The position of a file, or of an imported module; `jobs/routes` is found before `jobs`.
fn place(name: &str) -> Option<usize> {
    ORDER.iter().position(|&layer| layer == name).or_else(|| {
        let (folder, _) = name.rsplit_once('/')?;
        place(folder)
    })
}

#[test]
fn imports_go_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&root, &mut all);
    assert!(all.len() > 30);
    for path in all {
        let name = path.strip_prefix(&root).unwrap().with_extension("").display().to_string();
        let name = name.trim_end_matches("/mod").to_owned();
        if ["lib", "main"].contains(&name.as_str()) || name.ends_with("tests") {
            continue;
        }
        let own = place(&name).unwrap_or_else(|| panic!("{name}.rs is not in the order of layers"));
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            for import in line.split("crate::").skip(1) {
                let words: Vec<&str> = import.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').collect();
                let import = words[0].replace("::", "/");
                let import = import.trim_end_matches('/');
                let mut layer = import.to_owned();
                while place(&layer).is_none() && layer.contains('/') {
                    layer.truncate(layer.rfind('/').unwrap());
                }
                if let Some(other) = place(&layer) {
                    assert!(
                        other <= own,
                        "{name}.rs:{}: it uses {import}, which belongs to a higher layer",
                        number + 1
                    );
                }
            }
        }
    }
}
