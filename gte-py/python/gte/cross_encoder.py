"""`CrossEncoder` with the arguments, shapes and types of sentence-transformers 6.2."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .drop_in import check_prompts, options, prompt_of, refuse_unknown, renamed, tensor, torch_if_there
from .encode import import_torch, refuse_counts, refuse_devices
from .reranker import Reranker, split, texts_of

Pairs = Sequence[Sequence[str]]
Array = npt.NDArray[Any]

# Old names that sentence-transformers still accepts.
RENAMED = {
    "model_name": "model_name_or_path",
    "automodel_args": "model_kwargs",
    "tokenizer_args": "processor_kwargs",
    "tokenizer_kwargs": "processor_kwargs",
    "config_args": "config_kwargs",
    "cache_dir": "cache_folder",
    "default_activation_function": "activation_fn",
}
RENAMED_IN_CALLS = {"sentences": "inputs", "activation_fct": "activation_fn"}
# Arguments that older versions accepted by position, after the model.
ONCE_POSITIONAL = ("num_labels", "max_length", "activation_fn", "device")

_log = logging.getLogger("gte")
_NOTHING: Any = object()


def identity(logits: Any) -> Any:
    """``torch.nn.Identity`` without torch."""
    return logits


def sigmoid(logits: Any) -> Any:
    """``torch.nn.Sigmoid`` without torch."""
    return (1 / (1 + np.exp(-np.asarray(logits, np.float64)))).astype(np.float32)


class CrossEncoder:
    """Replaces ``sentence_transformers.CrossEncoder`` and accepts its arguments.

    Args:
        model_name_or_path: a directory or a hub id. A name without a slash is looked up under
            ``cross-encoder/``.
        device: as in :class:`gte.Reranker`.
        prompts, default_prompt_name: override those of the model's files. A prompt is the
            instruction of a language model; for other models it is put before the first text of a
            pair.
        cache_folder, revision, local_files_only, token: as in sentence-transformers.
        model_kwargs: ``dtype``.
        processor_kwargs: ``model_max_length``.
        config_kwargs: ``num_labels``.
        num_labels: must equal the model's number of labels.
        max_length: length in tokens at which a pair is truncated.
        activation_fn: a function that is applied to the logits of shape (pairs, labels), which are
            a tensor if torch is installed, and an array otherwise. Default: the function that the
            model's files name, else the sigmoid for one label and none for several.
        precision, threads, max_batch_tokens: as in :class:`gte.Reranker`, which is the attribute
            ``reranker``.

    Without effect: ``trust_remote_code``, because no code of a model is run, and
    ``model_card_data``, because no model card is written. Refused with an error: ``modules``, any
    other ``backend``, ``keep_in_fp32_modules``, other keys of the three dicts.
    """

    def __init__(
        self,
        model_name_or_path: Any = None,
        *once_positional: Any,
        modules: Any = None,
        device: Any = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: Any = None,
        backend: str = "torch",
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Callable[[Any], Any] | None = None,
        keep_in_fp32_modules: Sequence[str] | None = None,
        precision: str = "auto",
        threads: int | None = None,
        max_batch_tokens: int | None = None,
        **old: Any,
    ) -> None:
        if once_positional or old:
            given = renamed(dict(old), RENAMED)
            if len(once_positional) > len(ONCE_POSITIONAL):
                raise TypeError(f"CrossEncoder() takes at most {len(ONCE_POSITIONAL) + 1} positional arguments")
            for name, value in zip(ONCE_POSITIONAL, once_positional):
                given.setdefault(name, value)
            # Dropout only matters for training.
            given.pop("classifier_dropout", None)
            model_name_or_path = given.pop("model_name_or_path", model_name_or_path)
            model_kwargs = given.pop("model_kwargs", model_kwargs)
            processor_kwargs = given.pop("processor_kwargs", processor_kwargs)
            config_kwargs = given.pop("config_kwargs", config_kwargs)
            cache_folder = given.pop("cache_folder", cache_folder)
            activation_fn = given.pop("activation_fn", activation_fn)
            num_labels = given.pop("num_labels", num_labels)
            max_length = given.pop("max_length", max_length)
            device = given.pop("device", device)
            refuse_unknown("CrossEncoder", given)
        if keep_in_fp32_modules:
            raise ValueError("keep_in_fp32_modules: use precision='f32' instead; the classifier is always computed in f32")
        place, arguments, about = options(
            "CrossEncoder",
            "cross-encoder",
            model_name_or_path,
            modules=modules,
            device=device,
            local_files_only=local_files_only,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            config_kwargs=config_kwargs,
            backend=backend,
            arguments={"precision": precision},
        )
        if max_length is not None:
            arguments["max_length"] = max_length
        self.reranker = Reranker(
            place,
            revision=revision,
            cache_folder=cache_folder,
            token=token,
            threads=threads,
            max_batch_tokens=max_batch_tokens,
            **arguments,
        )
        for wanted in (num_labels, about.get("num_labels")):
            if wanted is not None and wanted != self.num_labels:
                raise ValueError(f"num_labels {wanted}: {self.reranker.name} has {self.num_labels}")
        # The prompts that sentence-transformers adds to every embedding model do not apply to a
        # cross-encoder.
        own = {name: text for name, text in self.reranker.prompts.items() if text or name not in ("query", "document")}
        self.prompts = {**own, **(prompts or {})}
        self.default_prompt_name = default_prompt_name or self.reranker.default_prompt_name
        check_prompts(self.prompts, self.default_prompt_name)
        self.activation_fn = self._default_activation() if activation_fn is None else activation_fn

    def _default_activation(self) -> Callable[[Any], Any]:
        path = self.reranker._engine.activation
        usual = sigmoid if self.num_labels == 1 else identity
        if path is None:
            return usual
        name = path.rsplit(".", 1)[-1]
        if not path.startswith("torch."):
            _log.warning("the activation function %s of the model's files is custom code, which is not run: using %s", path, usual.__name__)
            return usual
        if name in ("Identity", "Sigmoid"):
            return identity if name == "Identity" else sigmoid
        torch = import_torch(f"the model's activation function is {path}")
        function: Callable[[Any], Any] = getattr(torch.nn, name)()
        return function

    def predict(
        self,
        inputs: Pairs | Sequence[str] = _NOTHING,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[Any], Any] | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """As ``CrossEncoder.predict``: a score for each pair of a list, or for a single pair. A
        model with several labels gives a row of scores.

        Args:
            inputs: a list of pairs of texts, or a single pair. The old name ``sentences`` works
                too.
            prompt_name, prompt: see the class.
            activation_fn: replaces the model's function. The old name ``activation_fct`` works too.
            show_progress_bar: True for a bar of tqdm.
            apply_softmax: applies the softmax to several labels.
            convert_to_tensor, convert_to_numpy: select a numpy array, a torch tensor, or a list of
                tensors.

        ``batch_size``, ``chunk_size`` and ``num_workers`` have no effect, because scores do not
        depend on them. Refused with an error: any ``device`` other than its own, a ``pool``, and
        arguments that sentence-transformers does not have.
        """
        given = renamed(kwargs, RENAMED_IN_CALLS)
        given.pop("num_workers", None)
        inputs = given.pop("inputs", inputs) if inputs is _NOTHING else inputs
        activation_fn = given.pop("activation_fn", activation_fn) if activation_fn is None else activation_fn
        refuse_unknown("predict", given)
        if inputs is _NOTHING:
            raise TypeError("predict() needs inputs: a list of pairs of texts")
        refuse_counts(batch_size, chunk_size)
        refuse_devices(device, pool, self.device)
        if convert_to_tensor or not convert_to_numpy:
            import_torch("convert_to_tensor=True and convert_to_numpy=False return tensors")
        single = _is_pair(inputs)
        queries, documents = split([inputs] if single else inputs)
        told: dict[str, Any] = self._told(prompt, prompt_name)
        logits = self.reranker._logits(queries, documents, bool(show_progress_bar), **told)
        scores = self._activated(logits, activation_fn or self.activation_fn, bool(apply_softmax))
        if convert_to_tensor:
            scores = tensor(scores, "convert_to_tensor=True")
        elif not convert_to_numpy:
            scores = list(tensor(scores, "convert_to_numpy=False"))
        return scores[0] if single else scores

    def _told(self, prompt: str | None, prompt_name: str | None) -> dict[str, Any]:
        text = prompt_of(self.prompts, self.default_prompt_name, prompt, prompt_name)
        # An empty prompt counts too: it replaces the model's default prompt.
        return {"instruction": None, "prompt": text, "prompt_name": None}

    def _activated(self, logits: Array, activation: Callable[[Any], Any], softmax: bool) -> Any:
        if len(logits) == 0:
            return np.zeros(0, np.float32)
        if activation is sigmoid and self.num_labels == 1:
            scores: Array = self.reranker._scores(logits, raw=False)[:, np.newaxis]
        elif activation in (identity, sigmoid):
            scores = activation(logits)
        else:
            torch = torch_if_there()
            found = activation(logits if torch is None else torch.from_numpy(logits))
            scores = np.asarray(found.detach().cpu() if hasattr(found, "detach") else found, np.float32)
        if self.num_labels == 1 and scores.ndim > 1:
            scores = scores[:, 0]
        if softmax and scores.ndim > 1:
            powers = np.exp(scores - scores.max(axis=1, keepdims=True), dtype=np.float64)
            scores = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        return np.ascontiguousarray(scores)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[Any], Any] | None = None,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """As ``CrossEncoder.rank``: ``[{"corpus_id", "score", "text"}, …]``, best first, where
        ``text`` needs ``return_documents``. The other arguments are those of :meth:`predict`.
        Arguments of older versions have no effect: ``apply_softmax``, ``convert_to_numpy``,
        ``convert_to_tensor``, ``num_workers``.
        """
        given = renamed(kwargs, {"activation_fct": "activation_fn"})
        for name in ("apply_softmax", "convert_to_numpy", "convert_to_tensor", "num_workers"):
            given.pop(name, None)
        activation_fn = given.pop("activation_fn", activation_fn) if activation_fn is None else activation_fn
        refuse_unknown("rank", given)
        if self.num_labels != 1:
            raise ValueError(f"rank needs a model with one label: {self.reranker.name} has {self.num_labels}; use predict")
        if top_k is not None and top_k < 0:
            raise ValueError(f"top_k is {top_k}, expected 0 or more")
        if not isinstance(query, str):
            raise TypeError(f"query is of type {type(query).__name__}, expected str")
        if isinstance(documents, str):
            raise TypeError("documents is a single text, expected a list of texts")
        texts = texts_of(documents)
        scores = self.predict(
            [(query, text) for text in texts],
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            activation_fn=activation_fn,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        ).tolist()
        best = sorted(range(len(texts)), key=lambda i: scores[i], reverse=True)[:top_k]
        return [{"corpus_id": i, "score": scores[i], **({"text": texts[i]} if return_documents else {})} for i in best]

    @property
    def num_labels(self) -> int:
        """Number of scores per pair."""
        return self.reranker.labels

    @property
    def max_seq_length(self) -> int:
        """Length in tokens at which a pair is truncated. It is set when the model is opened."""
        return self.reranker.max_length

    @property
    def max_length(self) -> int:
        """The old name of ``max_seq_length``."""
        return self.reranker.max_length

    @property
    def device(self) -> str:
        """The device that computes."""
        return self.reranker.device

    def __repr__(self) -> str:
        return f"gte.CrossEncoder({self.reranker!r})"


def _is_pair(inputs: Any) -> bool:
    """Whether these are the two texts of a single pair rather than a list of pairs."""
    if isinstance(inputs, np.ndarray):
        return inputs.size > 0 and inputs.ndim < 2
    return isinstance(inputs, (list, tuple)) and len(inputs) > 0 and isinstance(inputs[0], str)
