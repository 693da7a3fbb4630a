"""LangChain's ``Embeddings``: ``GteEmbeddings("thenlper/gte-large-zh")``; its
``BaseDocumentCompressor``: ``GteReranker("BAAI/bge-reranker-v2-m3")``; its ``BaseCrossEncoder``:
``GteCrossEncoder``. Needs ``pip install gte-embed[langchain]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from langchain_core.embeddings import Embeddings
from pydantic import Field, PrivateAttr

from . import _gte
from .cross_encoder import CrossEncoder
from .embedder import Embedder
from .model import open_model
from .reranker import Reranker

# Names in `model_kwargs` of HuggingFaceEmbeddings, and what `gte.Embedder` calls them.
NAMES = {"local_files_only": "offline"}


class GteEmbeddings(Embeddings):
    """Replaces ``langchain_huggingface.HuggingFaceEmbeddings`` and accepts its arguments.

    Args:
        model: as in :class:`gte.Embedder`, or an open model. The name ``model_name`` works too.
        cache_folder, model_kwargs: how to open the model: ``device``, ``revision``,
            ``local_files_only``.
        encode_kwargs: arguments of ``encode`` such as ``prompt_name``, for documents, and for
            queries without arguments of their own. Vectors have unit length unless
            ``normalize_embeddings`` is False.
        query_encode_kwargs: arguments of ``encode`` for queries.
        show_progress: a bar of tqdm.
        arguments: further arguments of :class:`gte.Embedder`.

    Raises:
        TypeError: an argument that neither class has.
        ValueError: ``multi_process``, because all threads are used already.
    """

    def __init__(
        self,
        model: str | Embedder | None = None,
        *,
        model_name: str | None = None,
        cache_folder: str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        encode_kwargs: dict[str, Any] | None = None,
        query_encode_kwargs: dict[str, Any] | None = None,
        multi_process: bool = False,
        show_progress: bool = False,
        **arguments: Any,
    ) -> None:
        if multi_process:
            raise ValueError("multi_process: one process uses all threads already")
        for name, value in (model_kwargs or {}).items():
            arguments[NAMES.get(name, name)] = value
        if cache_folder is not None:
            arguments["cache_folder"] = cache_folder
        self.embedder = open_model(Embedder, model, model_name, arguments)
        self.model_name = self.embedder.name
        self.encode_kwargs = dict(encode_kwargs or {})
        self.query_encode_kwargs = dict(query_encode_kwargs or {})
        self.show_progress = show_progress

    def _embed(self, texts: list[str], encode_kwargs: dict[str, Any]) -> list[list[float]]:
        _gte.check_texts(texts)
        arguments = {"normalize_embeddings": True, "show_progress_bar": self.show_progress, **encode_kwargs}
        vectors = self.embedder.encode(texts, **arguments)
        if isinstance(vectors, list):
            raise TypeError("convert_to_numpy=False: not supported, LangChain needs lists of numbers instead of tensors")
        rows: list[list[float]] = vectors.tolist()
        return rows

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._embed(texts, self.encode_kwargs)

    def embed_query(self, text: str) -> list[float]:
        return self._embed([text], self.query_encode_kwargs or self.encode_kwargs)[0]


class GteReranker(BaseDocumentCompressor):
    """The best documents for a query, best first, each with its score in
    ``metadata["relevance_score"]``. Replaces ``CrossEncoderReranker`` with a
    ``HuggingFaceCrossEncoder``: ``ContextualCompressionRetriever(base_compressor=GteReranker(...),
    base_retriever=...)``.

    Args:
        model: as in :class:`gte.Reranker`, or an open model. The name ``model_name`` works too.
        top_n: how many documents to keep; None for all.
        instruction: tells a language model what counts as an answer.
        model_kwargs: how to open the model: ``device``, ``revision``, ``local_files_only``.
        arguments: further arguments of :class:`gte.Reranker`.

    Raises:
        TypeError: an argument that neither class has.
    """

    top_n: Optional[int] = Field(default=3, ge=0, description="How many documents to keep.")
    instruction: Optional[str] = Field(default=None, description="Tells a language model what counts as an answer.")
    _reranker: Reranker = PrivateAttr()

    def __init__(
        self,
        model: str | Reranker | None = None,
        *,
        model_name: str | None = None,
        top_n: int | None = 3,
        instruction: str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        fields: dict[str, Any] = {"top_n": top_n, "instruction": instruction}
        super().__init__(**fields)
        for name, value in (model_kwargs or {}).items():
            arguments[NAMES.get(name, name)] = value
        self._reranker = open_model(Reranker, model, model_name, arguments)

    @property
    def reranker(self) -> Reranker:
        """The model."""
        return self._reranker

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,
    ) -> Sequence[Document]:
        """Copies of the best documents. ``callbacks`` have no effect, because no model of LangChain
        is called.
        """
        texts = [document.page_content for document in documents]
        ranked = self._reranker.rank(query, texts, top_n=self.top_n, instruction=self.instruction, progress=False)
        found = []
        for index, score, _ in ranked:
            metadata = {**documents[index].metadata, "relevance_score": score}
            found.append(documents[index].model_copy(update={"metadata": metadata}))
        return found


class GteCrossEncoder(BaseCrossEncoder):
    """Replaces ``HuggingFaceCrossEncoder`` and accepts its arguments, for
    ``CrossEncoderReranker(model=...)``.

    Args:
        model_name: as in :class:`gte.CrossEncoder`.
        model_kwargs: its arguments.
    """

    def __init__(self, model_name: str, *, model_kwargs: dict[str, Any] | None = None) -> None:
        self.model_name = model_name
        self.model_kwargs = dict(model_kwargs or {})
        self.client = CrossEncoder(model_name, **self.model_kwargs)

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """A score for each pair. With two labels it is that of the second, as in
        ``HuggingFaceCrossEncoder``.
        """
        scores = self.client.predict(text_pairs)
        columns: list[float] = (scores[:, 1] if scores.ndim > 1 else scores).tolist()
        return columns
