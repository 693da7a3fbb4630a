"""tokenizer_config.json, tokenizer.json, special_tokens_map.json, added_tokens.json, vocab.txt,
sentence_bert_config.json.
"""

from .edit import case, change, drop, put, remove, text

TC, TJ, SB, SM = (
    "tokenizer_config.json",
    "tokenizer.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
)


def token(content, **more):
    return {
        "content": content,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
        "special": True,
    } | more


DECODER = {
    str(i): token(t)
    for i, t in ((0, "[PAD]"), (100, "[UNK]"), (101, "[CLS]"), (102, "[SEP]"), (103, "[MASK]"))
}


def inside(*path, **values):
    """Sets `values` in the object at `path` of tokenizer.json."""

    def function(j):
        at = j
        for key in path:
            at = at[key]
        at.update(values)

    return change(TJ, function)


def named(**values):
    """A key in tokenizer_config.json, without special_tokens_map.json."""
    return [remove(SM), put(TC, **values)]


CASES = [
    # What the tokenizer's class reads from tokenizer_config.json.
    *[
        case(f"tokenizer_config {k}={v}", put(TC, **{k: v}))
        for k in ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
        for v in (True, False)
    ],
    case(
        "do_lower_case false, strip_accents true", put(TC, do_lower_case=False, strip_accents=True)
    ),
    *[
        case(f"without {k}", drop(TC, k))
        for k in (
            "do_lower_case",
            "strip_accents",
            "tokenize_chinese_chars",
            "tokenizer_class",
            "model_max_length",
            "unk_token",
            "cls_token",
        )
    ],
    case(
        "without do_lower_case, cased tokenizer.json",
        drop(TC, "do_lower_case"),
        inside("normalizer", lowercase=False),
    ),
    case("no tokenizer_config.json", remove(TC)),
    case(
        "no tokenizer_config.json, cased tokenizer.json",
        remove(TC),
        inside("normalizer", lowercase=False),
    ),
    *[
        case(f"tokenizer_class {c}", put(TC, tokenizer_class=c))
        for c in (
            "BertTokenizerFast",
            "PreTrainedTokenizerFast",
            "PreTrainedTokenizer",
            "TokenizersBackend",
        )
    ],
    case(
        "tokenizer_class PreTrainedTokenizerFast with do_lower_case false",
        put(TC, tokenizer_class="PreTrainedTokenizerFast", do_lower_case=False),
    ),
    case(
        "tokenizer_class PreTrainedTokenizerFast, cased tokenizer.json",
        put(TC, tokenizer_class="PreTrainedTokenizerFast"),
        inside("normalizer", lowercase=False),
    ),
    case(
        "tokenizer_class of another kind",
        put(TC, tokenizer_class="XLMRobertaTokenizer"),
        refuse="tokenizer_class",
    ),
    case(
        "tokenizer_class unknown", put(TC, tokenizer_class="FooTokenizer"), refuse="tokenizer_class"
    ),
    case(
        "config.json's tokenizer_class",
        drop(TC, "tokenizer_class"),
        put("config.json", tokenizer_class="PreTrainedTokenizerFast"),
        inside("normalizer", lowercase=False),
    ),
    *[
        case(f"{k} in tokenizer_config", put(TC, **{k: v}))
        for k, v in [
            ("never_split", ["café"]),
            ("do_basic_tokenize", False),
            ("clean_up_tokenization_spaces", True),
            ("padding_side", "left"),
            ("max_length", 10),
            ("stride", 3),
            ("truncation_strategy", "only_first"),
            ("pad_to_multiple_of", 8),
            ("pad_token_type_id", 1),
            ("add_bos_token", True),
            ("add_eos_token", True),
            ("add_prefix_space", True),
            ("name_or_path", "/no/where"),
            ("use_fast", False),
            ("tokenizer_file", "/no/where"),
            ("special_tokens_map_file", "/no/where"),
            ("processor_class", None),
            ("unknown_key", 1),
            ("extra_special_tokens", {}),
            ("additional_special_tokens", []),
            ("chat_template", "{{ x }}"),
            ("legacy", True),
            ("errors", "replace"),
        ]
    ],
    case("truncation_side left", put(TC, truncation_side="left"), refuse="truncation_side"),
    case("truncation_side nonsense", put(TC, truncation_side="middle"), refuse="truncation_side"),
    case("padding_side nonsense", put(TC, padding_side="middle"), refuse="padding_side"),
    case("split_special_tokens", put(TC, split_special_tokens=True), refuse="split_special_tokens"),
    case(
        "model_input_names without types",
        put(TC, model_input_names=["input_ids", "attention_mask"]),
    ),
    # Special tokens.
    *[
        case(f"{k} [MASK]", *named(**{k: "[MASK]"}))
        for k in ("cls_token", "sep_token", "unk_token", "pad_token")
    ],
    case("unk_token as an object", *named(unk_token=token("[MASK]"))),
    case("cls_token that is not a special of tokenizer.json", *named(cls_token="the")),
    case("cls_token not in the vocabulary", *named(cls_token="<new>"), refuse="cls_token"),
    case("special_tokens_map against tokenizer_config", put(SM, sep_token="[MASK]")),
    case(
        "special_tokens_map with added_tokens_decoder",
        put(SM, sep_token="[MASK]"),
        put(TC, added_tokens_decoder=DECODER),
    ),
    case("special_tokens_map with an object", put(SM, sep_token=token("[MASK]"))),
    case("special_tokens_map adds a token", put(SM, additional_special_tokens=["word7"])),
    case("no special_tokens_map", remove(SM)),
    case(
        "additional_special_tokens of the vocabulary", *named(additional_special_tokens=["hello"])
    ),
    case("extra_special_tokens of the vocabulary", *named(extra_special_tokens=["hello"])),
    case("a token of its own name", *named(image_token="hello")),
    case(
        "additional_special_tokens not in the vocabulary",
        *named(additional_special_tokens=["<brand>"]),
        refuse="<brand>",
    ),
    case("added_tokens_decoder as it should be", put(TC, added_tokens_decoder=DECODER)),
    case(
        "added_tokens_decoder with a word",
        put(
            TC,
            added_tokens_decoder=DECODER | {"7592": token("hello", special=False, normalized=True)},
        ),
    ),
    case(
        "added_tokens_decoder with a word, not normalized",
        put(TC, added_tokens_decoder=DECODER | {"7592": token("hello", special=False)}),
    ),
    case(
        "added_tokens_decoder with another id",
        put(TC, added_tokens_decoder=DECODER | {"5": token("hello")}),
        refuse="added_tokens_decoder",
    ),
    case(
        "added_tokens_decoder with [unused1] renamed",
        put(TC, added_tokens_decoder=DECODER | {"2": token("[PRODUCT]")}),
        refuse="[PRODUCT]",
    ),
    case(
        "added_tokens_decoder without [MASK]",
        put(TC, added_tokens_decoder={k: v for k, v in DECODER.items() if k != "103"}),
    ),
    case("added_tokens.json with a word", text("added_tokens.json", '{"hello": 7592}')),
    case(
        "added_tokens.json with another id",
        text("added_tokens.json", '{"hello": 5}'),
        refuse="added_tokens.json",
    ),
    case(
        "added_tokens.json not in the vocabulary",
        text("added_tokens.json", '{"[PRODUCT]": 30522}'),
        refuse="[PRODUCT]",
    ),
    case(
        "added_tokens.json beside added_tokens_decoder",
        text("added_tokens.json", '{"hello": 7592}'),
        put(TC, added_tokens_decoder=DECODER),
    ),
    # tokenizer.json.
    case("cased tokenizer.json", inside("normalizer", lowercase=False)),
    case(
        "tokenizer.json without Chinese characters apart",
        inside("normalizer", handle_chinese_chars=False),
    ),
    case("tokenizer.json keeps accents", inside("normalizer", strip_accents=False)),
    case("no normalizer", change(TJ, lambda j: j.update(normalizer=None))),
    case(
        "another pre-tokenizer",
        change(TJ, lambda j: j.update(pre_tokenizer={"type": "Whitespace"})),
        refuse="pre_tokenizer",
    ),
    case(
        "a pre-tokenizer of spaces",
        change(TJ, lambda j: j.update(pre_tokenizer={"type": "WhitespaceSplit"})),
        refuse="pre_tokenizer",
    ),
    *[
        case(f"model.{k}", inside("model", **{k: v}), refuse=r)
        for k, v, r in [
            ("max_input_chars_per_word", 5, "max_input_chars_per_word"),
            ("continuing_subword_prefix", "@@", "continuing_subword_prefix"),
            ("unk_token", "[MASK]", "unk_token"),
        ]
    ],
    case(
        "another template",
        change(TJ, lambda j: j["post_processor"].update(single=j["post_processor"]["single"][:2])),
        refuse="post_processor",
    ),
    case(
        "no post-processor",
        change(TJ, lambda j: j.update(post_processor=None)),
        refuse="post_processor",
    ),
    case(
        "BertProcessing",
        change(
            TJ,
            lambda j: j.update(
                post_processor={
                    "type": "BertProcessing",
                    "sep": ["[SEP]", 102],
                    "cls": ["[CLS]", 101],
                }
            ),
        ),
    ),
    case("truncation to the left", inside("truncation", direction="Left"), refuse="direction"),
    case("truncation to 10", inside("truncation", max_length=10)),
    case("truncation null", change(TJ, lambda j: j.update(truncation=None))),
    case("padding null", change(TJ, lambda j: j.update(padding=None))),
    case("padding to the left", inside("padding", direction="Left")),
    case("decoder null", change(TJ, lambda j: j.update(decoder=None))),
    case(
        "an added token in tokenizer.json",
        change(TJ, lambda j: j["added_tokens"].append(token("hello", id=7592))),
    ),
    case(
        "an added token in tokenizer.json beside added_tokens_decoder",
        change(TJ, lambda j: j["added_tokens"].append(token("hello", id=7592))),
        put(TC, added_tokens_decoder=DECODER),
    ),
    case(
        "an added word in tokenizer.json, normalized",
        change(
            TJ,
            lambda j: j["added_tokens"].append(
                token("hello", id=7592, special=False, normalized=True)
            ),
        ),
    ),
    case(
        "an added word, single_word",
        change(TJ, lambda j: j["added_tokens"].append(token("word", id=2773, single_word=True))),
    ),
    case(
        "an added word, lstrip and rstrip",
        change(
            TJ, lambda j: j["added_tokens"].append(token("is", id=2003, lstrip=True, rstrip=True))
        ),
    ),
    case(
        "PreTrainedTokenizerFast with another template",
        put(TC, tokenizer_class="PreTrainedTokenizerFast"),
        change(TJ, lambda j: j["post_processor"].update(single=j["post_processor"]["single"][:2])),
    ),
    case(
        "PreTrainedTokenizerFast with five characters a word",
        put(TC, tokenizer_class="PreTrainedTokenizerFast"),
        inside("model", max_input_chars_per_word=5),
    ),
    case(
        "PreTrainedTokenizerFast with an added token",
        put(TC, tokenizer_class="PreTrainedTokenizerFast", additional_special_tokens=["hello"]),
    ),
    # vocab.txt.
    case("no vocab.txt", remove("vocab.txt")),
    case("vocab.txt that says otherwise", text("vocab.txt", lambda s: "x\n" + s)),
    case("no tokenizer.json", remove(TJ)),
    *[
        case(f"no tokenizer.json, {k}={v}", remove(TJ), put(TC, **{k: v}))
        for k in ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
        for v in (True, False)
    ],
    case("no tokenizer.json, no tokenizer_config.json", remove(TJ, TC)),
    case("no tokenizer.json, cls_token [MASK]", remove(TJ), *named(cls_token="[MASK]")),
    case(
        "no tokenizer.json, added_tokens.json",
        remove(TJ),
        text("added_tokens.json", '{"hello": 7592}'),
    ),
    case(
        "no tokenizer.json, vocab.txt from Windows",
        remove(TJ),
        text("vocab.txt", lambda s: s.replace("\n", "\r\n")),
    ),
    case(
        "no tokenizer.json, a line twice",
        remove(TJ),
        text("vocab.txt", lambda s: s.rstrip("\n") + "\nthe\n"),
        refuse="the",
    ),
    case(
        "no tokenizer.json, a space after a word",
        remove(TJ),
        text("vocab.txt", lambda s: s.replace("\nhello\n", "\nhello \n")),
    ),
    case("no tokenizer at all", remove(TJ, "vocab.txt"), refuse="tokenizer"),
    # Lengths: which of the files takes precedence.
    case("max_seq_length 16", put(SB, max_seq_length=16)),
    case("max_seq_length null", put(SB, max_seq_length=None)),
    case(
        "max_seq_length null, model_max_length 20",
        put(SB, max_seq_length=None),
        put(TC, model_max_length=20),
    ),
    case(
        "max_seq_length 40, model_max_length 20",
        put(SB, max_seq_length=40),
        put(TC, model_max_length=20),
    ),
    case(
        "max_seq_length 20, model_max_length 40",
        put(SB, max_seq_length=20),
        put(TC, model_max_length=40),
    ),
    case("no sentence_bert_config.json", remove(SB)),
    case(
        "no sentence_bert_config.json, model_max_length 20",
        remove(SB),
        put(TC, model_max_length=20),
    ),
    case(
        "no sentence_bert_config.json, max_len 20",
        remove(SB),
        drop(TC, "model_max_length"),
        put(TC, max_len=20),
    ),
    case("no length anywhere", remove(SB), drop(TC, "model_max_length")),
    case(
        "model_max_length 1e30",
        remove(SB),
        put(TC, model_max_length=1000000000000000019884624838656),
    ),
    case("model_max_length beyond the table", remove(SB), put(TC, model_max_length=2048)),
    case("max_seq_length beyond the table", put(SB, max_seq_length=1024), refuse="max_seq_length"),
    case("an empty sentence_bert_config.json", text(SB, "{}")),
    case(
        "sentence_roberta_config.json",
        remove(SB),
        put("sentence_roberta_config.json", max_seq_length=12),
    ),
    case("both of these", put("sentence_roberta_config.json", max_seq_length=12)),
    case("sentence_bert_config do_lower_case", put(SB, do_lower_case=True)),
    case(
        "sentence_bert_config do_lower_case, cased",
        put(SB, do_lower_case=True),
        put(TC, do_lower_case=False),
    ),
    case(
        "sentence_bert_config do_lower_case, cased, accents kept",
        put(SB, do_lower_case=True),
        put(TC, do_lower_case=False, strip_accents=False),
    ),
    *[
        case(f"{k} {v}", put(SB, **{k: v}), refuse=r)
        for k, v, r in [
            ("tokenizer_args", {"do_lower_case": False}, "tokenizer_args"),
            ("processor_kwargs", {"model_max_length": 11}, "processor_kwargs"),
            ("config_args", {"num_hidden_layers": 2}, "config_args"),
            ("model_args", {"attn_implementation": "eager"}, "model_args"),
            ("model_args", {}, None),
            ("unknown_key", 1, "unknown_key"),
            ("transformer_task", "feature-extraction", None),
            ("transformer_task", "fill-mask", "transformer_task"),
            ("processing_kwargs", {"text": {"max_length": 10}}, "processing_kwargs"),
            ("processing_kwargs", {"text": {"truncation": False}}, "processing_kwargs"),
            ("unpad_inputs", False, None),
            ("query_length", 5, "query_length"),
            ("document_length", 5, "document_length"),
            ("query_expansion", None, None),
        ]
    ],
    case(
        "modality_config of text",
        put(
            SB,
            modality_config={
                "text": {"method": "forward", "method_output_name": "last_hidden_state"}
            },
            module_output_name="token_embeddings",
        ),
    ),
    case(
        "modality_config with the pooler",
        put(
            SB,
            modality_config={"text": {"method": "forward", "method_output_name": "pooler_output"}},
            module_output_name="sentence_embedding",
        ),
        refuse="modality_config",
    ),
]
