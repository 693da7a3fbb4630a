"""Tiny tokenizers of the kinds that the families use, trained on the first lines of
fixtures/texts.txt.
"""

import collections
import math
import os
import tempfile

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

HERE = os.path.dirname(os.path.abspath(__file__))
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def lines(count=70):
    with open(os.path.join(HERE, "..", "fixtures", "texts.txt"), encoding="utf8") as f:
        return f.read().split("\n")[:count]


def charsmap():
    """A small Precompiled normalizer, compiled by sentencepiece from rules similar to XLM-R's
    nmt_nfkc.
    """
    import sentencepiece

    rules = {chr(0xFF01 + i): chr(0x21 + i) for i in range(94)}
    rules |= {chr(c): " " for c in (9, 10, 13, 0xA0, 0x2003, 0x200B, 0x3000, 0xFEFF)}
    rules |= {chr(c): "" for c in (1, 7, 0x1B, 0x7F, 0x85, 0x8F)}
    rules |= {
        "ﬁ": "fi",
        "ﬂ": "fl",
        "½": "1⁄2",
        "①": "1",
        "②": "2",
        "Ⅷ": "VIII",
        "…": "...",
        "ﷺ": "صلى الله عليه وسلم",
        "\u212b": "\u00c5",
    }
    rules |= {"e\u0301": "é", "a\u0308": "ä", "ｶﾞ": "ガ", "か\u3099": "が", "A\u030a": "\u00c5"}
    with tempfile.TemporaryDirectory() as d:
        with open(os.path.join(d, "rules.tsv"), "w", encoding="utf8") as f:
            for source, target in sorted(rules.items()):
                codes = lambda s: " ".join(f"{ord(c):X}" for c in s)
                f.write(f"{codes(source)}\t{codes(target)}\n")
        with open(os.path.join(d, "text"), "w", encoding="utf8") as f:
            f.write("\n".join(lines()))
        sentencepiece.SentencePieceTrainer.train(
            input=os.path.join(d, "text"),
            model_prefix=os.path.join(d, "m"),
            vocab_size=600,
            hard_vocab_limit=False,
            normalization_rule_tsv=os.path.join(d, "rules.tsv"),
            minloglevel=2,
        )
        from sentencepiece import sentencepiece_model_pb2 as proto

        model = proto.ModelProto()
        with open(os.path.join(d, "m.model"), "rb") as f:
            model.ParseFromString(f.read())
        return model.normalizer_spec.precompiled_charsmap


def _words(tokenizer, texts):
    """The pre-tokenized words of `texts`."""
    return [
        word
        for text in texts
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(
            tokenizer.normalizer.normalize_str(text)
        )
    ]


def _best(counts, size, length):
    """All pieces of one character, then the longest and most frequent. (The trainers of
    `tokenizers` give another vocabulary on every run.)
    """
    ones = sorted(p for p in counts if length(p) == 0)
    more = sorted(
        (p for p in counts if length(p) > 0 and counts[p] > 1),
        key=lambda p: (-counts[p] * length(p), p),
    )
    return (ones + more)[:size]


def unigram(size=420, texts=44):
    """XLM-R's: Unigram, Precompiled, WhitespaceSplit + Metaspace, `<s> A </s>` and `<s> A </s></s>
    B </s>`.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Precompiled(charsmap())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
        ]
    )
    words = _words(tokenizer, lines(texts))
    counts = collections.Counter(
        w[i:j] for w in words for i in range(len(w)) for j in range(i + 1, min(len(w), i + 6) + 1)
    )
    chosen = _best(counts, size - 5, lambda piece: len(piece) - 1)
    total = sum(counts.values())
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(piece, round(math.log(counts[piece] / total), 6)) for piece in chosen]
    tokenizer.model = models.Unigram(vocab + [("<mask>", 0.0)], unk_id=3, byte_fallback=False)
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t in ("<s>", "<pad>", "</s>", "<unk>")]
        + [AddedToken("<mask>", lstrip=True, normalized=False, special=True)]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A", "</s>"],
        pair=["<s>", "$A", "</s>", "</s>", "$B", "</s>"],
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    config = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "tokenizer_class": "XLMRobertaTokenizer",
        "clean_up_tokenization_spaces": True,
    }
    return tokenizer, config


def _byte_level(size, specials, extra=()):
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.train_from_iterator(lines() + list(extra), trainer)
    return tokenizer


def roberta(size=400):
    """RoBERTa's: byte-level BPE, ids 0 to 3 as in XLM-R, its own post-processor."""
    tokenizer = _byte_level(size, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    config = {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
        "tokenizer_class": "RobertaTokenizer",
        "add_prefix_space": False,
        "trim_offsets": True,
    }
    return tokenizer, config


def modernbert(size=400):
    """ModernBERT's: byte-level BPE, NFC, `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, special
    tokens after the pieces.
    """
    specials = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer = _byte_level(size, [])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, lstrip=t == "[MASK]", special=True) for t in specials]
    )
    tokenizer.decoder = decoders.ByteLevel()
    ids = [(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ids
    )
    config = {
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": True,
    }
    return tokenizer, config


def qwen(size=400, tail=True):
    """Qwen's: NFC, its own split, byte-level BPE. With `tail`, the template appends <|endoftext|>.
    """
    tokenizer = _byte_level(size, [], extra=["yes", "no"] * 400)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens(
        [
            AddedToken(t, normalized=False, special=True)
            for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
        ]
    )
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False, special=False) for t in ("<think>", "</think>")]
    )
    tokenizer.decoder = decoders.ByteLevel()
    bytes_only = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    if tail:
        end = "<|endoftext|>"
        template = processors.TemplateProcessing(
            single=f"$A:0 {end}:0",
            pair=f"$A:0 {end}:0 $B:1 {end}:1",
            special_tokens=[(end, tokenizer.token_to_id(end))],
        )
        tokenizer.post_processor = processors.Sequence([bytes_only, template])
    else:
        tokenizer.post_processor = bytes_only
    config = {
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "bos_token": None,
        "unk_token": None,
        "add_prefix_space": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "split_special_tokens": False,
        "errors": "replace",
    }
    return tokenizer, config


def wordpiece(size=360):
    """BERT's uncased WordPiece."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, lowercase=True
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words = _words(tokenizer, lines(36))
    counts = collections.Counter(
        ("" if i == 0 else "##") + w[i:j]
        for w in words
        for i in range(len(w))
        for j in range(i + 1, min(len(w), i + 6) + 1)
    )
    chosen = _best(counts, size - 5, lambda piece: len(piece.removeprefix("##")) - 1)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *chosen]
    tokenizer.model = models.WordPiece({t: i for i, t in enumerate(vocab)}, unk_token="[UNK]")
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in vocab[:5]])
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
    )
    config = {
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
    }
    return tokenizer, config
