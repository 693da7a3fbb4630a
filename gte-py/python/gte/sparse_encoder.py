"""`SparseEncoder` with the arguments, shapes and types of sentence-transformers 6.2, for models
with a weight per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .drop_in import check_prompts, options, prompt_of, refuse_unknown, renamed
from .encode import import_torch, refuse_counts, refuse_devices, with_prompt
from .outputs import SparseEmbeddings
from .sparse import SparseEmbedder

Matrix = npt.NDArray[np.float32]

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
TENSORS = "SparseEncoder returns torch tensors; gte.SparseEmbedder returns numpy arrays"

_NOTHING: Any = object()


class SparseEncoder:
    """Replaces ``sentence_transformers.SparseEncoder`` and accepts its arguments. Its models are
    those of :class:`gte.SparseEmbedder`, which is the attribute ``embedder``. SPLADE models are
    refused when they are opened. Needs torch.

    Args:
        model_name_or_path: a directory or a hub id. A name without a slash is looked up under
            ``sparse-encoder/``.
        device: as in :class:`gte.SparseEmbedder`.
        prompts, default_prompt_name: override those of the model's files.
        cache_folder, revision, local_files_only, token: as in sentence-transformers.
        model_kwargs: ``dtype``.
        processor_kwargs: ``model_max_length``.
        similarity_fn_name: ``"dot"``, ``"cosine"``, ``"euclidean"`` or ``"manhattan"``. Default:
            ``"dot"``.
        max_active_dims: maximum number of weights per vector. The largest weights are kept; among
            equal weights those with smaller ids.
        precision, threads, max_batch_tokens: as in :class:`gte.SparseEmbedder`.

    Without effect: ``trust_remote_code``, because no code of a model is run, and
    ``model_card_data``, because no model card is written. Refused with an error: ``modules``, any
    other ``backend``, other keys of the dicts.
    """

    def __init__(
        self,
        model_name_or_path: Any = None,
        *,
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
        similarity_fn_name: Any = None,
        max_active_dims: int | None = None,
        precision: str = "auto",
        threads: int | None = None,
        max_batch_tokens: int | None = None,
        **old: Any,
    ) -> None:
        given = renamed(dict(old), {"tokenizer_kwargs": "processor_kwargs"})
        processor_kwargs = given.pop("processor_kwargs", processor_kwargs)
        refuse_unknown("SparseEncoder", given)
        _check_dims(max_active_dims)
        self.max_active_dims = max_active_dims
        self.similarity_fn_name = similarity_fn_name
        place, arguments, about = options(
            "SparseEncoder",
            "sparse-encoder",
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
        if "num_labels" in about:
            raise ValueError(f"config_kwargs['num_labels'] = {about['num_labels']!r}: a sparse encoder has no labels")
        self.embedder = SparseEmbedder(
            place,
            revision=revision,
            cache_folder=cache_folder,
            token=token,
            threads=threads,
            max_batch_tokens=max_batch_tokens,
            **arguments,
        )
        self.prompts = {**self.embedder.prompts, **(prompts or {})}
        self.default_prompt_name = default_prompt_name or self.embedder.default_prompt_name
        check_prompts(self.prompts, self.default_prompt_name)

    def encode(
        self,
        inputs: str | Sequence[str] = _NOTHING,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = True,
        convert_to_sparse_tensor: bool = True,
        save_to_cpu: bool = False,
        device: Any = None,
        max_active_dims: int | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """As ``SparseEncoder.encode``: a sparse tensor of shape (texts, vocab), or (vocab) for a
        str.

        Args:
            inputs: a str or a list of them. The old name ``sentences`` works too.
            prompt_name, prompt: the prompt to put before each text. Default: the default prompt.
            show_progress_bar: True for a bar of tqdm.
            convert_to_tensor: False for a list of tensors.
            convert_to_sparse_tensor: False for dense tensors.
            max_active_dims: replaces the encoder's own value.

        ``batch_size``, ``chunk_size``, ``save_to_cpu`` and ``task`` have no effect: vectors do not
        depend on them, and are on the cpu. Refused with an error: any other ``device``, a ``pool``,
        and arguments that sentence-transformers does not have.
        """
        given = renamed(kwargs, {"sentences": "inputs"})
        given.pop("task", None)
        inputs = given.pop("inputs", inputs) if inputs is _NOTHING else inputs
        refuse_unknown("encode", given)
        if inputs is _NOTHING:
            raise TypeError("encode() needs inputs: a str or a list of them")
        refuse_counts(batch_size, chunk_size)
        refuse_devices(device, pool, self.device)
        _check_dims(max_active_dims)
        text = prompt_of(self.prompts, self.default_prompt_name, prompt, prompt_name)
        torch = import_torch(TENSORS)
        single = isinstance(inputs, str)
        texts = [inputs] if isinstance(inputs, str) else inputs
        vectors = self.embedder.embed(texts, prompt=text, progress=bool(show_progress_bar))
        most = self.max_active_dims if max_active_dims is None else max_active_dims
        tensors = _tensors(torch, vectors if most is None else vectors.top(most), convert_to_sparse_tensor)
        if len(vectors) == 0:
            empty = torch.tensor([])
            return [] if not convert_to_tensor else empty.to_sparse() if convert_to_sparse_tensor else empty
        if single:
            return tensors[0]
        return tensors if convert_to_tensor else list(tensors)

    def encode_query(self, inputs: str | Sequence[str] = _NOTHING, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`encode`, with the prompt ``query`` unless another is given."""
        return self.encode(inputs, *with_prompt("query", args, kwargs), **kwargs)

    def encode_document(self, inputs: str | Sequence[str] = _NOTHING, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`encode`, with the prompt ``document`` unless another is given."""
        return self.encode(inputs, *with_prompt("document", args, kwargs), **kwargs)

    @property
    def similarity_fn_name(self) -> str:
        """How :meth:`similarity` compares vectors."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: Any) -> None:
        name = getattr(name, "value", name)
        if name is not None and name not in SIMILARITIES:
            raise ValueError(f"similarity_fn_name {name!r}: {', '.join(SIMILARITIES)}")
        self._similarity = "dot" if name is None else str(name)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The similarity of each of ``embeddings1`` and each of ``embeddings2``, computed by
        ``similarity_fn_name``. They are vectors of :meth:`encode`, or
        :class:`gte.SparseEmbeddings`. The result is a tensor, or an array for the latter.
        """
        left, right = (self._vectors(vectors) for vectors in (embeddings1, embeddings2))
        return _like(_similarity(self._similarity, left, right), embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """As :meth:`similarity`, but only for the first of both, the second of both, and so on."""
        left, right = (self._vectors(vectors) for vectors in (embeddings1, embeddings2))
        if len(left) != len(right):
            raise ValueError(f"{len(left)} and {len(right)} vectors cannot be paired")
        each = [_similarity(self._similarity, left[i : i + 1], right[i : i + 1])[0, 0] for i in range(len(left))]
        return _like(np.array(each, np.float32), embeddings1, embeddings2)

    def decode(self, embeddings: Any, top_k: int | None = None) -> Any:
        """The tokens and weights of a vector, or of each of several vectors, the largest weight
        first; only the ``top_k`` largest if given.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}, expected at least 1")
        vectors = self._vectors(embeddings)
        decoded = []
        for i in range(len(vectors)):
            ids, weights = vectors._row(i)
            order = np.argsort(-weights, kind="stable")[:top_k]
            decoded.append(list(zip(self.embedder.tokens(ids[order]), weights[order].tolist())))
        return decoded[0] if getattr(embeddings, "ndim", 2) == 1 else decoded

    @staticmethod
    def sparsity(embeddings: Any) -> dict[str, float]:
        """The mean number of weights per vector, ``active_dims``, and the mean share of zeros,
        ``sparsity_ratio``.
        """
        vectors = embeddings if isinstance(embeddings, SparseEmbeddings) else _of_tensor(embeddings)
        if len(vectors) == 0 or vectors.vocab == 0:
            return {"active_dims": 0.0, "sparsity_ratio": 1.0}
        active = len(vectors.ids) / len(vectors)
        return {"active_dims": active, "sparsity_ratio": 1.0 - active / vectors.vocab}

    def get_embedding_dimension(self) -> int:
        """The dimension of a vector, which is the number of tokens in the vocabulary."""
        return self.embedder.vocab

    def get_sentence_embedding_dimension(self) -> int:
        """The former name in sentence-transformers."""
        return self.embedder.vocab

    @property
    def max_seq_length(self) -> int:
        """Length in tokens at which texts are truncated. It is set when the model is opened."""
        return self.embedder.max_length

    @property
    def device(self) -> str:
        """The device that computes."""
        return self.embedder.device

    def __repr__(self) -> str:
        return f"gte.SparseEncoder({self.embedder!r})"

    def _vectors(self, embeddings: Any) -> SparseEmbeddings:
        vectors = embeddings if isinstance(embeddings, SparseEmbeddings) else _of_tensor(embeddings)
        if vectors.vocab != self.embedder.vocab:
            raise ValueError(f"vectors have {vectors.vocab} dimensions, but {self.embedder.name} has {self.embedder.vocab}")
        return vectors


def _check_dims(dims: Any) -> None:
    if dims is not None and (isinstance(dims, bool) or not isinstance(dims, (int, np.integer)) or dims < 1):
        raise ValueError(f"max_active_dims is {dims!r}, expected an integer of at least 1")


def _tensors(torch: Any, vectors: SparseEmbeddings, sparse: bool) -> Any:
    """Vectors as one tensor of shape (texts, vocab)."""
    rows = np.repeat(np.arange(len(vectors)), np.diff(vectors.indptr))
    places = torch.from_numpy(np.stack([rows, vectors.ids.astype(np.int64)]))
    shape = (len(vectors), vectors.vocab)
    weights = torch.from_numpy(vectors.weights)
    # Rows and ids are in ascending order without duplicates, so there is nothing to check.
    tensors = torch.sparse_coo_tensor(places, weights, shape, is_coalesced=True, check_invariants=False)
    return tensors if sparse else tensors.to_dense()


def _of_tensor(embeddings: Any) -> SparseEmbeddings:
    """The vectors in a tensor or array of one or two dimensions, or in a list of such."""
    if isinstance(embeddings, (list, tuple)) and all(hasattr(row, "ndim") for row in embeddings) and embeddings:
        rows = [_of_tensor(row) for row in embeddings]
        return rows[0]._rows([row._row(i) for row in rows for i in range(len(row))])
    if hasattr(embeddings, "detach"):
        sparse = embeddings.detach().cpu()
        if sparse.ndim not in (1, 2):
            raise ValueError(f"a tensor with {sparse.ndim} dimensions, expected 1 or 2")
        sparse = (sparse if sparse.is_sparse else sparse.to_sparse()).coalesce()
        places, weights, shape = sparse.indices().numpy(), sparse.values().float().numpy(), tuple(sparse.shape)
    elif isinstance(embeddings, np.ndarray) and embeddings.ndim in (1, 2):
        places, shape = np.stack(np.nonzero(embeddings)), embeddings.shape
        weights = embeddings[tuple(places)].astype(np.float32)
    else:
        raise TypeError(f"vectors are of type {type(embeddings).__name__}, expected a tensor or gte.SparseEmbeddings")
    if len(shape) == 1:
        places, shape = np.stack([np.zeros_like(places[0]), places[0]]), (1, *shape)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(places[0], minlength=shape[0]))]).astype(np.int64)
    return SparseEmbeddings(indptr, places[1].astype(np.uint32), weights, vocab=int(shape[1]))


def _similarity(name: str, left: SparseEmbeddings, right: SparseEmbeddings) -> Matrix:
    if name == "manhattan":
        return -_distances(left, right)
    scores = left.dot(right).astype(np.float64)
    squares = [_sums(vectors, vectors.weights.astype(np.float64) ** 2) for vectors in (left, right)]
    if name == "cosine":
        lengths = np.maximum(np.sqrt(squares[0]), 1e-12)[:, None] * np.maximum(np.sqrt(squares[1]), 1e-12)
        scores = scores / lengths
    if name == "euclidean":
        scores = -np.sqrt(np.maximum(squares[0][:, None] + squares[1] - 2 * scores, 0))
    return scores.astype(np.float32)


def _sums(vectors: SparseEmbeddings, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The sum over each vector of a value per weight."""
    rows = np.repeat(np.arange(len(vectors)), np.diff(vectors.indptr))
    return np.bincount(rows, values, minlength=len(vectors)).astype(np.float64)


def _distances(left: SparseEmbeddings, right: SparseEmbeddings) -> Matrix:
    """Σ |a - b|: the sum for one vector alone, corrected for the ids that the other vector has too.
    """
    distances = np.zeros((len(left), len(right)), np.float32)
    dense = np.zeros(left.vocab, np.float64)
    for i in range(len(left)):
        ids, weights = left._row(i)
        dense[ids] = weights
        there = dense[right.ids]
        distances[i] = np.abs(weights).sum(dtype=np.float64) + _sums(right, np.abs(there - right.weights) - np.abs(there))
        dense[ids] = 0
    return distances


def _like(scores: npt.NDArray[Any], *given: Any) -> Any:
    """A tensor if one of the arguments is a tensor or a list of tensors."""
    tensors = any(hasattr(item, "detach") for one in given for item in (one if isinstance(one, (list, tuple)) else [one]))
    return import_torch(TENSORS).from_numpy(scores) if tensors else scores
