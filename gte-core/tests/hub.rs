//! Downloads from both hubs, over a real socket, with everything that goes wrong on the way.
#![cfg(feature = "hub")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod hub_server;
mod model;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gte_core::{Embedder, Error, HubOptions, ModelFiles};
use hub_server::{COMMIT, Faults, HubServer, ID, sha256};
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";

/// The files of a tiny model, and one that is no business of ours.
fn files() -> BTreeMap<String, Vec<u8>> {
    let dir = model::tiny_model();
    let mut files = BTreeMap::new();
    for name in ["config.json", "vocab.txt", "modules.json", "1_Pooling/config.json", WEIGHTS] {
        files.insert(name.to_owned(), std::fs::read(dir.path().join(name)).unwrap());
    }
    files.insert("onnx/model.onnx".into(), vec![0; 100]);
    files.insert("README.md".into(), b"a model".to_vec());
    files
}

struct World {
    server: HubServer,
    cache: TempDir,
}

impl World {
    fn new() -> Self {
        Self { server: HubServer::start(files()), cache: tempfile::tempdir().unwrap() }
    }

    fn options(&self) -> HubOptions {
        HubOptions {
            endpoint: self.server.url.clone(),
            modelscope_endpoint: self.server.url.clone(),
            cache: self.cache.path().to_path_buf(),
            modelscope_cache: self.cache.path().join("ms"),
            connect_timeout: Duration::from_secs(5),
            transfer_timeout: Duration::from_secs(5),
            tries: 3,
            ..HubOptions::default()
        }
    }

    fn faults(&self, faults: Faults) {
        self.server.state.lock().unwrap().faults = faults;
    }

    fn fetch(&self) -> gte_core::Result<ModelFiles> {
        ModelFiles::from_hub(ID, &self.options())
    }

    fn weights(&self) -> Vec<u8> {
        self.server.state.lock().unwrap().files[WEIGHTS].clone()
    }

    /// Every file of the cache that has the content of the weights, whole.
    fn holds_weights(&self) -> bool {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.path().is_dir() { walk(&entry.path(), found) } else { found.push(entry.path()) }
            }
        }
        let mut all = Vec::new();
        walk(self.cache.path(), &mut all);
        all.iter()
            .any(|path| path.file_name().unwrap() == WEIGHTS || *path.file_name().unwrap() == *sha256(&self.weights()))
    }
}

#[test]
fn a_download_lands_in_the_layout_that_python_shares() {
    let world = World::new();
    let files = world.fetch().unwrap();
    let root = world.cache.path().join("models--thenlper--gte-tiny-zh");
    assert_eq!(files.dir().unwrap(), root.join("snapshots").join(COMMIT));
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let link = std::fs::read_link(files.dir().unwrap().join(WEIGHTS)).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256(&world.weights())));
    let pooling = std::fs::read_link(files.dir().unwrap().join("1_Pooling/config.json")).unwrap();
    assert!(pooling.starts_with("../../../blobs"), "{}", pooling.display());
    assert_eq!(files.name(), ID);
    assert!(
        files.read("README.md").unwrap().is_none() && !files.dir().unwrap().join("onnx").exists(),
        "only what is needed is fetched"
    );
    let embedder = Embedder::from_files(files).build().unwrap();
    assert_eq!(embedder.embed(&["今天 a"]).unwrap().dim(), model::HIDDEN);
    assert_eq!(embedder.config().pooling_source, "1_Pooling/config.json");
}

#[test]
fn a_complete_cache_needs_no_request() {
    let world = World::new();
    world.fetch().unwrap();
    let before = world.server.requests();
    let offline = HubOptions { offline: true, ..world.options() };
    ModelFiles::from_hub(ID, &offline).unwrap();
    let pinned = HubOptions { revision: Some(COMMIT.into()), ..world.options() };
    ModelFiles::from_hub(ID, &pinned).unwrap();
    assert_eq!(world.server.requests(), before, "offline, and a pinned commit, ask nothing");
    world.fetch().unwrap();
    assert_eq!(world.server.requests(), before + 1, "a branch is asked for its commit, and nothing more");
    let unreachable = HubOptions { endpoint: "http://127.0.0.1:9".into(), tries: 1, ..world.options() };
    ModelFiles::from_hub(ID, &unreachable).unwrap();
    std::fs::remove_file(world.fetch().unwrap().dir().unwrap().join(WEIGHTS)).unwrap();
    assert!(matches!(ModelFiles::from_hub(ID, &offline), Err(Error::Offline { .. })));
    assert!(matches!(ModelFiles::from_hub(ID, &unreachable), Err(Error::Download { .. })));
    let before = world.server.requests();
    assert!(Embedder::builder(model::tiny_model().path().to_str().unwrap()).hub(world.options()).build().is_ok());
    assert_eq!(world.server.requests(), before, "a directory asks nothing");
}

#[test]
fn a_cut_download_goes_on_where_it_was() {
    let world = World::new();
    let size = world.weights().len();
    for faults in [
        Faults { cut_after: Some(size / 2), ..Faults::default() },
        Faults { stall_after: Some(size / 3), ..Faults::default() },
    ] {
        world.faults(faults);
        world.server.state.lock().unwrap().bytes_sent = 0;
        let cache = tempfile::tempdir().unwrap();
        let options =
            HubOptions { cache: cache.path().into(), transfer_timeout: Duration::from_millis(1500), ..world.options() };
        let files = ModelFiles::from_hub(ID, &options).unwrap();
        assert_eq!(files.read(WEIGHTS).unwrap().unwrap(), world.weights());
        assert_eq!(world.server.state.lock().unwrap().bytes_sent, size, "no byte twice");
    }
}

#[test]
fn a_process_that_was_killed_leaves_a_part_that_the_next_one_uses() {
    let world = World::new();
    let blobs = world.cache.path().join("models--thenlper--gte-tiny-zh/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let weights = world.weights();
    std::fs::write(blobs.join(sha256(&weights)).with_extension("incomplete"), &weights[..1000]).unwrap();
    world.fetch().unwrap();
    assert_eq!(world.server.state.lock().unwrap().bytes_sent, weights.len() - 1000);
}

#[test]
fn a_server_that_knows_no_ranges_starts_over() {
    let world = World::new();
    world.faults(Faults { cut_after: Some(5000), ignore_range: true, ..Faults::default() });
    assert_eq!(world.fetch().unwrap().read(WEIGHTS).unwrap().unwrap(), world.weights());
}

#[test]
fn a_corrupt_file_is_refused_and_never_kept() {
    let world = World::new();
    world.faults(Faults { corrupt: true, ..Faults::default() });
    for id in [ID.to_owned(), format!("modelscope:{ID}")] {
        assert!(matches!(ModelFiles::from_hub(&id, &world.options()), Err(Error::Corrupt { .. })), "{id}");
        assert!(!world.holds_weights(), "{id}: nothing under a final name");
    }
    world.faults(Faults::default());
    world.fetch().unwrap();
    assert!(world.holds_weights());
}

#[test]
fn passing_trouble_is_waited_out_and_lasting_trouble_is_told() {
    let world = World::new();
    world.faults(Faults { statuses: vec![503, 429], ..Faults::default() });
    world.fetch().unwrap();
    let fresh = World::new();
    fresh.faults(Faults { statuses: vec![500; 20], ..Faults::default() });
    assert!(matches!(fresh.fetch(), Err(Error::Download { .. })));
    fresh.faults(Faults::default());
    let absent = ModelFiles::from_hub("thenlper/absent", &fresh.options());
    assert!(matches!(absent, Err(Error::NotOnHub { .. })), "{absent:?}");
    let revision = HubOptions { revision: Some("v9".into()), ..fresh.options() };
    assert!(matches!(ModelFiles::from_hub(ID, &revision), Err(Error::NotOnHub { .. })));
    fresh.server.state.lock().unwrap().files.remove(WEIGHTS);
    let error = fresh.fetch().unwrap_err().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
}

#[test]
fn a_token_goes_to_the_hub_alone() {
    let world = World::new();
    world.faults(Faults { token: Some("hf_secret".into()), ..Faults::default() });
    let refused = world.fetch();
    assert!(matches!(refused, Err(Error::Unauthorized { status: 401, .. })), "{refused:?}");
    let options = HubOptions { token: Some("hf_secret".into()), ..world.options() };
    ModelFiles::from_hub(ID, &options).unwrap();
    assert_eq!(world.server.state.lock().unwrap().tokens_at_cdn, 0);
    let wrong =
        HubOptions { token: Some("hf_wrong".into()), cache: world.cache.path().join("other"), ..world.options() };
    let error = ModelFiles::from_hub(ID, &wrong).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hf_wrong"));
}

#[test]
fn modelscope_has_its_own_protocol_and_cache() {
    let world = World::new();
    let size = world.weights().len();
    world.faults(Faults { cut_after: Some(size / 2), ..Faults::default() });
    let id = format!("modelscope:{ID}");
    let files = ModelFiles::from_hub(&id, &world.options()).unwrap();
    assert_eq!(files.dir().unwrap(), world.cache.path().join("ms/models/thenlper/gte-tiny-zh"));
    assert_eq!(files.name(), ID);
    assert_eq!(world.server.state.lock().unwrap().bytes_sent, size);
    let before = world.server.requests();
    ModelFiles::from_hub(&id, &world.options()).unwrap();
    assert_eq!(world.server.requests(), before + 1, "only the list is asked for");
    ModelFiles::from_hub(&id, &HubOptions { offline: true, ..world.options() }).unwrap();
    assert_eq!(world.server.requests(), before + 1);
    // A new revision of one file is noticed by its hash.
    world.server.state.lock().unwrap().files.insert("modules.json".into(), b"[]".to_vec());
    let files = ModelFiles::from_hub(&id, &world.options()).unwrap();
    assert_eq!(files.read("modules.json").unwrap().unwrap(), b"[]");
    Embedder::from_files(files).pooling(gte_core::Pooling::Cls).build().unwrap();
}

#[test]
fn sharded_checkpoints_come_with_their_shards() {
    let world = World::new();
    {
        let mut state = world.server.state.lock().unwrap();
        let weights = state.files.remove(WEIGHTS).unwrap();
        state.files.insert("model-00001-of-00001.safetensors".into(), weights);
        let names: BTreeMap<_, _> =
            model::tensors().into_keys().map(|name| (name, "model-00001-of-00001.safetensors")).collect();
        state.files.insert(
            "model.safetensors.index.json".into(),
            serde_json::json!({ "weight_map": names }).to_string().into(),
        );
    }
    Embedder::from_files(world.fetch().unwrap()).build().unwrap();
    // An index that leads out of the cache.
    let world = World::new();
    {
        let mut state = world.server.state.lock().unwrap();
        let weights = state.files.remove(WEIGHTS).unwrap();
        state.files.insert("../../evil.safetensors".into(), weights);
        state.files.insert(
            "model.safetensors.index.json".into(),
            br#"{"weight_map": {"a": "../../evil.safetensors"}}"#.to_vec(),
        );
    }
    assert!(world.fetch().is_err());
    assert!(!world.cache.path().join("evil.safetensors").exists());
}

#[test]
fn names_that_are_none_are_refused_without_a_request() {
    let world = World::new();
    for id in ["", "gte", "a/b/c", "../x", "a/..", "a b/c", "https://x/y", "modelscope:", "modelscope:x", "a/b?c"] {
        let result = ModelFiles::from_hub(id, &world.options());
        assert!(matches!(result, Err(Error::InvalidModelId { .. })), "{id}: {result:?}");
    }
    let options = HubOptions { revision: Some("../x".into()), ..world.options() };
    assert!(matches!(ModelFiles::from_hub(ID, &options), Err(Error::InvalidModelId { .. })));
    assert_eq!(world.server.requests(), 0);
}

/// Not a test of its own: what `two_processes…` starts.
#[test]
#[ignore = "started by two_processes_do_not_hurt_each_other"]
fn child() {
    let var = |name: &str| std::env::var(name).unwrap();
    let options =
        HubOptions { endpoint: var("GTE_TEST_HUB"), cache: var("GTE_TEST_CACHE").into(), ..HubOptions::default() };
    let files = ModelFiles::from_hub(ID, &options).unwrap();
    Embedder::from_files(files).build().unwrap();
}

#[test]
fn two_processes_do_not_hurt_each_other() {
    let world = World::new();
    world.faults(Faults { cut_after: Some(9000), ..Faults::default() });
    let children: Vec<_> = (0..3)
        .map(|_| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["child", "--exact", "--ignored"])
                .env("GTE_TEST_HUB", &world.server.url)
                .env("GTE_TEST_CACHE", world.cache.path())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let size = world.weights().len();
    assert_eq!(world.server.state.lock().unwrap().bytes_sent, size, "each byte came once, for all");
}
