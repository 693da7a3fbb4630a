"""Distils a small bilingual encoder from an English one: python train.py TEACHER_DIR WORK_DIR [--minutes 150] [--start DIR]

The student's vectors of a Chinese text and of its English translation both go towards the teacher's vector of the translation: the cosine,
and the teacher's own similarities within the batch (their distribution, so that a paraphrase in the batch is no false negative). English
tokens go towards the teacher's last hidden states too: a hundred times the signal of a vector. Some English texts come with words in Chinese.
Stops by itself when the minutes are used; the learning rate falls with them. Writes WORK_DIR/student.pt; then export.py.
"""
import argparse
import json
import math
import pathlib
import random
import time

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertTokenizerFast

import data
import vocabulary
from evaluate import evaluate

LAYERS = [0, 2, 5]  # of the teacher's six
VOCABULARY = 9600
POSITIONS = 256
BATCH = 96
SHARES = {"pairs": 0.42, "lexicon": 0.10, "joined": 0.07, "generated": 0.16, "substituted": 0.25}
MIXED = 0.25  # of the English texts
UNKNOWN = 0.04  # of the Chinese tokens, in half of the texts: a rare character must not spoil a sentence
TEMPERATURE = 0.05
HIDDEN = 3.0  # the weight of the hidden states' relative error
RATE_ROWS, RATE = 2e-3, 1.5e-4


def pooled(states, mask):
    weights = mask.unsqueeze(-1).float()
    return F.normalize((states * weights).sum(1) / weights.sum(1), dim=1)


def mean_pool(model, ids, mask):
    return pooled(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)


def hidden(model, lists, parts=6):
    """The last hidden states of each text, without padding: computed in parts of like length, for half of a batch would be padding."""
    order = sorted(range(len(lists)), key=lambda i: len(lists[i]))
    out = [None] * len(lists)
    for part in np.array_split(order, parts):
        ids, mask = pad([lists[i] for i in part])
        for i, states in zip(part, model(input_ids=ids, attention_mask=mask).last_hidden_state):
            out[i] = states[: len(lists[i])]
    return out


def mean(states):
    return F.normalize(torch.stack([s.mean(0) for s in states]), dim=1)


def pad(lists):
    ids = torch.zeros(len(lists), max(map(len, lists)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(lists):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids, mask


@torch.inference_mode()
def embed(model, lists, size=64):
    order = sorted(range(len(lists)), key=lambda i: len(lists[i]))
    out = np.zeros((len(lists), model.config.hidden_size), np.float32)
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        out[rows] = mean_pool(model, *pad([lists[i] for i in rows])).numpy()
    return out


class Teacher:
    """The teacher's vectors and last hidden states of English texts; kept in `cache`, for they take minutes to make."""

    def __init__(self, model, tokenizer, texts, cache=None):
        texts = sorted(set(texts), key=lambda text: (len(text), text))
        self.row = {text: i for i, text in enumerate(texts)}
        ids = tokenizer(texts, truncation=True, max_length=POSITIONS)["input_ids"]
        self.tokens = [tokenizer.convert_ids_to_tokens(i) for i in ids]
        self.offsets = np.cumsum([0] + [len(i) for i in ids])
        if cache and (cache / "texts.json").exists() and json.loads((cache / "texts.json").read_text(encoding="utf8")) == texts:
            self.vectors, self.hidden = np.load(cache / "vectors.npy"), np.load(cache / "hidden.npy")
            return
        self.vectors = np.zeros((len(texts), model.config.hidden_size), np.float32)
        self.hidden = np.zeros((self.offsets[-1], model.config.hidden_size), np.float16)
        print(f"the teacher reads {len(texts)} texts of {self.offsets[-1]} tokens", flush=True)
        with torch.inference_mode():
            for start in range(0, len(ids), 64):
                batch, mask = pad(ids[start : start + 64])
                states = model(input_ids=batch, attention_mask=mask).last_hidden_state
                self.vectors[start : start + 64] = pooled(states, mask).numpy()
                self.hidden[self.offsets[start] : self.offsets[start] + int(mask.sum())] = states[mask.bool()].numpy()
        if cache:
            cache.mkdir(exist_ok=True)
            np.save(cache / "vectors.npy", self.vectors)
            np.save(cache / "hidden.npy", self.hidden)
            (cache / "texts.json").write_text(json.dumps(texts), encoding="utf8")

    def __getitem__(self, text):
        return self.vectors[self.row[text]]

    def states(self, text):
        row = self.row[text]
        return self.hidden[self.offsets[row] : self.offsets[row + 1]]


def start(student, tokens, directory):
    """Gives the student the weights of an exported model of the same tokens."""
    assert (directory / "vocab.txt").read_text(encoding="utf8").splitlines() == tokens, f"{directory} has other tokens"
    stored = load_file(directory / "model.safetensors")
    matrix = lambda name, value: value.float() * stored[f"{name}.scale"][:, None] if value.dtype == torch.int8 else value
    student.load_state_dict({name: matrix(name, value) for name, value in stored.items() if not name.endswith(".scale")})


def main():
    p = argparse.ArgumentParser()
    p.add_argument("teacher")
    p.add_argument("work", type=pathlib.Path)
    p.add_argument("--minutes", type=float, default=150)
    p.add_argument("--start", type=pathlib.Path, help="a directory that export.py wrote: go on from its weights")
    p.add_argument("--generated", type=int, default=12000, help="pairs of each generator")
    p.add_argument("--substituted", type=int, default=30000, help="pairs with a word put in place of another")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    rng = random.Random(1)

    teacher_tokenizer = BertTokenizerFast.from_pretrained(a.teacher)
    teacher = BertModel.from_pretrained(a.teacher, add_pooling_layer=False).eval()
    sets = {"pairs": data.pairs(False), "lexicon": data.lexicon(), "joined": data.joined(rng), "generated": data.generated(a.generated, 1)}
    texts = [pair for part in sets.values() for pair in part]
    print({name: len(part) for name, part in sets.items()}, flush=True)
    tokens, rows, others = vocabulary.build(teacher_tokenizer, teacher.embeddings.word_embeddings.weight.detach().numpy(), texts, VOCABULARY)
    (a.work / "tokens.json").write_text(json.dumps([tokens, others], ensure_ascii=False))
    sets["substituted"] = data.substituted(sets["pairs"], a.substituted, rng)
    vectors = Teacher(teacher, teacher_tokenizer, [e for part in sets.values() for _, e in part] + [e for _, e in data.pairs(True)], a.work / "teacher")
    tokenizer = Tokenizer.from_str(vocabulary.tokenizer_json(tokens, others, POSITIONS))
    config = BertConfig(**{**teacher.config.to_dict(), "num_hidden_layers": len(LAYERS), "vocab_size": len(tokens), "max_position_embeddings": POSITIONS,
                           "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    student = BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        student.embeddings.word_embeddings.weight.copy_(torch.from_numpy(rows))
        student.embeddings.position_embeddings.weight.copy_(teacher.embeddings.position_embeddings.weight[:POSITIONS])
        student.embeddings.token_type_embeddings.load_state_dict(teacher.embeddings.token_type_embeddings.state_dict())
        student.embeddings.LayerNorm.load_state_dict(teacher.embeddings.LayerNorm.state_dict())
        for to, of in enumerate(LAYERS):
            student.encoder.layer[to].load_state_dict(teacher.encoder.layer[of].state_dict())
    if a.start:
        start(student, tokens, a.start)
    del teacher
    encode = lambda many: [e.ids for e in tokenizer.encode_batch(many)]
    print(f"{len(tokens)} tokens, {len(others)} further names; before training: {evaluate(lambda t: embed(student.eval(), encode(t)), vectors)}", flush=True)

    rows_of_words = [student.embeddings.word_embeddings.weight]
    rest = [p for p in student.parameters() if p is not rows_of_words[0]]
    optimizer = torch.optim.AdamW([{"params": rows_of_words, "lr": RATE_ROWS, "weight_decay": 0.0}, {"params": rest, "lr": RATE, "weight_decay": 0.01}])
    base = [group["lr"] for group in optimizer.param_groups]
    ids = {name: list(zip(encode([c for c, _ in part]), [e for _, e in part])) for name, part in sets.items()}
    queues = {name: [] for name in ids}
    number = {token: i for i, token in enumerate(tokens)}
    # The ids of each English text whose tokens are the teacher's.
    same = {text: found for text, row in vectors.row.items() if None not in (found := [number.get(t) for t in vectors.tokens[row]])}
    print(f"{len(same)} of {len(vectors.row)} English texts have the teacher's tokens", flush=True)
    glosses = data.by_gloss()
    unknown = number["[UNK]"]

    def draw(name):
        if not queues[name]:
            queues[name] = rng.sample(ids[name], len(ids[name]))
        chinese, text = queues[name].pop()
        if len(chinese) > 6 and rng.random() < 0.5:
            chinese = [unknown if 0 < i < len(chinese) - 1 and rng.random() < UNKNOWN else token for i, token in enumerate(chinese)]
        english = data.mixed(text, glosses, rng) if rng.random() < MIXED else text
        return chinese, encode([english])[0] if english != text or text not in same else same[text], text, english == text and text in same

    used, step, ready, losses, differences = 0.0, 0, [], [], []
    budget = 60 * a.minutes
    while used < budget:
        begin = time.process_time()  # of both threads
        if not ready:
            # Four batches at a time, so that texts of like length go together and little is padded.
            pool = [draw(name) for name, share in SHARES.items() for _ in range(round(4 * BATCH * share))]
            pool.sort(key=lambda item: len(item[0]))
            ready = [pool[i : i + BATCH] for i in range(0, len(pool) - BATCH // 2, BATCH)]
            rng.shuffle(ready)
        batch = ready.pop()
        progress = used / budget
        scale = min(1, (step + 1) / 100) * (0.04 + 0.96 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group, rate in zip(optimizer.param_groups, base):
            group["lr"] = rate * scale
        student.train()
        target = torch.from_numpy(np.stack([vectors[text] for _, _, text, _ in batch]))
        similar = target @ target.T
        wanted = F.softmax(similar / TEMPERATURE, dim=1)
        made = hidden(student, [c for c, *_ in batch] + [e for _, e, *_ in batch])
        chinese, english = mean(made[: len(batch)]), mean(made[len(batch) :])
        loss = 0
        for own in (chinese, english):
            distance = (1 - (own * target).sum(1)).mean()
            contrast = F.cross_entropy(own @ target.T / TEMPERATURE, wanted) + 0.5 * F.mse_loss(own @ own.T, similar) * 20
            loss = loss + 4 * distance + contrast
        losses.append(loss.item())
        states = torch.from_numpy(np.concatenate([vectors.states(text) for *_, text, same in batch if same])).float()
        apart = F.mse_loss(torch.cat([own for own, (*_, same) in zip(made[len(batch) :], batch) if same]), states) / states.square().mean()
        loss = loss + HIDDEN * apart
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        differences.append(apart.item())
        step += 1
        used += (time.process_time() - begin) / torch.get_num_threads()
        if step % 250 == 0:
            print(f"step {step}, {used / 60:.1f} min, loss {np.mean(losses[-250:]):.3f}, hidden states {np.mean(differences[-250:]):.3f}", flush=True)
        if step % 1000 == 0 or used >= budget:
            student.eval()
            print(f"step {step}: {evaluate(lambda t: embed(student, encode(t)), vectors)}", flush=True)
            torch.save({"config": config.to_dict(), "state": student.state_dict()}, a.work / "student.tmp")
            (a.work / "student.tmp").rename(a.work / "student.pt")


if __name__ == "__main__":
    main()
