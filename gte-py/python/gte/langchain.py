"""A LangChain ``Embeddings``: ``GteEmbeddings("thenlper/gte-large-zh")``. Needs ``pip install gte-py[langchain]``."""

from __future__ import annotations

from typing import Any

from langchain_core.embeddings import Embeddings

from .embedder import Embedder


class GteEmbeddings(Embeddings):
    """Embeds documents and queries alike, as GTE models do. Arguments are those of :class:`gte.Embedder`, or one that is open."""

    def __init__(self, model: str | Embedder, **arguments: Any) -> None:
        self.embedder = model if isinstance(model, Embedder) else Embedder(model, **arguments)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self.embedder.embed(texts, progress=False).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]
