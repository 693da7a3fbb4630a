"""`Embedder`: the engine with the manners of Python."""

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
    """A model, ready to embed. Safe to use from many threads at once; pickles as its arguments and
    opens the model again.

    Args:
        model: a directory, a hub id such as ``thenlper/gte-large-zh``,
            ``modelscope:iic/nlp_gte_sentence-embedding_chinese-large``, or ``bundled``: the small
            model of Chinese and English that this package carries, for trying and testing.
        precision: type of the matrix products: ``"f32"``, ``"bf16"``, ``"int8"``, or ``"auto"``:
            bf16 where the CPU computes it natively, else f32; the attribute ``precision`` tells
            which it became.
        threads: compute threads; by default what the process may use (affinity, cgroup).
        max_length: tokens at which texts are cut; by default the model's.
        device: ``"cpu"``, the only one of this build.
        revision: commit, branch or tag on the hub.
        offline: make no request: the model is a directory or in the cache.
        pooling: ``"cls"``, ``"mean"`` or ``"last-token"``, where the model's files do not say.
        causal: whether a token of a decoder sees only those before it, for Qwen2 models whose files
            do not say.
        batch_tokens: tokens that are computed at once; bounds memory.
        cache_folder: where downloaded models are kept; by default ``HF_HUB_CACHE``, else below
            ``HF_HOME``.
        token: for private and gated models on the hub; by default, and with True, ``HF_TOKEN`` or
            what ``hf auth login`` has stored; False for none.

    Raises:
        ModelNotFound, InvalidModel, DownloadError: the model cannot be had, or is not one.
        ValueError: an option that makes no sense.
    """

    @classmethod
    def bundled(cls, **options: Any) -> Embedder:
        """The small model that this package carries: Chinese and English, 384 dimensions, nothing
        to download; for trying and testing. For production, ``Embedder("thenlper/gte-large-zh")``.
        Takes the options of the class.
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
                of strings (pyarrow, polars), which is read without a Python object a text. Texts
                longer than ``max_length`` tokens are cut; ``count_tokens`` tells which.
            prompt: goes before each text; ``""`` for nothing, by default the model's default
                prompt, if it has one.
            prompt_name: one of ``prompts`` instead.
            dimensions: keep the first so many values and make them of unit length again (Matryoshka
                models).
            output: ``"float32"``: (n, dim); ``"int8"``: (n, dim), round(127 · value / largest of
                the row); ``"ubinary"``: (n, ⌈dim / 8⌉) uint8, a bit a value as ``numpy.packbits``.
            progress: True for a bar of tqdm, False for none, a function that is called with the
                number of texts done; by default a bar on a terminal for long work.

        Raises:
            TypeError: a single str, a dict, a set, bytes, or something among the texts that is no
                str.
            ValueError: None among the texts, a str that is no UTF-8, a prompt that the model lacks,
                wrong dimensions.
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
        """Several outputs of one forward pass, by default all that the model has.

        Args:
            outputs: some of ``"dense"``: ``vectors.dense``, the matrix that :meth:`embed` gives;
                ``"sparse"``: ``vectors.sparse``, a :class:`gte.SparseEmbeddings`; ``"colbert"``:
                ``vectors.colbert``, a :class:`gte.MultiVectors`, which has a matrix for each text
                and ``max_sim``. The property ``outputs`` tells which of them the model has.

        The other arguments, and what is raised, are those of :meth:`embed`; a ValueError too for an
        output that the model does not have.
        """
        if isinstance(outputs, str):
            raise TypeError(f"outputs is {outputs!r}: give a list such as [{outputs!r}]")
        return self._all(texts, self.outputs if outputs is None else outputs, prompt, prompt_name, progress)

    def embed_iter(
        self,
        texts: Iterable[str],
        batch: int = 1024,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> Iterator[Vectors]:
        """The vectors of a corpus that need not fit into memory: arrays of up to ``batch`` rows, in
        order."""
        return self._pieces(slices(texts, batch), prompt, prompt_name)

    def _pieces(self, pieces: Iterator[Any], prompt: str | None, prompt_name: str | None) -> Iterator[Vectors]:
        first = 0
        for piece in pieces:
            yield self._embed(piece, first, prompt, prompt_name)
            first += len(piece)

    def similarity(self, a: Any, b: Any) -> Any:
        """Cosines: a float for two texts, else a matrix of (texts of a, texts of b). As in
        sentence-transformers, either may be vectors."""
        both = isinstance(a, str) and isinstance(b, str)
        left, right = (_vectors_of(x) if _are_vectors(x) else self.embed([x] if isinstance(x, str) else x) for x in (a, b))
        scores = cos_sim(left, right)
        return float(scores[0, 0]) if both else scores

    def rank(self, query: str, docs: Sequence[str], top_k: int | None = None) -> list[tuple[int, float]]:
        """(index, cosine) of the documents nearest to the query, best first; equal ones in their
        order."""
        if not isinstance(query, str):
            raise TypeError(f"query is of type {type(query).__name__}, not str")
        vectors = self.embed(docs)
        indices, scores = nearest(self.embed([query]), vectors, len(vectors) if top_k is None else top_k)
        return list(zip(indices[0].tolist(), scores[0].tolist()))

    @property
    def dim(self) -> int:
        """Values per vector."""
        return self._engine.dim

    def __repr__(self) -> str:
        return self._shown(f"dim={self.dim}")


def _are_vectors(x: Any) -> bool:
    """Whether these are vectors of numpy or torch, and no texts."""
    return hasattr(x, "detach") or (isinstance(x, np.ndarray) and x.dtype.kind in "fiu")


def _vectors_of(x: Any) -> Vectors:
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float32)
