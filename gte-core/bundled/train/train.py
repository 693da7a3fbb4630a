"""Distils a small bilingual encoder from an English one: python train.py TEACHER_DIR WORK_DIR
[--minutes 170] [--start DIR]

The student's vectors of a Chinese text and of its English translation are both trained towards the
teacher's vector of the translation: by its cosine, and by the teacher's similarities to the batch
and to thousands of earlier texts, whose vectors by the teacher never become outdated. (Both the
distribution of the similarities is used, so that a paraphrase among them is not a false negative,
and their squares, so that what distinguishes texts counts most.) English tokens are also trained
towards the teacher's last hidden states, which give a hundred times the signal of a vector. Some
English texts contain Chinese words.

Neighbouring lines, which are often paraphrases, and sentences that differ in a word or two come in
the same batch, because texts are only distinguished within a batch. For sentences with contrary
meanings the teacher's vectors are nearly the same: the student's are trained to be further apart,
in the same direction. Most texts are created for each step, with words replaced, left out or
swapped, and the teacher reads them at once: a student that sees the same sentences again and again
learns those by heart and no others.

Stops when the minutes are used up, with a learning rate that decreases accordingly. Writes
WORK_DIR/student.pt every 400 steps, and what `--resume` needs; then run export.py.
"""
import argparse
import base64
import collections
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

import contraries
import data
import vocabulary
from evaluate import evaluate

LAYERS = [0, 2, 4, 5]  # of the teacher's six layers
WIDTH = 768  # of the teacher's 1,536 neurons between a layer's two matrices: four such layers are worth more than three whole ones
ENGLISH, CHARACTERS, WORDS = 6200, 2150, 1400  # rows
CHINESE = CHARACTERS + WORDS
POSITIONS = 256
BATCH = 64
SHARES = {"pairs": 0.29, "lexicon": 0.05, "joined": 0.05, "generated": 0.06, "substituted": 0.31, "listed": 0.09, "spliced": 0.05, "contrary": 0.10}
MIXED, NOISED = 0.2, 0.5  # shares of the English texts
UNKNOWN = 0.04  # share of the Chinese tokens, in half of the texts: a rare character must not spoil a sentence
SPELT = 0.15  # share of the Chinese words that are read character by character, so that unnamed words are not unknown
TEMPERATURE = 0.05
OTHERS = 4096  # vectors of earlier steps, in addition to those of the batch
APART = math.radians(50)  # minimum angle between the vectors of a sentence and its contrary; the teacher's are about 15 degrees apart
HIDDEN = 6.0  # weight of the relative error of hidden states
RATE_CHINESE, RATE_ENGLISH, RATE = 2e-3, 1e-4, 3e-4  # for rows of characters; for rows of English pieces, which are good already; for the rest


def pooled(states, mask):
    weights = mask.unsqueeze(-1).float()
    return F.normalize((states * weights).sum(1) / weights.sum(1), dim=1)


def mean_pool(model, ids, mask):
    return pooled(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)


def hidden(model, lists, parts=6):
    """The last hidden states of each text, without padding: computed in groups of similar length,
    because half of a batch would be padding.
    """
    order = sorted(range(len(lists)), key=lambda i: len(lists[i]))
    out = [None] * len(lists)
    for part in np.array_split(order, parts):
        ids, mask = pad([lists[i] for i in part])
        for i, states in zip(part, model(input_ids=ids, attention_mask=mask).last_hidden_state):
            out[i] = states[: len(lists[i])]
    return out


def mean(states):
    return F.normalize(torch.stack([s.mean(0) for s in states]), dim=1)


def turned_away(vectors, contraries):
    """`vectors`, rotated away from their contraries, in the direction in which those differ, until
    they are `APART`.
    """
    middle, away = F.normalize(vectors + contraries, dim=1), F.normalize(vectors - contraries, dim=1)
    half = torch.clamp((vectors * contraries).sum(1, keepdim=True), -1, 1).arccos().clamp(min=APART) / 2
    return half.cos() * middle + half.sin() * away


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
    """The teacher's vectors of English texts."""

    def __init__(self, directory):
        self.tokenizer = BertTokenizerFast.from_pretrained(directory)
        self.model = BertModel.from_pretrained(directory, add_pooling_layer=False).eval()

    def tokens(self, texts):
        """The tokens of each text, and their ids."""
        ids = self.tokenizer(texts, truncation=True, max_length=POSITIONS)["input_ids"]
        return [self.tokenizer.convert_ids_to_tokens(i) for i in ids], ids

    @torch.no_grad()
    def states(self, ids):
        """The last hidden states of each text's tokens."""
        return hidden(self.model, ids)

    def vectors(self, texts):
        """{text: its vector}"""
        return dict(zip(texts, mean(self.states(self.tokens(texts)[1])).numpy()))


class Rows(torch.nn.Module):
    """The embedding's rows: English ones, then Chinese ones, which have separate learning rates."""

    def __init__(self, rows):
        super().__init__()
        self.english, self.chinese = (torch.nn.Parameter(torch.from_numpy(part.copy())) for part in (rows[:-CHINESE], rows[-CHINESE:]))

    def forward(self, ids):
        return F.embedding(ids, torch.cat([self.english, self.chinese]))


TABLE = "embeddings.word_embeddings"


def state(student):
    """The student's weights under the names of BERT's tensors."""
    weights = student.state_dict()
    weights[f"{TABLE}.weight"] = torch.cat([weights.pop(f"{TABLE}.english"), weights.pop(f"{TABLE}.chinese")])
    return weights


def save(path, content):
    """Saves a file that is complete if it exists."""
    part = path.with_suffix(".tmp")
    torch.save(content, part)
    part.rename(path)


@torch.no_grad()
def student_of(teacher, rows, texts):
    """The teacher's `LAYERS`, each with the `WIDTH` neurons that contribute most to the layer's
    result when it reads `texts`, and the embedding's `rows`.
    """
    ids = teacher.tokens(texts)[1]
    squares = collections.defaultdict(list)
    watch = lambda layer: layer.intermediate.register_forward_hook(lambda _, __, out: squares[layer].append(out.flatten(0, 1).square().mean(0)))
    hooks = [watch(layer) for layer in teacher.model.encoder.layer]
    teacher.states(ids)
    for hook in hooks:
        hook.remove()
    own = {**teacher.model.config.to_dict(), "num_hidden_layers": len(LAYERS), "intermediate_size": WIDTH, "vocab_size": len(rows), "max_position_embeddings": POSITIONS,
           "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    student, table = BertModel(BertConfig(**own), add_pooling_layer=False), teacher.model.embeddings
    student.embeddings.word_embeddings = Rows(rows)
    student.embeddings.position_embeddings.weight.copy_(table.position_embeddings.weight[:POSITIONS])
    student.embeddings.token_type_embeddings.load_state_dict(table.token_type_embeddings.state_dict())
    student.embeddings.LayerNorm.load_state_dict(table.LayerNorm.state_dict())
    for to, of in zip(student.encoder.layer, (teacher.model.encoder.layer[i] for i in LAYERS)):
        gives = torch.stack(squares[of]).mean(0).sqrt() * of.output.dense.weight.norm(dim=0)
        kept = gives.topk(WIDTH).indices.sort().values
        weights = of.state_dict()
        for name in ("intermediate.dense.weight", "intermediate.dense.bias"):
            weights[name] = weights[name][kept]
        weights["output.dense.weight"] = weights["output.dense.weight"][:, kept]
        to.load_state_dict(weights)
    return student


class Exported:
    """A model that export.py wrote."""

    def __init__(self, directory):
        read = lambda name: (directory / name).read_text(encoding="utf8")
        stored = load_file(directory / "model.safetensors")
        matrix = lambda name, value: value.float() * stored[f"{name}.scale"][:, None] if value.dtype == torch.int8 else value
        self.weights = {name: matrix(name, value) for name, value in stored.items() if not name.endswith(".scale")}
        self.rows = self.weights.pop(f"{TABLE}.weight").numpy()
        self.ids = json.loads(read("tokenizer.json"))["model"]["vocab"]
        config = json.loads(read("config.json"))
        self.has_layers = (config["num_hidden_layers"], config["intermediate_size"]) == (len(LAYERS), WIDTH)

    def rows_of(self, tokens, rows):
        """`rows`, except for the tokens that this model has under the same name, which keep its own
        rows.
        """
        return np.stack([self.rows[self.ids[token]] if token in self.ids else row for token, row in zip(tokens, rows)])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("teacher")
    p.add_argument("work", type=pathlib.Path)
    p.add_argument("--minutes", type=float, default=170)
    p.add_argument("--start", type=pathlib.Path, help="a directory that export.py wrote: start from its layers, if they have the same shape, and from its rows, by name")
    p.add_argument("--resume", action="store_true", help="continue an interrupted run of the same texts from WORK_DIR/resume.pt")
    p.add_argument("--generated", type=int, default=12000, help="number of pairs per generator")
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    rng = random.Random(1)

    teacher = Teacher(a.teacher)
    sets = {"pairs": data.pairs(False), "lexicon": data.lexicon(), "joined": data.joined(rng), "generated": data.generated(a.generated, 1)}
    texts = [pair for part in sets.values() for pair in part]
    print({name: len(part) for name, part in sets.items()}, flush=True)
    rows = teacher.model.embeddings.word_embeddings.weight.detach().numpy()
    tokens, rows, others = vocabulary.build(teacher.tokenizer, rows, sets["pairs"] + sets["lexicon"], ENGLISH, CHARACTERS, WORDS)
    before = Exported(a.start) if a.start else None
    if before:
        rows = before.rows_of(tokens, rows)
    charsmap = vocabulary.charsmap()
    (a.work / "tokens.json").write_text(json.dumps([tokens, others, base64.b64encode(charsmap).decode()], ensure_ascii=False))
    expected = teacher.vectors(sorted({e for _, e in data.pairs(True)}))
    tokenizer = Tokenizer.from_str(vocabulary.tokenizer_json(tokens, others, charsmap, POSITIONS))
    student = student_of(teacher, rows, rng.sample([english for _, english in sets["pairs"]], 500))
    if before and before.has_layers:
        student.load_state_dict(before.weights, strict=False)
    encode = lambda many: [e.ids for e in tokenizer.encode_batch(many)]
    number = {token: i for i, token in enumerate(tokens)} | others
    spelt = {word: [number[c] for c in word] for word in number if len(word) > 1 and all(c in number and vocabulary.is_chinese(c) for c in word)}
    print(f"{len(tokens)} tokens, {len(others)} further names; before training: {evaluate(lambda t: embed(student.eval(), encode(t)), expected)}", flush=True)

    words_of = student.embeddings.word_embeddings
    rest = [p for p in student.parameters() if p is not words_of.english and p is not words_of.chinese]
    optimizer = torch.optim.AdamW([{"params": [words_of.chinese], "lr": RATE_CHINESE, "weight_decay": 0.0},
                                   {"params": [words_of.english], "lr": RATE_ENGLISH, "weight_decay": 0.0}, {"params": rest, "lr": RATE, "weight_decay": 0.01}])
    base = [group["lr"] for group in optimizer.param_groups]
    queues = {name: [] for name in sets}
    glosses, substitution = data.by_gloss(), data.Substitution(sets["pairs"])
    opposites = contraries.Contraries()
    words = data.words(english for _, english in texts)
    made_anew = {
        "substituted": lambda: substitution.draw(rng, 2),
        "listed": lambda: [data.listed(sets["lexicon"], rng)],
        "spliced": lambda: [data.spliced(sets["pairs"], rng)],
        "contrary": lambda: opposed(*opposites.draw(rng)),
    }
    unknown = number["[UNK]"]
    earlier = torch.zeros(0, student.config.hidden_size)

    def opposed(one, same, english, other, contrary):
        return [(one, english, contrary), (same, english, contrary), (other, contrary, english)]

    def together(name):
        """The next pairs of a kind that belong in the same batch, some with the English contrary.
        """
        if name in made_anew:
            return made_anew[name]()
        if not queues[name]:
            lines, first = sets[name], rng.randrange(2)
            queues[name] = [lines[i : i + 2] for i in range(first, len(lines), 2)]
            rng.shuffle(queues[name])
        return queues[name].pop()

    def example(chinese, text, contrary=None):
        """Chinese ids; the English text with that meaning; the English text that the student reads,
        which may be another one; and the contrary of the text.
        """
        read = tokenizer.encode(chinese)
        chinese = []
        for id, name in zip(read.ids, read.tokens):
            word = name.removeprefix("##")
            chinese += spelt[word] if word in spelt and rng.random() < SPELT else [id]
        if len(chinese) > 6 and rng.random() < 0.5:
            chinese = [unknown if 0 < i < len(chinese) - 1 and rng.random() < UNKNOWN else token for i, token in enumerate(chinese)]
        return chinese, text, data.noised(text, words, rng) if contrary is None and rng.random() < NOISED else text, contrary

    used, step, ready, losses, differences = 0.0, 0, [], [], []
    if a.resume:
        saved = torch.load(a.work / "resume.pt", weights_only=False)
        student.load_state_dict(saved["student"])
        optimizer.load_state_dict(saved["optimizer"])
        rng.setstate(saved["rng"])
        used, step, queues, earlier = (saved[name] for name in ("used", "step", "queues", "earlier"))
    budget = 60 * a.minutes
    while used < budget:
        begin = time.process_time()  # CPU time of both threads
        if not ready:
            # Four batches at a time, so that texts of similar length come together and there is
            # little padding.
            groups = []
            for name, share in SHARES.items():
                wanted = round(4 * BATCH * share)
                while wanted > 0:
                    groups.append([example(*pair) for pair in together(name)])
                    wanted -= len(groups[-1])
            groups.sort(key=lambda group: sum(len(ids) for ids, *_ in group) / len(group))
            pool = [item for group in groups for item in group]
            ready = [pool[i : i + BATCH] for i in range(0, len(pool) - BATCH // 2, BATCH)]
            rng.shuffle(ready)
        batch = ready.pop()
        progress = used / budget
        scale = min(1, (step + 1) / 100) * (0.04 + 0.96 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group, rate in zip(optimizer.param_groups, base):
            group["lr"] = rate * scale
        student.train()
        # What the texts mean, including those English texts that differ, and contraries.
        changed = [i for i, (_, text, read, _) in enumerate(batch) if read != text]
        against = [i for i, (*_, contrary) in enumerate(batch) if contrary]
        read_tokens, read_ids = teacher.tokens([text for _, text, *_ in batch] + [batch[i][2] for i in changed] + [batch[i][3] for i in against])
        known = teacher.states(read_ids)
        target = mean(known[: len(batch)])
        own_row = list(range(len(batch)))
        for at, i in enumerate(changed):
            own_row[i] = len(batch) + at
        target_english = mean([known[row] for row in own_row])
        if against:
            target[against] = target_english[against] = turned_away(target[against], mean(known[-len(against) :]))
        # The student learns from the teacher's tokens if it has all of them; texts with Chinese
        # words have other tokens than the teacher's.
        english, aligned = [], []
        for i, (_, text, read, contrary) in enumerate(batch):
            found = [number.get(token) for token in read_tokens[own_row[i]]]
            turned = data.mixed(read, glosses, rng) if rng.random() < MIXED else read
            complete = None not in found and turned == read
            aligned.append(complete and contrary is None)
            english.append(found if complete else encode([turned])[0])
        made = hidden(student, [c for c, *_ in batch] + english)
        loss = 0
        for own, goal in ((mean(made[: len(batch)]), target), (mean(made[len(batch) :]), target_english)):
            everything = torch.cat([goal, earlier])
            found, wanted = own @ everything.T, goal @ everything.T
            distance = (1 - (own * goal).sum(1)).mean()
            contrast = F.cross_entropy(found / TEMPERATURE, F.softmax(wanted / TEMPERATURE, dim=1))
            alike = F.mse_loss(found, wanted) * 30 + F.mse_loss(own @ own.T, goal @ goal.T) * 10
            loss = loss + 4 * distance + contrast + alike
        earlier = torch.cat([target, target_english, earlier])[:OTHERS]
        losses.append(loss.item())
        states = torch.cat([known[row] for row, same in zip(own_row, aligned) if same])
        apart = F.mse_loss(torch.cat([own for own, same in zip(made[len(batch) :], aligned) if same]), states) / states.square().mean()
        loss = loss + HIDDEN * apart
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        differences.append(apart.item())
        step += 1
        used += (time.process_time() - begin) / torch.get_num_threads()
        if step % 100 == 0:
            print(f"step {step}, {used / 60:.1f} min, loss {np.mean(losses[-100:]):.3f}, hidden states {np.mean(differences[-100:]):.3f}", flush=True)
        if step % 400 == 0 or used >= budget:
            student.eval()
            print(f"step {step}: {evaluate(lambda t: embed(student, encode(t)), expected)}", flush=True)
            save(a.work / "student.pt", {"config": student.config.to_dict(), "state": state(student)})
            save(a.work / "resume.pt", {"student": student.state_dict(), "optimizer": optimizer.state_dict(), "rng": rng.getstate(),
                                        "used": used, "step": step, "queues": queues, "earlier": earlier})


if __name__ == "__main__":
    main()
