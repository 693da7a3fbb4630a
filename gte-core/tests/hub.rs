//! Downloads from both hubs over a real socket, with everything that can go wrong on the way.
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

/// The files of a tiny model, and one that the engine does not need.
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

/// `options`, changed.
fn with(mut options: HubOptions, change: impl FnOnce(&mut HubOptions)) -> HubOptions {
    change(&mut options);
    options
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
        with(HubOptions::default(), |o| {
            o.endpoint = self.server.url.clone();
            o.modelscope_endpoint = self.server.url.clone();
            o.cache = self.cache.path().to_path_buf();
            o.modelscope_cache = self.cache.path().join("ms");
            o.connect_timeout = Duration::from_secs(5);
            o.transfer_timeout = Duration::from_secs(5);
            o.tries = 3;
        })
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

    /// Every complete file in the cache that has the content of the weights.
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
        "only the required files are downloaded"
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
    let offline = with(world.options(), |o| o.offline = true);
    ModelFiles::from_hub(ID, &offline).unwrap();
    let pinned = with(world.options(), |o| o.revision = Some(COMMIT.into()));
    ModelFiles::from_hub(ID, &pinned).unwrap();
    assert_eq!(world.server.requests(), before, "offline mode and a pinned commit send no requests");
    world.fetch().unwrap();
    assert_eq!(world.server.requests(), before + 1, "for a branch, only its commit is requested");
    let unreachable = with(world.options(), |o| {
        o.endpoint = "http://127.0.0.1:9".into();
        o.tries = 1;
    });
    ModelFiles::from_hub(ID, &unreachable).unwrap();
    // A hub that refuses, or no longer has the model, must not stop it either.
    for statuses in [vec![401], vec![403], vec![404], vec![500; 3]] {
        world.faults(Faults { statuses, ..Faults::default() });
        world.fetch().unwrap();
    }
    world.faults(Faults::default());
    std::fs::remove_file(world.fetch().unwrap().dir().unwrap().join(WEIGHTS)).unwrap();
    assert!(matches!(ModelFiles::from_hub(ID, &offline), Err(Error::Offline { .. })));
    assert!(matches!(ModelFiles::from_hub(ID, &unreachable), Err(Error::Download { .. })));
    let before = world.server.requests();
    assert!(Embedder::builder(model::tiny_model().path().to_str().unwrap()).hub(world.options()).build().is_ok());
    assert_eq!(world.server.requests(), before, "a directory sends no requests");
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
        let options = with(world.options(), |o| {
            o.cache = cache.path().into();
            o.transfer_timeout = Duration::from_millis(1500);
        });
        let files = ModelFiles::from_hub(ID, &options).unwrap();
        assert_eq!(files.read(WEIGHTS).unwrap().unwrap(), world.weights());
        assert_eq!(world.server.state.lock().unwrap().bytes_sent, size, "no byte is sent twice");
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
        assert!(!world.holds_weights(), "{id}: there is no file with a final name");
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
    let revision = with(fresh.options(), |o| o.revision = Some("v9".into()));
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
    let options = with(world.options(), |o| o.token = Some("hf_secret".into()));
    ModelFiles::from_hub(ID, &options).unwrap();
    assert_eq!(world.server.state.lock().unwrap().tokens_at_cdn, 0);
    let wrong = with(world.options(), |o| {
        o.token = Some("hf_wrong".into());
        o.cache = world.cache.path().join("other");
    });
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
    assert_eq!(world.server.requests(), before + 1, "only the list is requested");
    ModelFiles::from_hub(&id, &with(world.options(), |o| o.offline = true)).unwrap();
    assert_eq!(world.server.requests(), before + 1);
    // A new revision of one file is noticed by its hash.
    let mut modules = world.server.state.lock().unwrap().files["modules.json"].clone();
    modules.push(b'\n');
    world.server.state.lock().unwrap().files.insert("modules.json".into(), modules.clone());
    let files = ModelFiles::from_hub(&id, &world.options()).unwrap();
    assert_eq!(files.read("modules.json").unwrap().unwrap(), modules);
    Embedder::from_files(files).build().unwrap();
    // If the download stops between two files, the cache has neither the old model nor the new one.
    {
        let mut state = world.server.state.lock().unwrap();
        state.files.get_mut("config.json").unwrap().push(b'\n');
        state.files.get_mut(WEIGHTS).unwrap().push(0);
        state.faults.corrupt = true;
    }
    assert!(matches!(ModelFiles::from_hub(&id, &world.options()), Err(Error::Corrupt { .. })));
    let offline = ModelFiles::from_hub(&id, &with(world.options(), |o| o.offline = true));
    assert!(matches!(offline, Err(Error::Offline { .. })), "{offline:?}");
    world.faults(Faults::default());
    ModelFiles::from_hub(&id, &world.options()).unwrap();
    ModelFiles::from_hub(&id, &with(world.options(), |o| o.offline = true)).unwrap();
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
    // An index with a path outside the cache.
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
fn a_mirror_that_lists_no_hashes_has_them_elsewhere() {
    let requests = |world: &World, what: &str| -> usize {
        world.server.state.lock().unwrap().requests.iter().filter(|line| line.contains(what)).count()
    };
    let no_hashes = Faults { no_hashes: true, ..Faults::default() };
    let world = World::new();
    world.faults(no_hashes.clone());
    Embedder::from_files(world.fetch().unwrap()).build().unwrap();
    assert!(requests(&world, "/tree/") > 1, "all pages of the tree");
    assert_eq!(requests(&world, "HEAD"), 0);
    // There is no tree either.
    for status in [404, 405, 500] {
        let world = World::new();
        world.faults(Faults { no_tree: Some(status), ..no_hashes.clone() });
        Embedder::from_files(world.fetch().unwrap()).build().unwrap();
        assert!(requests(&world, "HEAD") > 3, "the headers of each file");
        let blobs = world.cache.path().join("models--thenlper--gte-tiny-zh/blobs");
        assert!(blobs.join(sha256(&world.weights())).exists(), "a blob has the same name as in Python");
    }
    // The files are still verified in each of these cases.
    for no_tree in [None, Some(404)] {
        let world = World::new();
        world.faults(Faults { corrupt: true, no_tree, ..no_hashes.clone() });
        assert!(matches!(world.fetch(), Err(Error::Corrupt { .. })));
        assert!(!world.holds_weights());
    }
    let world = World::new();
    world.faults(Faults { no_tree: Some(404), no_tags: true, ..no_hashes });
    let error = world.fetch().unwrap_err().to_string();
    assert!(error.contains("hash") && error.contains("another mirror"), "{error}");
}

#[test]
fn only_required_files_are_downloaded() {
    let wanted = [
        "modules.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "0_Transformer/config.json",
        "0_Transformer/vocab.txt",
        "0_Transformer/special_tokens_map.json",
        "0_Transformer/added_tokens.json",
        "0_Transformer/tokenizer_config.json",
        "0_Transformer/chat_template.jinja",
        "0_Transformer/sentence_xlm-roberta_config.json",
        "0_Transformer/sparse_linear.pt",
        "0_Transformer/colbert_linear.pt",
        "0_Transformer/model.safetensors.index.json",
        "0_Transformer/model-00001-of-00001.safetensors",
    ];
    let unwanted = [
        "model.safetensors",
        "config.json",
        "0_Transformer/pytorch_model.bin",
        "0_Transformer/onnx/model.onnx",
        "openvino/openvino_model.bin",
        "2_Dense/pytorch_model.bin",
        "2_Dense_256/model.safetensors",
        "imgs/a.png",
        "README.md",
        "../2_Dense/config.json",
    ];
    let world = World::new();
    {
        let mut state = world.server.state.lock().unwrap();
        let contents = std::mem::take(&mut state.files);
        for name in wanted.iter().chain(&unwanted) {
            state
                .files
                .insert(name.to_string(), contents.get(*name).cloned().unwrap_or_else(|| name.as_bytes().to_vec()));
        }
        let module = |kind: &str, path: &str| serde_json::json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
        let modules = serde_json::json!([
            module("Transformer", "0_Transformer/"),
            module("Pooling", "./1_Pooling"),
            module("Dense", "2_Dense"),
            module("Normalize", "3_Normalize"),
            module("Dense", "../2_Dense"),
        ]);
        state.files.insert("modules.json".into(), modules.to_string().into());
        let index = br#"{"weight_map": {"a": "model-00001-of-00001.safetensors"}}"#;
        state.files.insert("0_Transformer/model.safetensors.index.json".into(), index.to_vec());
    }
    let missing = world.fetch().unwrap_err().to_string();
    assert!(missing.contains("../2_Dense/model.safetensors"), "{missing}");
    let modules = {
        let mut state = world.server.state.lock().unwrap();
        let modules = String::from_utf8(state.files["modules.json"].clone()).unwrap().replace("../2_Dense", "2_Dense");
        state.files.insert("modules.json".into(), modules.clone().into());
        modules
    };
    let fresh = with(world.options(), |o| o.cache = world.cache.path().join("fresh"));
    for (id, options) in [(ID.to_owned(), fresh), (format!("modelscope:{ID}"), world.options())] {
        let files = ModelFiles::from_hub(&id, &options).unwrap();
        assert_eq!(files.read("modules.json").unwrap().unwrap(), modules.as_bytes());
        for name in wanted {
            assert!(files.dir().unwrap().join(name).is_file(), "{id}: {name}");
        }
        for name in unwanted {
            assert!(!files.dir().unwrap().join(name).exists(), "{id}: {name}");
        }
        let offline = with(options, |o| o.offline = true);
        ModelFiles::from_hub(&id, &offline).unwrap();
        std::fs::remove_file(files.dir().unwrap().join("2_Dense/model.safetensors")).unwrap();
        assert!(matches!(ModelFiles::from_hub(&id, &offline), Err(Error::Offline { .. })), "{id}");
    }
}

#[test]
fn invalid_names_are_refused_without_a_request() {
    let world = World::new();
    for id in ["", "gte", "a/b/c", "../x", "a/..", "a b/c", "https://x/y", "modelscope:", "modelscope:x", "a/b?c"] {
        let result = ModelFiles::from_hub(id, &world.options());
        assert!(matches!(result, Err(Error::InvalidModelId { .. })), "{id}: {result:?}");
    }
    let options = with(world.options(), |o| o.revision = Some("../x".into()));
    assert!(matches!(ModelFiles::from_hub(ID, &options), Err(Error::InvalidModelId { .. })));
    assert_eq!(world.server.requests(), 0);
}

/// Allows or forbids writing to a directory and everything in it, for everyone.
#[cfg(unix)]
fn make_writable(path: &Path, writable: bool) {
    use std::os::unix::fs::PermissionsExt;
    let metadata = std::fs::symlink_metadata(path).unwrap();
    if metadata.is_symlink() {
        return;
    }
    let mode = if metadata.is_dir() { 0o555 } else { 0o444 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(if writable { mode | 0o200 } else { mode }))
        .unwrap();
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            make_writable(&entry.unwrap().path(), writable);
        }
    }
}

/// A complete cache to which nobody can write any more.
#[cfg(unix)]
struct ReadOnly(World);

#[cfg(unix)]
impl ReadOnly {
    fn new(ids: &[&str]) -> Self {
        let world = World::new();
        for id in ids {
            ModelFiles::from_hub(id, &world.options()).unwrap();
        }
        make_writable(world.cache.path(), false);
        Self(world)
    }

    /// Opens the model in a process that may read the cache but not write it, which is impossible
    /// for root.
    fn open(&self, id: &str, endpoint: &str) -> bool {
        use std::os::unix::process::CommandExt;
        let probe = self.0.cache.path().join("probe");
        let root = std::fs::write(&probe, "").is_ok();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["read_only_child", "--exact", "--ignored"]).stdout(std::process::Stdio::null());
        child.env("GTE_TEST_HUB", endpoint).env("GTE_TEST_CACHE", self.0.cache.path()).env("GTE_TEST_ID", id);
        if root {
            std::fs::remove_file(probe).unwrap();
            child.uid(65534);
        }
        child.status().unwrap().success()
    }
}

#[cfg(unix)]
impl Drop for ReadOnly {
    fn drop(&mut self) {
        make_writable(self.0.cache.path(), true);
    }
}

/// Not a test by itself: `ReadOnly` starts it.
#[cfg(unix)]
#[test]
#[ignore = "started by a_complete_cache_that_cannot_be_written_is_enough"]
fn read_only_child() {
    let var = |name: &str| std::env::var(name).unwrap();
    let cache = PathBuf::from(var("GTE_TEST_CACHE"));
    assert!(std::fs::write(cache.join("x"), "").is_err(), "this process can write to the cache");
    let options = with(HubOptions::default(), |o| {
        o.endpoint = var("GTE_TEST_HUB");
        o.modelscope_endpoint = var("GTE_TEST_HUB");
        o.modelscope_cache = cache.join("ms");
        o.cache = cache;
        o.tries = 1;
    });
    let files = ModelFiles::from_hub(&var("GTE_TEST_ID"), &options).unwrap();
    Embedder::from_files(files).build().unwrap();
}

#[cfg(unix)]
#[test]
fn a_complete_cache_that_cannot_be_written_is_enough() {
    let scope = format!("modelscope:{ID}");
    let cache = ReadOnly::new(&[ID, &scope]);
    let reachable = cache.0.server.url.clone();
    let open = |id: &str, endpoint: &str| assert!(cache.open(id, endpoint), "{id} with {endpoint}");
    for id in [ID, &scope] {
        open(id, &reachable);
        open(id, "http://127.0.0.1:9");
    }
    // Missing marks are not needed, nor is anything else on the hub.
    let root = cache.0.cache.path().join("models--thenlper--gte-tiny-zh");
    make_writable(cache.0.cache.path(), true);
    std::fs::remove_dir_all(root.join(".no_exist")).unwrap();
    std::fs::remove_dir_all(cache.0.cache.path().join("ms/models/thenlper/gte-tiny-zh/.verified")).unwrap();
    make_writable(cache.0.cache.path(), false);
    open(ID, &reachable);
    open(&scope, &reachable);
    {
        let mut state = cache.0.server.state.lock().unwrap();
        state.files.insert("special_tokens_map.json".into(), b"{}".to_vec());
        state.files.get_mut("config.json").unwrap().push(b'\n');
    }
    open(ID, &reachable);
    open(&scope, &reachable);
    // An incomplete model is still an error.
    make_writable(cache.0.cache.path(), true);
    let weights = root.join("snapshots").join(COMMIT).join(WEIGHTS);
    std::fs::remove_file(weights).unwrap();
    make_writable(cache.0.cache.path(), false);
    assert!(!cache.open(ID, "http://127.0.0.1:9"));
}

/// When each file and directory of a cache was last changed.
fn times(dir: &Path) -> BTreeMap<PathBuf, std::time::SystemTime> {
    let mut times = BTreeMap::new();
    let mut rest = vec![dir.to_path_buf()];
    while let Some(path) = rest.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            rest.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        times.insert(path, metadata.modified().unwrap());
    }
    times
}

#[test]
fn nothing_is_written_where_nothing_has_changed() {
    let world = World::new();
    for id in [ID.to_owned(), format!("modelscope:{ID}")] {
        ModelFiles::from_hub(&id, &world.options()).unwrap();
        let before = times(world.cache.path());
        ModelFiles::from_hub(&id, &world.options()).unwrap();
        assert!(times(world.cache.path()) == before, "{id}");
    }
}

/// Not a test by itself: `two_processes…` starts it.
#[test]
#[ignore = "started by two_processes_do_not_hurt_each_other"]
fn child() {
    let var = |name: &str| std::env::var(name).unwrap();
    let options = with(HubOptions::default(), |o| {
        o.endpoint = var("GTE_TEST_HUB");
        o.cache = var("GTE_TEST_CACHE").into();
    });
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
    assert_eq!(world.server.state.lock().unwrap().bytes_sent, size, "each byte is downloaded once for all processes");
}
