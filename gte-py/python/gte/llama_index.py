"""LlamaIndex's ``BaseEmbedding``: ``GteEmbedding("thenlper/gte-large-zh")``, and its
``BaseNodePostprocessor``: ``GteRerank(model="BAAI/bge-reranker-v2-m3")``. Needs ``pip install
gte-embed[llama-index]``.
"""

from __future__ import annotations

import asyncio
from typing import Any, Optional

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.constants import DEFAULT_EMBED_BATCH_SIZE
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from pydantic import Field, PrivateAttr

from .embedder import Embedder
from .model import open_model
from .reranker import Reranker

# Arguments of HuggingFaceEmbedding that this engine does not support, with the only value that is
# accepted.
REFUSED = {"trust_remote_code": False, "parallel_process": False, "target_devices": None}


class GteEmbedding(BaseEmbedding):
    """Replaces ``llama_index.embeddings.huggingface.HuggingFaceEmbedding`` and accepts its
    arguments.

    Args:
        model_name: as in :class:`gte.Embedder`, or an open model. The name ``model`` works too.
        max_length: length in tokens at which texts are truncated. Default: the model's own limit.
        query_instruction, text_instruction: texts to put before each query and each document.
            Default: the prompts ``query`` and ``document`` of the model's files, if they have them.
        normalize: whether vectors have unit length; otherwise they are as the model's files
            describe.
        cache_folder, device: as in :class:`gte.Embedder`.
        embed_batch_size, callback_manager, num_workers, embeddings_cache, rate_limiter: as in
            ``BaseEmbedding``.
        show_progress_bar: a bar of tqdm for each call.
        arguments: further arguments of :class:`gte.Embedder`.

    Raises:
        TypeError: an argument that neither class has.
        ValueError: ``trust_remote_code``, ``parallel_process`` and ``target_devices``, which this
            engine does not support.
    """

    max_length: int = Field(description="Length in tokens at which texts are truncated.")
    normalize: bool = Field(default=True, description="Whether vectors have unit length.")
    query_instruction: Optional[str] = Field(default=None, description="Text to put before each query.")
    text_instruction: Optional[str] = Field(default=None, description="Text to put before each document.")
    show_progress_bar: bool = Field(default=False, description="Whether to show a bar of tqdm.")
    _embedder: Embedder = PrivateAttr()

    def __init__(
        self,
        model_name: str | Embedder | None = None,
        *,
        model: str | Embedder | None = None,
        max_length: int | None = None,
        query_instruction: str | None = None,
        text_instruction: str | None = None,
        normalize: bool = True,
        embed_batch_size: int = DEFAULT_EMBED_BATCH_SIZE,
        callback_manager: CallbackManager | None = None,
        num_workers: int | None = None,
        embeddings_cache: Any = None,
        rate_limiter: Any = None,
        show_progress_bar: bool = False,
        **arguments: Any,
    ) -> None:
        for name, taken in REFUSED.items():
            if arguments.pop(name, taken) not in (taken, None):
                raise ValueError(f"{name}: not supported, this engine runs no code of models and uses all threads of one process")
        if max_length is not None:
            arguments["max_length"] = max_length
        embedder = open_model(Embedder, model, model_name, arguments)
        fields: dict[str, Any] = {
            "model_name": embedder.name,
            "max_length": embedder.max_length,
            "normalize": normalize,
            "query_instruction": query_instruction,
            "text_instruction": text_instruction,
            "show_progress_bar": show_progress_bar,
            "embed_batch_size": embed_batch_size,
            "callback_manager": callback_manager or CallbackManager([]),
            "num_workers": num_workers,
            "embeddings_cache": embeddings_cache,
            "rate_limiter": rate_limiter,
        }
        super().__init__(**fields)
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        return "GteEmbedding"

    def _embed(self, texts: list[str], encode: Any, instruction: str | None) -> list[Embedding]:
        vectors: list[Embedding] = encode(
            texts,
            prompt=instruction,
            normalize_embeddings=self.normalize,
            show_progress_bar=self.show_progress_bar,
        ).tolist()
        return vectors

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._embed(texts, self._embedder.encode_document, self.text_instruction)

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._embed([query], self._embedder.encode_query, self.query_instruction)[0]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class GteRerank(BaseNodePostprocessor):
    """Replaces ``SentenceTransformerRerank`` and accepts its arguments: the best nodes, best first,
    with scores from 0 to 1.

    Args:
        top_n: how many nodes to keep.
        model: as in :class:`gte.Reranker`, or an open model.
        device: as in :class:`gte.Reranker`.
        keep_retrieval_score: saves the previous score of a node as ``metadata["retrieval_score"]``.
        trust_remote_code: has no effect, because no code of a model is run.
        instruction: tells a language model what counts as an answer.
        arguments: further arguments of :class:`gte.Reranker`. The default of ``max_length`` is the
            model's limit rather than 512.

    Raises:
        TypeError: an argument that neither class has.
        ValueError: no query.
    """

    model: str = Field(description="The model's name.")
    top_n: int = Field(ge=0, description="How many nodes to keep.")
    device: str = Field(default="cpu", description="The device that computes.")
    keep_retrieval_score: bool = Field(default=False, description="Whether the previous score of a node is kept.")
    trust_remote_code: bool = Field(default=False, description="Has no effect, because no code of a model is run.")
    instruction: Optional[str] = Field(default=None, description="Tells a language model what counts as an answer.")
    _reranker: Reranker = PrivateAttr()

    def __init__(
        self,
        top_n: int = 2,
        model: str | Reranker | None = None,
        device: str | None = None,
        keep_retrieval_score: bool = False,
        trust_remote_code: bool = True,
        *,
        instruction: str | None = None,
        callback_manager: CallbackManager | None = None,
        **arguments: Any,
    ) -> None:
        if device is not None:
            arguments["device"] = device
        reranker = open_model(Reranker, model, None, arguments)
        fields: dict[str, Any] = {
            "model": reranker.name,
            "top_n": top_n,
            "device": reranker.device,
            "keep_retrieval_score": keep_retrieval_score,
            "trust_remote_code": trust_remote_code,
            "instruction": instruction,
            "callback_manager": callback_manager or CallbackManager([]),
        }
        super().__init__(**fields)
        self._reranker = reranker

    @classmethod
    def class_name(cls) -> str:
        return "GteRerank"

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("GteRerank needs a query: pass query_bundle or query_str")
        if not nodes:
            return []
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: query_bundle.query_str,
            EventPayload.TOP_K: self.top_n,
        }
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            ranked = self._reranker.rank(query_bundle.query_str, texts, top_n=self.top_n, instruction=self.instruction, progress=False)
            best = []
            for index, score, _ in ranked:
                node = nodes[index]
                if self.keep_retrieval_score:
                    node.node.metadata["retrieval_score"] = node.score
                node.score = score
                best.append(node)
            event.on_end(payload={EventPayload.NODES: best})
        return best
