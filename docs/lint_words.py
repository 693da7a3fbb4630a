#!/usr/bin/env python3
"""Checks the words of this repository: no comment or paragraph is wider than 100 columns, and none
uses a phrase or a name for which PHRASES has a better one.

Run by `make lint`. Tables, code blocks, link targets and URLs may be wider: they cannot be wrapped.
"""

import ast
import pathlib
import re
import subprocess
import sys

COLUMNS = 100

# Words that nobody reads here: they are data, or made by a program.
SKIPPED = r"fixtures/|/ptx/|train/data/|/record/|assets/vendor/|THIRD_PARTY|Cargo\.lock$|package-lock\.json$"

# What is measured in "per": "one per line", not "one a line".
COUNTED = (
    "one|two|three|four|bytes?|values?|tokens?|threads?|vectors?|texts?|requests?|rows?|numbers?|entry|object|file|point|"
    "MB|GB|ms|once|twice|times|words?|bits?|copy|thread|line|logit|score|weight"
)
PER = (
    "second|minute|line|text|vector|row|request|token|layer|model|file|column|pod|replica|piece|weight|value|channel|head|"
    "pass|batch|core|machine|word|document|process|worker|job|label|query|group|text's"
)

# (pattern, what to write instead). A space in a pattern also matches the end of a line and the
# comment sign of the next one.
PHRASES = [
    (rf"\b(?:{COUNTED}) an? (?:{PER})\b", "per: \"one per line\""),
    (r"\b(?:that|which) (?:is|are) none\b", "say what is wrong: \"invalid certificate\""),
    (r"\bfrom which on\b", "\"beyond\", \"at or above\""),
    (r"\b[Ww]hoever\b", "name who: the caller, the client"),
    (r"\b(?:his|him)\b", "its, their; or name who"),
    (r"\banew\b", "again, from scratch"),
    (r"\b(?:crowd|crowded)\b", "overload, overloaded"),
    (r"\b(?:gives?|given|gave|giving) way\b|\bgive_way\b|\bFEW\b", "preempt, yield, min_batch_tokens"),
    (r"\b(?:ask_for|looks_at_inputs|stay_on)\b", "prefetch, calibration, pin_to"),
    (r"(?<!max)[-_\s]batch[-_\s]tokens\b(?<!gte_batch_tokens)|GTE_BATCH_TOKENS|\btoken budget\b", "max_batch_tokens"),
    (r"\b(?:[Nn]arrow(?:s|ed|er|ing)?)\b", "low precision, quantized; narrow tile: edge tile"),
    (r"\bthe same to the bit\b|\bletter for letter\b", "the same bit for bit; exactly as it is"),
    (r"\bin earnest\b|\bwhere there (?:is|are) none\b", "say it plainly: \"if there is none\""),
    (r"\b(?![Tt]here\b)\w+ (?:is|are) no (?!longer|more|error|way|better|worse|larger|faster|slower)[a-z]+\b", "\"is not a …\""),
    (r"\bconverts? (?:\w+ )?to int8\b|\bconverted to int8\b", "quantize"),
]

# (file, as a pattern; words): uses that are right.
ALLOWED = [
    (r"^gte-core/bundled/train/", "his"),  # a text
    (r"^gte-core/src/backend/candle\.rs$", "narrow"),  # a method of candle
]

SLASHES = r"\.(?:rs|js|mjs|cu|cuh|hpp|cpp)$"
HASHES = r"\.(?:py|pyi|sh|ya?ml|toml)$|(?:^|/)(?:Makefile|Dockerfile|\.ci/run)$"
MARKDOWN = r"\.md$"
OTHER = r"\.(?:html|css)$"


def tracked() -> list[str]:
    """The files under version control whose words are checked."""
    files = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.split("\n")
    kinds = "|".join([SLASHES, HASHES, MARKDOWN, OTHER])
    return [
        file
        for file in files
        if re.search(kinds, file) and not re.search(SKIPPED, file)
    ]


def docstrings(text: str) -> set[int]:
    """The lines of the docstrings in a Python file."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            lines.update(range(first.lineno, first.end_lineno + 1))
    return lines


def prose(file: str, lines: list[str]) -> list[tuple[int, str]]:
    """The lines of a file that are read as text, with their numbers, without code and tables."""
    quoted = docstrings("\n".join(lines)) if re.search(r"\.pyi?$", file) else set()
    found, code = [], False
    for number, line in enumerate(lines, 1):
        if re.search(SLASHES, file):
            words = re.match(r"\s*//[/!]?(.*)", line)
        elif re.search(HASHES, file):
            words = re.match(r"\s*#(?!!)(.*)", line) or re.match(r"[\w-]+:.*?## (.*)", line)
            words = words or (re.match(r"(.*)", line) if number in quoted else None)
        elif re.search(MARKDOWN, file):
            words = re.match(r"(.*)", line)
        else:
            words = re.match(r".*(?:/\*|<!--)(.*)", line)
        if not words:
            code = False
            continue
        text = words[1].strip()
        if text.startswith("```"):
            code = not code
        elif not code and not words[1].startswith("     ") and not text.startswith(("|", "<", "[", "![")):
            found.append((number, line))
    return found


def wide(file: str, lines: list[str]) -> list[str]:
    """Lines that are too wide, however much of them is a URL."""
    without = [(number, re.sub(r"\]\([^)]*\)|https?://\S+", "", line)) for number, line in prose(file, lines)]
    return [f"{file}:{number}: {len(line)} columns, {COLUMNS} at most" for number, line in without if len(line) > COLUMNS]


def phrases(file: str, text: str) -> list[str]:
    """Phrases for which there is a better one."""
    found = []
    for pattern, instead in PHRASES:
        anywhere = pattern.replace(" ", r"(?:\s|//[/!]?|#)+")
        for match in re.finditer(anywhere, text):
            words = " ".join(word for word in match[0].split() if not re.fullmatch(r"//[/!]?|#", word))
            if not any(re.search(where, file) and words == right for where, right in ALLOWED):
                found.append(f"{file}:{text.count(chr(10), 0, match.start()) + 1}: \"{words}\": write {instead}")
    return found


def main() -> None:
    """Prints what is wrong, and fails if anything is."""
    root = pathlib.Path(__file__).resolve().parent.parent
    wrong = []
    for file in tracked():
        text = (root / file).read_text()
        wrong += wide(file, text.split("\n"))
        if file != "docs/lint_words.py":
            wrong += phrases(file, text)
    print("\n".join(wrong) if wrong else f"words: {len(tracked())} files are fine")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
