"""`SparseEmbedder`: weights of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from . import _gte
from .model import TextModel, slices
from .outputs import SparseEmbeddings
from .progress import Progress


class SparseEmbedder(TextModel):
    """A model with a weight per token, such as ``BAAI/bge-m3`` or
    ``Alibaba-NLP/gte-multilingual-base``. Accepts the options of :class:`gte.Embedder`. It may be
    used from many threads at once. It is pickled as its arguments, and opens the model again when
    it is unpickled.

    Raises:
        ModelNotFound, InvalidModel, DownloadError: the model cannot be loaded, or has no token
            weights.
        ValueError: an invalid option.
    """

    def _opened(self, options: _gte.Options) -> _gte.Engine:
        engine = _gte.Engine(options)
        if "sparse" not in engine.outputs:
            raise _gte.InvalidModel(
                f"{engine.name} has no token weights: sparse_linear.pt is missing, and the model is not a token  "
                "classifier with one label"
            )
        return engine

    def embed(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        progress: Progress = None,
    ) -> SparseEmbeddings:
        """The sparse vector of each text, in order. The arguments are those of
        :meth:`gte.Embedder.embed`.
        """
        return self._sparse(texts, prompt, prompt_name, progress)

    def _sparse(
        self,
        texts: Iterable[str],
        prompt: str | None,
        prompt_name: str | None,
        progress: Progress = False,
        first: int = 0,
    ) -> SparseEmbeddings:
        sparse = self._all(texts, ["sparse"], prompt, prompt_name, progress, first).sparse
        assert sparse is not None, "sparse vectors were requested"
        return sparse

    def embed_iter(
        self,
        texts: Iterable[str],
        batch: int = 1024,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> Iterator[SparseEmbeddings]:
        """The vectors of a corpus that need not fit into memory, up to ``batch`` at a time, in
        order.
        """
        pieces = slices(texts, batch)

        def vectors() -> Iterator[SparseEmbeddings]:
            first = 0
            for piece in pieces:
                yield self._sparse(piece, prompt, prompt_name, first=first)
                first += len(piece)

        return vectors()

    def __repr__(self) -> str:
        return self._shown(f"vocab={self.vocab}")
