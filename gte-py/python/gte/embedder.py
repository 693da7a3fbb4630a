"""`Embedder`: the engine with a Python interface."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from . import _gte
from .encode import Encode
from .model import TextModel, one_prompt, slices
from .outputs import AllEmbeddings
from .progress import Bar, Progress, counted
from .similarity import Vectors, cos_sim
from .similarity import top_k as nearest

Output = Literal["float32", "int8", "ubinary"]


class Embedder(TextModel, Encode):
    """An embedding model. It may be used from many threads at once. It is pickled as its arguments,
    and opens the model again when it is unpickled.

    Args:
        model: a directory, a hub id such as ``thenlper/gte-large-zh`` or
            ``modelscope:iic/nlp_gte_sentence-embedding_chinese-large``, or ``bundled``: the small
            model for Chinese and English that is part of this package, for trials and tests.
        precision: number type of matrix multiplications: ``"f32"``, ``"bf16"``, ``"int8"`` (on
            the CPU), ``"f16"`` (on a GPU), ``"fp8"`` (on a GPU from Ada and Hopper on), or
            ``"auto"``, which is bf16 if it is computed natively, and f32 otherwise. The attribute
            ``precision`` holds the result.
        threads: number of compute threads. Default: as many as the CPU affinity and the cgroup of
            the process allow; of a CPU with cores of two kinds, those of the performance cores.
        max_length: length in tokens at which texts are truncated. Default: the model's own limit.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …, or ``"auto"``, the default: the first GPU if there
            is one, and the CPU otherwise. The attribute ``device`` holds the result. A GPU computes
            in f32, f16, bf16 and fp8, and needs NVIDIA's driver and cuBLASLt.
        revision: commit, branch or tag on the hub.
        offline: never contact a hub: the model must be a directory or in the cache.
        pooling: ``"cls"``, ``"mean"`` or ``"last-token"``, if the model's files do not say which.
        causal: whether a token of a decoder attends only to the tokens before it, for Qwen2 models
            whose files do not say so.
        max_batch_tokens: maximum number of tokens computed together, which limits memory.
        cache_folder: folder for downloaded models. Default: ``HF_HUB_CACHE``, else a folder in
            ``HF_HOME``.
        token: for private and gated models on the hub. Default, also for True: ``HF_TOKEN``, or the
            token stored by ``hf auth login``. False sends no token.

    Raises:
        ModelNotFound, InvalidModel, DownloadError: the model cannot be loaded.
        ValueError: an invalid option.
    """

    @classmethod
    def bundled(cls, **options: Any) -> Embedder:
        """The small model for Chinese and English that is part of this package, with 384
        dimensions. It needs no download and is meant for trials and tests. For production, use
        ``Embedder("thenlper/gte-large-zh")``. Accepts the options of the class.
        """
        return cls("bundled", **options)

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
            texts: a list, tuple, generator, numpy array or pandas Series of str, or an Arrow column
                of strings (pyarrow, polars), which is read without creating a Python object per
                text. Texts of more than ``max_length`` tokens are truncated; ``count_tokens`` tells
                which.
            prompt: text to put before each text; ``""`` for none. Default: the model's default
                prompt, if it has one.
            prompt_name: name of one of ``prompts``, instead of ``prompt``.
            dimensions: keep only this many values and scale them to unit length again (for
                Matryoshka models).
            output: ``"float32"``: (n, dim). ``"int8"``: (n, dim), round(127 · value / largest
                magnitude in the row). ``"ubinary"``: (n, ⌈dim / 8⌉) uint8, one bit per value, as by
                ``numpy.packbits``.
            progress: True for a bar of tqdm, False for none, or a function that is called with the
                number of finished texts. Default: a bar on a terminal for long work.

        Raises:
            TypeError: a single str, a dict, a set, bytes, or an item that is not a str.
            ValueError: None among the texts, a str that is not valid Unicode, a prompt that the
                model does not have, invalid dimensions.
            KeyboardInterrupt: on Ctrl-C, after the current batch.
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
        """As ``embed``, but errors count the texts from ``first``."""
        if output not in ("float32", "int8", "ubinary"):
            raise ValueError(f"output is {output!r}, expected float32, int8 or ubinary")
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
        """The vectors of the texts: of unit length, or else as the model's own files describe."""
        one_prompt(prompt, prompt_name)
        engine = self._here()
        texts, total = counted(texts)
        pooled = not (unit or engine.normalizes)
        with Bar(progress, total) as report:
            return engine.embed(texts, report, prompt=prompt, prompt_name=prompt_name, pooled=pooled, first=first)

    def embed_all(
        self,
        texts: Iterable[str],
        outputs: Sequence[str] | None = None,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        progress: Progress = None,
    ) -> AllEmbeddings:
        """Several outputs of one forward pass. Default: all that the model has.

        Args:
            outputs: some of ``"dense"``: ``vectors.dense``, the matrix of :meth:`embed`;
                ``"sparse"``: ``vectors.sparse``, a :class:`gte.SparseEmbeddings`; ``"colbert"``:
                ``vectors.colbert``, a :class:`gte.MultiVectors` with a matrix per text and
                ``max_sim``. The property ``outputs`` tells which of them the model has.

        The other arguments and exceptions are those of :meth:`embed`. An output that the model does
        not have is a ValueError.
        """
        if isinstance(outputs, str):
            raise TypeError(f"outputs is {outputs!r}, expected a list such as [{outputs!r}]")
        return self._all(texts, self.outputs if outputs is None else outputs, prompt, prompt_name, progress)

    def embed_iter(
        self,
        texts: Iterable[str],
        batch: int = 1024,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> Iterator[Vectors]:
        """The vectors of a corpus that need not fit into memory, as arrays of up to ``batch`` rows,
        in order.
        """
        return self._pieces(slices(texts, batch), prompt, prompt_name)

    def _pieces(self, pieces: Iterator[Any], prompt: str | None, prompt_name: str | None) -> Iterator[Vectors]:
        first = 0
        for piece in pieces:
            yield self._embed(piece, first, prompt, prompt_name)
            first += len(piece)

    def similarity(self, a: Any, b: Any) -> Any:
        """Cosines: a float for two texts, otherwise a matrix of shape (texts of a, texts of b). As
        in sentence-transformers, either argument may be vectors.
        """
        both = isinstance(a, str) and isinstance(b, str)
        left, right = (_vectors_of(x) if _are_vectors(x) else self.embed([x] if isinstance(x, str) else x) for x in (a, b))
        scores = cos_sim(left, right)
        return float(scores[0, 0]) if both else scores

    def rank(self, query: str, docs: Sequence[str], top_k: int | None = None) -> list[tuple[int, float]]:
        """(index, cosine) of the documents nearest to the query, best first. Equal ones keep their
        order.
        """
        if not isinstance(query, str):
            raise TypeError(f"query is of type {type(query).__name__}, expected str")
        vectors = self.embed(docs)
        indices, scores = nearest(self.embed([query]), vectors, len(vectors) if top_k is None else top_k)
        return list(zip(indices[0].tolist(), scores[0].tolist()))

    @property
    def dim(self) -> int:
        """Number of values per vector."""
        return self._engine.dim

    def __repr__(self) -> str:
        return self._shown(f"dim={self.dim}")


def _are_vectors(x: Any) -> bool:
    """Whether these are vectors of numpy or torch rather than texts."""
    return hasattr(x, "detach") or (isinstance(x, np.ndarray) and x.dtype.kind in "fiu")


def _vectors_of(x: Any) -> Vectors:
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float32)
