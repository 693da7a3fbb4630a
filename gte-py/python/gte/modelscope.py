"""The interface of ModelScope's sentence-embedding pipeline:
``pipeline("iic/nlp_gte_sentence-embedding_chinese-large")``.
"""

from __future__ import annotations

from typing import Any

from .embedder import Embedder
from .similarity import cos_sim

TASK = "sentence-embedding"
KEYS = ("source_sentence", "sentences_to_compare")


class Pipeline:
    """``{"source_sentence": [...], "sentences_to_compare": [...]}`` → ``{"text_embedding": array,
    "scores": [...]}``.

    ``text_embedding`` has one row per source sentence, then one per sentence to compare. ``scores``
    are the cosines of the first source sentence and the sentences to compare; without these there
    are no scores.
    """

    def __init__(self, model: str | Embedder, **arguments: Any) -> None:
        self.embedder = model if isinstance(model, Embedder) else Embedder(model, **arguments)

    def __call__(self, input: dict[str, list[str]]) -> dict[str, Any]:  # noqa: A002, the pipeline's name of it
        unknown = [key for key in input if key not in KEYS]
        if unknown or "source_sentence" not in input:
            raise ValueError(f"the input has {', '.join(map(repr, input)) or 'no keys'}: expected {KEYS[0]!r} and optionally {KEYS[1]!r}")
        texts = [input["source_sentence"], input.get("sentences_to_compare") or []]
        for key, value in zip(KEYS, texts):
            if not isinstance(value, (list, tuple)):
                raise TypeError(f"{key} is of type {type(value).__name__}, expected a list of str")
        source, compared = texts
        vectors = self.embedder.embed([*source, *compared], progress=False)
        scores = cos_sim(vectors[:1], vectors[len(source) :])[0].tolist() if source and compared else []
        return {"text_embedding": vectors, "scores": scores}


def pipeline(task: str, model: str | None = None, *, sequence_length: int | None = None, **arguments: Any) -> Pipeline:
    """The pipeline of a model on ModelScope by its id, or of a directory: ``pipeline(MODEL)``, or
    as in ModelScope, ``pipeline("sentence-embedding", model=MODEL, sequence_length=512)``.
    """
    import os

    if model is None:
        task, model = TASK, task
    if task != TASK:
        raise ValueError(f"task {task!r}: {TASK!r}")
    if sequence_length is not None:
        arguments["max_length"] = sequence_length
    return Pipeline(model if os.path.isdir(model) or ":" in model else f"modelscope:{model}", **arguments)
