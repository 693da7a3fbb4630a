"""`Embedder`: the engine with the manners of Python."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from . import _gte
from .encode import Encode, Progress, Vectors

Output = Literal["float32", "int8", "ubinary"]

# Texts from which on a terminal is shown a progress bar without asking.
LONG_WORK = 2000

_log = logging.getLogger("gte")


class Embedder(Encode):
    """A model, ready to embed. Safe to use from many threads at once; pickles as its arguments and opens the model again.

    Args:
        model: a directory, a hub id such as ``thenlper/gte-large-zh``, ``modelscope:iic/nlp_gte_sentence-embedding_chinese-large``, or
            ``bundled``: the small model of Chinese and English that this package carries, for trying and testing.
        precision: type of the matrix products: ``"f32"``, ``"bf16"``, ``"int8"``, or ``"auto"``: bf16 where the CPU computes it natively,
            else f32; the attribute ``precision`` tells which it became.
        threads: compute threads; by default what the process may use (affinity, cgroup).
        max_length: tokens at which texts are cut; by default the model's.
        device: ``"cpu"``, the only one of this build.
        revision: commit, branch or tag on the hub.
        offline: make no request: the model is a directory or in the cache.
        pooling: ``"cls"``, ``"mean"`` or ``"last-token"``, where the model's files do not say.
        batch_tokens: tokens that are computed at once; bounds memory.
        cache_folder: where downloaded models are kept; by default ``HF_HUB_CACHE``, else below ``HF_HOME``.

    Raises:
        ModelNotFound, InvalidModel, DownloadError: the model cannot be had, or is not one.
        ValueError: an option that makes no sense.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        precision: str = "auto",
        threads: int | None = None,
        max_length: int | None = None,
        device: str | None = None,
        revision: str | None = None,
        offline: bool = False,
        pooling: str | None = None,
        batch_tokens: int | None = None,
        cache_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        if device is not None and str(device) != "cpu":
            raise ValueError(f"device {device!r}: this build computes on the cpu")
        self._arguments: dict[str, Any] = {
            "model": os.path.expanduser(os.fspath(model)),
            "precision": precision,
            "threads": threads,
            "max_length": max_length,
            "device": device,
            "revision": revision,
            "offline": offline,
            "pooling": pooling,
            "batch_tokens": batch_tokens,
            "cache_folder": None if cache_folder is None else os.path.expanduser(os.fspath(cache_folder)),
        }
        self._open()

    @classmethod
    def bundled(cls, **options: Any) -> Embedder:
        """The small model that this package carries: Chinese and English, 384 dimensions, nothing to download; for trying and testing.
        For production, ``Embedder("thenlper/gte-large-zh")``. Takes the options of the class.
        """
        return cls("bundled", **options)

    def _open(self) -> None:
        arguments = {k: v for k, v in self._arguments.items() if k != "device"}
        self._process = os.getpid()
        self._engine = _gte.Engine(arguments.pop("model"), **arguments)
        _log.info("%s is ready", self)

    def _here(self) -> _gte.Engine:
        # Threads do not survive a fork: the child opens the model again.
        if self._process != os.getpid():
            self._open()
        return self._engine

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._arguments = state
        self._open()

    def embed(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        output: Output = "float32",
        progress: Progress = None,
    ) -> npt.NDArray[Any]:
        """The unit vector of each text, in order.

        Args:
            texts: a list, tuple, generator, numpy array or pandas Series of str, or an Arrow column of strings (pyarrow, polars), which is
                read without a Python object a text. Texts longer than ``max_length`` tokens are cut; ``count_tokens`` tells which.
            prompt: goes before each text; ``""`` for nothing, by default the model's default prompt, if it has one.
            prompt_name: one of ``prompts`` instead.
            dimensions: keep the first so many values and make them of unit length again (Matryoshka models).
            output: ``"float32"``: (n, dim); ``"int8"``: (n, dim), round(127 · value / largest of the row); ``"ubinary"``: (n, ⌈dim / 8⌉) uint8,
                a bit a value as ``numpy.packbits``.
            progress: True for a bar of tqdm, False for none, a function that is called with the number of texts done; by default a bar on a
                terminal for long work.

        Raises:
            TypeError: a single str, a dict, a set, bytes, or something among the texts that is no str.
            ValueError: None among the texts, a str that is no UTF-8, a prompt that the model lacks, wrong dimensions.
            KeyboardInterrupt: within one batch of Ctrl-C.
        """
        return self._embed(texts, 0, prompt, prompt_name, dimensions, output, progress)

    def _embed(
        self,
        texts: Iterable[str],
        first: int = 0,
        prompt: str | None = None,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        output: Output = "float32",
        progress: Progress = False,
    ) -> npt.NDArray[Any]:
        """As ``embed``, for texts that are counted from ``first`` where one of them is wrong."""
        if output not in ("float32", "int8", "ubinary"):
            raise ValueError(f"output {output!r}: float32, int8 or ubinary")
        if dimensions is not None and not 1 <= dimensions <= self.dim:
            raise ValueError(f"dimensions {dimensions}: 1 to {self.dim}")
        vectors = self._vectors(texts, progress=progress, prompt=prompt, prompt_name=prompt_name, first=first)
        if dimensions is not None:
            vectors = vectors if dimensions == self.dim else _gte.truncate(vectors, dimensions)
        if output == "int8":
            return _gte.to_int8(vectors)[0]
        if output == "ubinary":
            return _gte.to_ubinary(vectors)
        return vectors

    def _vectors(
        self,
        texts: Iterable[str],
        *,
        progress: Progress,
        prompt: str | None,
        prompt_name: str | None,
        unit: bool = True,
        first: int = 0,
    ) -> Vectors:
        """The vectors of the texts: of unit length, or else as the model's own files say."""
        if prompt is not None and prompt_name is not None:
            raise ValueError("prompt and prompt_name: give one of them")
        engine = self._here()
        texts, total = _counted(texts)
        pooled = not (unit or engine.normalizes)
        with _Bar(progress, total) as report:
            return engine.embed(texts, report, prompt=prompt, prompt_name=prompt_name, pooled=pooled, first=first)

    def embed_iter(
        self,
        texts: Iterable[str],
        batch: int = 1024,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> Iterator[Vectors]:
        """The vectors of a corpus that need not fit into memory: arrays of up to ``batch`` rows, in order."""
        if batch < 1:
            raise ValueError(f"batch {batch}: at least 1")
        _gte.check_texts(texts)
        return self._pieces(_slices(texts, batch), prompt, prompt_name)

    def _pieces(self, pieces: Iterator[Any], prompt: str | None, prompt_name: str | None) -> Iterator[Vectors]:
        first = 0
        for piece in pieces:
            yield self._embed(piece, first, prompt, prompt_name)
            first += len(piece)

    def tokenize(self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None) -> list[npt.NDArray[np.uint32]]:
        """The token ids of each text with its prompt, special tokens included, cut at ``max_length``."""
        return [ids for ids, _ in self._here().tokenize(texts, prompt=prompt, prompt_name=prompt_name)]

    def count_tokens(self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None) -> npt.NDArray[np.int64]:
        """Tokens of each text with its prompt before any cut: those of more than ``max_length`` will be cut."""
        return np.array([full for _, full in self._here().tokenize(texts, prompt=prompt, prompt_name=prompt_name)], dtype=np.int64)

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts of the model's files by name. As in sentence-transformers, ``query`` and ``document`` are always
        there, empty where the files lack them."""
        return dict(self._engine.prompts)

    @property
    def default_prompt_name(self) -> str | None:
        """The prompt that goes before each text where none is chosen."""
        return self._engine.default_prompt_name

    def similarity(self, a: Any, b: Any) -> Any:
        """Cosines: a float for two texts, else a matrix of (texts of a, texts of b). As in sentence-transformers, either may be vectors."""
        both = isinstance(a, str) and isinstance(b, str)
        left, right = (_vectors_of(x) if _are_vectors(x) else self.embed([x] if isinstance(x, str) else x) for x in (a, b))
        scores = cos_sim(left, right)
        return float(scores[0, 0]) if both else scores

    def rank(self, query: str, docs: Sequence[str], top_k: int | None = None) -> list[tuple[int, float]]:
        """(index, cosine) of the documents nearest to the query, best first; equal ones in their order."""
        if not isinstance(query, str):
            raise TypeError(f"query is of type {type(query).__name__}, not str")
        vectors = self.embed(docs)
        indices, scores = _nearest(self.embed([query]), vectors, len(vectors) if top_k is None else top_k)
        return list(zip(indices[0].tolist(), scores[0].tolist()))

    @property
    def name(self) -> str:
        """The hub id, or the directory's name."""
        return self._engine.name

    @property
    def dim(self) -> int:
        """Values a vector."""
        return self._engine.dim

    @property
    def max_length(self) -> int:
        """Where texts are cut, in tokens."""
        return self._engine.max_length

    @property
    def precision(self) -> str:
        """The type of the matrix products."""
        return self._engine.precision

    @property
    def isa(self) -> str:
        """The instruction set of the kernels."""
        return self._engine.isa

    @property
    def threads(self) -> int:
        """Compute threads."""
        return self._engine.threads

    @property
    def device(self) -> str:
        """Where it computes."""
        return "cpu"

    def __repr__(self) -> str:
        return f"gte.Embedder({self.name!r}, dim={self.dim}, precision={self.precision!r}, isa={self.isa!r}, device={self.device!r}, threads={self.threads})"


def open_model(model: str | Embedder | None, model_name: str | Embedder | None, arguments: dict[str, Any]) -> Embedder:
    """The embedder of a framework's class, whose model has one of two names; or the one that is open."""
    chosen = model_name if model is None else model
    if chosen is None or (model is not None and model_name is not None):
        raise TypeError("give model, or the same as model_name")
    if isinstance(chosen, Embedder):
        if arguments:
            raise TypeError(f"{', '.join(arguments)}: the model is open, so give this to gte.Embedder")
        return chosen
    return Embedder(chosen, **arguments)


def _are_vectors(x: Any) -> bool:
    """Whether these are vectors of numpy or torch, and no texts."""
    return hasattr(x, "detach") or (isinstance(x, np.ndarray) and x.dtype.kind in "fiu")


def _vectors_of(x: Any) -> Vectors:
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float32)


def cos_sim(a: npt.ArrayLike, b: npt.ArrayLike) -> Vectors:
    """Cosine of each row of ``a`` with each row of ``b``: (rows of a, rows of b). A vector counts as one row; zero rows give 0."""
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
    """The ``k`` rows of ``corpus`` with the largest dot products with each of ``queries``: indices and scores, (queries, k), best first.
    Exact, over all threads, without a copy of a float32 corpus in C order."""
    return _nearest(queries, corpus, k)


def _nearest(queries: npt.ArrayLike, corpus: npt.ArrayLike, k: int) -> tuple[npt.NDArray[np.int64], Vectors]:
    """``top_k``, for where that name is an argument."""
    left, right = (np.ascontiguousarray(np.atleast_2d(np.asarray(x, dtype=np.float32))) for x in (queries, corpus))
    if k < 0:
        raise ValueError(f"k {k}: not negative")
    return _gte.Engine.top_k(left, right, k)


def _slices(texts: Any, size: int) -> Iterator[Any]:
    """Up to ``size`` texts after each other: of a column as columns, else as lists."""
    if hasattr(texts, "__arrow_c_array__") or hasattr(texts, "__arrow_c_stream__"):
        if not hasattr(texts, "__len__"):
            raise TypeError(f"texts is a {type(texts).__name__}, which cannot be sliced: give its arrays one by one, or a column")
        column = getattr(texts, "iloc", texts)
        yield from (column[first : first + size] for first in range(0, len(texts), size))
        return
    source = iter(texts)
    while piece := list(islice(source, size)):
        yield piece


def _counted(texts: Iterable[str]) -> tuple[Iterable[str], int | None]:
    try:
        return texts, len(texts)  # type: ignore[arg-type]
    except TypeError:
        return texts, None


class _Bar:
    """A progress bar, a function of the caller's, or nothing."""

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._call = progress if callable(progress) else None
        self._bar: Any = None
        wanted = progress is True or (progress is None and sys.stderr.isatty() and (total or 0) >= LONG_WORK)
        if wanted and self._call is None:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                if progress is True:
                    raise ImportError("progress=True needs tqdm: pip install gte-py[progress]") from None
            else:
                self._bar = tqdm(total=total, unit="text")

    def __enter__(self) -> Callable[[int], object] | None:
        if self._bar is not None:
            return lambda done: self._bar.update(done - self._bar.n)
        return self._call

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
