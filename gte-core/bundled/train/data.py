"""The texts: hand-written pairs, a lexicon, and pairs that the generators print. Paths, splits, cleaning."""
import collections
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE / "data"
DOMAINS = ["service", "life", "tech", "business", "culture"]


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
    return [pair for domain in DOMAINS for i, pair in enumerate(_rows(DATA / f"{domain}.pairs.tsv")) if held_out(i) == evaluation]


def lexicon():
    """(word, gloss): only the gloss's first sense, without remarks in brackets."""
    plain = lambda gloss: re.sub(r"\([^)]*\)", "", gloss).split(";")[0].strip()
    return [(word, plain(gloss)) for word, gloss in _rows(DATA / "lexicon.tsv") if plain(gloss)]


def generated(count, seed):
    """`count` pairs of each generator."""
    held = {text for pair in pairs(True) for text in pair}
    out = []
    for domain in DOMAINS:
        printed = subprocess.run([sys.executable, DATA / f"{domain}.gen.py", str(count), str(seed)], capture_output=True, text=True, check=True).stdout
        out += [tuple(line.split("\t")[:2]) for line in printed.splitlines() if "\t" in line]
    # A generator may print by chance what is held out.
    return [pair for pair in out if not held & set(pair)]


def joined(rng):
    """Passages: runs of two to four consecutive lines of a file, for the model shall read longer texts too."""
    out = []
    for domain in DOMAINS:
        block = []
        for i, pair in enumerate(_rows(DATA / f"{domain}.pairs.tsv")):
            if held_out(i):
                block = []
                continue
            block.append(pair)
            if len(block) == rng.choice([2, 3, 3, 4]) or len(block) == 4:
                out.append(("".join(c for c, _ in block), " ".join(e for _, e in block)))
                block = []
    return out


def _spans():
    """The lexicon's words of two characters and more with their glosses, in its order, which is by theme: a word's neighbours are of its kind."""
    return [(word, gloss) for word, gloss in lexicon() if len(word) > 1]


def substituted(pairs, count, rng, reach=12):
    """`count` pairs made of `pairs`: a word and its gloss, found in both sides of a pair, give way to a near word of the lexicon and its gloss."""
    entries = _spans()
    places = collections.defaultdict(list)
    for at, (word, _) in enumerate(entries):
        places[word].append(at)
    longest = max(map(len, places))
    found = []
    for row, (chinese, english) in enumerate(pairs):
        for start in range(len(chinese)):
            for end in range(start + 2, min(start + longest, len(chinese)) + 1):
                for at in places.get(chinese[start:end], ()):
                    gloss = re.compile(rf"\b{re.escape(entries[at][1])}(?=s?\b)", re.I)
                    if gloss.search(english):
                        found.append((row, start, end, at, gloss))
    held = {text for pair in globals()["pairs"](True) for text in pair}
    out = set()
    while len(out) < count:
        row, start, end, at, gloss = rng.choice(found)
        word, new = entries[min(max(at + rng.randint(-reach, reach), 0), len(entries) - 1)]
        chinese, english = pairs[row]
        pair = chinese[:start] + word + chinese[end:], gloss.sub(lambda _: new, english, count=1)
        if pair != pairs[row] and not held & set(pair):
            out.add(pair)
    return sorted(out)


def by_gloss():
    """{English word: the lexicon's words of two characters and more that it is the gloss of}."""
    out = collections.defaultdict(list)
    for word, gloss in _spans():
        out[gloss.lower()].append(word)
    return out


def mixed(english, glosses, rng, share=0.4):
    """`english` with about `share` of the words that the lexicon has (runs of up to three) in Chinese."""
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
