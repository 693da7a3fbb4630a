"""Compares `CrossEncoder` and `SparseEncoder` with those of sentence-transformers: the same
numbers, shapes and types for the same arguments.
"""

import json
import os

import numpy as np
import pytest
from test_drop_ins import SAVED, TEXTS, changed
from fixtures import FAMILIES

import gte

os.environ["HF_HUB_OFFLINE"] = "1"
import sentence_transformers  # noqa: E402
import torch  # noqa: E402

PAIRS = [
    ("How do I return a kettle?", "Within a week, with the bill."),
    ("怎么退货？", "七天内可以无理由退货。"),
    ("", "an empty query"),
    ("an empty document", ""),
    ("a query " * 30, "a document " * 60),
]
IDENTITY = {"activation_fn": "torch.nn.modules.linear.Identity"}


@pytest.fixture(scope="module", params=["xlmr-reranker", "bert-classifier", "bert-classifier-3", "modernbert-reranker", "qwen3-reranker-logitscore", "identity", "prompts"])
def both(request, tmp_path_factory):
    place = FAMILIES / request.param
    if request.param == "identity":
        place = changed(tmp_path_factory.mktemp("changed") / "identity", "xlmr-reranker", config={"sentence_transformers": IDENTITY})
    if request.param == "prompts":
        settings = {"model_type": "CrossEncoder", "prompts": {"query": "search: ", "other": "x"}, "default_prompt_name": "query"}
        place = changed(tmp_path_factory.mktemp("changed") / "prompts", "xlmr-reranker", config_sentence_transformers=settings, **SAVED)
    options = {"device": "cpu", "model_kwargs": {"dtype": "float32"}}
    return gte.CrossEncoder(str(place), threads=2, **options), sentence_transformers.CrossEncoder(str(place), **options)


CALLS = [
    {},
    {"batch_size": 2, "chunk_size": 3, "show_progress_bar": False},
    {"convert_to_tensor": True},
    {"convert_to_numpy": False},
    {"activation_fn": torch.nn.Identity()},
    {"activation_fct": torch.nn.Tanh()},
    {"apply_softmax": True},
    {"activation_fn": torch.nn.Softmax(dim=-1), "convert_to_tensor": True},
    {"prompt": "find: "},
]


@pytest.mark.parametrize("arguments", CALLS, ids=str)
def test_predict(both, arguments):
    ours, reference = both
    for pairs in (PAIRS, PAIRS[0], list(PAIRS[1]), np.array(PAIRS[:2]), []):
        found, expected = (model.predict(pairs, **arguments) for model in both)
        assert type(found) is type(expected), pairs
        if isinstance(found, list):
            assert len(found) == len(expected) and all(a.shape == b.shape for a, b in zip(found, expected))
            found, expected = (torch.stack(rows) if rows else torch.zeros(0) for rows in (found, expected))
        found, expected = np.asarray(found), np.asarray(expected)
        assert found.shape == expected.shape and (found.size == 0 or found.dtype == expected.dtype)
        np.testing.assert_allclose(found, expected, atol=5e-5, rtol=5e-5)


def test_rank(both):
    ours, reference = both
    documents = [document for _, document in PAIRS]
    for arguments in ({}, {"top_k": 2, "return_documents": True}, {"activation_fn": torch.nn.Identity()}, {"num_workers": 1}):
        if ours.num_labels > 1:
            for model in both:
                with pytest.raises(ValueError, match="label"):
                    model.rank(PAIRS[0][0], documents, **arguments)
            continue
        found, expected = (model.rank(PAIRS[0][0], documents, **arguments) for model in both)
        assert [{**one, "score": 0} for one in found] == [{**one, "score": 0} for one in expected]
        assert all(isinstance(one["score"], float) for one in found)
        np.testing.assert_allclose([one["score"] for one in found], [one["score"] for one in expected], atol=5e-5)


def test_what_they_say_of_themselves(both):
    ours, reference = both
    assert ours.num_labels == reference.num_labels and ours.max_seq_length == reference.max_seq_length
    assert ours.prompts == reference.prompts and ours.default_prompt_name == reference.default_prompt_name
    for model in both:
        with pytest.raises(ValueError, match="nonsense"):
            model.predict(PAIRS, prompt_name="nonsense")


class Weights(torch.nn.Module):
    """The sparse head of bge-m3 as a module of sentence-transformers: the largest weight of each
    token id.
    """

    def __init__(self, place, hidden, vocab, unused):
        super().__init__()
        self.linear = torch.nn.Linear(hidden, 1)
        self.linear.load_state_dict(torch.load(place / "sparse_linear.pt"))
        self.vocab, self.unused = vocab, unused

    def forward(self, features, **kwargs):
        weights = torch.relu(self.linear(features["token_embeddings"]))[..., 0] * features["attention_mask"]
        vectors = torch.zeros(len(weights), self.vocab)
        vectors = vectors.scatter_reduce(1, features["input_ids"], weights, "amax")
        vectors[:, self.unused] = 0
        features["sentence_embedding"] = vectors
        return features

    def get_embedding_dimension(self):
        return self.vocab


@pytest.fixture(scope="module")
def sparse():
    place = FAMILIES / "bge-m3"
    config = json.loads((place / "config.json").read_text())
    transformer = sentence_transformers.base.modules.Transformer(str(place), model_kwargs={"dtype": torch.float32})
    tokenizer = transformer.tokenizer
    unused = [tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    head = Weights(place, config["hidden_size"], config["vocab_size"], unused)
    prompts = {"query": "ABC: ", "document": "", "other": "123 "}
    ours = gte.SparseEncoder(str(place), precision="f32", threads=2, prompts=prompts)
    return ours, sentence_transformers.SparseEncoder(modules=[transformer, head], device="cpu", prompts=prompts)


@pytest.mark.parametrize("name", ["encode", "encode_query", "encode_document"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"convert_to_tensor": False},
        {"convert_to_sparse_tensor": False},
        {"convert_to_tensor": False, "convert_to_sparse_tensor": False},
        {"max_active_dims": 3},
        {"prompt": "123 "},
        {"prompt_name": "other"},
        {"batch_size": 2, "save_to_cpu": True, "show_progress_bar": False},
    ],
    ids=str,
)
def test_sparse_vectors(sparse, name, arguments):
    for texts in (TEXTS, TEXTS[0], tuple(TEXTS[2:])):
        found, expected = (getattr(model, name)(texts, **arguments) for model in sparse)
        assert type(found) is type(expected)
        if isinstance(found, list):
            assert [tensor.is_sparse for tensor in found] == [tensor.is_sparse for tensor in expected]
            found, expected = torch.stack(found), torch.stack(expected)
        assert found.shape == expected.shape and found.is_sparse == expected.is_sparse and found.dtype == expected.dtype
        assert found.ndim == 1 or (found.to_dense() > 0).any()
        np.testing.assert_allclose(found.to_dense(), expected.to_dense(), atol=1e-5)


def test_sparse_vectors_of_nothing(sparse):
    for arguments in ({}, {"convert_to_sparse_tensor": False}, {"convert_to_tensor": False}):
        found, expected = (model.encode([], **arguments) for model in sparse)
        assert type(found) is type(expected)
        if not isinstance(found, list):
            assert found.shape == expected.shape and found.is_sparse == expected.is_sparse


def test_what_is_made_of_sparse_vectors(sparse):
    ours, reference = sparse
    vectors = reference.encode(TEXTS)
    for name in ("dot", "cosine", "euclidean", "manhattan"):
        ours.similarity_fn_name = reference.similarity_fn_name = name
        for left, right in [(vectors, vectors), (vectors.to_dense(), vectors), (list(vectors), list(vectors)), (vectors[0], vectors)]:
            found, expected = (model.similarity(left, right) for model in sparse)
            assert type(found) is type(expected) and found.shape == expected.shape
            np.testing.assert_allclose(found, expected, atol=1e-3 if name == "euclidean" else 1e-5)
        found, expected = (model.similarity_pairwise(vectors, vectors.to_dense().flip(0)) for model in sparse)
        np.testing.assert_allclose(found, expected, atol=1e-3 if name == "euclidean" else 1e-5)
    ours.similarity_fn_name = reference.similarity_fn_name = "dot"
    for given in (vectors, vectors[0], vectors.to_dense()):
        for top_k in (None, 2):
            assert ours.decode(given, top_k) == reference.decode(given, top_k)
    assert ours.sparsity(vectors) == pytest.approx(reference.sparsity(vectors))
    assert ours.get_embedding_dimension() == reference.get_embedding_dimension()
