"""Writes the trained student as a model directory with int8 weights: python export.py TEACHER_DIR
WORK_DIR OUT_DIR

Matrices are integers in −127..=127 with one scale per row (`NAME`, I8, and `NAME.scale`, F32), and
vectors are F32: the layout that gte-core reads. Then it measures the student from the written
files, and writes its vectors of some texts for the tests of gte-core.
"""
import base64
import json
import pathlib
import sys

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel
from safetensors.numpy import save_file

import data
import train
import vocabulary
from evaluate import evaluate

teacher, work, out = map(pathlib.Path, sys.argv[1:])
saved = torch.load(work / "student.pt", weights_only=True)
tokens, others, charsmap = json.loads((work / "tokens.json").read_text(encoding="utf8"))
(out / "1_Pooling").mkdir(parents=True, exist_ok=True)
tensors = {}
for name, value in saved["state"].items():
    if name.endswith("position_ids"):
        continue
    value = value.float().numpy()
    if value.ndim == 2:
        scale = np.abs(value).max(1) / 127
        tensors[f"{name}.scale"] = scale.astype(np.float32)
        value = np.round(value / np.where(scale > 0, scale, 1)[:, None]).astype(np.int8)
        saved["state"][name] = torch.from_numpy(value.astype(np.float32) * scale.astype(np.float32)[:, None])
    tensors[name] = np.ascontiguousarray(value)
save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})

config = {key: saved["config"][key] for key in (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps",
    "max_position_embeddings", "type_vocab_size", "vocab_size", "pad_token_id", "model_type")}
write = lambda name, value: (out / name).write_text(value if isinstance(value, str) else json.dumps(value, indent=2) + "\n", encoding="utf8")
limit = config["max_position_embeddings"]
write("config.json", {"architectures": ["BertModel"], **config})
write("vocab.txt", "\n".join(tokens) + "\n")
write("tokenizer.json", vocabulary.tokenizer_json(tokens, others, base64.b64decode(charsmap), limit))
# The class that uses tokenizer.json as it is. BERT's own class would read vocab.txt, which has no
# words.
write("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True, "model_max_length": limit,
                                **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}})
write("sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})
write("modules.json", [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}])
write("1_Pooling/config.json", {"word_embedding_dimension": config["hidden_size"], "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
                                "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False})
size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file() and "train" not in f.parts)
print(f"{size / 1e6:.2f} MB")
assert size <= 9.5e6, "too large to be published"

# From the written files: the rounded weights, in PyTorch.
student = BertModel(BertConfig(**saved["config"]), add_pooling_layer=False).eval()
student.load_state_dict(saved["state"])
tokenizer = Tokenizer.from_str((out / "tokenizer.json").read_text(encoding="utf8"))
ids = lambda texts: [e.ids for e in tokenizer.encode_batch(texts)]
held = data.pairs(True)
measured = evaluate(lambda texts: train.embed(student, ids(texts)), train.Teacher(teacher).vectors([e for _, e in held]))
print(measured)
(out / "measured.json").write_text(json.dumps(measured) + "\n")

texts = [text for pair in held[::32] for text in pair] + ["", "我想退貨，請問怎麼辦理？", "我想退货，请问怎么办理?", "龘靐齉", "Ｈｅｌｌｏ，ｗｏｒｌｄ！", "价格是¥1,299.00（含税）", "字" * 300]
fixtures = out.parent / "tests/fixtures"
(fixtures / "bundled.json").write_text(json.dumps({"texts": texts}, ensure_ascii=False) + "\n", encoding="utf8")
double = student.double()
with torch.inference_mode():
    rows = [train.mean_pool(double, *train.pad([i])).numpy()[0] for i in ids(texts)]
np.stack(rows).astype("<f4").tofile(fixtures / "bundled.f32")
