"""Writes the expected values for the tests of gte-core, with an independent implementation:
Hugging Face transformers on PyTorch, in float64.

    python gte-core/tests/make_fixtures.py MINILM_DIR

It needs the packages of requirements-fixtures.txt, and writes to gte-core/tests/fixtures/:

parity/{small,base,large}.f32   expected unit vectors of the texts of `lengths()` with seeded
                                checkpoints of the three GTE shapes: CLS pooling, float64, rounded
                                to little-endian f32, text after text
minilm.json, minilm.f32         real texts with the real all-MiniLM-L6-v2: ids truncated to 256,
                                number of tokens before that, vectors
torch/                          a tiny checkpoint in the formats of torch.save, and its vector of
                                one text
tokens.json                     ids of difficult texts, by the tokenizer.json of MiniLM, and by
                                vocab.txt alone with each setting

A seeded checkpoint is too large to be committed (large has 650 MB), so both sides create it. A
tensor's seed is FNV-1a (64 bit) of its Hugging Face name. Value i is base + spread · (2u − 1),
where u = (splitmix64(seed + i) >> 40) / 2²⁴, and splitmix64(x) is the finalizer of Vigna's
generator for x + 0x9E3779B97F4A7C15, computed in f32 and rounded to f16:

    LayerNorm weight: base 1, spread 0.3      LayerNorm bias: 0, 0.1       other biases: 0, 0.1
    query and key weight: 0, 0.12             other matrices: 0, 0.06

The token id of text t at position p is 670 + splitmix64(t · 1000 + p) mod 20000, with [CLS] = 101
first and [SEP] = 102 last.
"""
import json
import os
import sys

import numpy as np
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "fixtures")
SHAPES = {"small": (512, 6, 8, 2048), "base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096)}
VOCAB = 21128


def splitmix64(x):
    z = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def fnv1a(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def values(name, shape):
    if name.endswith("LayerNorm.weight"):
        base, spread = 1.0, 0.3
    elif name.endswith(".bias"):
        base, spread = 0.0, 0.1
    elif name.endswith("query.weight") or name.endswith("key.weight"):
        base, spread = 0.0, 0.12
    else:
        base, spread = 0.0, 0.06
    n = int(np.prod(shape))
    with np.errstate(over="ignore"):
        x = splitmix64(np.uint64(fnv1a(name)) + np.arange(n, dtype=np.uint64))
    u = (x >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
    v = np.float32(base) + np.float32(spread) * (np.float32(2) * u - np.float32(1))
    return v.astype(np.float16).reshape(shape)


def lengths():
    """200 short and medium lengths, and the extremes."""
    with np.errstate(over="ignore"):
        draw = splitmix64(np.arange(200, dtype=np.uint64) + np.uint64(77_000_000))
    short = [3 + int(d % np.uint64(40 if i % 5 else 120)) for i, d in enumerate(draw)]
    return short + [1, 2, 3, 4, 511, 512, 257, 128]


def ids(text, length):
    with np.errstate(over="ignore"):
        out = 670 + splitmix64(np.uint64(text * 1000) + np.arange(length, dtype=np.uint64)) % np.uint64(20000)
    out = out.astype(np.int64)
    out[0] = 101
    if length > 1:
        out[-1] = 102
    return out


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_f32(path, rows):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    np.asarray(rows, dtype="<f4").tofile(path)


def parity(name):
    from transformers import BertConfig, BertModel

    hidden, layers, heads, inner = SHAPES[name]
    config = BertConfig(vocab_size=VOCAB, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner,
                        max_position_embeddings=512, type_vocab_size=2, layer_norm_eps=1e-12, hidden_act="gelu")
    model = BertModel(config, add_pooling_layer=False).double().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(values(key, tuple(parameter.shape)).astype(np.float64)))
        rows = []
        for t, length in enumerate(lengths()):
            hidden_states = model(input_ids=torch.from_numpy(ids(t, length)[None])).last_hidden_state
            rows.append(hidden_states[0, 0].numpy())
    rows = unit(np.stack(rows))
    cosines = rows @ rows.T
    off = cosines[~np.eye(len(rows), dtype=bool)]
    print(name, "texts", len(rows), "cosines of different texts: mean", off.mean().round(3), "max", off.max().round(4), flush=True)
    write_f32(os.path.join(OUT, "parity", name + ".f32"), rows)


def texts():
    """Original sentences in Chinese and English, and unusual ones."""
    with open(os.path.join(HERE, "fixtures", "texts.txt"), encoding="utf8") as f:
        lines = f.read().split("\n")[:-1]
    joined = " ".join(lines)
    return lines + ["", " ", "a", "中", "👩‍👩‍👧‍👦 家庭", "[CLS] inside [SEP] a text", joined[:900], joined[:2600], joined]


def minilm(directory):
    from transformers import BertModel, BertTokenizerFast

    tokenizer = BertTokenizerFast.from_pretrained(directory)
    model = BertModel.from_pretrained(directory, dtype=torch.float64, add_pooling_layer=False).eval()
    out, rows = [], []
    for text in texts():
        whole = tokenizer(text)["input_ids"]
        cut = tokenizer(text, truncation=True, max_length=256)["input_ids"]
        with torch.no_grad():
            rows.append(model(input_ids=torch.tensor([cut])).last_hidden_state[0].mean(0).numpy())
        out.append({"text": text, "ids": cut, "full_len": len(whole)})
    write_f32(os.path.join(OUT, "minilm.f32"), unit(np.stack(rows)))
    with open(os.path.join(OUT, "minilm.json"), "w", encoding="utf8") as f:
        f.write("[\n" + ",\n".join(json.dumps(o, ensure_ascii=False) for o in out) + "\n]\n")
    print("minilm texts", len(out))


class Hostile:
    def __reduce__(self):
        return os.system, ("true",)


def torch_formats():
    from transformers import BertConfig, BertModel

    out = os.path.join(OUT, "torch")
    os.makedirs(out, exist_ok=True)
    config = BertConfig(vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                        max_position_embeddings=16, type_vocab_size=2, layer_norm_eps=1e-12, hidden_act="gelu")
    model = BertModel(config).double().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Multiples of 1/64 below 1, which f16 and bf16 represent exactly.
            parameter.copy_(torch.randint(-60, 61, parameter.shape, generator=generator) / 64)
        vector = model(input_ids=torch.tensor([[2, 5, 6, 3]])).last_hidden_state[0, :1].numpy()
    write_f32(os.path.join(out, "expected.f32"), unit(vector))
    state = {k: v.float() for k, v in model.state_dict().items()}
    state["embeddings.position_ids"] = torch.arange(16)[None]
    cast = lambda dtype: {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    old = lambda k: "bert." + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    save = lambda name, value, **options: torch.save(value, os.path.join(out, name), **options)
    save("zip-f32.bin", state)
    save("legacy-f32.bin", state, _use_new_zipfile_serialization=False)
    save("zip-f16.bin", cast(torch.float16))
    save("legacy-bf16.bin", cast(torch.bfloat16), _use_new_zipfile_serialization=False)
    # Transposed matrices, as conversions from TensorFlow save them, and parts of shared storages.
    strided = {k: v.t().contiguous().t() if v.dim() == 2 else v for k, v in state.items()}
    names = [f"encoder.layer.0.attention.self.{part}.weight" for part in ("query", "key", "value")]
    strided.update(zip(names, torch.cat([state[name] for name in names]).chunk(3)))
    names = [f"encoder.layer.0.attention.self.{part}.bias" for part in ("query", "key", "value")]
    strided.update(zip(names, torch.stack([state[name] for name in names], dim=1).unbind(1)))
    save("zip-strided.bin", strided)
    save("legacy-strided.bin", strided, _use_new_zipfile_serialization=False)
    save("zip-prefix-gamma.bin", {old(k): torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in state.items()})
    save("hostile.bin", {"embeddings.word_embeddings.weight": Hostile()})
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(config.to_diff_dict() | {"model_type": "bert", "hidden_act": "gelu", "architectures": ["BertModel"], **{
            k: getattr(config, k) for k in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                                            "max_position_embeddings", "type_vocab_size", "layer_norm_eps")}}, f, indent=1)
    with open(os.path.join(out, "vocab.txt"), "w") as f:
        f.write("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg"]) + "\n")
    print("torch formats")


HARD = [
    "", " ", "\t\n\r", "hello", "Hello, WORLD!", "今天天气真好，我们去公园吧。", "GTE模型v1.5发布了！", "Crème brûlée à la carte", "İstanbul ISTANBUL ıstanbul",
    "Straße STRASSE ẞ", "ﬁne ﬂow ½ ⅔ ①②③", "ＡＢＣ１２３！？", "e\u0301 a\u0308 n\u0303 combining", "\u0301\u0301\u0301", "a\u200db\u200cc zero\u200bwidth", "\ufeffbom first",
    "nul\x00inside", "bell\x07 esc\x1b del\x7f", "\ufffd replacement \ufffd", "👍👍🏽👨‍👩‍👧‍👦🇨🇳", "𠀀𠀁𪚥 extension B", "㐀㐁 extension A 豈更 compatibility", "한국어 텍스트", "日本語のテキスト カタカナ", "ไทยภาษา",
    "العربية نص", "עברית", "देवनागरी हिन्दी", "Ελληνικά ΣΊΣΥΦΟΣ ς", "Привет, Ёжик", "a" * 100, "a" * 101, "中" * 120, "x" * 99 + "中" + "y" * 101, "[CLS] [SEP] [MASK] [UNK] [PAD]",
    "[cls] [ CLS ] [CLS][SEP]", "un##aff ##able ##", "don't can't it's", "3.14 1,000 50% $9.99 a@b.c http://x.y/z?q=1", "—–-‐‑ … “quotes” ‘single’ «guillemets»", "line\u2028sep\u2029para\u00a0nbsp\u3000ideographic",
    "\u1680ogham\u180emongolian\u2003em", "soft\u00adhyphen", "tab\tseparated\tvalues", "混合English和中文mixed文本123数字", "ǅ ǆ ǈ titlecase", "Ⅷ ⅷ roman", "K Å Ω kelvin", "à̖́ stacked", "\U000e0001tag\U000e007f",
    "\ud7ff\ue000\uf8ff private", "~`!@#$%^&*()_+-={}[]|\\:\";'<>?,./", "。、，；：？！（）【】《》", "繁體中文測試", "ゔ か゛ 濁点", "\U0001f1e8\U0001f1f3 flags", "A\u030a vs \u00c5", "ﷺ ligature", "…",
]


def tokens(directory):
    from tokenizers import Tokenizer
    from transformers import BertTokenizerFast

    fast = Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    fast.no_truncation()
    fast.no_padding()
    cases = [{"files": "tokenizer.json", "ids": [fast.encode(t).ids for t in HARD]}]
    vocab = os.path.join(directory, "vocab.txt")
    for lower in (True, False):
        for accents in (None, True, False):
            for chinese in (True, False):
                settings = {"do_lower_case": lower, "strip_accents": accents, "tokenize_chinese_chars": chinese}
                with open(vocab, encoding="utf8") as f:
                    words = {w.rstrip("\n"): i for i, w in enumerate(f)}
                tokenizer = BertTokenizerFast(vocab=words, **settings)
                cases.append({"files": "vocab.txt", "settings": settings, "ids": [tokenizer(t)["input_ids"] for t in HARD]})
    with open(os.path.join(OUT, "tokens.json"), "w", encoding="utf8") as f:
        json.dump({"texts": HARD, "cases": cases}, f, ensure_ascii=True)
    print("token cases", len(cases))


if __name__ == "__main__":
    torch.set_num_threads(2)
    os.makedirs(OUT, exist_ok=True)
    torch_formats()
    tokens(sys.argv[1])
    minilm(sys.argv[1])
    for shape in SHAPES:
        parity(shape)
