#![no_main]
//! The directory of each family's tiny model with any config.json gives an error, or a model that
//! computes finite values. The first byte selects the family.

use std::path::PathBuf;
use std::sync::LazyLock;

use gte_core::{Embedder, ModelFiles, Reranker};

static FAMILIES: LazyLock<Vec<PathBuf>> = LazyLock::new(|| {
    let families = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/families");
    let mut families: Vec<_> = std::fs::read_dir(families).unwrap().map(|entry| entry.unwrap().path()).collect();
    families.sort();
    families
});

/// A copy of each family's directory, in which config.json is replaced.
static COPIES: LazyLock<Vec<tempfile::TempDir>> = LazyLock::new(|| FAMILIES.iter().map(|family| copy(family)).collect());

fn copy(family: &std::path::Path) -> tempfile::TempDir {
    let dir = gte_core_fuzz::temporary();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        std::fs::create_dir_all(dir.path().join(&folder)).unwrap();
        for entry in std::fs::read_dir(family.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(name);
            } else if name.as_os_str() != "expected.json" {
                std::fs::copy(entry.path(), dir.path().join(name)).unwrap();
            }
        }
    }
    dir
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&family, config)) = data.split_first() else { return };
    let dir = &COPIES[usize::from(family) % COPIES.len()];
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let open = || ModelFiles::from_dir(dir.path());
    let finite = |values: &[f32]| assert!(values.iter().all(|v| v.is_finite()), "values that are not finite");
    let Ok(files) = open() else { return };
    if let Ok(model) = Embedder::from_files(files).threads(1).build() {
        drop(model.embed(&["今天天气", "", "a b"]).map(|vectors| finite(vectors.as_slice())));
    }
    let Ok(files) = open() else { return };
    if let Ok(model) = Reranker::from_files(files).threads(1).build() {
        drop(model.scores("今天", &["天气", ""]).map(|scores| finite(&scores)));
    }
});
