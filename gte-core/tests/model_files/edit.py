"""A case, and the small edits from which cases are built."""

import json
import os
import shutil
from dataclasses import dataclass, field
from typing import Callable

TEXTS = [
    "Hello World, the Café is OPEN!",
    "今天天气真好 GTE模型",
    "naïve résumé Straße",
    " ".join(f"word{i}" for i in range(400)),
    "a <brand> b [PRODUCT] c",
    "İstanbul ﬁ ① ２０２４",
    "unaffable [SEP] [MASK] x",
    "w" * 101 + " short",
    "a",
]


@dataclass
class Case:
    """`refuse` names the key that a refusal must name; without it, our vectors must equal the
    reference's. `program` is the example that runs: texts for `embed`, (query, documents) pairs for
    `rerank`.
    """

    name: str
    edits: list[Callable]
    refuse: str | None = None
    base: str = "minilm"
    texts: list[str] = field(default_factory=lambda: TEXTS)
    must_refuse: bool = False
    program: str = "embed"


def case(name, *edits, **more):
    return Case(name, list(edits), **more)


def _load(path):
    with open(path, encoding="utf8") as f:
        return json.load(f)


def _fresh(path):
    """Removes what is at `path`, which may be a link to a file of the model from which all cases
    start.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path):
        os.remove(path)


def _store(path, value):
    _fresh(path)
    with open(path, "w", encoding="utf8") as f:
        json.dump(value, f, ensure_ascii=False)


def change(file, function):
    """Calls `function` with the file's JSON. If it returns something, that replaces the JSON."""

    def edit(d):
        path = os.path.join(d, file)
        value = _load(path) if os.path.exists(path) else {}
        new = function(value)
        _store(path, value if new is None else new)

    return edit


def put(file, **values):
    return change(file, lambda j: j.update(values))


def drop(file, *keys):
    return change(file, lambda j: [j.pop(k, None) for k in keys] and None)


def remove(*files):
    def edit(d):
        for file in files:
            path = os.path.join(d, file)
            shutil.rmtree(path) if os.path.isdir(path) else os.path.exists(path) and os.remove(path)

    return edit


def text(file, content):
    """Writes a text, or what a function makes of the existing text."""

    def edit(d):
        path = os.path.join(d, file)
        if callable(content):
            with open(path, encoding="utf8", newline="") as f:
                new = content(f.read())
        else:
            new = content
        _fresh(path)
        with open(path, "w", encoding="utf8", newline="") as f:
            f.write(new)

    return edit


def rename(old, new):
    def edit(d):
        os.makedirs(os.path.dirname(os.path.join(d, new)), exist_ok=True)
        shutil.move(os.path.join(d, old), os.path.join(d, new))

    return edit
