"""Scores files of queries with their documents: one line of scores per query."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Union

import numpy as np

from .reranker import Reranker
from .texts import Bad, BadLine, left_out, text_or_why

KEYS = ("query", "documents", "instruction")


class Question(NamedTuple):
    """A query, the documents that may answer it, and, for a language model, what counts as an
    answer.
    """

    query: str
    documents: list[str]
    instruction: Union[str, None] = None


def read_questions(lines: Iterable[str], tsv: bool, name: str, skip: Callable[[BadLine], object] | None = None) -> Iterator[tuple[int, Question]]:
    """The questions on the lines, with line numbers: JSON objects with ``query``, ``documents`` and
    optionally ``instruction``; or, with ``tsv``, a query and its documents separated by tabs. Empty
    lines are skipped. An invalid line is passed to ``skip``, or is a ValueError without it.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        # Bytes that are not UTF-8 have become lone surrogates, so that the error can name their
        # line.
        raw = text_or_why(line.rstrip("\r\n"))
        question = raw if isinstance(raw, Bad) else _of_tsv(raw) if tsv else _of_json(raw)
        if isinstance(question, Question):
            yield number, question
        elif skip is not None:
            skip(BadLine(f"line {number}", question))
        else:
            raise left_out(name, BadLine(f"line {number}", question))


def _of_tsv(line: str) -> Question | Bad:
    query, *documents = line.split("\t")
    return Question(query, documents) if documents else Bad("has no document, expected a query and its documents, separated by tabs")


def _of_json(line: str) -> Question | Bad:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return Bad(f"is not JSON ({error.msg} at character {error.pos})")
    except RecursionError:
        return Bad("is JSON with too many levels")
    if not isinstance(value, dict):
        return Bad(f"is {value!r:.50}, expected an object with a query and documents")
    unknown = [key for key in value if key not in KEYS]
    if unknown:
        return Bad(f"has the unknown key {unknown[0]!r}, expected {', '.join(KEYS)}")
    for key in KEYS[:2]:
        if key not in value:
            return Bad(f"has no key {key!r}")
    documents, instruction = value["documents"], value.get("instruction")
    if not isinstance(documents, list):
        return Bad(f"has {documents!r:.50} as documents, expected a list of texts")
    named: list[tuple[str, Any]] = [("a query that", value["query"])]
    named += [(f"document {i}, which", document) for i, document in enumerate(documents)]
    if instruction is not None:
        named.append(("an instruction that", instruction))
    for what, text in named:
        checked = text_or_why(text)
        if isinstance(checked, Bad):
            return Bad(f"has {what} {checked}")
    return Question(value["query"], documents, instruction)


def answer(reranker: Reranker, question: Question, instruction: str | None = None, raw: bool = False) -> str:
    """A line of JSON: ``{"scores": […], "ranking": […], "truncated": […]}``. Scores are in the
    order of the documents, from 0 to 1, or with ``raw`` the model's logits. The ranking has the
    indices of the documents, best first.
    """
    told = {"instruction": instruction if question.instruction is None else question.instruction}
    logits = reranker.logits(question.query, question.documents, **told, progress=False)
    scores = reranker._scores(logits, raw)
    tokens = reranker.count_tokens(question.query, question.documents, **told)
    return json.dumps(
        {
            # The shortest decimals that give the same float32.
            "scores": [float(str(score)) for score in scores],
            "ranking": np.argsort(-logits[:, 0], kind="stable").tolist(),
            "truncated": (tokens > reranker.max_length).tolist(),
        }
    )
