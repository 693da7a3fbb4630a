"""Seeded weights, the files of a model directory, and `expected.json` beside them."""

import json
import os
import random
import shutil

import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "fixtures", "families")
ST = "sentence_transformers.models."

TEXTS = [
    "",
    " ",
    "hello",
    "Hello, World!",
    "怎么退货？",
    "董事会 board of directors",
    "ＡＢＣ１２３ ﬁ ① … Ⅷ",
    "e\u0301 ｅ\u0301 a\u0308 か\u3099 \u212b",
    "tab\tnew\nline  two spaces ",
    "\u3000全角\u3000空格\u200b零宽",
    "👩‍👩‍👧‍👦 家庭 🇨🇳",
    "naïve café Straße İstanbul",
    "x" * 130,
    "3.14 1,000 50% a@b.c",
]
LONG = (
    "这家火锅店服务特别周到，连手机套都给你准备好。 The service at this hot pot restaurant is thoughtful. "
    * 9
)
PAIRS = [
    ("怎么退货？", "七天内可以无理由退货。"),
    ("holiday economy", "假日经济"),
    ("", "an empty query"),
    ("an empty document", ""),
    ("Hello", "Hello"),
    (LONG[:90], "short"),
    ("short", LONG),
    (LONG, LONG[:300]),
]
RANKED = [
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
        ["The keys will be handed over before the end of June.", "holiday economy", "", LONG],
    ),
]


def seed_of(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h % 2**63


def fill(model, name, dtype=torch.float32):
    """Seeded weights of ordinary size, exact in `dtype`. Norms are around 1, and biases and tables
    far from 0, so that a forgotten part shows. Queries and keys are larger, so that attention is
    not uniform.
    """
    with torch.no_grad():
        done = set()
        for key, parameter in model.named_parameters():
            if parameter.data_ptr() in done:
                continue
            done.add(parameter.data_ptr())
            noise = torch.randn(
                parameter.shape,
                generator=torch.Generator().manual_seed(seed_of(name + ":" + key)),
                dtype=torch.float64,
            )
            lower = key.lower()
            if parameter.dim() == 1:
                norm = "norm" in lower and key.endswith("weight")
                value = 1 + 0.25 * noise if norm else 0.2 * noise
            elif "embed" in lower:
                value = 0.6 * noise
            else:
                sharp = any(part in lower for part in ("query", "key", "q_proj", "k_proj", "wqkv"))
                value = noise * (1.6 if sharp else 1.0) / parameter.shape[1] ** 0.5
            parameter.copy_(value.to(dtype).to(torch.float64))
    return model


def draw(name, vocab, length, first=None, last=None):
    """Seeded ids. Special tokens inside are as likely as any other token."""
    rng = random.Random(f"{name}:{length}")
    ids = [rng.randrange(vocab) for _ in range(length)]
    if first is not None:
        ids[0] = first
    if last is not None and length > 1:
        ids[-1] = last
    return ids


def plain(value):
    """Nine significant digits, which is more than f32 has."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return float(f"{value:.9g}") if isinstance(value, float) else value


def dump(path, value, lists=False):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf8") as f:
        if lists:
            parts = [
                json.dumps(k)
                + ": [\n"
                + ",\n".join(json.dumps(v, ensure_ascii=False) for v in rows)
                + "\n]"
                for k, rows in value.items()
            ]
            f.write("{" + ",\n".join(parts) + "}\n")
        else:
            f.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


class Directory:
    """A model directory that is being written."""

    def __init__(self, name):
        self.name = name
        self.path = os.path.join(OUT, name)
        shutil.rmtree(self.path, ignore_errors=True)
        os.makedirs(self.path)

    def file(self, name):
        return os.path.join(self.path, name)

    def config(self, values):
        dump(self.file("config.json"), values)

    def weights(self, tensors, dtype=torch.float32, file="model.safetensors"):
        tensors = {k: v.detach().to(dtype).contiguous().clone() for k, v in tensors.items()}
        os.makedirs(os.path.dirname(self.file(file)), exist_ok=True)
        if file.endswith(".safetensors"):
            save_file(tensors, self.file(file), metadata={"format": "pt"})
        else:
            torch.save(tensors, self.file(file))

    def tokenizer(self, tokenizer, config, length):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.save(self.file("tokenizer.json"), pretty=False)
        dump(
            self.file("tokenizer_config.json"),
            {k: v for k, v in config.items()} | {"model_max_length": length},
        )

    def modules(self, hidden, pooling, length=None, dense=(), normalize=True):
        """modules.json and the folders that it names. `dense` contains (config, tensors) pairs."""
        rows = [("", "Transformer"), ("1_Pooling", "Pooling")] + [
            (f"{i + 2}_Dense", "Dense") for i in range(len(dense))
        ]
        if normalize:
            rows.append((f"{len(rows)}_Normalize", "Normalize"))
        dump(
            self.file("modules.json"),
            [
                {"idx": i, "name": str(i), "path": path, "type": ST + kind}
                for i, (path, kind) in enumerate(rows)
            ],
        )
        modes = {
            "cls": "pooling_mode_cls_token",
            "mean": "pooling_mode_mean_tokens",
            "max": "pooling_mode_max_tokens",
            "sqrt": "pooling_mode_mean_sqrt_len_tokens",
            "weighted": "pooling_mode_weightedmean_tokens",
            "last": "pooling_mode_lasttoken",
        }
        dump(
            self.file("1_Pooling/config.json"),
            {
                "word_embedding_dimension": hidden,
                **{key: mode == pooling for mode, key in modes.items()},
                "include_prompt": True,
            },
        )
        for i, (config, tensors) in enumerate(dense):
            dump(self.file(f"{i + 2}_Dense/config.json"), config)
            self.weights(
                tensors,
                file=f"{i + 2}_Dense/" + ("model.safetensors" if i == 0 else "pytorch_model.bin"),
            )
        if length:
            dump(
                self.file("sentence_bert_config.json"),
                {"max_seq_length": length, "do_lower_case": False},
            )

    def expect(self, **parts):
        dump(
            self.file("expected.json"),
            {k: [plain(row) for row in rows] for k, rows in parts.items() if rows},
            lists=True,
        )


def unit(v):
    return v / v.norm()


def pool(states, how):
    return {"cls": lambda: states[0], "mean": lambda: states.mean(0), "last": lambda: states[-1]}[
        how
    ]()


def states(model, ids, types=None):
    """The last hidden state of a single text, without padding."""
    more = {} if types is None else {"token_type_ids": torch.tensor([types])}
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), **more).last_hidden_state[0]


def logits(model, ids, types=None):
    more = {} if types is None else {"token_type_ids": torch.tensor([types])}
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), **more).logits[0]


def reload(kind, path):
    """The model as transformers reads it from the files just written, in float64."""
    model, report = kind.from_pretrained(
        path, dtype=torch.float64, attn_implementation="eager", output_loading_info=True
    )
    unknown = [k for k in report["unexpected_keys"] if not k.startswith(("classifier.", "pooler."))]
    if report["missing_keys"] or report["mismatched_keys"] or unknown:
        raise ValueError(f"{path}: {report}")
    assert all(p.dtype == torch.float64 for p in model.parameters())
    return model.eval()


def encoded(tokenizer, length, *texts):
    """The ids of `tokenizers` for a text or a pair, truncated to `length` (longest first), and the
    number of tokens before truncation, if it was truncated.
    """
    tokenizer.no_truncation()
    whole = tokenizer.encode(*texts)
    tokenizer.enable_truncation(length, strategy="longest_first")
    cut = tokenizer.encode(*texts)
    tokenizer.no_truncation()
    return cut, ({"tokens": len(whole.ids)} if len(cut.ids) != len(whole.ids) else {})


def text_rows(tokenizer, length, inside):
    """Rows of `texts`. `inside` are texts that contain special tokens."""
    rows = []
    for text in TEXTS + inside + [LONG]:
        cut, more = encoded(tokenizer, length, text)
        rows.append({"text": text, "ids": cut.ids} | more)
    return rows


def pair_rows(tokenizer, length, inside, types):
    rows = []
    for query, document in PAIRS + inside:
        cut, more = encoded(tokenizer, length, query, document)
        rows.append(
            {"query": query, "document": document, "ids": cut.ids}
            | ({"types": cut.type_ids} if types else {})
            | more
        )
    return rows
