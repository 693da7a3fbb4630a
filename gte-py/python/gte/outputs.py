"""Outputs of models other than one vector per text: sparse vectors, and a vector per token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Union, overload

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class SparseEmbeddings:
    """Sparse vectors, one per text, as compressed rows (CSR): text ``i`` has the token ids
    ``ids[indptr[i]:indptr[i + 1]]``, in ascending order, and one of ``weights`` for each, above 0.

    ``vectors[i]`` is a dict from ids to weights, ``vectors[a:b]`` is a slice of the vectors.
    ``vocab`` is their dimension.
    """

    __slots__ = ("ids", "indptr", "vocab", "weights")

    def __init__(self, indptr: Integers, ids: npt.NDArray[np.uint32], weights: Vectors, *, vocab: int) -> None:
        self.indptr, self.ids, self.weights, self.vocab = indptr, ids, weights, vocab

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @overload
    def __getitem__(self, i: int) -> dict[int, float]: ...
    @overload
    def __getitem__(self, i: slice) -> SparseEmbeddings: ...
    def __getitem__(self, i: int | slice) -> dict[int, float] | SparseEmbeddings:
        if isinstance(i, slice):
            rows = range(len(self))[i]
            if rows.step != 1:
                return self._rows([self._row(row) for row in rows])
            first, last = self.indptr[rows.start], self.indptr[max(rows.start, rows.stop)]
            indptr = self.indptr[rows.start : max(rows.start, rows.stop) + 1] - first
            return SparseEmbeddings(indptr, self.ids[first:last], self.weights[first:last], vocab=self.vocab)
        ids, weights = self._row(i)
        return dict(zip(ids.tolist(), weights.tolist()))

    def __iter__(self) -> Iterator[dict[int, float]]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"gte.SparseEmbeddings({len(self)} vectors, {len(self.ids)} weights, vocab={self.vocab})"

    def _row(self, i: int) -> tuple[npt.NDArray[np.uint32], Vectors]:
        row = range(len(self))[i]
        place = slice(self.indptr[row], self.indptr[row + 1])
        return self.ids[place], self.weights[place]

    def _rows(self, rows: list[tuple[npt.NDArray[np.uint32], Vectors]]) -> SparseEmbeddings:
        indptr = np.cumsum([0, *(len(ids) for ids, _ in rows)], dtype=np.int64)
        ids = np.concatenate([np.zeros(0, np.uint32), *(ids for ids, _ in rows)])
        weights = np.concatenate([np.zeros(0, np.float32), *(weights for _, weights in rows)])
        return SparseEmbeddings(indptr, ids, weights, vocab=self.vocab)

    def to_dicts(self, names: Callable[[list[int]], Sequence[str]] | None = None) -> list[dict[Any, float]]:
        """One dict per text: ``{token id: weight}``, or with ``names=embedder.tokens`` ``{token:
        weight}``. FlagEmbedding's ``lexical_weights`` have the ids as str: ``names=lambda ids:
        map(str, ids)``.
        """
        rows = []
        for i in range(len(self)):
            ids, weights = self._row(i)
            keys: Any = ids.tolist()
            rows.append(dict(zip(keys if names is None else names(keys), weights.tolist())))
        return rows

    def to_scipy(self) -> Any:
        """A ``scipy.sparse.csr_array`` of shape (texts, vocab) that shares the numbers."""
        try:
            from scipy.sparse import csr_array
        except ImportError:
            raise ImportError("to_scipy needs scipy: pip install gte-embed[scipy]") from None
        return csr_array((self.weights, self.ids.view(np.int32), self.indptr), shape=(len(self), self.vocab))

    def to_arrow(self) -> Any:
        """A ``pyarrow`` column of lists of ``{id, weight}`` that shares the numbers."""
        arrow = _pyarrow("to_arrow")
        pairs = arrow.StructArray.from_arrays([arrow.array(self.ids), arrow.array(self.weights)], ["id", "weight"])
        return arrow.LargeListArray.from_arrays(arrow.array(self.indptr), pairs)

    def dot(self, others: SparseEmbeddings | None = None) -> Vectors:
        """For each of these and each of ``others`` (default: these themselves), the sum over shared
        ids of the product of both weights: (texts, others). As FlagEmbedding's
        ``compute_lexical_matching_score``.
        """
        others = self if others is None else others
        if self.vocab != others.vocab:
            raise ValueError(f"vectors of vocabularies of {self.vocab} and {others.vocab} tokens cannot be compared")
        rows = np.repeat(np.arange(len(others)), np.diff(others.indptr))
        scores = np.zeros((len(self), len(others)), np.float32)
        dense = np.zeros(self.vocab, np.float32)
        for i in range(len(self)):
            ids, weights = self._row(i)
            dense[ids] = weights
            scores[i] = np.bincount(rows, dense[others.ids] * others.weights, minlength=len(others))
            dense[ids] = 0
        return scores

    def top(self, k: int) -> SparseEmbeddings:
        """The ``k`` largest weights of each vector. Among equal weights, smaller ids come first."""
        if k < 1:
            raise ValueError(f"k is {k}, expected at least 1")
        rows = []
        for i in range(len(self)):
            ids, weights = self._row(i)
            kept = np.sort(np.argsort(-weights, kind="stable")[:k])
            rows.append((ids[kept], weights[kept]))
        return self._rows(rows)


class MultiVectors(Sequence[Vectors]):
    """Unit vectors of the tokens of each text (ColBERT). ``vectors[i]`` is the matrix of text
    ``i``, (tokens, dim): a view of ``values``, (all tokens, dim), from row ``indptr[i]`` to
    ``indptr[i + 1]``.
    """

    __slots__ = ("indptr", "values")

    def __init__(self, indptr: Integers, values: Vectors) -> None:
        self.indptr, self.values = indptr, values

    @property
    def dim(self) -> int:
        """Number of values per vector."""
        return int(self.values.shape[1])

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @overload
    def __getitem__(self, i: int) -> Vectors: ...
    @overload
    def __getitem__(self, i: slice) -> MultiVectors: ...
    def __getitem__(self, i: int | slice) -> Vectors | MultiVectors:
        if isinstance(i, slice):
            return multi_vectors([self[row] for row in range(len(self))[i]], self.dim)
        row = range(len(self))[i]
        return self.values[self.indptr[row] : self.indptr[row + 1]]

    def __repr__(self) -> str:
        return f"gte.MultiVectors({len(self)} texts, {len(self.values)} vectors, dim={self.dim})"

    def max_sim(self, documents: MultiVectors) -> Vectors:
        """MaxSim of each of these, as queries, and each of ``documents``: (queries, documents). It
        is the mean, over the vectors of a query, of the largest dot product with a vector of the
        document; 0 if either has no vector.
        """
        if self.dim != documents.dim:
            raise ValueError(f"vectors of {self.dim} and {documents.dim} dimensions cannot be compared")
        scores = np.zeros((len(self), len(documents)), np.float32)
        there = documents.indptr[:-1] < documents.indptr[1:]
        starts = documents.indptr[:-1][there]
        for i, query in enumerate(self):
            if len(query) and len(starts):
                best = np.maximum.reduceat(query @ documents.values.T, starts, axis=1)
                scores[i, there] = best.mean(axis=0, dtype=np.float64)
        return scores

    def to_arrow(self) -> Any:
        """A ``pyarrow`` column of lists of vectors that shares the numbers."""
        arrow = _pyarrow("to_arrow")
        vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(self.values.reshape(-1)), self.dim)
        return arrow.LargeListArray.from_arrays(arrow.array(self.indptr), vectors)


class AllEmbeddings(NamedTuple):
    """Several outputs of one forward pass. Outputs that were not requested are None."""

    dense: Union[Vectors, None] = None
    sparse: Union[SparseEmbeddings, None] = None
    colbert: Union[MultiVectors, None] = None


def multi_vectors(matrices: Sequence[Vectors], dim: int) -> MultiVectors:
    """Joins matrices of shape (tokens, ``dim``) into one."""
    indptr = np.cumsum([0, *(len(matrix) for matrix in matrices)], dtype=np.int64)
    return MultiVectors(indptr, np.concatenate([np.zeros((0, dim), np.float32), *matrices]))


def max_sim(query: npt.ArrayLike, document: npt.ArrayLike) -> float:
    """MaxSim of two matrices of unit vectors, (tokens, dim): the mean, over the vectors of the
    query, of the largest dot product with a vector of the document; 0 if either has no vector. As
    FlagEmbedding's ``colbert_score``.
    """
    left, right = (np.asarray(x, np.float32) for x in (query, document))
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise ValueError(f"max_sim of matrices of shape {left.shape} and {right.shape}, expected (tokens, dim) with the same dim")
    return float(multi_vectors([left], left.shape[1]).max_sim(multi_vectors([right], right.shape[1]))[0, 0])


def _pyarrow(what: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise ImportError(f"{what} needs pyarrow: pip install gte-embed[parquet]") from None
    return pyarrow
