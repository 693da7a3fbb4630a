"""Text embeddings and reranking with Alibaba's GTE models and related models, fast on CPUs, without
PyTorch.

>>> import gte
>>> embedder = gte.Embedder("thenlper/gte-large-zh")      # or a directory
>>> vectors = embedder.embed(["今天天气真好", "发票怎么开"])  # numpy, (2, 1024), float32, unit rows
>>> reranker = gte.Reranker("BAAI/bge-reranker-v2-m3")
>>> reranker.rank("怎么开发票", ["今天天气真好", "发票怎么开"])
[Ranked(index=1, score=0.9..., document=None), Ranked(index=0, score=0.0..., document=None)]

`Embedder` computes a vector per text, and with `embed_all` also sparse weights and a vector per
token (ColBERT) in the same pass, if the model has them. `SparseEmbedder` computes only the weights.
`Reranker` scores documents for a query. `cos_sim`, `top_k` and `max_sim` work on vectors from any
source.

Replacements for other libraries: `Embedder.encode` has the signature of sentence-transformers, and
`CrossEncoder` and `SparseEncoder` are classes with its interface. `gte.langchain`,
`gte.llama_index` and `gte.modelscope` fit into those frameworks. `python -m gte --help` embeds and
reranks files.
"""

from ._gte import DeviceError, DownloadError, Error, InvalidModel, ModelNotFound, TokenizationError, __version__
from .cross_encoder import CrossEncoder
from .embedder import Embedder
from .outputs import AllEmbeddings, MultiVectors, SparseEmbeddings, max_sim
from .reranker import Ranked, Reranker
from .similarity import cos_sim, top_k
from .sparse import SparseEmbedder
from .sparse_encoder import SparseEncoder

__all__ = [
    "AllEmbeddings",
    "CrossEncoder",
    "DeviceError",
    "DownloadError",
    "Embedder",
    "Error",
    "InvalidModel",
    "ModelNotFound",
    "MultiVectors",
    "Ranked",
    "Reranker",
    "SparseEmbedder",
    "SparseEmbeddings",
    "SparseEncoder",
    "TokenizationError",
    "__version__",
    "cos_sim",
    "max_sim",
    "top_k",
]
