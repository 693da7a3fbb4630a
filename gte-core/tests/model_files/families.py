"""Keys of the other families' config.json, on the tiny fixtures."""

from .edit import case, drop, put, remove

C = "config.json"
SHORT = [
    "hello",
    "怎么退货？ board of directors",
    "a b c d e f g h i j k l m n o p q r s t",
    "今天天气真好 GTE模型",
]


def on(base, name, *edits, **more):
    return case(name, *edits, base=base, texts=SHORT, **more)


CASES = [
    *[
        on(base, "as it is")
        for base in (
            "xlmr",
            "xlmr-mean",
            "roberta",
            "bge-m3",
            "bert-dense",
            "bert-dense-2",
            "ernie",
            "ernie-task",
            "gte",
            "modernbert",
            "qwen3",
            "qwen3-bidirectional",
            "qwen2",
            "qwen2-causal",
        )
    ],
    *[
        on("xlmr", f"without {k}", drop(C, k))
        for k in (
            "layer_norm_eps",
            "hidden_act",
            "pad_token_id",
            "bos_token_id",
            "position_embedding_type",
            "architectures",
        )
    ],
    on(
        "xlmr",
        "without type_vocab_size, whose default does not fit",
        drop(C, "type_vocab_size"),
        refuse="type_vocab_size",
    ),
    on("xlmr", "pad_token_id 4: other positions", put(C, pad_token_id=4), refuse="pad_token_id"),
    on("ernie", "without use_task_id: no task is added", drop(C, "use_task_id")),
    on("ernie", "use_task_id false", put(C, use_task_id=False)),
    on("ernie", "use_task_id null", put(C, use_task_id=None)),
    on("ernie", "without task_type_vocab_size, which is 3", drop(C, "task_type_vocab_size")),
    on(
        "ernie",
        "task_type_vocab_size 2, but three tasks",
        put(C, task_type_vocab_size=2),
        refuse="task_type",
    ),
    on("ernie", "task_id of PaddlePaddle's files", put(C, task_id=0)),
    on("ernie", "hidden_act relu", put(C, hidden_act="relu"), refuse="hidden_act"),
    on("xlmr", "hidden_act relu", put(C, hidden_act="relu"), refuse="hidden_act"),
    on(
        "xlmr",
        "position_embedding_type relative_key",
        put(C, position_embedding_type="relative_key"),
        refuse="position_embedding_type",
    ),
    on("xlmr", "is_decoder", put(C, is_decoder=True), refuse="is_decoder"),
    on(
        "xlmr",
        "add_prefix_space false",
        put("tokenizer_config.json", add_prefix_space=False),
        refuse="add_prefix_space",
    ),
    on(
        "xlmr",
        "PreTrainedTokenizerFast",
        put("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast"),
    ),
    on(
        "xlmr",
        "no length in the files",
        remove("sentence_bert_config.json"),
        drop("tokenizer_config.json", "model_max_length"),
    ),
    on(
        "roberta",
        "add_prefix_space true",
        put("tokenizer_config.json", add_prefix_space=True),
        refuse="add_prefix_space",
    ),
    on("roberta", "model_type xlm-roberta", put(C, model_type="xlm-roberta")),
    *[
        on("gte", f"{n}", put(C, rope_parameters=v), refuse=r)
        for n, v, r in [
            ("rope default", {"rope_type": "default", "rope_theta": 5000.0}, None),
            ("rope without theta", {"rope_type": "default"}, None),
            ("rope null", None, None),
            (
                "rope with the old key type",
                {"type": "linear", "factor": 2.0, "rope_theta": 5000.0},
                None,
            ),
            (
                "rope yarn",
                {
                    "rope_type": "yarn",
                    "factor": 2.0,
                    "rope_theta": 5000.0,
                    "original_max_position_embeddings": 48,
                },
                "rope",
            ),
            ("rope dynamic", {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 5000.0}, "rope"),
            ("rope unknown", {"rope_type": "ntk", "factor": 2.0, "rope_theta": 5000.0}, "rope"),
            (
                "partial_rotary_factor",
                {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.4},
                "partial_rotary_factor",
            ),
        ]
    ],
    on("gte", "rope_theta alone", drop(C, "rope_parameters"), put(C, rope_theta=7000.0)),
    on(
        "gte",
        "rope_scaling over rope_parameters",
        put(C, rope_scaling={"type": "linear", "factor": 3.0}, rope_theta=9000.0),
    ),
    on("gte", "rope_scaling null", put(C, rope_scaling=None)),
    on("gte", "layer_norm_eps absent", drop(C, "layer_norm_eps")),
    on("gte", "hidden_act silu", put(C, hidden_act="silu"), refuse="hidden_act"),
    on("gte", "head_dim", put(C, head_dim=10)),
    *[
        on("modernbert", f"{k} {v}", put(C, **{k: v}), refuse=r)
        for k, v, r in [
            ("local_attention", 4, None),
            ("local_attention", 5, None),
            ("local_attention", 128, None),
            ("global_attn_every_n_layers", 2, None),
            ("global_attn_every_n_layers", 1, None),
            ("global_rope_theta", 500.0, None),
            ("local_rope_theta", 500.0, None),
            (
                "layer_types",
                ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
                None,
            ),
            ("norm_eps", 0.01, None),
            ("layer_norm_eps", 0.01, None),
            ("hidden_activation", "silu", "hidden_activation"),
            ("hidden_act", "relu", None),
            ("classifier_pooling", "cls", None),
            ("position_embedding_type", "relative_key", None),
            ("reference_compile", True, None),
            ("deterministic_flash_attn", True, None),
            ("decoder_bias", False, None),
            ("sparse_prediction", True, None),
            ("local_rope_theta", None, "local_rope_theta"),
            ("attention_bias", True, ".bias"),
            ("mlp_bias", True, ".bias"),
            ("norm_bias", True, ".bias"),
            (
                "layer_types",
                ["sliding_attention", "full_attention", "full_attention", "nonsense"],
                "layer_types",
            ),
            ("layer_types", ["full_attention"], "layer_types"),
            ("sliding_window", 3, "sliding_window"),
        ]
    ],
    *[
        on("modernbert", f"without {k}", drop(C, k))
        for k in (
            "local_rope_theta",
            "global_rope_theta",
            "norm_eps",
            "norm_bias",
            "hidden_activation",
            "global_attn_every_n_layers",
            "attention_bias",
            "mlp_bias",
            "classifier_pooling",
        )
    ],
    on("modernbert", "without local_attention", drop(C, "local_attention")),
    on(
        "modernbert",
        "rope_parameters nested, over the old keys",
        put(
            C,
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 300.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 70.0},
            },
        ),
    ),
    on(
        "modernbert",
        "rope_parameters of one kind of layer",
        put(C, rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 300.0}}),
    ),
    on(
        "modernbert",
        "rope_parameters without theta",
        put(
            C,
            rope_parameters={
                "full_attention": {"rope_type": "default"},
                "sliding_attention": {"rope_type": "default"},
            },
        ),
    ),
    *[
        on("qwen3", f"{k} {v}", put(C, **{k: v}), refuse=r)
        for k, v, r in [
            ("is_causal", False, None),
            ("is_causal", True, None),
            ("use_bidirectional_attention", True, "use_bidirectional_attention"),
            ("use_sliding_window", True, "use_sliding_window"),
            ("sliding_window", 4, None),
            ("max_window_layers", 1, None),
            ("rope_theta", 500.0, None),
            ("rms_norm_eps", 0.01, None),
            ("hidden_act", "gelu", "hidden_act"),
            ("attention_bias", True, ".bias"),
            ("tie_word_embeddings", False, None),
            (
                "rope_scaling",
                {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
                "rope",
            ),
            ("rope_scaling", {"type": "linear", "factor": 2.0}, None),
            ("num_key_value_heads", 4, "num_key_value_heads"),
            ("head_dim", 8, "head_dim"),
            ("layer_types", ["full_attention"] * 3, None),
            (
                "layer_types",
                ["full_attention", "sliding_attention", "full_attention"],
                "layer_types",
            ),
        ]
    ],
    *[
        on("qwen3", f"without {k}", drop(C, k))
        for k in (
            "rope_theta",
            "rms_norm_eps",
            "hidden_act",
            "attention_bias",
            "tie_word_embeddings",
            "rope_scaling",
            "sliding_window",
            "use_sliding_window",
            "max_window_layers",
        )
    ],
    *[
        on("qwen3", f"without {k}, whose default does not fit", drop(C, k), refuse=k)
        for k in ("head_dim", "num_key_value_heads")
    ],
    on(
        "qwen3",
        "pooling mean",
        put("1_Pooling/config.json", pooling_mode_lasttoken=False, pooling_mode_mean_tokens=True),
    ),
    on(
        "qwen3",
        "default_prompt_name query",
        put("config_sentence_transformers.json", default_prompt_name="query"),
    ),
    on("qwen3", "add_eos_token", put("tokenizer_config.json", add_eos_token=True)),
    on("qwen3", "padding_side left", put("tokenizer_config.json", padding_side="left")),
    on("qwen2", "is_causal absent", drop(C, "is_causal"), refuse="is_causal"),
    on("qwen2", "head_dim", put(C, head_dim=6)),
    on("qwen2", "rope_theta", put(C, rope_theta=333.0)),
]
