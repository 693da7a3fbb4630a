"""The texts: hand-written pairs, a lexicon, and pairs that the generators print. Paths, splits, cleaning."""
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
