"""config.json of a BERT, JSON itself, and the weights."""

import os

from .edit import case, drop, put, remove, text

C = "config.json"


def weights(function, file="model.safetensors", **options):
    """Rewrites the weights: `function` gets the tensors, and its result is written to `file`."""

    def edit(d):
        import torch
        from safetensors.torch import load_file, save_file

        source = os.path.join(d, "model.safetensors")
        tensors = function(load_file(source))
        os.remove(source)
        if file.endswith(".safetensors"):
            save_file(tensors, os.path.join(d, file), metadata={"format": "pt"})
        else:
            torch.save(tensors, os.path.join(d, file), **options)

    return edit


def transposed(tensors):
    key = "encoder.layer.0.intermediate.dense.weight"
    return tensors | {key: tensors[key].t().contiguous().t()}


def sharded(d):
    import json

    from safetensors.torch import load_file, save_file

    source = os.path.join(d, "model.safetensors")
    tensors = load_file(source)
    os.remove(source)
    keys, where = sorted(tensors), {}
    for i, part in enumerate((keys[::2], keys[1::2])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({k: tensors[k] for k in part}, os.path.join(d, file), metadata={"format": "pt"})
        where |= {k: file for k in part}
    with open(os.path.join(d, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": 1}, "weight_map": where}, f)


def old_names(tensors):
    return {
        "bert."
        + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): v
        for k, v in tensors.items()
    }


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 90868376\n"

CASES = [
    case("the model as it is"),
    *[
        case(f"hidden_act {a}", put(C, hidden_act=a), refuse=r)
        for a, r in [
            ("gelu_python", None),
            ("gelu_new", "hidden_act"),
            ("gelu_pytorch_tanh", "hidden_act"),
            ("gelu_fast", "hidden_act"),
            ("gelu_10", "hidden_act"),
            ("quick_gelu", "hidden_act"),
            ("relu", "hidden_act"),
            ("silu", "hidden_act"),
            ("swish", "hidden_act"),
            ("tanh", "hidden_act"),
            ("mish", "hidden_act"),
            ("nonsense", "hidden_act"),
        ]
    ],
    *[
        case(f"without {k}", drop(C, k))
        for k in (
            "hidden_act",
            "layer_norm_eps",
            "type_vocab_size",
            "pad_token_id",
            "num_attention_heads",
            "max_position_embeddings",
            "vocab_size",
            "architectures",
            "position_embedding_type",
            "transformers_version",
            "use_cache",
            "attention_probs_dropout_prob",
        )
    ],
    *[
        case(f"without {k}, whose default does not fit", drop(C, k), refuse=k)
        for k in ("intermediate_size", "hidden_size")
    ],
    case(
        "without num_hidden_layers, whose default does not fit",
        drop(C, "num_hidden_layers"),
        refuse="layer",
    ),
    case("without model_type", drop(C, "model_type"), refuse="model_type"),
    *[case(f"layer_norm_eps {e}", put(C, layer_norm_eps=e)) for e in (1e-5, 0.01, 0)],
    case("fewer layers", put(C, num_hidden_layers=3), refuse="encoder.layer.3"),
    case("other heads", put(C, num_attention_heads=6)),
    case("a head size that is not a multiple of 8", put(C, num_attention_heads=96)),
    case("heads that do not divide", put(C, num_attention_heads=7), refuse="num_attention_heads"),
    case("an integer as a float", put(C, num_attention_heads=12.0), refuse="num_attention_heads"),
    case("an integer as a text", put(C, num_attention_heads="12"), refuse="num_attention_heads"),
    case("fewer positions than the table", put(C, max_position_embeddings=100), refuse="position"),
    *[
        case(
            f"position_embedding_type {p}",
            put(C, position_embedding_type=p),
            refuse="position_embedding_type",
        )
        for p in ("relative_key", "relative_key_query")
    ],
    case("is_decoder", put(C, is_decoder=True), refuse="is_decoder"),
    case("add_cross_attention", put(C, add_cross_attention=True), refuse="add_cross_attention"),
    case("pruned_heads", put(C, pruned_heads={"0": [1]}), refuse="pruned_heads"),
    case(
        "quantization_config",
        put(C, quantization_config={"quant_method": "gptq", "bits": 4}),
        refuse="quantization_config",
    ),
    case("chunk_size_feed_forward", put(C, chunk_size_feed_forward=2)),
    *[
        case(f"{k} {v}", put(C, **{k: v}))
        for k, v in [
            ("use_cache", False),
            ("torch_dtype", "float16"),
            ("dtype", "float32"),
            ("classifier_dropout", 0.1),
            ("hidden_dropout_prob", 0.5),
            ("architectures", ["BertForMaskedLM"]),
            ("architectures", None),
            ("num_labels", 3),
            ("output_hidden_states", True),
            ("output_attentions", True),
            ("return_dict", False),
            ("tie_word_embeddings", False),
            ("gradient_checkpointing", True),
            ("something_unknown", 1),
            ("id2label", {"0": "x"}),
            ("problem_type", "regression"),
            ("torchscript", True),
            ("initializer_range", 1e9),
            ("pad_token_id", None),
            ("pad_token_id", 5),
            ("bos_token_id", 1),
            ("is_encoder_decoder", False),
            ("auto_map", {"AutoModel": "modeling.Foo"}),
            ("sentence_transformers", {"activation_fn": "x"}),
            ("_name_or_path", "/no/where"),
            ("head_dim", 16),
            ("rope_theta", 1e6),
            ("rope_scaling", None),
            ("emb_layer_norm_before", False),
            ("embedding_size", 384),
            ("hidden_activation", "relu"),
            ("norm_eps", 0.1),
            ("layer_types", None),
            ("is_causal", False),
        ]
    ],
    case("is_causal", put(C, is_causal=True), refuse="is_causal"),
    case("type_vocab_size that is not the table's", put(C, type_vocab_size=3), refuse="type"),
    case(
        "NaN and Infinity",
        text(
            C,
            lambda s: s.replace(
                '"initializer_range": 0.02',
                '"initializer_range": NaN, "x": -Infinity, "y": Infinity',
            ),
        ),
    ),
    case(
        "a key twice",
        text(
            C,
            lambda s: s.replace(
                '"num_hidden_layers": 6', '"num_hidden_layers": 2, "num_hidden_layers": 6'
            ),
        ),
        refuse="num_hidden_layers",
    ),
    case("a byte order mark", text(C, lambda s: "\ufeff" + s), refuse="config.json"),
    case("not JSON", text(C, lambda s: s + ","), refuse="config.json", must_refuse=True),
    case("no config.json", remove(C), refuse="config.json", must_refuse=True),
    case("transposed tensors in pytorch_model.bin", weights(transposed, "pytorch_model.bin")),
    case(
        "pytorch_model.bin of the old format",
        weights(lambda t: t, "pytorch_model.bin", _use_new_zipfile_serialization=False),
    ),
    case("old names with a prefix", weights(old_names)),
    case("two files with an index", sharded),
    case(
        "unknown tensors beside the known",
        weights(lambda t: t | {"cls.predictions.bias": t["embeddings.LayerNorm.bias"].clone()}),
    ),
    case(
        "weights in float16",
        weights(lambda t: {k: v.half() if v.is_floating_point() else v for k, v in t.items()}),
    ),
    case(
        "weights in float64",
        weights(lambda t: {k: v.double() if v.is_floating_point() else v for k, v in t.items()}),
        refuse="F64",
    ),
    case(
        "without the pooler",
        weights(lambda t: {k: v for k, v in t.items() if not k.startswith("pooler")}),
    ),
    case(
        "a tensor is missing",
        weights(lambda t: {k: v for k, v in t.items() if k != "encoder.layer.3.output.dense.bias"}),
        refuse="encoder.layer.3.output.dense.bias",
        must_refuse=True,
    ),
    case(
        "NaN in a weight",
        weights(
            lambda t: (
                t | {"embeddings.LayerNorm.weight": t["embeddings.LayerNorm.weight"] * float("nan")}
            )
        ),
        refuse="embeddings.LayerNorm.weight",
        must_refuse=True,
    ),
    case(
        "a Git LFS pointer as model.safetensors",
        text("model.safetensors", POINTER),
        refuse="LFS",
        must_refuse=True,
    ),
    case(
        "a Git LFS pointer as pytorch_model.bin",
        remove("model.safetensors"),
        text("pytorch_model.bin", POINTER),
        refuse="LFS",
        must_refuse=True,
    ),
    case(
        "a Git LFS pointer as tokenizer.json",
        text("tokenizer.json", POINTER),
        refuse="LFS",
        must_refuse=True,
    ),
    case("no weights", remove("model.safetensors"), refuse="model.safetensors", must_refuse=True),
]
