"""Rerankers: labels, the ids of LogitScore, templates, and models opened by the wrong example. Raw
scores are compared, so an activation in the files must be accepted, and has no effect.
"""

from .edit import case, drop, put, remove, text

C, TC = "config.json", "tokenizer_config.json"
ASKED = [
    (
        "身份证过期了怎么换",
        [
            "how to renew an expired ID card",
            "新能源汽车出口量跃居世界第一。",
            "身份证过期了，带旧证去派出所换。",
        ],
    ),
    (
        "When are the keys handed over?",
        [
            "The keys will be handed over before the end of June.",
            "holiday economy",
            "a [SEP] b " * 30,
        ],
    ),
]
IDENTITY, SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
LOGIT, SB, ST = (
    "1_LogitScore/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)


def on(base, name, *edits, **more):
    return case(name, *edits, base=base, texts=ASKED, program="rerank", **more)


CASES = [
    *[
        on(base, "as it is")
        for base in (
            "bert-classifier",
            "xlmr-reranker",
            "modernbert-reranker",
            "modernbert-reranker-cls",
            "qwen3-reranker-logitscore",
        )
    ],
    on("bert-classifier-3", "three labels", refuse="label"),
    on(
        "bert-classifier",
        "activation_fn Identity",
        put(C, sentence_transformers={"activation_fn": IDENTITY, "version": "5.0.0"}),
        refuse="activation_fn",
    ),
    on(
        "bert-classifier",
        "activation_fn Sigmoid",
        put(C, sentence_transformers={"activation_fn": SIGMOID}),
    ),
    on(
        "bert-classifier",
        "activation_fn of somebody else",
        put(C, sentence_transformers={"activation_fn": "foo.Bar"}),
        refuse="activation_fn",
    ),
    on(
        "bert-classifier",
        "the old key of Identity",
        put(C, sbert_ce_default_activation_function=IDENTITY),
        refuse="sbert_ce_default_activation_function",
    ),
    on(
        "bert-classifier",
        "the old key of Sigmoid",
        put(C, sbert_ce_default_activation_function=SIGMOID),
    ),
    on("bert-classifier", "the old key null", put(C, sbert_ce_default_activation_function=None)),
    on(
        "bert-classifier",
        "num_labels instead of id2label",
        drop(C, "id2label", "label2id"),
        put(C, num_labels=1),
    ),
    on("bert-classifier", "no word on labels", drop(C, "id2label", "label2id"), refuse="label"),
    on(
        "bert-classifier",
        "two labels over one row",
        put(C, id2label={"0": "a", "1": "b"}),
        refuse="label",
    ),
    on("bert-classifier", "classifier_dropout", put(C, classifier_dropout=0.9)),
    on("bert-classifier", "problem_type", put(C, problem_type="regression")),
    on(
        "bert-classifier", "without architectures", drop(C, "architectures"), refuse="architectures"
    ),
    on(
        "bert-classifier",
        "model_input_names without types",
        put(TC, model_input_names=["input_ids", "attention_mask"]),
        refuse="model_input_names",
    ),
    on("bert-classifier", "model_max_length 20", put(TC, model_max_length=20)),
    on(
        "bert-classifier",
        "truncation_side left",
        put(TC, truncation_side="left", model_max_length=20),
        refuse="truncation_side",
    ),
    on("bert-classifier", "do_lower_case false", put(TC, do_lower_case=False)),
    on("bert-classifier", "is_decoder", put(C, is_decoder=True), refuse="is_decoder"),
    on("bert-classifier", "hidden_act relu", put(C, hidden_act="relu"), refuse="hidden_act"),
    on("xlmr-reranker", "model_max_length 20", put(TC, model_max_length=20)),
    on(
        "xlmr-reranker",
        "PreTrainedTokenizerFast",
        put(TC, tokenizer_class="PreTrainedTokenizerFast"),
    ),
    on(
        "xlmr-reranker",
        "two labels over one row",
        put(C, id2label={"0": "a", "1": "b"}),
        refuse="label",
    ),
    *[
        on("modernbert-reranker", f"{k} {v}", put(C, **{k: v}), refuse=r)
        for k, v, r in [
            ("classifier_pooling", "cls", None),
            ("classifier_pooling", "nonsense", "classifier_pooling"),
            ("classifier_activation", "silu", "classifier_activation"),
            ("classifier_bias", True, ".bias"),
            ("classifier_dropout", 0.5, None),
            ("decoder_bias", False, None),
        ]
    ],
    on("modernbert-reranker", "without classifier_pooling", drop(C, "classifier_pooling")),
    on("qwen3-reranker-logitscore", "other ids", put(LOGIT, true_token_id=9, false_token_id=200)),
    on(
        "qwen3-reranker-logitscore",
        "false_token_id null",
        put(LOGIT, false_token_id=None),
        refuse="false_token_id",
    ),
    on(
        "qwen3-reranker-logitscore",
        "without false_token_id",
        drop(LOGIT, "false_token_id"),
        refuse="false_token_id",
    ),
    on(
        "qwen3-reranker-logitscore",
        "without true_token_id",
        drop(LOGIT, "true_token_id"),
        refuse="true_token_id",
    ),
    on(
        "qwen3-reranker-logitscore",
        "true_token_id beyond the table",
        put(LOGIT, true_token_id=99999),
        refuse="true_token_id",
    ),
    on(
        "qwen3-reranker-logitscore", "an unknown key of LogitScore", put(LOGIT, foo=1), refuse="foo"
    ),
    on(
        "qwen3-reranker-logitscore",
        "no 1_LogitScore/config.json",
        remove(LOGIT),
        refuse="1_LogitScore",
    ),
    on(
        "qwen3-reranker-logitscore",
        "without add_generation_prompt",
        drop(SB, "processing_kwargs"),
        refuse="add_generation_prompt",
    ),
    on(
        "qwen3-reranker-logitscore",
        "another template",
        text("chat_template.jinja", lambda s: s.replace("Say whether", "Tell us if")),
    ),
    on(
        "qwen3-reranker-logitscore",
        "an invalid template",
        text("chat_template.jinja", "{{ messages | "),
        refuse="chat_template",
    ),
    on(
        "qwen3-reranker-logitscore",
        "a template that drops the query",
        text("chat_template.jinja", "{{ messages[1].content }}"),
        refuse="chat_template",
    ),
    on("qwen3-reranker-logitscore", "the template in tokenizer_config.json", lambda d: _moved(d)),
    on("qwen3-reranker-logitscore", "activation_fn Sigmoid", put(ST, activation_fn=SIGMOID)),
    on("qwen3-reranker-logitscore", "activation_fn null", put(ST, activation_fn=None)),
    on(
        "qwen3-reranker-logitscore",
        "a default prompt",
        put(ST, prompts={"web": "Answer questions about shops."}, default_prompt_name="web"),
        refuse="prompt",
    ),
    on("xlmr", "an embedder given to rerank", refuse="embed", must_refuse=True),
    on("qwen3", "a decoder that embeds given to rerank", refuse="embed", must_refuse=True),
    *[
        case(
            "a reranker given to embed",
            base=base,
            texts=["hello"],
            refuse="rerank",
            must_refuse=True,
        )
        for base in (
            "bert-classifier",
            "xlmr-reranker",
            "modernbert-reranker",
            "new-reranker",
            "qwen3-reranker",
            "qwen3-reranker-logitscore",
            "qwen3-seqcls",
        )
    ],
]


def _moved(d):
    """The text of chat_template.jinja as a key of tokenizer_config.json."""
    import os

    with open(os.path.join(d, "chat_template.jinja"), encoding="utf8") as f:
        template = f.read()
    remove("chat_template.jinja")(d)
    put(TC, chat_template=template)(d)
