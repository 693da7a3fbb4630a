"""The student's vocabulary, and the initial rows of its tokens.

English pieces are the teacher's, with its rows: the most frequent have rows of their own, and the
others are further names of the piece with the nearest row (`walks` of `walk`, `sapling` of `tree`).
English is therefore split exactly as by the teacher, and a rare word costs no row and still has a
meaning. A missing piece would fall apart into letters, which mean nothing: three in five of the
held-out English texts had one. Pieces with digits are never merged, because numbers must stay
different.

Chinese is read in words that are in the lexicon, longest first, and otherwise character by
character. A word whose gloss is one English piece is a further name of that piece: 发票 is read like
`invoice`, and costs a name instead of a row. The most frequent of the other words have rows of
their own, which start as the mean of the rows of their gloss. The row of a character starts as the
mean of the rows of the glosses of all words that contain it; rare characters are names of the
nearest frequent one. Traditional characters and full-width signs and letters are first converted to
simplified and half-width ones, so that they cannot give different vectors.
"""
import base64
import collections
import io
import json
import re
import subprocess
import tempfile

import numpy as np
import sentencepiece

import data

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OURS = 0.7  # weight of our texts in the frequency of a piece
COMMON = 21000  # pieces that neither occur nor have a teacher's id below this are split into letters
SIGNS = dict(zip("，。？！：；（）【】〔〕〈〉“”‘’「」『』、—…《》～·￥", ",.?!:;()[]()()\"\"''\"\"'',-.\"\"~.¥", strict=True))
MORE_SIGNS = "¥€£°±×÷"
ALIKE = 0.5  # minimum cosine for a Chinese word to become a name of a piece
RUN = 32  # Chinese characters that are split together: a word longer than the rest of its run is not found, and a very long run only costs its length
CHINESE = "㐀-䶿一-鿿豈-\ufaff\U00020000-\U0002fa1f"  # as in BERT, without those that do not occur


def is_chinese(character):
    return "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or ord(character) >= 0x20000


def charsmap():
    """What characters become before everything else, in the form that `tokenizers` calls
    Precompiled: traditional characters become simplified, by ICU's Hant-Hans rules; full-width
    signs and letters become half-width.
    """
    candidates = [chr(c) for c in (*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000))]
    converted = subprocess.run(["uconv", "-f", "utf8", "-t", "utf8", "-x", "Hant-Hans"], input="\n".join(candidates), capture_output=True, text=True, check=True)
    becomes = dict(zip(candidates, converted.stdout.split("\n"), strict=True)) | {chr(c): chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)} | SIGNS
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        rules.writelines(f"{ord(old):X}\t{ord(new):X}\n" for old, new in becomes.items() if old != new)
        rules.flush()
        # SentencePiece compiles the rules when it trains, on any text.
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(["a b c"] * 10), model_writer=model, model_type="char", vocab_size=7,
                                                 normalization_rule_tsv=rules.name, minloglevel=2)
    # sentencepiece_model.proto: ModelProto.normalizer_spec = 3,
    # NormalizerSpec.precompiled_charsmap = 2.
    return dict(_fields(dict(_fields(model.getvalue()))[3]))[2]


def _fields(message):
    """(number, value) of each field of a protobuf message."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        yield key >> 3, message[at : at + size]
        at += size


def nearest(rows, others):
    """For each of `others`, the cosine with the nearest row, relative to the rows' centre, and that
    row's index.
    """
    centre = rows.mean(0)
    unit = lambda x: (x - centre) / np.linalg.norm(x - centre, axis=1, keepdims=True)
    scores = unit(others) @ unit(rows).T
    return scores.max(1), scores.argmax(1)


def cut(chinese, words, longest=8):
    """The words of a Chinese text, longest first, and the characters between them, as the tokenizer
    will find them.
    """
    at = 0
    while at < len(chinese):
        size = next((n for n in range(min(longest, len(chinese) - at), 1, -1) if chinese[at : at + n] in words), 1)
        yield chinese[at : at + size]
        at += size


def build(teacher_tokenizer, teacher_rows, texts, english_rows, character_rows, word_rows):
    """The tokens in the order of their ids, with Chinese ones last; the initial row of each; and
    {other name: id}. `texts`: (Chinese, English).
    """
    teacher = teacher_tokenizer.get_vocab()
    row = lambda tokens: teacher_rows[[teacher[token] for token in tokens]]
    bare = lambda gloss: teacher_tokenizer.tokenize(re.sub("^(to be|to|an?|the|be) ", "", gloss.lower()))
    lexicon = [(word, [bare(gloss) for gloss in glosses]) for word, glosses in data.senses()]
    glosses = collections.defaultdict(list)
    for word, senses in lexicon:
        if len(word) > 1 and all(map(is_chinese, word)):
            glosses[word] += senses

    counts, characters, words = collections.Counter(), collections.Counter(), collections.Counter()
    for chinese, english in texts:
        counts.update(teacher_tokenizer.tokenize(english))
        words.update(word for word in cut(chinese, glosses) if len(word) > 1)
        characters.update(c for c in chinese if is_chinese(c))
        # Latin letters and digits in Chinese texts are pieces too.
        counts.update(teacher_tokenizer.tokenize("".join(c if ord(c) < 128 else " " for c in chinese)))

    # How often a piece occurs: in our texts, and in general, by Zipf's law for the teacher's ids,
    # which are sorted by frequency.
    pieces = [t for t in sorted(teacher, key=teacher.get) if re.fullmatch("(##)?[a-z0-9]+", t)]
    zipf = [1 / (rank + 1) for rank in range(len(pieces))]
    total, whole = sum(counts[t] for t in pieces), sum(zipf)
    often = {t: OURS * counts[t] / total + (1 - OURS) * z / whole for t, z in zip(pieces, zipf)}
    single = sorted(t for t in teacher if len(t.removeprefix("##")) == 1 and ord(t[-1]) < 128)
    signs = sorted(t for t in {*counts, *MORE_SIGNS} if t in teacher and t not in often and t not in SPECIAL and t not in single and not is_chinese(t[-1]))
    ranked = sorted(set(pieces) - set(single), key=lambda t: (-often[t], t))
    room = english_rows - len(SPECIAL) - len(single) - len(signs)
    own, further = ranked[:room], [t for t in ranked[room:] if (counts[t] or teacher[t] < COMMON) and not re.search("[0-9]", t)]

    first = len(SPECIAL + single + signs)
    place = {t: first + i for i, t in enumerate(own)}
    alike, at = nearest(row(own), row(further))
    others = {t: first + int(i) for t, i in zip(further, at)}

    # Words, and characters.
    near = place | {t: others[t] for t, a in zip(further, alike) if a >= ALIKE}
    as_pieces = {word: near[piece] for word, senses in glosses.items() if (piece := next((s[0] for s in senses if len(s) == 1 and s[0] in near), None))}
    phrases = sorted((word for word in glosses if word not in as_pieces and words[word]), key=lambda word: (-words[word], word))[:word_rows]
    sums = collections.defaultdict(list)
    for word, senses in lexicon:
        for character in set(word):
            sums[character] += [row(senses[0]).mean(0)] * (4 if len(word) == 1 else 1)
    centre = row(own).mean(0)
    meaning = lambda many: np.stack([np.mean(sums[c], 0) if sums[c] else centre for c in many])
    by_count = sorted(characters, key=lambda c: (-characters[c], c))
    chinese, rare = sorted(by_count[:character_rows]), [c for c in by_count[character_rows:] if sums[c]]

    tokens = SPECIAL + single + signs + own + chinese + phrases
    ids = {token: i for i, token in enumerate(tokens)}
    rows = np.concatenate([row(SPECIAL + single + signs + own), meaning(chinese), np.stack([row(glosses[word][0]).mean(0) for word in phrases])]).astype(np.float32)
    others |= {c: ids[chinese[i]] for c, i in zip(rare, nearest(meaning(chinese), meaning(rare))[1])} | as_pieces
    # The same inside a run.
    others |= {f"##{name}": id for name, id in (ids | others).items() if is_chinese(name[0])}
    return tokens, rows, others


def ranges(characters):
    """The inside of a regular expression's class for `characters`."""
    runs = []
    for c in sorted(map(ord, characters)):
        if runs and c == runs[-1][1] + 1:
            runs[-1][1] = c
        else:
            runs.append([c, c])
    return "".join(chr(a) if a == b else chr(a) + chr(b) if b == a + 1 else f"{chr(a)}-{chr(b)}" for a, b in runs)


def tokenizer_json(tokens, others, charsmap, max_length):
    """The file of Hugging Face `tokenizers` for BERT's tokenizer with these names, and Chinese in
    runs.
    """
    vocabulary = {token: i for i, token in enumerate(tokens)} | others
    # A run with an unknown character would be unknown as a whole.
    run = f"[{ranges(name for name in vocabulary if len(name) == 1 and is_chinese(name))}]{{1,{RUN}}}|[{CHINESE}]"
    special = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i, t in enumerate(SPECIAL)]
    return json.dumps({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": max_length, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
            {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": False, "strip_accents": None, "lowercase": True}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "BertPreTokenizer"}, {"type": "Split", "pattern": {"Regex": run}, "behavior": "Isolated", "invert": False}]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                           "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
                           "special_tokens": {t: {"id": t, "ids": [SPECIAL.index(t)], "tokens": [t]} for t in ("[CLS]", "[SEP]")}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocabulary},
    }, ensure_ascii=False, separators=(",", ":"))
