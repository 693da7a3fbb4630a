"""The student's vocabulary, and the rows that its tokens start with.

English pieces are the teacher's that occur in the texts, with its rows. Chinese is read character by character; a character's row starts
as the mean of the teacher's rows for the English glosses of the words that contain it. Traditional characters, full-width signs and
letters are further names of the same ids: they need no rows and cannot come out different.
"""
import collections
import json
import subprocess

import numpy as np

import data

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIGNS = dict(zip("，。？！：；（）【】“”‘’、—…《》～·￥％＋－＝／＆＃＠", ",.?!:;()[]\"\"'',-.\"\"~.¥%+-=/&#@", strict=True))


def is_chinese(character):
    return "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or ord(character) >= 0x20000


def aliases(characters):
    """Other characters that mean one of `characters`: traditional forms by ICU's Hant-Hans rules."""
    candidates = [chr(c) for c in range(0x4E00, 0x9FFF + 1)]
    converted = subprocess.run(["uconv", "-f", "utf8", "-t", "utf8", "-x", "Hant-Hans"], input="\n".join(candidates), capture_output=True, text=True, check=True)
    return {old: new for old, new in zip(candidates, converted.stdout.split("\n"), strict=True) if old != new and new in characters and old not in characters}


def build(teacher_tokenizer, teacher_rows, texts, size):
    """The tokens in order of their ids, the rows of each, and {other name: id}."""
    counts, characters = collections.Counter(), collections.Counter()
    for chinese, english in texts:
        counts.update(teacher_tokenizer.tokenize(english))
        characters.update(c for c in chinese if is_chinese(c))
        # Latin letters and digits in Chinese texts are pieces too.
        counts.update(teacher_tokenizer.tokenize("".join(c if ord(c) < 128 else " " for c in chinese)))
    teacher = teacher_tokenizer.get_vocab()
    chinese = sorted(characters)
    single = [t for t in teacher if len(t.removeprefix("##")) == 1 and ord(t[-1]) < 128]
    room = size - len(SPECIAL) - len(chinese) - len(single)
    common = [t for t, _ in counts.most_common() if t in teacher and t not in SPECIAL and t not in single and not is_chinese(t[-1])][:room]
    tokens = SPECIAL + sorted(single) + common + chinese
    ids = {token: i for i, token in enumerate(tokens)}

    rows = np.zeros((len(tokens), teacher_rows.shape[1]), np.float32)
    for token in SPECIAL + single + common:
        rows[ids[token]] = teacher_rows[teacher[token]]
    sums = collections.defaultdict(list)
    for word, gloss in data.lexicon():
        pieces = teacher_tokenizer(gloss, add_special_tokens=False)["input_ids"]
        vector = teacher_rows[pieces].mean(0)
        for character in set(word):
            sums[character] += [vector] * (4 if len(word) == 1 else 1)
    centre = teacher_rows[[teacher[t] for t in common]].mean(0)
    for character in chinese:
        rows[ids[character]] = np.mean(sums[character], 0) if sums[character] else centre
    others = {old: ids[new] for old, new in aliases(set(chinese)).items()}
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
