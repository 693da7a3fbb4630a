"""The call of ModelScope's sentence-embedding pipeline: ``pipeline("iic/nlp_gte_sentence-embedding_chinese-large")``."""

from __future__ import annotations

from typing import Any

from .embedder import Embedder, cos_sim


class Pipeline:
    """``{"source_sentence": [...], "sentences_to_compare": [...]}`` → ``{"text_embedding": array, "scores": [...]}``.

    ``text_embedding`` has a row for each source sentence, then one for each to compare; ``scores`` are the cosines of the first source
    sentence with those to compare. Without ``sentences_to_compare`` there are no scores.
    """

    def __init__(self, model: str | Embedder, **arguments: Any) -> None:
        self.embedder = model if isinstance(model, Embedder) else Embedder(model, **arguments)

    def __call__(self, input: dict[str, list[str]]) -> dict[str, Any]:  # noqa: A002, the pipeline's name of it
        source, compared = input["source_sentence"], input.get("sentences_to_compare") or []
        vectors = self.embedder.embed([*source, *compared], progress=False)
        scores = cos_sim(vectors[:1], vectors[len(source) :])[0].tolist() if compared else []
        return {"text_embedding": vectors, "scores": scores}


def pipeline(model: str, **arguments: Any) -> Pipeline:
    """The pipeline of a model on ModelScope by its id, or of a directory."""
    import os

    return Pipeline(model if os.path.isdir(model) or ":" in model else f"modelscope:{model}", **arguments)
