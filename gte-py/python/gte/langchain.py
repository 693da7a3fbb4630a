"""A LangChain ``Embeddings``: ``GteEmbeddings("thenlper/gte-large-zh")``. Needs ``pip install gte-py[langchain]``."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings

from . import _gte
from .embedder import Embedder, open_model

# What `model_kwargs` of HuggingFaceEmbeddings are called by `gte.Embedder`.
NAMES = {"local_files_only": "offline"}


class GteEmbeddings(Embeddings):
    """Takes the place of ``langchain_huggingface.HuggingFaceEmbeddings`` and takes its arguments.

    Args:
        model: as of :class:`gte.Embedder`, or one that is open; also by the name ``model_name``.
        cache_folder, model_kwargs: how the model is opened: ``device``, ``revision``, ``local_files_only``.
        encode_kwargs: arguments of ``encode`` for documents, and for queries where those have none, such as
            ``prompt_name``. Vectors are of unit length unless ``normalize_embeddings`` is False.
        query_encode_kwargs: arguments of ``encode`` for queries.
        show_progress: a bar of tqdm.
        arguments: others of :class:`gte.Embedder`.

    Raises:
        TypeError: an argument that neither has. ValueError: ``multi_process``: all threads are used already.
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
        self.embedder = open_model(model, model_name, arguments)
        self.model_name = self.embedder.name
        self.encode_kwargs = dict(encode_kwargs or {})
        self.query_encode_kwargs = dict(query_encode_kwargs or {})
        self.show_progress = show_progress

    def _embed(self, texts: list[str], encode_kwargs: dict[str, Any]) -> list[list[float]]:
        _gte.check_texts(texts)
        arguments = {"normalize_embeddings": True, "show_progress_bar": self.show_progress, **encode_kwargs}
        vectors = self.embedder.encode(texts, **arguments)
        if isinstance(vectors, list):
            raise TypeError("convert_to_numpy=False: LangChain wants lists of numbers, not of tensors")
        rows: list[list[float]] = vectors.tolist()
        return rows

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._embed(texts, self.encode_kwargs)

    def embed_query(self, text: str) -> list[float]:
        return self._embed([text], self.query_encode_kwargs or self.encode_kwargs)[0]
