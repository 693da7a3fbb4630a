"""The texts: hand-written pairs, a lexicon, and pairs that the generators print. Paths, splits,
cleaning.
"""
import collections
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE / "data"
DOMAINS = ["service", "life", "tech", "business", "culture"]
TRAINED_ONLY = ["health", "contrasts", "topics", "daily"]  # not in the evaluation, so that its figures stay comparable


def held_out(line):
    """Every twelfth block of ten lines of a file is for evaluation, never for training."""
    return line // 10 % 12 == 0


def _rows(path):
    for line in path.read_text(encoding="utf8").splitlines():
        if "\t" in line:
            chinese, english = line.split("\t")[:2]
            yield chinese.strip(), english.strip()


def pairs(evaluation):
    """(Chinese, English) of the hand-written files, in their order."""
    out = [pair for domain in DOMAINS for i, pair in enumerate(_rows(DATA / f"{domain}.pairs.tsv")) if held_out(i) == evaluation]
    return out if evaluation else out + [pair for domain in TRAINED_ONLY for pair in _rows(DATA / f"{domain}.pairs.tsv")]


def senses():
    """(word, [gloss, …]), without remarks in brackets."""
    for word, glosses in _rows(DATA / "lexicon.tsv"):
        plain = [gloss.strip() for gloss in re.sub(r"\([^)]*\)", "", glosses).split(";") if gloss.strip()]
        if plain:
            yield word, plain


def lexicon():
    """(word, gloss): only the gloss's first sense."""
    return [(word, glosses[0]) for word, glosses in senses()]


def generated(count, seed):
    """`count` pairs of each generator."""
    held = {text for pair in pairs(True) for text in pair}
    out = []
    for domain in DOMAINS:
        printed = subprocess.run([sys.executable, DATA / f"{domain}.gen.py", str(count), str(seed)], capture_output=True, text=True, check=True).stdout
        out += [tuple(line.split("\t")[:2]) for line in printed.splitlines() if "\t" in line]
    # By chance, a generator may print a sentence that is held out.
    return [pair for pair in out if not held & set(pair)]


def joined(rng):
    """Passages: runs of two to four consecutive lines of a file, so that the model reads longer
    texts too.
    """
    out = []
    for domain in DOMAINS + TRAINED_ONLY:
        block = []
        for i, pair in enumerate(_rows(DATA / f"{domain}.pairs.tsv")):
            if domain in DOMAINS and held_out(i):
                block = []
                continue
            block.append(pair)
            if len(block) == rng.choice([2, 3, 3, 4]) or len(block) == 4:
                out.append(("".join(c for c, _ in block), " ".join(e for _, e in block)))
                block = []
    return out


def _spans():
    """The lexicon's words of at least two characters with their glosses, in its order, which is by
    theme: neighbouring words are of the same kind.
    """
    return [(word, gloss) for word, gloss in lexicon() if len(word) > 1]


class Substitution:
    """Pairs derived from those that were `written`: words and their glosses that occur on both
    sides of a pair are replaced by others from the lexicon, half of them by near ones, which are of
    the same kind.
    """

    def __init__(self, written):
        self.pairs, self.entries = written, _spans()
        self.held = {text for pair in pairs(True) for text in pair}
        places = collections.defaultdict(list)
        for at, (word, _) in enumerate(self.entries):
            places[word].append(at)
        longest = max(map(len, places))
        found = collections.defaultdict(list)
        for row, (chinese, english) in enumerate(written):
            for start in range(len(chinese)):
                for end in range(start + 2, min(start + longest, len(chinese)) + 1):
                    for at in places.get(chinese[start:end], ()):
                        gloss = re.compile(rf"\b{re.escape(self.entries[at][1])}(?=s?\b)", re.I)
                        if gloss.search(english):
                            found[row].append((start, end, at, gloss))
        self.found, self.rows = found, sorted(found)

    def draw(self, rng, count, reach=12, most=3):
        """`count` pairs derived from one."""
        while True:
            row, out = rng.choice(self.rows), []
            for _ in range(4 * count):
                new = self._changed(row, rng, reach, most)
                if new != self.pairs[row] and new not in out and not self.held & set(new):
                    out.append(new)
                if len(out) == count:
                    return out

    def _changed(self, row, rng, reach, most):
        (chinese, english), before = self.pairs[row], len(self.pairs[row][0])
        spans = rng.sample(self.found[row], min(rng.randint(1, most), len(self.found[row])))
        for start, end, at, gloss in sorted(spans, key=lambda span: -span[0]):
            if end > before or not gloss.search(english):
                continue  # it overlaps a word that was replaced
            near = min(max(at + rng.randint(-reach, reach), 0), len(self.entries) - 1)
            word, new = self.entries[near] if rng.random() < 0.5 else rng.choice(self.entries)
            chinese, english, before = chinese[:start] + word + chinese[end:], gloss.sub(lambda _: new, english, count=1), start
        return chinese, english


def listed(lexicon, rng):
    """Some words of the lexicon, and their glosses, one after the other."""
    entries = rng.sample(lexicon, rng.randint(2, 6))
    return "，".join(word for word, _ in entries), ", ".join(gloss for _, gloss in entries)


def spliced(pairs, rng):
    """Two pairs that have nothing to do with each other."""
    one, two = rng.sample(pairs, 2)
    return one[0] + two[0], f"{one[1]} {two[1]}"


def words(texts):
    """The distinct English words of `texts`."""
    return sorted({word for text in texts for word in re.findall(r"[A-Za-z][A-Za-z'-]*", text)})


def noised(english, words, rng):
    """`english` with some words replaced by random ones or left out, or with its two halves
    swapped. The teacher decides what the text then means, so that the student sees each word beside
    all others, not only in the few written sentences.
    """
    own, kind = english.split(" "), rng.random()
    if kind < 0.6:
        own = [rng.choice(words) if rng.random() < 0.3 else word for word in own]
    elif kind < 0.8:
        own = [word for word in own if rng.random() > 0.25] or own
    else:
        cut = rng.randrange(len(own))
        own = own[cut:] + own[:cut]
    return " ".join(own)


def by_gloss():
    """{English word: the lexicon's words of at least two characters of which it is the gloss}."""
    out = collections.defaultdict(list)
    for word, gloss in _spans():
        out[gloss.lower()].append(word)
    return out


class Rewording:
    """Chinese words, longest first, that may be replaced by others with the same gloss, except for
    words of negation.
    """

    def __init__(self):
        self.same = {}
        for words in by_gloss().values():
            words = [word for word in words if not set(word) & set("不没未无可能")]
            self.same.update({word: [other for other in words if other != word] for word in words if len(words) > 1})
        self.longest = max(map(len, self.same))

    def __call__(self, chinese, rng, share=0.7):
        out, at = "", 0
        while at < len(chinese):
            size = next((n for n in range(min(self.longest, len(chinese) - at), 1, -1) if chinese[at : at + n] in self.same), 1)
            word = chinese[at : at + size]
            out += rng.choice(self.same[word]) if word in self.same and rng.random() < share else word
            at += size
        return out


def mixed(english, glosses, rng, share=0.4):
    """`english` with about `share` of the words that the lexicon has (runs of up to three words) in
    Chinese.
    """
    words, out, at = english.split(" "), [], 0
    while at < len(words):
        for length in (3, 2, 1):
            piece = " ".join(words[at : at + length])
            bare = piece.strip(".,?!;:\"'").lower()
            if at + length <= len(words) and bare in glosses and rng.random() < share:
                out.append(re.sub(re.escape(bare), lambda _: rng.choice(glosses[bare]), piece, flags=re.I))
                at += length
                break
        else:
            out.append(words[at])
            at += 1
    return " ".join(out)
