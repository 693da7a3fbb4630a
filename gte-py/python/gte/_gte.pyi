from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import final

import numpy as np
import numpy.typing as npt

__all__ = [
    "__version__",
    "Options",
    "Engine",
    "Scorer",
    "check_texts",
    "top_k",
    "to_int8",
    "to_ubinary",
    "truncate",
    "Error",
    "ModelNotFound",
    "InvalidModel",
    "DownloadError",
    "TokenizationError",
    "DeviceError",
]
__version__: str

@final
class Options:
    """A model and the options with which it was opened."""

    def __new__(
        cls,
        model: str | PathLike[str],
        *,
        device: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        max_length: int | None = None,
        revision: str | None = None,
        offline: bool = False,
        pooling: str | None = None,
        causal: bool | None = None,
        max_batch_tokens: int | None = None,
        cache_folder: str | PathLike[str] | None = None,
        token: str | None = None,
    ) -> Options: ...

@final
class Engine:
    """A model that is ready. All methods may be called from many threads at once."""

    def __new__(cls, options: Options) -> Engine: ...
    def embed(
        self,
        texts: Iterable[str],
        progress: Callable[[int], object] | None = None,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        pooled: bool = False,
        first: int = 0,
    ) -> npt.NDArray[np.float32]:
        """Vectors of shape (texts, dim). They have unit length, or, if pooled, are as the model
        pools them. Between two batches, signals are checked and progress(number of finished texts)
        is called. An error names a wrong text by its position, counted from first.
        """
    def embed_all(
        self,
        texts: Iterable[str],
        outputs: Sequence[str],
        progress: Callable[[int], object] | None = None,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        first: int = 0,
    ) -> tuple[
        npt.NDArray[np.float32] | None,
        tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32], npt.NDArray[np.float32]] | None,
        tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None,
    ]:
        """The outputs of one pass that outputs names: dense, sparse (row starts, ids, weights) and
        colbert (row starts, values).
        """
    def tokenize(
        self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None
    ) -> list[tuple[npt.NDArray[np.uint32], int]]:
        """Token ids of each text with its prompt, truncated to max_length, and their number before
        truncation.
        """
    def tokens_of(self, ids: Sequence[int]) -> list[str]:
        """The vocabulary entries of these ids."""
    @property
    def outputs(self) -> list[str]: ...
    @property
    def prompts(self) -> list[tuple[str, str]]: ...
    @property
    def default_prompt_name(self) -> str | None: ...
    @property
    def normalizes(self) -> bool: ...
    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    @property
    def max_length(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def isa(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def threads(self) -> int: ...

@final
class Scorer:
    """A reranker that is ready. All methods may be called from many threads at once."""

    def __new__(cls, options: Options) -> Scorer: ...
    def logits(
        self,
        queries: str | Iterable[str],
        documents: Iterable[str],
        progress: Callable[[int], object] | None = None,
        *,
        instruction: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> npt.NDArray[np.float32]:
        """Logits of shape (pairs, labels) for documents and queries: one query for all documents,
        or one per document. Between two batches, signals are checked and progress(number of
        finished pairs) is called.
        """
    def scores_from(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Converts logits to scores from 0 to 1."""
    def tokenize(
        self,
        queries: str | Iterable[str],
        documents: Iterable[str],
        *,
        instruction: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> list[tuple[npt.NDArray[np.uint32], int]]:
        """Token ids of each pair as the model reads it, truncated to max_length, and their number
        before truncation.
        """
    @property
    def prompts(self) -> list[tuple[str, str]]: ...
    @property
    def default_prompt_name(self) -> str | None: ...
    @property
    def takes_instruction(self) -> bool: ...
    @property
    def activation(self) -> str | None: ...
    @property
    def labels(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def max_length(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def isa(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def threads(self) -> int: ...

def check_texts(texts: Iterable[str], name: str = "texts") -> None:
    """A TypeError for iterables that are not a list of texts: a str, bytes, a dict, a set, a table.
    """

def top_k(
    queries: npt.NDArray[np.float32], corpus: npt.NDArray[np.float32], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The k nearest rows of corpus for each of queries: indices and scores of shape (queries, k).
    """

def to_int8(vectors: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """int8 values of shape (rows, dim), and one scale per row of shape (rows,)."""

def to_ubinary(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """One bit per value, packed as by numpy.packbits: (rows, ceil(dim / 8))."""

def truncate(vectors: npt.NDArray[np.float32], dim: int) -> npt.NDArray[np.float32]:
    """The first dim values of each row, scaled to unit length again."""

class Error(Exception):
    """Any error of gte; see the subclasses."""

class ModelNotFound(Error):
    """There is no such directory, file or hub id, or the model is not in the cache while offline.
    """

class InvalidModel(Error):
    """The model's files are damaged or of an unsupported kind."""

class DownloadError(Error):
    """The hub refused the download, broke it off, or sent something unexpected."""

class TokenizationError(Error):
    """A text cannot be tokenized."""

class DeviceError(Error):
    """The device failed."""

