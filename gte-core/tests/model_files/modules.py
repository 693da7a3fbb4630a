"""modules.json, config_sentence_transformers.json and the folders of the modules."""

import os

from .edit import case, change, put, remove, rename, text

M, ST, PO = "modules.json", "config_sentence_transformers.json", "1_Pooling/config.json"
OLD = "sentence_transformers.models."


def modules(*rows):
    """modules.json with these (path, type) rows. A type without a dot is one of
    sentence-transformers.
    """
    return change(
        M,
        lambda _: [
            {"idx": i, "name": str(i), "path": path, "type": kind if "." in kind else OLD + kind}
            for i, (path, kind) in enumerate(rows)
        ],
    )


PLAIN = [("", "Transformer"), ("1_Pooling", "Pooling")]


def dense(folder, inputs=384, outputs=96, file="model.safetensors", **config):
    """A folder of a Dense module with seeded weights."""

    def edit(d):
        import json

        import torch
        from safetensors.torch import save_file

        path = os.path.join(d, folder)
        os.makedirs(path)
        generator = torch.Generator().manual_seed(7)
        tensors = {"linear.weight": torch.randn(outputs, inputs, generator=generator) / 8}
        if config.get("bias", True):
            tensors["linear.bias"] = torch.randn(outputs, generator=generator) / 8
        if config.get("use_residual") and inputs != outputs:
            tensors["residual.weight"] = torch.randn(outputs, inputs, generator=generator) / 8
        tensors |= config.pop("tensors", {})
        save_file(tensors, os.path.join(path, file)) if file.endswith(
            "safetensors"
        ) else torch.save(tensors, os.path.join(path, file))
        with open(os.path.join(path, "config.json"), "w") as f:
            json.dump({"in_features": inputs, "out_features": outputs} | config, f)

    return edit


def with_dense(name, refuse=None, more=(), **config):
    return case(
        f"Dense, {name}",
        dense("2_Dense", **config),
        modules(*PLAIN, ("2_Dense", "Dense"), *more),
        refuse=refuse,
    )


def pooling(*modes, **more):
    keys = {
        m: False
        for m in (
            "pooling_mode_cls_token",
            "pooling_mode_mean_tokens",
            "pooling_mode_max_tokens",
            "pooling_mode_mean_sqrt_len_tokens",
        )
    }
    return change(
        PO, lambda _: {"word_embedding_dimension": 384, **keys, **{m: True for m in modes}, **more}
    )


def layer_norm(d):
    import torch
    from safetensors.torch import save_file

    os.makedirs(os.path.join(d, "2_LayerNorm"))
    save_file(
        {"norm.weight": torch.linspace(0.5, 1.5, 384), "norm.bias": torch.linspace(-0.3, 0.3, 384)},
        os.path.join(d, "2_LayerNorm/model.safetensors"),
    )


def nested(d):
    """The old layout: everything of the transformer in 0_Transformer/."""
    os.makedirs(os.path.join(d, "0_Transformer"))
    for name in os.listdir(d):
        if os.path.isfile(os.path.join(d, name)) and name not in (M, ST):
            os.rename(os.path.join(d, name), os.path.join(d, "0_Transformer", name))


PROMPTS = {
    "query": "query: ",
    "passage": "passage: ",
    "document": "",
    "long": "Represent this sentence for retrieval: ",
}
TANH, IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"
FIRST = [
    ("", "sentence_transformers.base.modules.transformer.Transformer"),
    ("1_Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling"),
]

CASES = [
    # modules.json
    case("no modules.json: mean pooling", remove(M, "1_Pooling"), refuse="pooling"),
    case(
        "no modules.json, but 1_Pooling says CLS",
        remove(M),
        pooling("pooling_mode_cls_token"),
        refuse="ooling",
    ),
    case(
        "no modules.json, max_seq_length and prompts beside",
        remove(M),
        put("sentence_bert_config.json", max_seq_length=16),
        put(ST, prompts=PROMPTS, default_prompt_name="query"),
        refuse="ooling",
    ),
    case(
        "./1_Pooling",
        modules(("", "Transformer"), ("./1_Pooling", "Pooling"), ("2_Normalize", "Normalize")),
    ),
    case(
        "1_Pooling/",
        modules(("", "Transformer"), ("1_Pooling/", "Pooling"), ("2_Normalize", "Normalize")),
    ),
    case("./ as the transformer's path", modules(("./", "Transformer"), ("1_Pooling", "Pooling"))),
    case(
        "a pooling folder of another name",
        rename("1_Pooling", "pool"),
        modules(("", "Transformer"), ("pool", "Pooling")),
    ),
    case(
        "a path out of the directory",
        modules(("", "Transformer"), ("../1_Pooling", "Pooling")),
        refuse="../1_Pooling",
        must_refuse=True,
    ),
    case(
        "an absolute path",
        modules(("", "Transformer"), ("/tmp/1_Pooling", "Pooling")),
        refuse="/tmp/1_Pooling",
        must_refuse=True,
    ),
    case(
        "module paths of sentence-transformers 6",
        modules(*FIRST, ("2_Normalize", "sentence_transformers.base.modules.normalize.Normalize")),
    ),
    case(
        "module paths with the package alone",
        modules(
            ("", "sentence_transformers.models.Transformer.Transformer"),
            ("1_Pooling", "sentence_transformers.models.Pooling.Pooling"),
        ),
        refuse="type",
    ),
    case("no Normalize", modules(*PLAIN)),
    case(
        "Normalize twice",
        modules(*PLAIN, ("2_Normalize", "Normalize"), ("3_Normalize", "Normalize")),
    ),
    case("no Pooling", modules(("", "Transformer")), refuse="ooling", must_refuse=True),
    case(
        "Pooling twice",
        modules(("", "Transformer"), ("1_Pooling", "Pooling"), ("1_Pooling", "Pooling")),
        refuse="Pooling",
    ),
    case("idx in another order", change(M, lambda rows: [r | {"idx": 9 - r["idx"]} for r in rows])),
    case("rows in another order", change(M, lambda rows: rows[::-1]), refuse="modules.json"),
    case(
        "without idx",
        change(M, lambda rows: [{k: v for k, v in r.items() if k != "idx"} for r in rows]),
    ),
    case(
        "without name",
        change(M, lambda rows: [{k: v for k, v in r.items() if k != "name"} for r in rows]),
        refuse="name",
    ),
    case("kwargs", change(M, lambda rows: [r | {"kwargs": ["task"]} for r in rows])),
    case("an unknown key in a row", change(M, lambda rows: [r | {"extra": 1} for r in rows])),
    case(
        "a module of somebody else",
        modules(*PLAIN, ("", "custom_module.Foo")),
        refuse="custom_module.Foo",
        must_refuse=True,
    ),
    case("modules.json is an object", text(M, "{}"), refuse="modules.json"),
    case("an empty modules.json", text(M, "[]"), refuse="ooling", must_refuse=True),
    case(
        "0_Transformer/",
        nested,
        modules(("0_Transformer", "Transformer"), ("1_Pooling", "Pooling")),
    ),
    case(
        "0_Transformer/ beside another config.json",
        nested,
        modules(("0_Transformer", "Transformer"), ("1_Pooling", "Pooling")),
        text("config.json", "{}"),
    ),
    case(
        "Dropout",
        modules(*PLAIN, ("2_Dropout", "Dropout")),
        put("2_Dropout/config.json", dropout=0.5),
    ),
    case(
        "Dropout with an unknown key",
        modules(*PLAIN, ("2_Dropout", "Dropout")),
        put("2_Dropout/config.json", dropout=0.5, x=1),
        refuse="x",
    ),
    case(
        "LayerNorm",
        layer_norm,
        put("2_LayerNorm/config.json", dimension=384),
        modules(*PLAIN, ("2_LayerNorm", "LayerNorm")),
        refuse="LayerNorm",
    ),
    # Pooling
    *[
        case(f"pooling {' + '.join(m)}", pooling(*m), refuse=r)
        for m, r in [
            (["pooling_mode_cls_token"], None),
            (["pooling_mode_max_tokens"], "pooling_mode_max_tokens"),
            (["pooling_mode_mean_sqrt_len_tokens"], "pooling_mode_mean_sqrt_len_tokens"),
            (["pooling_mode_weightedmean_tokens"], "pooling_mode_weightedmean_tokens"),
            (["pooling_mode_lasttoken"], None),
            (["pooling_mode_cls_token", "pooling_mode_mean_tokens"], "pooling_mode"),
            ([], "pooling_mode"),
        ]
    ],
    *[
        case(
            f"pooling_mode {m}",
            change(PO, lambda _, m=m: {"embedding_dimension": 384, "pooling_mode": m}),
            refuse=r,
        )
        for m, r in [
            ("cls", None),
            ("mean", None),
            ("lasttoken", None),
            ("max", "pooling_mode"),
            ("mean_sqrt_len_tokens", "pooling_mode"),
            ("weightedmean", "pooling_mode"),
            (["cls"], None),
            (["mean", "cls"], "pooling_mode"),
            ("nonsense", "pooling_mode"),
        ]
    ],
    case(
        "pooling_mode against the booleans", pooling("pooling_mode_mean_tokens", pooling_mode="cls")
    ),
    case("a boolean as a number", pooling(pooling_mode_cls_token=1), refuse="pooling_mode"),
    case(
        "word_embedding_dimension that is wrong",
        pooling("pooling_mode_mean_tokens", word_embedding_dimension=100),
        refuse="word_embedding_dimension",
    ),
    case(
        "without word_embedding_dimension",
        change(PO, lambda _: {"pooling_mode_mean_tokens": True}),
        refuse="word_embedding_dimension",
    ),
    case(
        "both dimensions",
        pooling("pooling_mode_mean_tokens", embedding_dimension=384),
        refuse="word_embedding_dimension",
    ),
    case(
        "only word_embedding_dimension: mean",
        change(PO, lambda _: {"word_embedding_dimension": 384}),
    ),
    case("an unknown pooling key", pooling("pooling_mode_mean_tokens", foo=1), refuse="foo"),
    case("no 1_Pooling/config.json", remove(PO), refuse="1_Pooling"),
    case(
        "include_prompt false without prompts",
        pooling("pooling_mode_mean_tokens", include_prompt=False),
    ),
    *[
        case(
            f"include_prompt false, {p}",
            pooling(f"pooling_mode_{p}", include_prompt=False),
            put(ST, prompts=PROMPTS, default_prompt_name="long"),
            refuse="include_prompt",
        )
        for p in ("mean_tokens", "cls_token", "lasttoken")
    ],
    # Prompts and other settings in config_sentence_transformers.json
    *[
        case(f"default_prompt_name {n}", put(ST, prompts=PROMPTS, default_prompt_name=n))
        for n in (None, "query", "document", "long")
    ],
    case(
        "default_prompt_name that is not there",
        put(ST, prompts=PROMPTS, default_prompt_name="nonsense"),
        refuse="default_prompt_name",
    ),
    case("default_prompt_name query without prompts", put(ST, default_prompt_name="query")),
    case("a prompt that is null", put(ST, prompts={"query": None}, default_prompt_name="query")),
    case("prompts null", put(ST, prompts=None), refuse="prompts"),
    case("no config_sentence_transformers.json", remove(ST)),
    case("truncate_dim 100", put(ST, truncate_dim=100)),
    case("truncate_dim beyond the vector", put(ST, truncate_dim=1000), refuse="truncate_dim"),
    *[
        case(f"{k} {v}", put(ST, **{k: v}), refuse=r)
        for k, v, r in [
            ("similarity_fn_name", "dot", None),
            ("similarity_fn_name", "nonsense", None),
            ("similarity_fn_name", None, None),
            ("model_type", "SentenceTransformer", None),
            ("model_type", "CrossEncoder", "model_type"),
            ("model_type", "SparseEncoder", "model_type"),
            ("requirements", {"transformers": ">=4"}, None),
            ("requirements", {"transformers": ">=99"}, "requirements"),
            ("unknown", 1, None),
            ("__version__", {"sentence_transformers": "99.0.0"}, None),
        ]
    ],
    # Dense
    with_dense("Tanh", activation_function=TANH),
    with_dense("Tanh by default"),
    with_dense("Identity", activation_function=IDENTITY),
    with_dense(
        "Identity, then Normalize",
        activation_function=IDENTITY,
        more=[("3_Normalize", "Normalize")],
    ),
    with_dense("without bias", activation_function=IDENTITY, bias=False),
    with_dense("wider", activation_function=IDENTITY, outputs=500),
    with_dense("pytorch_model.bin", activation_function=IDENTITY, file="pytorch_model.bin"),
    with_dense(
        "residual of the same size", activation_function=IDENTITY, outputs=384, use_residual=True
    ),
    with_dense("residual of another size", activation_function=TANH, use_residual=True),
    with_dense("activation null", activation_function=None, refuse="activation_function"),
    with_dense(
        "activation of somebody else", activation_function="foo.Bar", refuse="activation_function"
    ),
    *[
        with_dense(
            a, activation_function=f"torch.nn.modules.activation.{a}", refuse="activation_function"
        )
        for a in ("ReLU", "GELU", "SiLU", "Sigmoid")
    ],
    with_dense("torch.nn.Tanh", activation_function="torch.nn.Tanh", refuse="activation_function"),
    with_dense(
        "an unknown activation",
        activation_function="torch.nn.Linear",
        refuse="activation_function",
    ),
    with_dense("unknown key", activation_function=IDENTITY, foo=1),
    with_dense(
        "module_input_name",
        activation_function=IDENTITY,
        module_input_name="sentence_embedding",
        module_output_name="sentence_embedding",
    ),
    with_dense(
        "another output",
        activation_function=IDENTITY,
        module_output_name="other",
        refuse="module_output_name",
    ),
    case(
        "Dense, a bias that the config does not have",
        dense("2_Dense", activation_function=IDENTITY),
        put("2_Dense/config.json", bias=False),
        modules(*PLAIN, ("2_Dense", "Dense")),
        refuse="bias",
    ),
    case(
        "Dense, sizes that are not the file's",
        dense("2_Dense", activation_function=IDENTITY),
        put("2_Dense/config.json", out_features=97),
        modules(*PLAIN, ("2_Dense", "Dense")),
        refuse="2_Dense",
    ),
    case(
        "Dense, in_features that is not the vector's",
        dense("2_Dense", inputs=380, activation_function=IDENTITY),
        modules(*PLAIN, ("2_Dense", "Dense")),
        refuse="in_features",
    ),
    case(
        "Dense, no config",
        dense("2_Dense"),
        remove("2_Dense/config.json"),
        modules(*PLAIN, ("2_Dense", "Dense")),
        refuse="2_Dense",
    ),
    case(
        "Dense, no weights",
        dense("2_Dense"),
        remove("2_Dense/model.safetensors"),
        modules(*PLAIN, ("2_Dense", "Dense")),
        refuse="2_Dense",
    ),
    case(
        "Dense on the tokens, before Pooling",
        dense(
            "1_Dense",
            activation_function=IDENTITY,
            outputs=384,
            module_input_name="token_embeddings",
        ),
        modules(("", "Transformer"), ("1_Dense", "Dense"), ("1_Pooling", "Pooling")),
        refuse="module_input_name",
    ),
    case(
        "two Dense",
        dense("2_Dense", activation_function=TANH),
        dense("3_Dense", inputs=96, outputs=50, activation_function=IDENTITY, bias=False),
        modules(*PLAIN, ("2_Dense", "Dense"), ("3_Dense", "Dense")),
    ),
    case(
        "two Dense with Normalize between",
        dense("2_Dense", activation_function=TANH),
        dense("3_Dense", inputs=96, outputs=50, activation_function=IDENTITY),
        modules(*PLAIN, ("2_Dense", "Dense"), ("2_Normalize", "Normalize"), ("3_Dense", "Dense")),
        refuse="Normalize",
    ),
    case(
        "truncate_dim after Dense",
        dense("2_Dense", activation_function=TANH),
        modules(*PLAIN, ("2_Dense", "Dense")),
        put(ST, truncate_dim=30),
    ),
]
