"""Writes tests/fixtures/tokenizers.json: model directories that differ in one key at a time, and
the results of Hugging Face transformers (and sentence-transformers' do_lower_case) for texts.

    python gte-core/tests/make_tokenizers.py      # needs the packages of requirements-fixtures.txt

A case has a base of files, changes to them (null: the file does not exist), ids of each text, ids
of pairs truncated to 12 tokens with their types, special ids, and the side of truncation; or
`raises` if the reference cannot load it.
"""
import copy
import json
import os
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
from tokenizers import normalizers  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
TEXTS = [
    "Hello World, the Café is OPEN!", "今天天气真好 GTE模型", "naïve  résumé [MASK] x", "", " a\tb\r\n c ", "<mask> a<s> b </s>c [new] <e0>",
    "İstanbul ﬁ ① ２０２４ Ｃａｆｅ́", "[SEP][CLS] [unk] [UNK]", "don't it's 12345 we'LL", "x<|endoftext|>y [E1] [PAD] <pad>",
]


def special(content, id, **flags):
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True) | flags
    return {"id": id, "content": content} | flags


def bert():
    letters = sorted(set("abcdefghijklmnopqrstuvwxyzHWCGTEOPNLIFMSDÀé0123456789,.!'①ﬁ今天气真好模型é‘"))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "the", "cafe", "Caf", "##é", "is", "open", "na", "##ive",
             "resume", "天气", "i", "##stanbul", "don", "##t", "2024", "<s>", "</s>", "[", "]"]
    words += [w for l in letters for w in (l, "##" + l) if w not in words]
    vocab = {w: i for i, w in enumerate(dict.fromkeys(words))}
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    template = lambda parts: [{k: {"id": i, "type_id": t}} for k, i, t in parts]
    return {
        "config.json": {"model_type": "bert", "vocab_size": len(vocab) + 40},
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512},
        "tokenizer.json": {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [special(n, vocab[n]) for n in names],
            "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": template([("SpecialToken", "[CLS]", 0), ("Sequence", "A", 0), ("SpecialToken", "[SEP]", 0)]),
                "pair": template([("SpecialToken", "[CLS]", 0), ("Sequence", "A", 0), ("SpecialToken", "[SEP]", 0), ("Sequence", "B", 1), ("SpecialToken", "[SEP]", 1)]),
                "special_tokens": {n: {"id": n, "ids": [vocab[n]], "tokens": [n]} for n in ("[CLS]", "[SEP]")},
            },
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab},
        },
    }


def charsmap():
    """Rules for the few characters in the texts: nmt_nfkc would take 320 kB."""
    import base64
    import sentencepiece as spm
    from sentencepiece import sentencepiece_model_pb2 as pb
    d = tempfile.mkdtemp()
    with open(d + "/t.txt", "w") as f:
        f.write("\n".join(f"hello world {i} abc" for i in range(500)))
    rules = {"①": "1", "ﬁ": "fi", "Ｃ": "C", "ａ": "a", "ｆ": "f", "ｅ": "e", "２": "2", "０": "0", "４": "4", "\t": " ", "\r": " ", "\n": " ", "\u3000": " "}
    with open(d + "/rules.tsv", "w") as f:
        for a, b in rules.items():
            f.write(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n")
    spm.SentencePieceTrainer.train(input=d + "/t.txt", model_prefix=d + "/m", vocab_size=30, normalization_rule_tsv=d + "/rules.tsv", minloglevel=2)
    model = pb.ModelProto()
    with open(d + "/m.model", "rb") as f:
        model.ParseFromString(f.read())
    return base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()


def xlm_roberta():
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁the", "▁Hello", "▁World", "caf", "天气", "今天", "▁a", "▁b", "st", "an", "12", "▁is", "[", "]", "<", ">", "/"]
    pieces += [c for c in "abcdefghijklmnopqrstuvwxyzHWCGTEOPN0123456789,.!'今天气真好模型é" if c not in pieces] + ["<mask>"]
    vocab = [[p, 0.0 if p[0] == "<" and len(p) > 1 else -3.0 - 0.5 * (i % 7) + len(p)] for i, p in enumerate(pieces)]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    part = lambda k, i, t=0: {k: {"id": i, "type_id": t}}
    return {
        "config.json": {"model_type": "xlm-roberta", "vocab_size": len(pieces) + 40},
        "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512},
        "tokenizer.json": {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [special(n, pieces.index(n)) for n in ("<s>", "<pad>", "</s>", "<unk>")] + [special("<mask>", len(pieces) - 1, lstrip=True, normalized=True)],
            "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap()},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [part("SpecialToken", "<s>"), part("Sequence", "A"), part("SpecialToken", "</s>")],
                "pair": [part("SpecialToken", "<s>"), part("Sequence", "A"), part("SpecialToken", "</s>"), part("SpecialToken", "</s>"), part("Sequence", "B"), part("SpecialToken", "</s>")],
                "special_tokens": {n: {"id": n, "ids": [pieces.index(n)], "tokens": [n]} for n in ("<s>", "</s>")},
            },
            "decoder": metaspace,
            "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
        },
    }


def byte_level(model_type, cls):
    alphabet = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    names = {b: chr(b) for b in alphabet}
    names |= {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in names)}
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if cls == "RobertaTokenizer" else ["<|endoftext|>", "<|im_end|>"]
    vocab = {n: i for i, n in enumerate(([] if cls == "Qwen2Tokenizer" else specials) + [names[b] for b in range(256)])}
    merges = [["Ġ", "t"], ["h", "e"], ["Ġt", "he"], ["l", "l"], ["1", "2"], ["12", "3"], ["Ġ", "a"], ["å", "¤"], ["a", "n"], ["Ġ", "Ġ"]]
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": cls == "RobertaTokenizer"}
    regex = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    end = specials[0]
    first = len(vocab)
    if cls == "Qwen2Tokenizer":
        added = [special(n, first + i) for i, n in enumerate(specials)]
        tail = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": end, "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": end, "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": end, "type_id": 1}}],
                "special_tokens": {end: {"id": end, "ids": [first], "tokens": [end]}}}
        post = {"type": "Sequence", "processors": [bytes_, tail]}
    else:
        added = [special(n, i) for i, n in enumerate(specials)]
        post = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": False}
    qwen = cls == "Qwen2Tokenizer"
    return {
        "config.json": {"model_type": model_type, "vocab_size": len(vocab) + 40},
        "tokenizer_config.json": {"tokenizer_class": cls, "model_max_length": 512} | ({"eos_token": "<|im_end|>", "pad_token": end} if qwen else {}),
        "tokenizer.json": {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": {"type": "NFC"} if qwen else None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_]} if qwen else bytes_,
            "post_processor": post, "decoder": bytes_,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges},
        },
    }


CONFIG, JSON, SPECIAL = "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json"
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
DECODER = {"added_tokens_decoder": {"60": {"content": "[new]", "special": False, "lstrip": True}, "61": {"content": "<e0>", "special": True}}}
NAMED = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}


def cases(bases):
    lower = lambda value: {CONFIG: {"do_lower_case": value}}
    for base in bases:
        yield base, {}
        yield base, {CONFIG: FAST}
        yield base, {CONFIG: {"tokenizer_class": None}}
        yield base, {CONFIG: {"tokenizer_class": "NobodysTokenizer"}}
        for side in ("left", "right"):
            yield base, {CONFIG: {"truncation_side": side}}
        truncation = {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
        yield base, {JSON: {"truncation": truncation}}
        yield base, {JSON: {"truncation": truncation}, CONFIG: FAST}
        yield base, {JSON: {"truncation": truncation}, CONFIG: {"truncation_side": "right"}}
        yield base, {CONFIG: {"padding_side": "left"}}
        yield base, {CONFIG: {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}}
        yield base, {CONFIG: {"model_input_names": ["input_ids", "attention_mask"]}}
        yield base, {CONFIG: {"split_special_tokens": True}}
        yield base, {CONFIG: {"clean_up_tokenization_spaces": True, "name_or_path": "x", "processor_class": None}}
        for extra in ({"additional_special_tokens": ["[new]", "<e0>"]}, {"extra_special_tokens": ["[new]"], "additional_special_tokens": ["<e0>"]},
                      {"extra_special_tokens": {"entity_token": "<e0>"}}, {"entity_token": "<e0>"}, DECODER, DECODER | FAST,
                      {"mask_token": "[new]"}, {"mask_token": {"__type": "AddedToken", "content": "<e0>", "lstrip": True, "rstrip": True, "normalized": True, "single_word": False}},
                      {"add_bos_token": True, "add_eos_token": True}):
            yield base, {CONFIG: extra}
        yield base, {SPECIAL: {"additional_special_tokens": ["[new]"]}}
        yield base, {SPECIAL: {"mask_token": {"content": "[new]", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}}}
        yield base, {SPECIAL: {"mask_token": "[new]"}, CONFIG: {"mask_token": "<e0>"}}
        yield base, {SPECIAL: {"mask_token": "[new]"}, CONFIG: DECODER}
        yield base, {"added_tokens.json": {"[new]": 70, "<e0>": 65}}
        yield base, {"added_tokens.json": {"[new]": 70}, CONFIG: DECODER}
        yield base, {JSON: {"post_processor": None}}
        yield base, {JSON: {"post_processor": None}, CONFIG: FAST}
        yield base, {JSON: {"normalizer": None}}
        yield base, {JSON: {"normalizer": {"type": "Lowercase"}}}
        yield base, {JSON: {"normalizer": {"type": "Lowercase"}}, CONFIG: FAST}
        yield base, {JSON: {"added_tokens": []}}
        yield base, {JSON: {"added_tokens": []}, CONFIG: FAST}
        yield base, {JSON: {"padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<e0>"}}, CONFIG: FAST}
        yield base, {"sentence_bert_config.json": {"do_lower_case": True}, "modules.json": {}}
        yield base, {"sentence_bert_config.json": {"do_lower_case": False}, "modules.json": {}}
        yield base, {"sentence_bert_config.json": {"do_lower_case": True}}
    for value in (False, True):
        yield "bert", lower(value)
        yield "bert", {CONFIG: {"do_lower_case": value} | FAST}
        yield "bert", {CONFIG: {"strip_accents": value}}
        yield "bert", {CONFIG: {"strip_accents": value, "do_lower_case": False}}
        yield "bert", {CONFIG: {"tokenize_chinese_chars": value}}
        for base in ("xlm_roberta", "roberta", "qwen3"):
            yield base, {CONFIG: {"add_prefix_space": value}}
            yield base, {CONFIG: {"add_prefix_space": value} | FAST}
    yield "bert", {CONFIG: NAMED}
    yield "bert", {CONFIG: {"cls_token": "<s>", "sep_token": "</s>"}}
    yield "bert", {CONFIG: {"cls_token": "<s>", "sep_token": "</s>"} | FAST}
    yield "bert", {SPECIAL: {"cls_token": "<s>", "sep_token": "</s>"}}
    yield "bert", {CONFIG: {"unk_token": "hello"}}
    yield "bert", {CONFIG: {"tokenizer_class": "BertTokenizerFast", "never_split": ["Café"], "do_basic_tokenize": False}}
    yield "bert", {"config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}, CONFIG: {"tokenizer_class": None}}
    yield "bert", {JSON: {"model": {"max_input_chars_per_word": 3}}}
    yield "bert", {JSON: {"model": {"max_input_chars_per_word": 3}}, CONFIG: FAST}
    yield "bert", {"vocab.txt": True, JSON: None}
    yield "bert", {"vocab.txt": True, JSON: None, CONFIG: {"do_lower_case": False}}
    yield "bert", {"vocab.txt": True, JSON: None, CONFIG: None}
    yield "bert", {"vocab.txt": True, JSON: None, CONFIG: None, SPECIAL: NAMED}
    yield "bert", {"vocab.txt": True, JSON: None, "added_tokens.json": {"[new]": 300}}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    for fast in ({}, FAST):
        yield "xlm_roberta", {JSON: {"pre_tokenizer": metaspace}, CONFIG: fast}
        yield "xlm_roberta", {JSON: {"pre_tokenizer": metaspace | {"prepend_scheme": "never"}}, CONFIG: fast}
        yield "xlm_roberta", {JSON: {"pre_tokenizer": metaspace | {"prepend_scheme": "first"}}, CONFIG: fast}
        yield "xlm_roberta", {JSON: {"model": {"unk_id": 0}}, CONFIG: fast}
    yield "xlm_roberta", {CONFIG: {"bos_token": "<pad>", "eos_token": "<unk>"}}
    yield "xlm_roberta", {CONFIG: {"cls_token": "<pad>", "sep_token": "<unk>"}}
    yield "xlm_roberta", {"config.json": {"model_type": "gte"}, CONFIG: {"tokenizer_class": None}}
    yield "roberta", {CONFIG: {"cls_token": "<pad>", "sep_token": "<unk>"}}
    yield "qwen3", {"config.json": {"model_type": "qwen2"}, CONFIG: FAST}
    yield "qwen3", {"config.json": {"model_type": "modernbert"}}


def merged(base, changes):
    files = copy.deepcopy(base)
    for file, change in changes.items():
        if change is None:
            files.pop(file, None)
        elif file == "vocab.txt":
            files[file] = "\n".join(base[JSON]["model"]["vocab"]) + "\n"
        elif file == "modules.json":
            files[file] = []
        else:
            content = files.setdefault(file, {})
            for key, value in change.items():
                if isinstance(value, dict) and key == "model":
                    content[key] |= value
                elif key == "tokenizer_class" and value is None:
                    content.pop(key, None)
                else:
                    content[key] = value
    return files


def reference(files):
    with tempfile.TemporaryDirectory() as d:
        for name, content in files.items():
            with open(os.path.join(d, name), "w") as f:
                f.write(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False))
        try:
            tokenizer = AutoTokenizer.from_pretrained(d)
        except Exception as e:
            return {"raises": f"{type(e).__name__}: {e}"[:200]}
    if "modules.json" in files and files["sentence_bert_config.json"]["do_lower_case"]:
        # sentence_transformers/base/modules/transformer.py
        from sentence_transformers.base.modules.transformer import _has_lowercase
        normalizer = tokenizer.backend_tokenizer.normalizer
        if not _has_lowercase(normalizer):
            parts = list(normalizer) if isinstance(normalizer, normalizers.Sequence) else [normalizer] if normalizer else []
            tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase()] + parts)
    # As a list with one element: to transformers, a single empty second text is not a pair.
    pairs = [tokenizer([a], [b], truncation="longest_first", max_length=12) for a, b in zip(TEXTS, TEXTS[::-1])]
    singles = [tokenizer(text, truncation="longest_first", max_length=7)["input_ids"] for text in TEXTS]
    return {
        "ids": [tokenizer(text)["input_ids"] for text in TEXTS],
        "cut": singles,
        "pairs": [p["input_ids"][0] for p in pairs],
        "types": [p["token_type_ids"][0] if "token_type_ids" in p else None for p in pairs],
        "special": sorted({i for i in tokenizer.all_special_ids if i is not None}),
    }


def main():
    bases = {"bert": bert(), "xlm_roberta": xlm_roberta(), "roberta": byte_level("roberta", "RobertaTokenizer"), "qwen3": byte_level("qwen3", "Qwen2Tokenizer")}
    written = []
    for base, changes in cases(bases):
        try:
            expected = reference(merged(bases[base], changes))
        except Exception as e:  # it loads, but fails on a text
            expected = {"raises": f"{type(e).__name__}: {e}"[:200]}
        if "raises" in expected:
            print(base, json.dumps(changes, ensure_ascii=False)[:150], "raises", expected["raises"], file=sys.stderr)
        written.append({"base": base, "changes": changes, **expected})
    with open(os.path.join(HERE, "fixtures", "tokenizers.json"), "w") as f:
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in written)
        f.write('{"texts": %s,\n"bases": %s,\n"cases": [\n%s\n]}\n' % (json.dumps(TEXTS, ensure_ascii=False), json.dumps(bases, ensure_ascii=False), lines))
    print(len(written), "cases", file=sys.stderr)


if __name__ == "__main__":
    main()
