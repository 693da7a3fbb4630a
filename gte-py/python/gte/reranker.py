"""`Reranker`: scores how well documents answer a query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Union

import numpy as np
import numpy.typing as npt

from . import _gte
from .model import Model, Path, one_prompt
from .progress import Bar, Progress, counted

Scores = npt.NDArray[np.float32]


class Ranked(NamedTuple):
    """A document's index, its score, and, if requested, the document itself."""

    index: int  # type: ignore[assignment]  # replaces the method of tuples
    score: float
    document: Union[str, None] = None


class Reranker(Model[_gte.Scorer]):
    """A model that reads a query together with a document: a cross-encoder, or a language model
    that answers yes or no. A document's score does not depend on the other documents. It may be
    used from many threads at once. It is pickled as its arguments, and opens the model again when
    it is unpickled.

    Args:
        model: a directory, or a hub id such as ``BAAI/bge-reranker-v2-m3`` or
            ``Qwen/Qwen3-Reranker-0.6B``.
        precision, threads, device, revision, offline, causal, max_batch_tokens, cache_folder,
            token: as in :class:`gte.Embedder`.
        max_length: length in tokens at which query and document together are truncated, at the end
            of the longer one. Default: the model's own limit.

    Every method accepts an ``instruction``, which replaces the one of a language model and tells it
    what counts as an answer. Or a ``prompt``, or the ``prompt_name`` of one in the model's files:
    as in sentence-transformers, it is the instruction of a language model, and is put before the
    query of a cross-encoder. ``documents`` may have the types of the texts in
    :meth:`gte.Embedder.embed`.

    Raises:
        ModelNotFound, InvalidModel, DownloadError: the model cannot be loaded, or is not a
            reranker.
        ValueError: an invalid option.
    """

    def __init__(
        self,
        model: Path,
        *,
        precision: str = "auto",
        threads: int | None = None,
        max_length: int | None = None,
        device: str | None = None,
        revision: str | None = None,
        offline: bool = False,
        causal: bool | None = None,
        max_batch_tokens: int | None = None,
        cache_folder: Path | None = None,
        token: str | bool | None = None,
    ) -> None:
        self._keep(
            model,
            device,
            token,
            cache_folder,
            precision=precision,
            threads=threads,
            max_length=max_length,
            revision=revision,
            offline=offline,
            causal=causal,
            max_batch_tokens=max_batch_tokens,
        )

    def _opened(self, options: _gte.Options) -> _gte.Scorer:
        return _gte.Scorer(options)

    def scores(
        self,
        query: str,
        documents: Iterable[str],
        *,
        instruction: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        raw: bool = False,
        progress: Progress = None,
    ) -> Scores:
        """How well each document answers ``query``, from 0 to 1, in the order of the documents;
        with ``raw`` the model's logits.

        Raises:
            TypeError: a query that is not a str; documents that are a single str, a dict, a set or
                bytes, or a document that is not a str.
            ValueError: None among the documents, a str that is not valid Unicode, an instruction
                for a model that has none.
            InvalidModel: a classifier with several labels, whose :meth:`logits` are not scores of
                an answer.
            KeyboardInterrupt: on Ctrl-C, after the current batch, or a few batches of a language
                model.
        """
        return self._scores(self.logits(query, documents, **_told(instruction, prompt, prompt_name), progress=progress), raw)

    def score_pairs(
        self,
        pairs: Iterable[Sequence[str]],
        *,
        instruction: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        raw: bool = False,
        progress: Progress = None,
    ) -> Scores:
        """As :meth:`scores`, for pairs of a query and a document."""
        queries, documents = split(pairs)
        return self._scores(self._logits(queries, documents, progress, **_told(instruction, prompt, prompt_name)), raw)

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_n: int | None = None,
        return_documents: bool = False,
        instruction: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        raw: bool = False,
        progress: Progress = None,
    ) -> list[Ranked]:
        """The ``top_n`` best documents (default: all), best first: ``index``, ``score`` and, with
        ``return_documents``, ``document``. They are ordered by their logits, which still differ
        when scores round to 1. Equal ones keep their order.
        """
        if top_n is not None and top_n < 0:
            raise ValueError(f"top_n is {top_n}, expected 0 or more")
        if return_documents:
            _gte.check_texts(documents, "documents")
            documents = texts_of(documents)
        logits = self.logits(query, documents, **_told(instruction, prompt, prompt_name), progress=progress)
        scores = self._scores(logits, raw).tolist()
        best = np.argsort(-logits[:, 0], kind="stable")[:top_n].tolist()
        kept: Any = documents if return_documents else None
        return [Ranked(i, scores[i], None if kept is None else kept[i]) for i in best]

    def logits(
        self,
        query: str,
        documents: Iterable[str],
        *,
        instruction: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        progress: Progress = None,
    ) -> Scores:
        """The model's logits of ``query`` with each document: (documents, labels)."""
        return self._logits(_query(query), documents, progress, **_told(instruction, prompt, prompt_name))

    def _logits(self, queries: Any, documents: Iterable[str], progress: Progress, **told: str | None) -> Scores:
        documents, total = counted(documents)
        with Bar(progress, total) as report:
            return self._here().logits(queries, documents, report, **told)

    def _scores(self, logits: Scores, raw: bool) -> Scores:
        # A model with several labels is refused later: the first label is not a score.
        if raw and self.labels == 1:
            return logits[:, 0]
        return self._engine.scores_from(np.ascontiguousarray(logits.reshape(-1)))

    def tokenize(
        self,
        query: str,
        documents: Iterable[str],
        *,
        instruction: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> list[npt.NDArray[np.uint32]]:
        """The token ids of ``query`` with each document, as the model reads them, truncated to
        ``max_length``.
        """
        return [ids for ids, _ in self._here().tokenize(_query(query), documents, **_told(instruction, prompt, prompt_name))]

    def count_tokens(
        self,
        query: str,
        documents: Iterable[str],
        *,
        instruction: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> npt.NDArray[np.int64]:
        """Number of tokens of ``query`` with each document, before truncation: pairs with more than
        ``max_length`` will be truncated.
        """
        tokens = self._here().tokenize(_query(query), documents, **_told(instruction, prompt, prompt_name))
        return np.array([full for _, full in tokens], dtype=np.int64)

    @property
    def labels(self) -> int:
        """Number of logits per pair: 1 for a reranker, more for other classifiers."""
        return self._engine.labels

    @property
    def takes_instruction(self) -> bool:
        """Whether it is a language model, which uses an instruction."""
        return self._engine.takes_instruction

    def __repr__(self) -> str:
        return self._shown(f"labels={self.labels}")


def _query(query: Any) -> str:
    # A list would mean one query per document.
    if not isinstance(query, str):
        raise TypeError(f"query is of type {type(query).__name__}, expected str")
    return query


def _told(instruction: str | None, prompt: str | None, prompt_name: str | None) -> dict[str, str | None]:
    one_prompt(prompt, prompt_name)
    if instruction is not None and (prompt is not None or prompt_name is not None):
        raise ValueError("both an instruction and a prompt are given: pass only one of them")
    return {"instruction": instruction, "prompt": prompt, "prompt_name": prompt_name}


def split(pairs: Any) -> tuple[list[str], list[str]]:
    """The first and the second texts of pairs. The texts themselves are checked later."""
    if isinstance(pairs, (str, bytes, dict, set, frozenset)):
        raise TypeError(f"pairs is of type {type(pairs).__name__}, expected a list of pairs of texts")
    queries, documents = [], []
    for i, pair in enumerate(pairs):
        if isinstance(pair, (str, bytes, dict, set, frozenset)) or not hasattr(pair, "__len__") or len(pair) != 2:
            shown = f"has {len(pair)} texts" if isinstance(pair, (list, tuple)) else f"is of type {type(pair).__name__}"
            raise TypeError(f"pair {i} {shown}, expected a query and a document")
        queries.append(pair[0])
        documents.append(pair[1])
    return queries, documents


def texts_of(documents: Any) -> list[str]:
    """The texts of a list, an iterator or a column, as a list of str."""
    return list(documents.to_pylist() if hasattr(documents, "to_pylist") else documents)
