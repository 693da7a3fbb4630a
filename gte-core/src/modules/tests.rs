#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::keys::KEYS;
use super::*;
use crate::json::Fate;
use crate::json::tests::READ;

/// A model directory with these files. `modules.json` has a Transformer, a Pooling and the modules
/// in `more`.
struct Dir(TempDir);

impl Dir {
    fn new(more: &[(&str, &str)]) -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        dir.write("config.json", &json!({}));
        dir.write("1_Pooling/config.json", &json!({"embedding_dimension": 8, "pooling_mode": "cls"}));
        let entry =
            |(kind, path): &(&str, &str)| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
        let entries = [("Transformer", ""), ("Pooling", "1_Pooling")];
        dir.write("modules.json", &entries.iter().chain(more).map(entry).collect());
        dir
    }

    /// A directory with exactly these modules.
    fn of(modules: Value) -> Self {
        let dir = Self::new(&[]);
        dir.write("modules.json", &modules);
        dir
    }

    fn write(&self, file: &str, json: &Value) -> &Self {
        let path = self.0.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, json.to_string()).unwrap();
        self
    }

    fn files(&self) -> ModelFiles {
        ModelFiles::from_dir(self.0.path()).unwrap()
    }

    fn read(&self) -> Result<Modules> {
        Ok(Modules::read(&self.files(), false)?.unwrap())
    }

    fn refused(&self) -> String {
        self.read().unwrap_err().to_string()
    }
}

fn module(kind: &str, path: &str) -> Value {
    json!({"idx": 0, "name": kind, "type": kind, "path": path})
}

#[test]
fn without_modules_json_nothing_is_read() {
    let dir = Dir::new(&[]);
    std::fs::remove_file(dir.0.path().join("modules.json")).unwrap();
    dir.write("sentence_bert_config.json", &json!({"max_seq_length": 7}));
    assert_eq!(Modules::read(&dir.files(), false).unwrap(), None);
}

#[test]
fn types_are_known_by_their_old_and_new_paths() {
    let old = Dir::new(&[("Normalize", "2_Normalize")]).read().unwrap();
    let new = Dir::of(json!([
        module("sentence_transformers.base.modules.transformer.Transformer", "."),
        module("sentence_transformers.sentence_transformer.modules.pooling.Pooling", "./1_Pooling"),
        module("sentence_transformers.base.modules.normalize.Normalize", "2_Normalize/"),
    ]));
    assert_eq!(new.read().unwrap(), old);
    assert!(old.normalize && old.transformer.is_empty() && !Dir::new(&[]).read().unwrap().normalize);
    assert_eq!(old.pooling.unwrap().source, "1_Pooling/config.json");
}

#[test]
fn other_modules_are_refused_by_name() {
    for kind in [
        "WordWeights",
        "LSTM",
        "BoW",
        "CNN",
        "CLIPModel",
        "LayerNorm",
        "WeightedLayerPooling",
        "StaticEmbedding",
        "Router",
        "Asym",
        "X",
    ] {
        let error = Dir::new(&[(kind, "2_X")]).refused();
        assert!(
            error.contains(&format!("models.{kind}")) && error.contains("[2].type") && error.contains("LogitScore"),
            "{error}"
        );
    }
    for kind in [
        "custom_st.Transformer",
        "pylate.models.Dense.Dense",
        "sentence_transformers.sparse_encoder.models.MLMTransformer",
    ] {
        let error = Dir::of(json!([module(kind, "")])).refused();
        assert!(error.contains(kind) && error.contains("[0].type"), "{error}");
    }
    let splade = "sentence_transformers.sparse_encoder.models.SpladePooling";
    let transformer = "sentence_transformers.models.Transformer";
    assert!(Dir::of(json!([module(transformer, ""), module(splade, "1_Pooling")])).refused().contains(splade));
    assert!(Dir::new(&[("Transformer", "2")]).refused().contains("Transformer"), "a second transformer");
    assert!(Dir::new(&[("Pooling", "1_Pooling")]).refused().contains("one Pooling"));
    let twice = json!({"name": "0", "type": transformer, "path": ""});
    for (modules, expected) in [
        (json!([twice, twice]), "`[1].name` is 0"),
        (json!([]), "empty"),
        (json!({}), "a list"),
        (json!([1]), "[0] is 1"),
        (json!([{"path": ""}]), "`[0].type` is missing"),
        (json!([{"type": transformer}]), "`[0].path` is missing"),
        (json!([module(transformer, "")]), "no Pooling"),
    ] {
        assert!(Dir::of(modules).refused().contains(expected), "{expected}");
    }
}

#[test]
fn a_transformer_in_a_folder_is_read_there() {
    let dir = Dir::of(json!([
        module("sentence_transformers.models.Transformer", "0_Transformer/"),
        module("sentence_transformers.models.Pooling", "./1_Pooling/"),
    ]));
    std::fs::remove_file(dir.0.path().join("config.json")).unwrap();
    dir.write("sentence_bert_config.json", &json!({"max_seq_length": 7}));
    dir.write("0_Transformer/sentence_roberta_config.json", &json!({"max_seq_length": 9}));
    dir.write("0_Transformer/sentence_bert_config.json", &json!({}));
    dir.write("0_Transformer/config.json", &json!({"hidden_size": 8}));
    let modules = dir.read().unwrap();
    assert_eq!((modules.transformer.as_str(), modules.max_seq_length), ("0_Transformer", Some(9)));
    let files = dir.files().within(&modules.transformer).unwrap();
    assert_eq!(Json::read(&files, "config.json").unwrap().unwrap().size("hidden_size", 9).unwrap(), 8);
    assert!(files.label("config.json").ends_with("0_Transformer/config.json"));
    assert!(files.open_data("config.json").unwrap().unwrap().label().ends_with("0_Transformer/config.json"));
    for path in ["..", "0_Transformer/../..", "/etc", "C:x", "a\\..\\b", "\\x", "a\0"] {
        assert!(dir.files().within(path).is_err(), "{path}");
        let error = Dir::of(json!([module("sentence_transformers.models.Transformer", path)])).refused();
        assert!(error.contains("not a folder in this directory"), "{error}");
    }
}

#[test]
fn poolings() {
    let pooling = |config: Value| {
        let dir = Dir::new(&[]);
        dir.write("1_Pooling/config.json", &config);
        dir.read().map(|modules| modules.pooling.unwrap())
    };
    for (config, mode) in [
        (json!({"pooling_mode": "mean"}), PoolingMode::Mean),
        (json!({"pooling_mode": ["lasttoken"]}), PoolingMode::LastToken),
        (json!({"pooling_mode": "mean_sqrt_len_tokens"}), PoolingMode::Mean),
        // The new key takes precedence over the old ones.
        (json!({"pooling_mode": "cls", "pooling_mode_mean_tokens": true}), PoolingMode::Cls),
        (json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}), PoolingMode::Cls),
        (json!({"pooling_mode_lasttoken": true}), PoolingMode::LastToken),
        (json!({"pooling_mode_mean_sqrt_len_tokens": true}), PoolingMode::Mean),
        (json!({"word_embedding_dimension": 8, "pooling_mode_mean_tokens": false}), PoolingMode::Mean),
        (json!({"embedding_dimension": 8}), PoolingMode::Mean),
    ] {
        assert_eq!(pooling(config.clone()).unwrap().mode, mode, "{config}");
    }
    for (config, expected) in [
        (json!({}), "neither `pooling_mode`"),
        (json!({"pooling_mode": []}), "neither `pooling_mode`"),
        (json!({"pooling_mode": "max"}), "`pooling_mode` is max"),
        (json!({"pooling_mode": 3}), "`pooling_mode` is 3"),
        (json!({"pooling_mode": ["cls", "mean"]}), "`pooling_mode` is mean and another mode"),
        (json!({"pooling_mode_max_tokens": true}), "`pooling_mode_max_tokens` is true"),
        (json!({"pooling_mode_weightedmean_tokens": true}), "`pooling_mode_weightedmean_tokens` is true"),
        (json!({"pooling_mode": "cls", "new": [1]}), "`new` is [1]"),
        (
            json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}),
            "`pooling_mode_mean_tokens` is mean and",
        ),
        (json!({"pooling_mode_cls_token": 1}), "`pooling_mode_cls_token` is 1"),
        (json!({"pooling_mode": "cls", "include_prompt": "no"}), "`include_prompt` is \"no\""),
    ] {
        let error = pooling(config.clone()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("1_Pooling/config.json"), "{config}: {error}");
    }
    assert!(pooling(json!({"pooling_mode": "cls"})).unwrap().include_prompt);
    assert!(!pooling(json!({"pooling_mode": "cls", "include_prompt": false})).unwrap().include_prompt);
    let dir = Dir::new(&[]);
    std::fs::remove_file(dir.0.path().join("1_Pooling/config.json")).unwrap();
    assert!(dir.refused().contains("1_Pooling/config.json is missing"));
    assert_eq!(Modules::read(&dir.files(), true).unwrap().unwrap().pooling, None, "the caller has one");
}

#[test]
fn denses() {
    let dense = |config: Value| {
        let dir = Dir::new(&[("Dense", "2_Dense"), ("Normalize", "3_Normalize")]);
        dir.write("2_Dense/config.json", &config);
        dir.read().map(|mut modules| modules.dense.remove(0))
    };
    let expected = DenseSettings {
        folder: "2_Dense".into(),
        inputs: 8,
        outputs: 12,
        bias: true,
        activation: Activation::Tanh,
        residual: false,
    };
    assert_eq!(dense(json!({"in_features": 8, "out_features": 12})).unwrap(), expected);
    let all = json!({"in_features": 8, "out_features": 12, "bias": false, "use_residual": true, "foreign": 1,
        "module_input_name": "sentence_embedding", "module_output_name": null,
        "activation_function": "torch.nn.modules.linear.Identity"});
    assert_eq!(
        dense(all).unwrap(),
        DenseSettings { bias: false, activation: Activation::Identity, residual: true, ..expected.clone() }
    );
    for (name, activation) in [
        ("torch.nn.modules.activation.Tanh", Activation::Tanh),
        ("torch.nn.modules.activation.ReLU", Activation::Relu),
        ("torch.nn.modules.activation.GELU", Activation::Gelu),
        ("torch.nn.SiLU", Activation::Silu),
        ("torch.nn.Sigmoid", Activation::Sigmoid),
    ] {
        let config = json!({"in_features": 8, "out_features": 12, "activation_function": name});
        assert_eq!(dense(config).unwrap().activation, activation);
    }
    for (key, value) in [
        ("activation_function", json!("mine.Tanh")),
        ("activation_function", json!("torch.nn.modules.activation.Hardtanh")),
        ("activation_function", json!(null)),
        ("module_input_name", json!("token_embeddings")),
        ("module_output_name", json!("scores")),
        ("in_features", json!(0)),
        ("out_features", json!("12")),
        ("bias", json!(1)),
    ] {
        let mut config = json!({"in_features": 8, "out_features": 12});
        config[key] = value;
        let error = dense(config).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("2_Dense/config.json"), "{error}");
    }
    assert!(dense(json!({"in_features": 8})).unwrap_err().to_string().contains("`out_features` is missing"));
    // Two of them, whose widths must match; and orders that cannot be computed.
    let dir = Dir::new(&[("Dense", "2_Dense"), ("Dense", "3_Dense")]);
    dir.write("2_Dense/config.json", &json!({"in_features": 8, "out_features": 12}));
    dir.write("3_Dense/config.json", &json!({"in_features": 12, "out_features": 4}));
    assert_eq!(dir.read().unwrap().dense.len(), 2);
    dir.write("3_Dense/config.json", &json!({"in_features": 11, "out_features": 4}));
    assert!(dir.refused().contains("`in_features` is 11, but the Dense before it gives 12"));
    dir.write("1_Pooling/config.json", &json!({"pooling_mode": "mean_sqrt_len_tokens"}));
    assert!(dir.refused().contains("mean_sqrt_len_tokens"), "the Dense would see another length");
    let dir = Dir::new(&[("Normalize", "2_Normalize"), ("Dense", "3_Dense")]);
    assert!(dir.refused().contains("Dense before the Normalize"));
    let transformer = module("sentence_transformers.models.Transformer", "");
    let dir = Dir::of(json!([transformer, module("sentence_transformers.models.Dense", "2_Dense")]));
    assert!(dir.refused().contains("Dense after the Pooling"));
}

#[test]
fn keys_that_change_no_vector_are_ignored() {
    let dir = Dir::new(&[("Dropout", "2_Dropout"), ("Normalize", "3_Normalize")]);
    dir.write("2_Dropout/config.json", &json!({"dropout": 0.1}));
    assert!(dir.read().unwrap().normalize);
    dir.write("2_Dropout/config.json", &json!({"rate": 0.1}));
    assert!(dir.refused().contains("`rate` is 0.1"));
    dir.write("2_Dropout/config.json", &json!({}));
    dir.write("3_Normalize/config.json", &json!({"module_input_name": "token_embeddings"}));
    assert!(dir.refused().contains("module_input_name"));
}

#[test]
fn scores_of_a_language_model() {
    let dir = Dir::of(json!([
        module("sentence_transformers.base.modules.transformer.Transformer", ""),
        module("sentence_transformers.cross_encoder.modules.logit_score.LogitScore", "1_LogitScore"),
    ]));
    let message = json!({"method": "forward", "method_output_name": "logits", "format": "flat"});
    dir.write(
        "sentence_bert_config.json",
        &json!({"transformer_task": "text-generation", "module_output_name": "causal_logits",
            "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}, "message": message},
            "processing_kwargs": {"chat_template": {"add_generation_prompt": true}}}),
    );
    dir.write(
        "config_sentence_transformers.json",
        &json!({"model_type": "CrossEncoder", "activation_fn": "torch.nn.Identity"}),
    );
    dir.write("1_LogitScore/config.json", &json!({"true_token_id": 9693, "false_token_id": 2152}));
    let modules = dir.read().unwrap();
    assert!(modules.cross_encoder && modules.chat && modules.task == Task::TextGeneration);
    assert_eq!(modules.logit_score, Some(LogitScore { true_id: 9693, false_id: Some(2152) }));
    dir.write("1_LogitScore/config.json", &json!({"true_token_id": 1, "false_token_id": null}));
    assert_eq!(dir.read().unwrap().logit_score, Some(LogitScore { true_id: 1, false_id: None }));
    for (config, expected) in [
        (json!({}), "`true_token_id` is missing"),
        (json!({"true_token_id": -1}), "`true_token_id` is -1"),
        (json!({"true_token_id": 1, "module_input_name": "scores"}), "`module_input_name`"),
    ] {
        dir.write("1_LogitScore/config.json", &config);
        assert!(dir.refused().contains(expected), "{config}");
    }
}

#[test]
fn the_transformers_settings() {
    let read = |config: Value| {
        let dir = Dir::new(&[]);
        dir.write("sentence_bert_config.json", &config);
        dir.read()
    };
    let plain = read(json!({"max_seq_length": null, "do_lower_case": false})).unwrap();
    assert_eq!((plain.max_seq_length, plain.lower_case), (None, false));
    assert!(read(json!({"do_lower_case": true})).unwrap().lower_case);
    for (config, length) in [
        (json!({"max_seq_length": 128}), Some(128)),
        (json!({"max_seq_length": 1e30}), Some(usize::MAX)),
        (json!({"max_seq_length": 128, "tokenizer_args": {"model_max_length": 64}}), Some(64)),
        (json!({"max_seq_length": 128, "processor_kwargs": {"model_max_length": 64}, "tokenizer_args": {}}), Some(128)),
        (json!({"max_seq_length": 128, "processing_kwargs": {"text": {"max_length": 32}}}), Some(32)),
    ] {
        assert_eq!(read(config.clone()).unwrap().max_seq_length, length, "{config}");
    }
    let harmless = json!({"model_args": {"torch_dtype": "bfloat16", "trust_remote_code": true}, "config_args": {},
        "tokenizer_args": {"use_fast": true}, "unpad_inputs": true, "backend": "torch", "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings", "processing_kwargs": {"text": {"truncation": true}, "image": {"x": 1}}});
    assert_eq!(read(harmless).unwrap(), plain);
    let text = json!({"method": "forward", "method_output_name": "last_hidden_state"});
    for (config, key) in [
        (json!({"max_seq_length": 0}), "`max_seq_length` is 0"),
        (json!({"max_seq_length": 1.5}), "`max_seq_length` is 1.5"),
        (json!({"max_seq_length": "128"}), "`max_seq_length` is \"128\""),
        (json!({"do_lower_case": "true"}), "`do_lower_case`"),
        (json!({"tokenizer_name_or_path": "bert-base-uncased"}), "`tokenizer_name_or_path`"),
        (json!({"query_length": 32}), "`query_length`"),
        (json!({"max_seq_len": 32}), "`max_seq_len` is 32"),
        (json!({"modality_config": {"text": text}}), "`module_output_name` is missing"),
        (json!({"document_length": 32}), "`document_length`"),
        (json!({"query_expansion": {"length": 32}}), "`query_expansion`"),
        (json!({"model_args": {"num_labels": 2}}), "`model_args.num_labels`"),
        (json!({"config_kwargs": {"is_causal": false}}), "`config_kwargs.is_causal`"),
        (json!({"tokenizer_args": {"do_lower_case": true}}), "`tokenizer_args.do_lower_case`"),
        (json!({"transformer_task": "fill-mask"}), "`transformer_task`"),
        (json!({"module_output_name": "sentence_embedding"}), "`module_output_name`"),
        (
            json!({"module_output_name": "token_embeddings", "modality_config": {"text": text, "message": text}}),
            "`modality_config.message`",
        ),
        (
            json!({"module_output_name": "token_embeddings", "modality_config": {"image": text}}),
            "`modality_config.text`",
        ),
        (
            json!({"module_output_name": "token_embeddings", "modality_config": {"text": {"method": "get_text_features", "method_output_name": null}}}),
            "`modality_config.text.method`",
        ),
        (json!({"processing_kwargs": {"text": {"truncation": false}}}), "`processing_kwargs.text.truncation`"),
        (json!({"processing_kwargs": {"text": {"stride": 1}}}), "`processing_kwargs.text.stride`"),
        (json!({"processing_kwargs": {"chat_template": {"restore_suffix": false}}}), "restore_suffix"),
    ] {
        let error = read(config.clone()).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("sentence_bert_config.json"), "{config}: {error}");
    }
}

#[test]
fn the_models_settings() {
    let read = |config: Value, more: &[(&str, &str)]| {
        let dir = Dir::new(more);
        dir.write("config_sentence_transformers.json", &config);
        dir.read()
    };
    let prompts =
        |modules: &Modules| -> Vec<String> { modules.prompts.iter().map(|(n, t)| format!("{n}={t}")).collect() };
    let none = Dir::new(&[]).read().unwrap();
    assert_eq!(
        (prompts(&none), none.default_prompt, none.truncate_dim),
        (vec!["query=".into(), "document=".into()], None, None)
    );
    let config = json!({"prompts": {"query": "q: ", "retrieval": "r: ", "document": null}, "default_prompt_name": "retrieval",
        "truncate_dim": 4, "similarity_fn_name": "cosine", "model_type": "SentenceTransformer", "__version__": {}});
    let modules = read(config, &[]).unwrap();
    assert_eq!(prompts(&modules), ["query=q: ", "document=", "retrieval=r: "]);
    assert_eq!((modules.default_prompt.as_deref(), modules.truncate_dim), (Some("retrieval"), Some(4)));
    assert!(read(json!({"default_prompt_name": "query"}), &[]).is_ok(), "always there");
    let normalized = &[("Normalize", "2_Normalize")];
    for name in ["dot", "euclidean", "manhattan"] {
        assert!(read(json!({"similarity_fn_name": name}), normalized).is_ok());
        let error = read(json!({"similarity_fn_name": name}), &[]).unwrap_err().to_string();
        assert!(error.contains("similarity_fn_name") && error.contains(name), "{error}");
    }
    for (config, key) in [
        (json!({"default_prompt_name": "other"}), "`default_prompt_name` is other"),
        (json!({"prompts": {"query": 1}}), "`prompts.query` is 1"),
        (json!({"prompts": ["query"]}), "`prompts`"),
        (json!({"truncate_dim": 0}), "`truncate_dim` is 0"),
        (json!({"model_type": "SparseEncoder"}), "`model_type` is SparseEncoder"),
    ] {
        let error = read(config.clone(), &[]).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("config_sentence_transformers.json"), "{config}: {error}");
    }
}

#[test]
fn an_adapter_is_refused() {
    let dir = Dir::new(&[]);
    dir.write("adapter_config.json", &json!({"peft_type": "LORA"}));
    assert!(dir.refused().contains("LORA"));
    std::fs::remove_file(dir.0.path().join("modules.json")).unwrap();
    assert!(Modules::read(&dir.files(), false).is_err());
}

/// Every key that is read is in the table, and every key in the table that has an effect is read.
#[test]
fn the_table_and_the_readers_agree() {
    let embedder = Dir::new(&[("Dense", "2_Dense"), ("Dropout", "2_Dropout"), ("Normalize", "2_Normalize")]);
    embedder.write("1_Pooling/config.json", &json!({"embedding_dimension": 8}));
    embedder.write("2_Dense/config.json", &json!({"in_features": 8, "out_features": 8}));
    for file in ["2_Dropout/config.json", "2_Normalize/config.json", "config_sentence_transformers.json"] {
        embedder.write(file, &json!({}));
    }
    embedder.write("sentence_bert_config.json", &json!({"backend": "torch"}));
    embedder.read().unwrap();
    let reranker = Dir::of(json!([
        module("sentence_transformers.models.Transformer", ""),
        module("sentence_transformers.cross_encoder.modules.LogitScore", "1_LogitScore"),
    ]));
    reranker.write("sentence_bert_config.json", &json!({"transformer_task": "text-generation"}));
    reranker.write("1_LogitScore/config.json", &json!({"true_token_id": 1}));
    reranker.read().unwrap();
    reranker.write("adapter_config.json", &json!({}));
    reranker.refused();
    let read = READ.take();
    for file in KEYS.iter().map(|key| key.file).collect::<BTreeSet<_>>() {
        let asked = read.iter().filter(|(read, _)| read == file).flat_map(|(_, keys)| keys);
        // Only the first name of a path, because the contents of `prompts` or `model_args` have
        // names of their own. Entries of lists begin with a number.
        let first = |path: &String| {
            path.split_once("].").map_or(&path[..], |(_, key)| key).split('.').next().unwrap().to_owned()
        };
        let asked: BTreeSet<String> = asked.map(first).collect();
        assert!(read.iter().any(|(read, _)| read == file), "{file} was not read");
        let listed = |fate: fn(Fate) -> bool| -> BTreeSet<String> {
            KEYS.iter().filter(|k| k.file == file && fate(k.fate)).map(|k| k.key.to_owned()).collect()
        };
        let [all, effective] = [listed(|_| true), listed(|fate| fate != Fate::Harmless)];
        assert!(asked.is_subset(&all), "{file}: {:?} is read and not in the table", asked.difference(&all));
        assert!(effective.is_subset(&asked), "{file}: {:?} is in the table and not read", effective.difference(&asked));
    }
}
