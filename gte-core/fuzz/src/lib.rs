//! A model directory in which a fuzz target replaces one file: directories are fuzzed, because the
//! engine reads models from them. It is on a memory file system if there is one.

use std::path::Path;

use gte_core::internals::Weights;
use gte_core::{ModelConfig, ModelFiles, Pooling, Tokenizer};

/// The tiny model of the checkpoint tests.
const CONFIG: &[u8] = include_bytes!("../../tests/fixtures/torch/config.json");
const VOCAB: &[u8] = include_bytes!("../../tests/fixtures/torch/vocab.txt");

thread_local! {
    static DIR: tempfile::TempDir = {
        temporary()
    };
}

/// A temporary directory, in memory if possible.
pub fn temporary() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a temporary directory")
}

/// Writes `data` as `file` beside a valid configuration and vocabulary, and opens the directory.
pub fn with_file(file: &str, data: &[u8], check: impl FnOnce(ModelFiles)) {
    DIR.with(|dir| {
        for (name, content) in [("config.json", CONFIG), ("vocab.txt", VOCAB), (file, data)] {
            std::fs::write(dir.path().join(name), content).expect("a file");
        }
        check(ModelFiles::from_dir(dir.path()).expect("a directory with a configuration"));
    });
}

/// Opens the weights and reads some tensors.
pub fn read_weights(files: ModelFiles) {
    let Ok(config) = ModelConfig::read(&files, Some(Pooling::Cls)) else { return };
    if let Ok(weights) = Weights::open(&files, &config) {
        for name in ["embeddings.word_embeddings.weight", "encoder.layer.0.output.dense.bias"] {
            let _ = weights.read(name).map(|tensor| tensor.into_f32());
        }
    }
}

/// Builds the tokenizer and tokenizes some texts. A panic that the engine catches is not an error,
/// so libFuzzer's panic hook, which ends the process, is removed. A panic that is not caught still
/// ends it.
pub fn tokenize(files: ModelFiles) {
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let check = || {
        if let Ok(tokenizer) = Tokenizer::open(&files, 60, 32) {
            let _ = tokenizer.encode(&["abc", "", "今天天气 [CLS] a\u{301}👍"]);
            let _ = tokenizer.encode_pairs(&[("a", "今天天气"), ("", "")], 9, tokenizer.truncation_side());
            let _ = tokenizer.pieces("a b 今");
            let _ = tokenizer.decode(&[2, 5, 3], true);
        }
    };
    check();
    // The same file for classes that read more of it, or something else.
    let config = Path::new(&files.label("tokenizer_config.json")).to_path_buf();
    if !config.exists() {
        for class in ["PreTrainedTokenizerFast", "XLMRobertaTokenizer", "Qwen2Tokenizer"] {
            std::fs::write(&config, format!("{{\"tokenizer_class\": \"{class}\"}}")).expect("a file");
            check();
        }
        std::fs::remove_file(&config).expect("the file exists");
    }
}
