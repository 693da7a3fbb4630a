"""Shared by the classes that open a model: opening, properties, pickling, and forked processes."""

from __future__ import annotations

import ctypes
import glob
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar, Union

import numpy as np
import numpy.typing as npt

from . import _gte
from .outputs import AllEmbeddings, MultiVectors, SparseEmbeddings
from .progress import Bar, Progress, counted

Engine = TypeVar("Engine", bound=Union[_gte.Engine, _gte.Scorer])
Path = Union[str, "os.PathLike[str]"]

_log = logging.getLogger("gte")


def _load_cublaslt() -> None:
    """Loads cuBLASLt from NVIDIA's wheels, where no loader looks. PyTorch brings them too."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    for place in sys.path:
        for library in sorted(glob.glob(os.path.join(place, "nvidia", "*", "lib", "libcublasLt.so.1[23]")), reverse=True):
            try:
                ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
                return
            except OSError as e:
                _log.debug("%s: %s", library, e)


class Model(Generic[Engine]):
    """An open model. It may be used from many threads at once. It is pickled as its arguments, and
    opens the model again when it is unpickled.
    """

    _engine: Engine
    _arguments: dict[str, Any]

    def _keep(self, model: Path, device: Any, token: str | bool | None, cache_folder: Path | None, **others: Any) -> None:
        self._arguments = {
            "model": os.path.expanduser(os.fspath(model)),
            "device": None if device is None else "cpu" if str(device) == "cpu:0" else str(device),
            # True means the token of the environment; an empty token sends none.
            "token": None if token is True else "" if token is False else token,
            "cache_folder": None if cache_folder is None else os.path.expanduser(os.fspath(cache_folder)),
            **others,
        }
        self._open()

    def _open(self) -> None:
        self._process = os.getpid()
        if self._arguments["device"] != "cpu":
            _load_cublaslt()
        self._engine = self._opened(_gte.Options(**self._arguments))
        _log.info("%s is ready", self)

    def _opened(self, options: _gte.Options) -> Engine:
        raise NotImplementedError

    def _here(self) -> Engine:
        # Threads do not survive a fork, so the child process opens the model again.
        if self._process != os.getpid():
            self._open()
        return self._engine

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._arguments = state
        self._open()

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts of the model's files by name. As in sentence-transformers, ``query`` and
        ``document`` always exist; they are empty if the files do not have them.
        """
        return dict(self._engine.prompts)

    @property
    def default_prompt_name(self) -> str | None:
        """The prompt that is put before each text if none is chosen."""
        return self._engine.default_prompt_name

    @property
    def name(self) -> str:
        """The model's id on a hub, or its directory's name."""
        return self._engine.name

    @property
    def max_length(self) -> int:
        """Length in tokens at which texts are truncated."""
        return self._engine.max_length

    @property
    def precision(self) -> str:
        """The number type of matrix multiplications."""
        return self._engine.precision

    @property
    def isa(self) -> str:
        """The instruction set of the kernels."""
        return self._engine.isa

    @property
    def threads(self) -> int:
        """Number of compute threads."""
        return self._engine.threads

    @property
    def device(self) -> str:
        """The device that computes: ``"cpu"``, ``"cuda:0"`` …"""
        return self._engine.device

    def _shown(self, size: str) -> str:
        rest = f"precision={self.precision!r}, isa={self.isa!r}, device={self.device!r}, threads={self.threads}"
        return f"gte.{type(self).__name__}({self.name!r}, {size}, {rest})"


class TextModel(Model[_gte.Engine]):
    """A model that computes outputs for each text."""

    def __init__(
        self,
        model: Path,
        *,
        precision: str = "auto",
        threads: int | None = None,
        max_length: int | None = None,
        device: str | None = None,
        revision: str | None = None,
        offline: bool = False,
        pooling: str | None = None,
        causal: bool | None = None,
        max_batch_tokens: int | None = None,
        cache_folder: Path | None = None,
        token: str | bool | None = None,
    ) -> None:
        self._keep(
            model,
            device,
            token,
            cache_folder,
            precision=precision,
            threads=threads,
            max_length=max_length,
            revision=revision,
            offline=offline,
            pooling=pooling,
            causal=causal,
            max_batch_tokens=max_batch_tokens,
        )

    def _opened(self, options: _gte.Options) -> _gte.Engine:
        return _gte.Engine(options)

    def _all(
        self,
        texts: Iterable[str],
        outputs: Sequence[str],
        prompt: str | None,
        prompt_name: str | None,
        progress: Progress,
        first: int = 0,
    ) -> AllEmbeddings:
        """Several outputs of one forward pass. Errors count the texts from ``first``."""
        one_prompt(prompt, prompt_name)
        engine = self._here()
        texts, total = counted(texts)
        with Bar(progress, total) as report:
            given = engine.embed_all(texts, list(outputs), report, prompt=prompt, prompt_name=prompt_name, first=first)
        dense, sparse, colbert = given
        return AllEmbeddings(
            dense,
            None if sparse is None else SparseEmbeddings(*sparse, vocab=engine.vocab),
            None if colbert is None else MultiVectors(*colbert),
        )

    def tokenize(self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None) -> list[npt.NDArray[np.uint32]]:
        """The token ids of each text with its prompt and special tokens, truncated to
        ``max_length``.
        """
        one_prompt(prompt, prompt_name)
        return [ids for ids, _ in self._here().tokenize(texts, prompt=prompt, prompt_name=prompt_name)]

    def count_tokens(self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None) -> npt.NDArray[np.int64]:
        """Number of tokens of each text with its prompt, before truncation: texts with more than
        ``max_length`` will be truncated.
        """
        one_prompt(prompt, prompt_name)
        return np.array([full for _, full in self._here().tokenize(texts, prompt=prompt, prompt_name=prompt_name)], dtype=np.int64)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The vocabulary entries of these ids."""
        return self._engine.tokens_of([int(i) for i in ids])

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the model, out of ``dense``, ``sparse`` and ``colbert``."""
        return tuple(self._engine.outputs)

    @property
    def vocab(self) -> int:
        """Number of tokens in the vocabulary, which is the dimension of sparse vectors."""
        return self._engine.vocab


def one_prompt(prompt: str | None, prompt_name: str | None) -> None:
    if prompt is not None and prompt_name is not None:
        raise ValueError("both prompt and prompt_name are given: pass only one of them")


def slices(texts: Any, size: int) -> Iterator[Any]:
    """Slices of up to ``size`` texts: columns stay columns, other iterables become lists."""
    if size < 1:
        raise ValueError(f"batch is {size}, expected at least 1")
    _gte.check_texts(texts)
    return _slices(texts, size)


def _slices(texts: Any, size: int) -> Iterator[Any]:
    if hasattr(texts, "__arrow_c_array__") or hasattr(texts, "__arrow_c_stream__"):
        if not hasattr(texts, "__len__"):
            raise TypeError(f"texts is a {type(texts).__name__}, which cannot be sliced: pass its arrays one by one, or a column")
        column = getattr(texts, "iloc", texts)
        yield from (column[first : first + size] for first in range(0, len(texts), size))
        return
    source = iter(texts)
    while piece := list(islice(source, size)):
        yield piece


Some = TypeVar("Some", bound=Model[Any])


def open_model(kind: type[Some], model: str | Some | None, model_name: str | Some | None, arguments: dict[str, Any]) -> Some:
    """The model for a framework's class, whose argument has one of two names, or a model that is
    already open.
    """
    chosen = model_name if model is None else model
    if chosen is None or (model is not None and model_name is not None):
        raise TypeError("the argument model (or model_name) is missing")
    if isinstance(chosen, kind):
        if arguments:
            raise TypeError(f"{', '.join(arguments)}: the model is already open, so pass this to gte.{kind.__name__}")
        return chosen
    opened: Any = kind
    model_opened: Some = opened(chosen, **arguments)
    return model_opened
