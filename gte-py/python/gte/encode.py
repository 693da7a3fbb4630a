"""``encode`` with the arguments, prompts, shapes and types of sentence-transformers 6.2."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _gte
from .progress import Progress

Vectors = npt.NDArray[np.float32]

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")

# Further arguments of sentence-transformers: `task` selects a module of models that are refused
# when they are loaded, and `sentences` is the old name of `inputs`.
BESIDES = ("sentences", "task")

_log = logging.getLogger("gte")
_NOTHING: Any = object()


class Encode(ABC):
    """Methods of ``SentenceTransformer`` that :class:`gte.Embedder` has in addition to its own."""

    @property
    @abstractmethod
    def dim(self) -> int: ...

    @property
    @abstractmethod
    def device(self) -> str: ...

    @abstractmethod
    def _vectors(
        self,
        texts: Iterable[str],
        *,
        progress: Progress,
        prompt: str | None,
        prompt_name: str | None,
        unit: bool = True,
        first: int = 0,
    ) -> Vectors: ...

    def encode(
        self,
        inputs: str | Sequence[str] = _NOTHING,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """As ``SentenceTransformer.encode``: a vector for a str, a matrix for a list of them.

        Args:
            inputs: a str or a list of them. The old name ``sentences`` works too.
            prompt_name: name of the model's prompt to put before each text. Default: the model's
                default prompt.
            prompt: text to put before each text instead; ``""`` for none.
            show_progress_bar: True for a bar of tqdm.
            precision: float32, or a type that sentence-transformers derives from float32: int8 and
                uint8 from the range of each dimension in this call, binary and ubinary from the
                signs.
            convert_to_tensor, convert_to_numpy: select a numpy array, a torch tensor, or a list of
                tensors.
            normalize_embeddings: vectors of unit length, whatever the model's files say.
            truncate_dim: only the first values, of unit length again with ``normalize_embeddings``.

        ``batch_size``, ``chunk_size`` and ``task`` have no effect, because vectors do not depend on
        them. Refused with an error: any ``output_value`` other than ``"sentence_embedding"``, any
        ``device`` other than the cpu, a ``pool``, and arguments that sentence-transformers does not
        have. An empty list gives an array of shape (0, dim).
        """
        unknown = [name for name in kwargs if name not in BESIDES]
        if unknown:
            raise TypeError(f"encode() does not support {', '.join(unknown)}")
        if "sentences" in kwargs:
            if inputs is not _NOTHING:
                raise TypeError("encode() got both inputs and sentences, which are the same argument")
            inputs = kwargs["sentences"]
        if inputs is _NOTHING:
            raise TypeError("encode() needs inputs: a str or a list of them")
        _refuse(batch_size, output_value, precision, device, pool, chunk_size, self.device)
        dim = self.dim
        if truncate_dim is not None and not 1 <= truncate_dim <= dim:
            raise ValueError(f"truncate_dim {truncate_dim}: 1 to {dim}")
        tensors = convert_to_tensor or not convert_to_numpy
        torch = import_torch("convert_to_tensor=True and convert_to_numpy=False return tensors") if tensors else None
        if prompt is not None and prompt_name is not None:
            _log.warning("encode: both prompt and prompt_name are given: prompt_name is ignored")
            prompt_name = None

        single = isinstance(inputs, str)
        vectors: Any = self._vectors(
            [inputs] if isinstance(inputs, str) else inputs,
            progress=bool(show_progress_bar),
            prompt=prompt,
            prompt_name=prompt_name,
            unit=normalize_embeddings,
        )
        if truncate_dim is not None and truncate_dim < dim:
            vectors = _gte.truncate(vectors, truncate_dim) if normalize_embeddings else vectors[:, :truncate_dim]
        vectors = quantize(vectors, precision or "float32")
        if torch is not None:
            vectors = torch.from_numpy(np.ascontiguousarray(vectors))
            if not convert_to_tensor:
                vectors = list(vectors)
        return vectors[0] if single else vectors

    def encode_query(self, inputs: str | Sequence[str] = _NOTHING, *args: Any, **kwargs: Any) -> Any:
        """As ``encode``, with the model's prompt ``query`` unless another prompt is given. If
        the model has no such prompt, none is used.
        """
        return self.encode(inputs, *with_prompt("query", args, kwargs), **kwargs)

    def encode_document(self, inputs: str | Sequence[str] = _NOTHING, *args: Any, **kwargs: Any) -> Any:
        """As ``encode``, with the model's prompt ``document`` unless another prompt is given. If
        the model has no such prompt, none is used.
        """
        return self.encode(inputs, *with_prompt("document", args, kwargs), **kwargs)

    def get_embedding_dimension(self) -> int:
        """The name of ``dim`` in sentence-transformers."""
        return self.dim

    def get_sentence_embedding_dimension(self) -> int:
        """The former name of ``dim`` in sentence-transformers."""
        return self.dim


def with_prompt(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The positional arguments after the texts, with ``name`` as the prompt if none is given."""
    named = args[0] if args else kwargs.get("prompt_name")
    text = args[1] if len(args) > 1 else kwargs.get("prompt")
    if named is not None or text is not None:
        return args
    kwargs.pop("prompt_name", None)
    return (name, *args[1:])


def _refuse(
    batch_size: Any, output_value: Any, precision: Any, device: Any, pool: Any, chunk_size: Any, own: str
) -> None:
    """Refuses arguments of sentence-transformers that this engine does not support."""
    refuse_counts(batch_size, chunk_size)
    if output_value != "sentence_embedding":
        raise ValueError(f"output_value {output_value!r}: not supported, this engine only returns 'sentence_embedding'")
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: {', '.join(PRECISIONS)}")
    refuse_devices(device, pool, own)


def refuse_counts(batch_size: Any, chunk_size: Any) -> None:
    for name, count in [("batch_size", batch_size), ("chunk_size", chunk_size)]:
        if count is None and name == "chunk_size":
            continue
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
            raise TypeError(f"{name} is of type {type(count).__name__}, expected int")
        if count < 1:
            raise ValueError(f"{name} is {count}, expected at least 1")


def refuse_devices(device: Any, pool: Any, own: str) -> None:
    spelled = {"cpu:0": "cpu", "cuda": "cuda:0"}
    if device is not None and spelled.get(str(device), str(device)) != own:
        raise ValueError(f"device {device!r}: this model is on {own}, where it was opened")
    if pool is not None:
        raise ValueError("pool: not supported, this engine uses all threads without a pool of processes")


def quantize(vectors: npt.NDArray[np.float32], precision: str) -> npt.NDArray[Any]:
    """Quantizes the vectors of one call as ``quantize_embeddings`` of sentence-transformers does.
    """
    if precision == "float32":
        return vectors
    if precision == "ubinary":
        return np.packbits(vectors > 0, axis=-1)
    if precision == "binary":
        return (np.packbits(vectors > 0, axis=-1) ^ np.uint8(128)).view(np.int8)
    kind: Any = np.int8 if precision == "int8" else np.uint8
    if len(vectors) == 0:
        return vectors.astype(kind)
    if len(vectors) == 1:
        raise ValueError(f"precision {precision!r} needs at least two texts, to find the range of each dimension")
    start = vectors.min(axis=0)
    step = (vectors.max(axis=0) - start) / 255
    levels = np.clip(np.floor((vectors - start) / np.where(step == 0, 1, step)), 0, 255)
    quantized: npt.NDArray[Any] = (levels - 128 if precision == "int8" else levels).astype(kind)
    return quantized


def import_torch(why: str) -> Any:
    try:
        import torch
    except ImportError:
        raise ImportError(f"{why}: pip install torch") from None
    return torch
