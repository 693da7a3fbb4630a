"""Text embeddings with Alibaba's GTE models (gte-large-zh and its family), fast on CPUs, without PyTorch.

    >>> import gte
    >>> embedder = gte.Embedder("thenlper/gte-large-zh")      # or a directory
    >>> vectors = embedder.embed(["今天天气真好", "发票怎么开"])  # numpy, (2, 1024), float32, unit rows
    >>> embedder.rank("怎么开发票", ["今天天气真好", "发票怎么开"])
    [(1, 0.9...), (0, 0.7...)]

`Embedder` embeds, tokenizes, compares and ranks. `cos_sim` and `top_k` work on vectors of any origin. `gte.langchain`, `gte.llama_index` and
`gte.modelscope` fit into those frameworks; `Embedder.encode` has the signature of sentence-transformers. `python -m gte --help` embeds files.
"""

from ._gte import DeviceError, DownloadError, Error, InvalidModel, ModelNotFound, TokenizationError, __version__
from .embedder import Embedder, cos_sim, top_k

__all__ = [
    "DeviceError",
    "DownloadError",
    "Embedder",
    "Error",
    "InvalidModel",
    "ModelNotFound",
    "TokenizationError",
    "__version__",
    "cos_sim",
    "top_k",
]
