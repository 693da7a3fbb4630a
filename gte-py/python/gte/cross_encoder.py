"""`CrossEncoder` as sentence-transformers 6.2 has it: its arguments, shapes and types."""

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

# Old names that sentence-transformers still takes.
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
# What once could stand behind the model without a name.
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
    """Takes the place of ``sentence_transformers.CrossEncoder`` and takes its arguments.

    Args:
        model_name_or_path: a directory or a hub id; a bare name is one of ``cross-encoder/``.
        device: the cpu. prompts, default_prompt_name: over those of the model's files. A prompt is
            a language model's instruction, and stands before the first text of another model's
            pair.
        cache_folder, revision, local_files_only, token: as of sentence-transformers.
        model_kwargs: ``dtype``. processor_kwargs: ``model_max_length``. config_kwargs:
            ``num_labels``.
        num_labels: must be what the model has. max_length: tokens at which a pair is cut.
        activation_fn: goes over the logits, (pairs, labels): a tensor where torch is installed,
            else an array. By default what the model's files name, else the sigmoid for one label
            and nothing for several.
        precision, threads, batch_tokens: as of :class:`gte.Reranker`, which ``reranker`` is.

    Harmless: ``trust_remote_code``, for no code of a model is run; ``model_card_data``, for none is
    written. Refused by name: ``modules``, another ``device`` or ``backend``,
    ``keep_in_fp32_modules``, other keys of the three dicts.
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
        batch_tokens: int | None = None,
        **old: Any,
    ) -> None:
        if once_positional or old:
            given = renamed(dict(old), RENAMED)
            if len(once_positional) > len(ONCE_POSITIONAL):
                raise TypeError(f"CrossEncoder() takes {len(ONCE_POSITIONAL) + 1} arguments without a name")
            for name, value in zip(ONCE_POSITIONAL, once_positional):
                given.setdefault(name, value)
            # Dropout is of training.
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
            raise ValueError("keep_in_fp32_modules: give precision='f32'; a classifier is computed in f32 in any case")
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
            batch_tokens=batch_tokens,
            **arguments,
        )
        for wanted in (num_labels, about.get("num_labels")):
            if wanted is not None and wanted != self.num_labels:
                raise ValueError(f"num_labels {wanted}: {self.reranker.name} has {self.num_labels}")
        # Names that sentence-transformers gives to embedders alone are not among those of a cross-encoder.
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
            _log.warning("the activation function %s of the model's files is code of its own: %s instead", path, usual.__name__)
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
        """As ``CrossEncoder.predict``: a score for each pair of a list, or for one pair; of several
        labels a row of them.

        Args:
            inputs: pairs of texts, or one pair; also by the old name ``sentences``.
            prompt_name, prompt: see the class. activation_fn: in place of the model's; also
                ``activation_fct``.
            show_progress_bar: True for a bar of tqdm. apply_softmax: over several labels.
            convert_to_tensor, convert_to_numpy: an array of numpy, a tensor of torch, or a list of
                tensors.

        ``batch_size``, ``chunk_size`` and ``num_workers`` are harmless: a score does not depend on
        them. Refused by name: another ``device`` than the cpu, a ``pool``, and what
        sentence-transformers does not have.
        """
        given = renamed(kwargs, RENAMED_IN_CALLS)
        given.pop("num_workers", None)
        inputs = given.pop("inputs", inputs) if inputs is _NOTHING else inputs
        activation_fn = given.pop("activation_fn", activation_fn) if activation_fn is None else activation_fn
        refuse_unknown("predict", given)
        if inputs is _NOTHING:
            raise TypeError("predict() lacks inputs: a list of pairs of texts")
        refuse_counts(batch_size, chunk_size)
        refuse_devices(device, pool)
        if convert_to_tensor or not convert_to_numpy:
            import_torch("convert_to_tensor=True and convert_to_numpy=False give tensors")
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
        # An empty one is given too: it stands in place of the model's own default prompt.
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
        """As ``CrossEncoder.rank``: ``[{"corpus_id", "score", "text"}, …]``, best first, ``text``
        with ``return_documents``. The other arguments are those of :meth:`predict`; harmless too
        are those that the real one once had: ``apply_softmax``, ``convert_to_numpy``,
        ``convert_to_tensor``, ``num_workers``.
        """
        given = renamed(kwargs, {"activation_fct": "activation_fn"})
        for name in ("apply_softmax", "convert_to_numpy", "convert_to_tensor", "num_workers"):
            given.pop(name, None)
        activation_fn = given.pop("activation_fn", activation_fn) if activation_fn is None else activation_fn
        refuse_unknown("rank", given)
        if self.num_labels != 1:
            raise ValueError(f"rank needs a model of one label: {self.reranker.name} has {self.num_labels}; use predict")
        if top_k is not None and top_k < 0:
            raise ValueError(f"top_k {top_k}: not negative")
        if not isinstance(query, str):
            raise TypeError(f"query is of type {type(query).__name__}, not str")
        if isinstance(documents, str):
            raise TypeError("documents is a single text: give a list of texts")
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
        """Scores per pair."""
        return self.reranker.labels

    @property
    def max_seq_length(self) -> int:
        """Where a pair is cut, in tokens; set when the model is opened."""
        return self.reranker.max_length

    @property
    def max_length(self) -> int:
        """The old name of ``max_seq_length``."""
        return self.reranker.max_length

    @property
    def device(self) -> str:
        """Where it computes."""
        return self.reranker.device

    def __repr__(self) -> str:
        return f"gte.CrossEncoder({self.reranker!r})"


def _is_pair(inputs: Any) -> bool:
    """Whether these are the two texts of one pair, and no list of pairs."""
    if isinstance(inputs, np.ndarray):
        return inputs.size > 0 and inputs.ndim < 2
    return isinstance(inputs, (list, tuple)) and len(inputs) > 0 and isinstance(inputs[0], str)
