"""The student's vocabulary, and the rows that its tokens start with.

English pieces are the teacher's, with its rows: the most frequent have rows of their own, the others are further names of the piece whose
row is nearest to theirs (`walks` of `walk`, `sapling` of `tree`), so that English is cut up just as the teacher cuts it, and a rare word
costs no row and means something. A missing piece would fall apart into letters, which say nothing: of the held-out English texts three in five had one.
Chinese is read character by character; a character's row starts as the mean of the teacher's rows for the English glosses of the words
that contain it; rare characters are names of the nearest frequent one. Traditional characters, full-width signs and letters are further
names of the same ids too: they cannot come out different. Pieces with digits are never merged: a number must stay itself.
"""
import collections
import json
import re
import subprocess

import numpy as np

import data

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OURS = 0.7  # the weight of our texts in how frequent a piece is
COMMON = 21000  # pieces that neither occur nor have a teacher's id below this fall apart
SIGNS = dict(zip("，。？！：；（）【】“”‘’、—…《》～·￥％＋－＝／＆＃＠", ",.?!:;()[]\"\"'',-.\"\"~.¥%+-=/&#@", strict=True))


def is_chinese(character):
    return "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or ord(character) >= 0x20000


def aliases(characters):
    """Other characters that mean one of `characters`: traditional forms by ICU's Hant-Hans rules."""
    candidates = [chr(c) for c in range(0x4E00, 0x9FFF + 1)]
    converted = subprocess.run(["uconv", "-f", "utf8", "-t", "utf8", "-x", "Hant-Hans"], input="\n".join(candidates), capture_output=True, text=True, check=True)
    return {old: new for old, new in zip(candidates, converted.stdout.split("\n"), strict=True) if old != new and new in characters and old not in characters}


def nearest(rows, others):
    """For each of `others` the index of the row that is nearest to it, by the angle from the rows' centre."""
    centre = rows.mean(0)
    unit = lambda x: (x - centre) / np.linalg.norm(x - centre, axis=1, keepdims=True)
    return (unit(others) @ unit(rows).T).argmax(1)


def build(teacher_tokenizer, teacher_rows, texts, english_rows, chinese_rows):
    """The tokens in order of their ids, Chinese ones last, the row that each starts with, and {other name: id}. `texts`: (Chinese, English)."""
    counts, characters = collections.Counter(), collections.Counter()
    for chinese, english in texts:
        counts.update(teacher_tokenizer.tokenize(english))
        characters.update(c for c in chinese if is_chinese(c))
        # Latin letters and digits in Chinese texts are pieces too.
        counts.update(teacher_tokenizer.tokenize("".join(c if ord(c) < 128 else " " for c in chinese)))
    teacher = teacher_tokenizer.get_vocab()
    row = lambda tokens: teacher_rows[[teacher[token] for token in tokens]]

    # How often a piece comes up: in our texts, and in general, by Zipf's law for the teacher's ids, which fall with the frequency.
    pieces = [t for t in sorted(teacher, key=teacher.get) if re.fullmatch("(##)?[a-z0-9]+", t)]
    zipf = [1 / (rank + 1) for rank in range(len(pieces))]
    total, whole = sum(counts[t] for t in pieces), sum(zipf)
    often = {t: OURS * counts[t] / total + (1 - OURS) * z / whole for t, z in zip(pieces, zipf)}
    single = sorted(t for t in teacher if len(t.removeprefix("##")) == 1 and ord(t[-1]) < 128)
    signs = sorted(t for t in counts if t in teacher and t not in often and t not in SPECIAL and t not in single and not is_chinese(t[-1]))
    ranked = sorted(set(pieces) - set(single), key=lambda t: (-often[t], t))
    room = english_rows - len(SPECIAL) - len(single) - len(signs)
    own, further = ranked[:room], [t for t in ranked[room:] if (counts[t] or teacher[t] < COMMON) and not re.search("[0-9]", t)]

    # Characters.
    sums = collections.defaultdict(list)
    for word, gloss in data.lexicon():
        vector = teacher_rows[teacher_tokenizer(gloss, add_special_tokens=False)["input_ids"]].mean(0)
        for character in set(word):
            sums[character] += [vector] * (4 if len(word) == 1 else 1)
    centre = row(own).mean(0)
    meaning = lambda many: np.stack([np.mean(sums[c], 0) if sums[c] else centre for c in many])
    by_count = sorted(characters, key=lambda c: (-characters[c], c))
    chinese, rare = sorted(by_count[:chinese_rows]), [c for c in by_count[chinese_rows:] if sums[c]]

    tokens = SPECIAL + single + signs + own + chinese
    ids = {token: i for i, token in enumerate(tokens)}
    rows = np.concatenate([row(SPECIAL + single + signs + own), meaning(chinese)]).astype(np.float32)
    first = len(SPECIAL + single + signs)
    others = {t: first + int(i) for t, i in zip(further, nearest(row(own), row(further)))}
    others |= {c: ids[chinese[i]] for c, i in zip(rare, nearest(meaning(chinese), meaning(rare)))}
    known = ids | others
    others |= {old: known[new] for old, new in aliases(set(chinese) | set(rare)).items()}
    others |= {full: ids[half] for full, half in SIGNS.items() if half in ids and full not in ids}
    return tokens, rows, others


def tokenizer_json(tokens, others, max_length):
    """The file of Hugging Face `tokenizers` for BERT's tokenizer over these names."""
    vocabulary = {token: i for i, token in enumerate(tokens)} | others
    special = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i, t in enumerate(SPECIAL)]
    return json.dumps({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": max_length, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                           "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
                           "special_tokens": {t: {"id": t, "ids": [SPECIAL.index(t)], "tokens": [t]} for t in ("[CLS]", "[SEP]")}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocabulary},
    }, ensure_ascii=False)
