"""A LlamaIndex ``BaseEmbedding``: ``GteEmbedding("thenlper/gte-large-zh")``. Needs ``pip install gte-py[llama-index]``."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from pydantic import PrivateAttr

from .embedder import Embedder


class GteEmbedding(BaseEmbedding):
    """Embeds documents and queries alike, as GTE models do. Arguments are those of :class:`gte.Embedder`, or one that is open."""

    _embedder: Embedder = PrivateAttr()

    def __init__(self, model: str | Embedder, **arguments: Any) -> None:
        embedder = model if isinstance(model, Embedder) else Embedder(model, **arguments)
        super().__init__(model_name=embedder.name)
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        return "GteEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        vectors: list[Embedding] = self._embedder.embed(texts, progress=False).tolist()
        return vectors

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> Embedding:
        import asyncio

        return await asyncio.to_thread(self._get_query_embedding, query)
