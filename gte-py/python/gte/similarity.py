"""Similarity of vectors from any source."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import _gte

Vectors = npt.NDArray[np.float32]


def cos_sim(a: npt.ArrayLike, b: npt.ArrayLike) -> Vectors:
    """Cosine of each row of ``a`` and each row of ``b``: (rows of a, rows of b). A vector counts as
    one row. Rows of zeros give 0.
    """
    left, right = (np.atleast_2d(np.asarray(x, dtype=np.float32)) for x in (a, b))
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"{left.shape[1]} and {right.shape[1]} dimensions")

    def unit(x: Vectors) -> Vectors:
        length = np.linalg.norm(x, axis=1, keepdims=True)
        scaled: Vectors = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
        return scaled

    scores: Vectors = unit(left) @ unit(right).T
    return scores


def top_k(queries: npt.ArrayLike, corpus: npt.ArrayLike, k: int) -> tuple[npt.NDArray[np.int64], Vectors]:
    """For each of ``queries``, the ``k`` rows of ``corpus`` with the largest dot products: indices
    and scores, (queries, k), best first. Exact, on all threads. A float32 corpus in C order is not
    copied.
    """
    left, right = (np.ascontiguousarray(np.atleast_2d(np.asarray(x, dtype=np.float32))) for x in (queries, corpus))
    if k < 0:
        raise ValueError(f"k is {k}, expected 0 or more")
    return _gte.top_k(left, right, k)
