from collections.abc import Callable, Iterable
from os import PathLike
from typing import final

import numpy as np
import numpy.typing as npt

__all__ = [
    "__version__",
    "Engine",
    "to_int8",
    "to_ubinary",
    "truncate",
    "check_texts",
    "Error",
    "ModelNotFound",
    "InvalidModel",
    "DownloadError",
    "TokenizationError",
    "DeviceError",
]
__version__: str

@final
class Engine:
    """A model that is ready. All methods may be called from many threads at once."""

    def __new__(
        cls,
        model: str | PathLike[str],
        *,
        precision: str | None = None,
        threads: int | None = None,
        max_length: int | None = None,
        revision: str | None = None,
        offline: bool = False,
        pooling: str | None = None,
        batch_tokens: int | None = None,
        cache_folder: str | PathLike[str] | None = None,
    ) -> Engine: ...
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
        """(texts, dim) vectors, of unit length unless pooled: then as the model pools them. Between two batches signals are looked at,
        and progress(texts done) is called. A text that is wrong is named by its place, counted from first."""
    def tokenize(
        self, texts: Iterable[str], *, prompt: str | None = None, prompt_name: str | None = None
    ) -> list[tuple[npt.NDArray[np.uint32], int]]:
        """Token ids of each text with its prompt, cut at max_length, and how many there were before the cut."""
    @property
    def prompts(self) -> list[tuple[str, str]]: ...
    @property
    def default_prompt_name(self) -> str | None: ...
    @property
    def normalizes(self) -> bool: ...
    @staticmethod
    def top_k(queries: npt.NDArray[np.float32], corpus: npt.NDArray[np.float32], k: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The k nearest rows of corpus to each of queries: (queries, k) indices and scores."""
    @property
    def name(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def max_length(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...

def to_int8(vectors: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """int8 values and one scale a row: (rows, dim), (rows,)."""

def to_ubinary(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """One bit a value, packed as numpy.packbits does: (rows, ceil(dim / 8))."""

def truncate(vectors: npt.NDArray[np.float32], dim: int) -> npt.NDArray[np.float32]:
    """The first dim values of each row, of unit length again."""

def check_texts(texts: Iterable[str]) -> None:
    """A TypeError for what can be gone through and is no list of texts: a str, bytes, a dict, a set, a table."""

class Error(Exception):
    """What can go wrong in gte; see the subclasses."""

class ModelNotFound(Error):
    """No such directory, file or hub id; or offline and not in the cache."""

class InvalidModel(Error):
    """The model's files are damaged, or of a kind that is not supported."""

class DownloadError(Error):
    """The hub refused, broke off or sent something else."""

class TokenizationError(Error):
    """A text cannot be tokenized."""

class DeviceError(Error):
    """The device failed."""

