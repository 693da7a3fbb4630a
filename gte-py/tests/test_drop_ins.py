"""`CrossEncoder`, `SparseEncoder` and the rerankers of LangChain and LlamaIndex: arguments and
shapes of the classes they replace. The comparison with sentence-transformers itself is in
`test_reference.py`.
"""

import ast
import asyncio
import importlib.util
import inspect
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures import FAMILIES, MODEL, source_of

import gte

XLMR = FAMILIES / "xlmr-reranker"
QUERY = "怎么退货？"
DOCUMENTS = ["七天内可以退货。", "今天天气真好。", "", "How do I return it?"]
PAIRS = [(QUERY, document) for document in DOCUMENTS]
TEXTS = ["ＡＢＣ１２３ ﬁ ① … Ⅷ", "", "3.14 1,000 50% a@b.c ABC", "董事会 board of directors met in May"]
HAS_TORCH = importlib.util.find_spec("torch") is not None
OPTIONS = {"precision": "f32", "threads": 2}


@pytest.fixture(scope="module")
def reranker():
    return gte.Reranker(XLMR, **OPTIONS)


@pytest.fixture(scope="module")
def cross_encoder():
    return gte.CrossEncoder(str(XLMR), **OPTIONS)


@pytest.fixture(scope="module")
def sparse_encoder():
    return gte.SparseEncoder(str(FAMILIES / "bge-m3"), **OPTIONS)


# Makes a directory one that sentence-transformers has saved, whose settings are then read.
SAVED = {
    "modules": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}],
    "sentence_bert_config": {
        "transformer_task": "sequence-classification",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": "scores",
    },
}


def changed(place, name, **files):
    """The model with other content in some of its files."""
    place.mkdir()
    for path in (FAMILIES / name).iterdir():
        (place / path.name).symlink_to(path)
    for file, content in files.items():
        path = place / f"{file}.json"
        if path.exists():
            content = {**json.loads(path.read_text()), **content}
            path.unlink()
        path.write_text(json.dumps(content))
    return str(place)


@pytest.mark.parametrize(
    "kind, path, name, besides",
    [
        ("CrossEncoder", "cross_encoder/model.py", "__init__", ["once_positional", "precision", "threads", "max_batch_tokens", "old"]),
        ("CrossEncoder", "cross_encoder/model.py", "predict", ["kwargs"]),
        ("CrossEncoder", "cross_encoder/model.py", "rank", ["kwargs"]),
        ("SparseEncoder", "sparse_encoder/model.py", "__init__", ["precision", "threads", "max_batch_tokens", "old"]),
        ("SparseEncoder", "sparse_encoder/model.py", "encode", ["kwargs"]),
        ("SparseEncoder", "sparse_encoder/model.py", "similarity", []),
        ("SparseEncoder", "sparse_encoder/model.py", "similarity_pairwise", []),
        ("SparseEncoder", "sparse_encoder/model.py", "decode", []),
    ],
)
def test_the_arguments_are_those_of_sentence_transformers(kind, path, name, besides):
    names, defaults = source_of("sentence_transformers", path, kind, name)
    ours = list(inspect.signature(getattr(getattr(gte, kind), name)).parameters.values())[1:]
    assert [argument.name for argument in ours if argument.name not in besides] == names
    theirs = [argument.default for argument in ours if argument.name in names and argument.default is not inspect.Parameter.empty]
    assert theirs[len(theirs) - len(defaults) :] == defaults


def test_predict(cross_encoder, reranker):
    expected = reranker.scores(QUERY, DOCUMENTS)
    raw = reranker.scores(QUERY, DOCUMENTS, raw=True)
    for pairs in (PAIRS, tuple(PAIRS), [list(pair) for pair in PAIRS], np.array(PAIRS), np.array(PAIRS, dtype=object)):
        np.testing.assert_array_equal(cross_encoder.predict(pairs), expected)
    np.testing.assert_array_equal(cross_encoder.predict(sentences=PAIRS, num_workers=2, batch_size=2, chunk_size=1, device="cpu"), expected)
    for pair in (PAIRS[0], list(PAIRS[0]), np.array(PAIRS[0])):
        score = cross_encoder.predict(pair)
        assert isinstance(score, np.float32) and score == expected[0]
    assert cross_encoder.predict([]).shape == (0,) and cross_encoder.num_labels == 1
    for name in ("activation_fn", "activation_fct"):
        np.testing.assert_array_equal(cross_encoder.predict(PAIRS, **{name: lambda logits: logits}), raw)
    assert np.array_equal(cross_encoder.predict(PAIRS, apply_softmax=True), expected), "only for several labels"
    prompted = reranker.scores("query: " + QUERY, DOCUMENTS)
    np.testing.assert_array_equal(cross_encoder.predict(PAIRS, prompt="query: "), prompted)
    np.testing.assert_array_equal(cross_encoder.predict(PAIRS, None, "query: "), prompted)
    assert cross_encoder.max_length == cross_encoder.max_seq_length == reranker.max_length and cross_encoder.device == "cpu"
    assert repr(reranker) in repr(cross_encoder)


def test_several_labels():
    model = gte.CrossEncoder(FAMILIES / "bert-classifier-3", num_labels=3, **OPTIONS)
    logits = gte.Reranker(FAMILIES / "bert-classifier-3", **OPTIONS).logits(QUERY, DOCUMENTS)
    np.testing.assert_array_equal(model.predict(PAIRS), logits)
    assert model.predict(PAIRS[0]).shape == (3,)
    shares = model.predict(PAIRS, apply_softmax=True)
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=1e-5)
    with pytest.raises(ValueError, match="rank needs a model with one label"):
        model.rank(QUERY, DOCUMENTS)


def test_rank(cross_encoder, reranker):
    scores = reranker.scores(QUERY, DOCUMENTS)
    best = [{"corpus_id": hit.index, "score": hit.score} for hit in reranker.rank(QUERY, DOCUMENTS)]
    assert cross_encoder.rank(QUERY, DOCUMENTS) == best
    assert cross_encoder.rank(QUERY, DOCUMENTS, 2, convert_to_tensor=True, apply_softmax=True, num_workers=1) == best[:2]
    texts = cross_encoder.rank(query=QUERY, documents=DOCUMENTS, return_documents=True, top_k=3)
    assert texts == [{**one, "text": DOCUMENTS[one["corpus_id"]]} for one in best[:3]]
    assert all(isinstance(one["score"], float) for one in best) and len(scores) == 4
    raw = cross_encoder.rank(QUERY, DOCUMENTS, activation_fn=lambda logits: logits)
    assert raw[0]["score"] == reranker.scores(QUERY, DOCUMENTS, raw=True).max()
    assert cross_encoder.rank(QUERY, []) == []
    prompted = cross_encoder.rank(QUERY, DOCUMENTS, prompt="query: ")
    assert prompted == [{"corpus_id": hit.index, "score": hit.score} for hit in reranker.rank("query: " + QUERY, DOCUMENTS)]


@pytest.mark.parametrize(
    "error, words, arguments",
    [
        (ValueError, "device 'cuda:99'", {"device": "cuda:99"}),
        (ValueError, "device", {"device": ["cpu", "cpu"]}),
        (ValueError, "pool", {"pool": {"input": None}}),
        (ValueError, "batch_size is 0", {"batch_size": 0}),
        (TypeError, "batch_size", {"batch_size": "32"}),
        (ValueError, "chunk_size", {"chunk_size": -1}),
        (ValueError, "prompt_name 'nonsense'", {"prompt_name": "nonsense"}),
        (TypeError, "processing_kwargs", {"processing_kwargs": {"text": {}}}),
        (TypeError, "nonsense", {"nonsense": 1}),
    ],
)
def test_what_the_calls_do_not_do_is_refused_by_name(cross_encoder, sparse_encoder, error, words, arguments):
    calls = [lambda **a: cross_encoder.predict(PAIRS, **a), lambda **a: cross_encoder.rank(QUERY, DOCUMENTS, **a)]
    calls += [lambda **a: sparse_encoder.encode(TEXTS, **a), lambda **a: sparse_encoder.encode_query(TEXTS, **a)]
    for call in calls:
        with pytest.raises(error, match=words):
            call(**arguments)


def test_wrong_pairs_are_named(cross_encoder):
    for error, words, pairs in [
        (TypeError, "pairs is of type str", "text"),
        (TypeError, "pair 0 has 1 texts", ["text"]),
        (TypeError, "pair 1 has 3 texts", [("a", "b"), ("a", "b", "c")]),
        (TypeError, "document 1 is of type int", [("a", "b"), ("a", 1)]),
        (ValueError, "query 0 is None", [(None, "b")]),
        (TypeError, "pairs is of type dict", {"text": "a"}),
    ]:
        with pytest.raises(error, match=words):
            cross_encoder.predict(pairs)
    with pytest.raises(TypeError, match="needs inputs"):
        cross_encoder.predict()
    with pytest.raises(ValueError, match="top_k is -1"):
        cross_encoder.rank(QUERY, DOCUMENTS, top_k=-1)
    with pytest.raises(TypeError, match="single text"):
        cross_encoder.rank(QUERY, "a text")
    with pytest.raises(TypeError, match="query is of type list"):
        cross_encoder.rank([QUERY], DOCUMENTS)


def test_how_a_cross_encoder_is_opened(tmp_path, reranker, caplog):
    expected = reranker.scores(QUERY, DOCUMENTS)
    for arguments in [
        {"model_name_or_path": str(XLMR), "trust_remote_code": True, "model_card_data": object(), "backend": "torch"},
        {"model_name": str(XLMR), "cache_dir": "/no/such/folder", "automodel_args": {"torch_dtype": "float32"}},
        {"model_name_or_path": XLMR, "model_kwargs": {"dtype": "auto", "device_map": "cpu", "attn_implementation": "eager"}},
        {"model_name_or_path": XLMR, "config_kwargs": {"num_labels": 1}, "classifier_dropout": 0.1, "token": "hf_x", "keep_in_fp32_modules": []},
    ]:
        arguments = {"precision": "f32", "threads": 2, **arguments}
        np.testing.assert_allclose(gte.CrossEncoder(**arguments, local_files_only=True).predict(PAIRS), expected, atol=2e-2)
    short = gte.CrossEncoder(XLMR, max_length=16, **OPTIONS)
    assert short.max_length == gte.CrossEncoder(XLMR, processor_kwargs={"model_max_length": 16}).max_length == 16
    assert gte.CrossEncoder(str(XLMR), 1, 16, None, "cpu").max_length == 16, "by position, as in older versions"
    assert gte.CrossEncoder(XLMR, model_kwargs={"torch_dtype": "bfloat16"}).reranker.precision == "bf16"
    for error, words, arguments in [
        (TypeError, "model_name_or_path", {}),
        (ValueError, "modules", {"modules": []}),
        (ValueError, "backend 'onnx'", {"backend": "onnx"}),
        (gte.DeviceError, "device cuda:99", {"device": "cuda:99"}),
        (ValueError, "device", {"device": ["cpu", "cpu"]}),
        (ValueError, "num_labels 3", {"num_labels": 3}),
        (ValueError, "num_labels 2", {"config_kwargs": {"num_labels": 2}}),
        (ValueError, "hidden_size", {"config_kwargs": {"hidden_size": 2}}),
        (ValueError, "float16", {"model_kwargs": {"dtype": "float16"}}),
        (ValueError, "quantization_config", {"model_kwargs": {"quantization_config": 1}}),
        (ValueError, "padding_side", {"tokenizer_kwargs": {"padding_side": "left"}}),
        (ValueError, "keep_in_fp32_modules", {"keep_in_fp32_modules": ["0.model.classifier"]}),
        (ValueError, "default_prompt_name 'x'", {"default_prompt_name": "x"}),
        (TypeError, "nonsense", {"nonsense": 1}),
    ]:
        with pytest.raises(error, match=words):
            gte.CrossEncoder(**({"model_name_or_path": XLMR} if words != "model_name_or_path" else {}), **arguments)
    for kind, organization in [(gte.CrossEncoder, "cross-encoder"), (gte.SparseEncoder, "sparse-encoder")]:
        with pytest.raises(gte.ModelNotFound, match=f"{organization}/no-such-model"):
            kind("no-such-model", local_files_only=True)


def test_activations_of_the_files(tmp_path, reranker, caplog):
    raw, scores = reranker.scores(QUERY, DOCUMENTS, raw=True), reranker.scores(QUERY, DOCUMENTS)
    identity = "torch.nn.modules.linear.Identity"
    for i, (files, expected) in enumerate(
        [
            ({"config": {"sentence_transformers": {"activation_fn": identity}}}, raw),
            ({"config": {"sbert_ce_default_activation_function": identity}}, raw),
            ({"config_sentence_transformers": {"activation_fn": identity, "model_type": "CrossEncoder"}, **SAVED}, raw),
            ({"config_sentence_transformers": {"activation_fn": identity, "model_type": "CrossEncoder"}}, scores),
            ({"config": {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}}, scores),
            ({"config": {"sentence_transformers": {"activation_fn": "their.code.Function"}}}, scores),
        ]
    ):
        place = changed(tmp_path / str(i), "xlmr-reranker", **files)
        np.testing.assert_array_equal(gte.CrossEncoder(place, **OPTIONS).predict(PAIRS), expected)
    assert "their.code.Function" in caplog.text
    np.testing.assert_array_equal(gte.CrossEncoder(place, activation_fn=lambda logits: logits, **OPTIONS).predict(PAIRS), raw)


def test_prompts_of_a_cross_encoder(tmp_path, reranker):
    settings = {"model_type": "CrossEncoder", "prompts": {"query": "query: "}, "default_prompt_name": "query"}
    place = changed(tmp_path / "prompts", "xlmr-reranker", config_sentence_transformers=settings, **SAVED)

    def scores(before):
        return reranker.scores(before + QUERY, DOCUMENTS)

    model = gte.CrossEncoder(place, prompts={"other": "other: "}, **OPTIONS)
    assert model.prompts == {"query": "query: ", "other": "other: "} and model.default_prompt_name == "query"
    np.testing.assert_array_equal(model.predict(PAIRS), scores("query: "))
    np.testing.assert_array_equal(model.predict(PAIRS, prompt_name="other"), scores("other: "))
    np.testing.assert_array_equal(model.predict(PAIRS, prompt=""), scores(""))
    np.testing.assert_array_equal(model.predict(PAIRS, prompt="x: ", prompt_name="other"), scores("x: "))
    model = gte.CrossEncoder(place, prompts={"query": "new: "}, **OPTIONS)
    np.testing.assert_array_equal(model.predict(PAIRS), scores("new: "))
    asked = gte.CrossEncoder(FAMILIES / "qwen3-reranker", prompts={"poem": "Find a poem"}, default_prompt_name="poem", **OPTIONS)
    told = gte.Reranker(FAMILIES / "qwen3-reranker", **OPTIONS).scores(QUERY, DOCUMENTS, instruction="Find a poem")
    np.testing.assert_array_equal(asked.predict(PAIRS), told)


def test_tensors_need_torch(cross_encoder, sparse_encoder, monkeypatch):
    expected = cross_encoder.predict(PAIRS)
    raw = cross_encoder.reranker.scores(QUERY, DOCUMENTS, raw=True)
    if HAS_TORCH:
        import torch

        assert torch.equal(cross_encoder.predict(PAIRS, convert_to_tensor=True), torch.from_numpy(expected))
        rows = cross_encoder.predict(PAIRS, convert_to_numpy=False)
        assert isinstance(rows, list) and torch.equal(torch.stack(rows), torch.from_numpy(expected))
        np.testing.assert_array_equal(cross_encoder.predict(PAIRS, activation_fn=torch.nn.Identity()), raw)
        with torch.enable_grad():
            np.testing.assert_allclose(cross_encoder.predict(PAIRS, activation_fn=torch.nn.Sigmoid()), expected, rtol=1e-6)
    monkeypatch.setitem(sys.modules, "torch", None)
    np.testing.assert_array_equal(cross_encoder.predict(PAIRS), expected)
    np.testing.assert_array_equal(cross_encoder.predict(PAIRS, activation_fn=lambda logits: logits), raw)
    for argument in ({"convert_to_tensor": True}, {"convert_to_numpy": False}):
        with pytest.raises(ImportError, match=next(iter(argument))):
            cross_encoder.predict(PAIRS, **argument)
    with pytest.raises(ImportError, match="gte.SparseEmbedder"):
        sparse_encoder.encode(TEXTS)


def test_sparse_vectors_without_torch(sparse_encoder):
    vectors = sparse_encoder.embedder.embed(TEXTS)
    dense = vectors.to_scipy().toarray()
    decoded = sparse_encoder.decode(vectors)
    assert [sorted(weight for _, weight in row) for row in decoded] == [sorted(row.values()) for row in vectors]
    assert decoded[0] == sorted(decoded[0], key=lambda pair: -pair[1]) and decoded[0][0][0] == "B" and decoded[1] == []
    assert sparse_encoder.decode(dense[0], top_k=2) == decoded[0][:2]
    products = dense.astype(np.float64) @ dense.T
    lengths = np.maximum(np.linalg.norm(dense, axis=1), 1e-12)
    for name, expected in [
        ("dot", products),
        ("cosine", products / np.outer(lengths, lengths)),
        ("euclidean", -np.linalg.norm(dense[:, None] - dense, axis=2)),
        ("manhattan", -np.abs(dense[:, None] - dense).sum(2)),
    ]:
        sparse_encoder.similarity_fn_name = name
        assert sparse_encoder.similarity_fn_name == name
        for left in (vectors, dense):
            np.testing.assert_allclose(sparse_encoder.similarity(left, vectors), expected, atol=1e-3 if name == "euclidean" else 1e-5)
        np.testing.assert_allclose(sparse_encoder.similarity_pairwise(vectors[:2], vectors[2:]), expected[[0, 1], [2, 3]], atol=1e-5)
    sparse_encoder.similarity_fn_name = None
    assert sparse_encoder.similarity_fn_name == "dot"
    statistics = sparse_encoder.sparsity(dense)
    assert statistics == sparse_encoder.sparsity(vectors) and statistics["active_dims"] == (dense > 0).sum() / 4
    assert sparse_encoder.get_embedding_dimension() == vectors.vocab == dense.shape[1]
    for error, words, call in [
        (ValueError, "top_k is 0", lambda: sparse_encoder.decode(vectors, top_k=0)),
        (TypeError, "of type str", lambda: sparse_encoder.decode("text")),
        (ValueError, "vectors have 3 dimensions", lambda: sparse_encoder.decode(dense[:, :3])),
        (ValueError, "4 and 3 vectors", lambda: sparse_encoder.similarity_pairwise(vectors, vectors[:3])),
        (ValueError, "similarity_fn_name 'maxsim'", lambda: setattr(sparse_encoder, "similarity_fn_name", "maxsim")),
        (ValueError, "max_active_dims is 0", lambda: sparse_encoder.encode(TEXTS, max_active_dims=0)),
    ]:
        with pytest.raises(error, match=words):
            call()


def test_how_a_sparse_encoder_is_opened(tmp_path):
    place = FAMILIES / "bge-m3"
    model = gte.SparseEncoder(place, processor_kwargs={"model_max_length": 16}, prompts={"query": "q: "}, trust_remote_code=True)
    assert model.max_seq_length == 16 and model.prompts == {"query": "q: ", "document": ""}
    for error, words, arguments in [
        (ValueError, "max_active_dims", {"max_active_dims": 0}),
        (ValueError, "max_active_dims", {"max_active_dims": True}),
        (ValueError, "similarity_fn_name", {"similarity_fn_name": "x"}),
        (ValueError, "num_labels", {"config_kwargs": {"num_labels": 1}}),
        (ValueError, "modules", {"modules": []}),
        (TypeError, "nonsense", {"nonsense": 1}),
    ]:
        with pytest.raises(error, match=words):
            gte.SparseEncoder(place, **arguments)
    with pytest.raises(gte.InvalidModel, match="sparse_linear.pt"):
        gte.SparseEncoder(MODEL)


def test_langchain(reranker):
    from langchain_core.documents import Document

    from gte.langchain import GteCrossEncoder, GteReranker

    documents = [Document(page_content=text, metadata={"place": i}, id=str(i)) for i, text in enumerate(DOCUMENTS)]
    expected = reranker.rank(QUERY, DOCUMENTS)
    for compressor in (GteReranker(reranker), GteReranker(model_name=str(XLMR), model_kwargs={"device": "cpu", "local_files_only": True}, **OPTIONS)):
        for found in (compressor.compress_documents(documents, QUERY), asyncio.run(compressor.acompress_documents(documents, QUERY))):
            assert [document.id for document in found] == [str(hit.index) for hit in expected[:3]], "three by default"
            assert [document.metadata for document in found] == [{"place": hit.index, "relevance_score": hit.score} for hit in expected[:3]]
    assert all("relevance_score" not in document.metadata for document in documents), "copies"
    assert len(GteReranker(reranker, top_n=None).compress_documents(documents, QUERY)) == 4
    assert list(GteReranker(reranker).compress_documents([], QUERY)) == []
    model = gte.Reranker(FAMILIES / "qwen3-reranker", **OPTIONS)
    found = GteReranker(model, top_n=1, instruction="Find a poem").compress_documents(documents, QUERY)
    assert found[0].metadata["relevance_score"] == model.rank(QUERY, DOCUMENTS, instruction="Find a poem")[0].score
    for error, words, arguments in [
        (TypeError, "model", {}),
        (TypeError, "nonsense", {"model": str(XLMR), "nonsense": 1}),
        (TypeError, "max_length", {"model": reranker, "max_length": 9}),
        (ValueError, "top_n", {"model": reranker, "top_n": -1}),
        (gte.DeviceError, "device cuda:99", {"model": str(XLMR), "model_kwargs": {"device": "cuda:99"}}),
    ]:
        with pytest.raises(error, match=words):
            GteReranker(**arguments)

    cross_encoder = GteCrossEncoder(model_name=str(XLMR), model_kwargs={"device": "cpu", **OPTIONS})
    assert cross_encoder.score(PAIRS) == reranker.scores(QUERY, DOCUMENTS).tolist()
    two = GteCrossEncoder(str(FAMILIES / "bert-classifier-3"), model_kwargs=OPTIONS)
    assert two.score(PAIRS) == two.client.predict(PAIRS)[:, 1].tolist()


def test_langchains_own_compressor(reranker):
    """Inside the LangChain retriever for which such compressors are made."""
    from langchain_classic.retrievers import ContextualCompressionRetriever
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
    from langchain_core.vectorstores import InMemoryVectorStore

    from gte.langchain import GteCrossEncoder, GteEmbeddings, GteReranker

    store = InMemoryVectorStore.from_texts(DOCUMENTS[:2] + DOCUMENTS[3:], GteEmbeddings(str(MODEL)))
    expected = [DOCUMENTS[hit.index] for hit in reranker.rank(QUERY, DOCUMENTS) if hit.index != 2]
    theirs = CrossEncoderReranker(model=GteCrossEncoder(str(XLMR), model_kwargs=OPTIONS), top_n=2)
    for compressor in (GteReranker(reranker, top_n=2), theirs):
        retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=store.as_retriever())
        assert [document.page_content for document in retriever.invoke(QUERY)] == expected[:2]


def test_llama_index(reranker):
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    from gte.llama_index import GteRerank

    def nodes():
        return [NodeWithScore(node=TextNode(text=text, id_=str(i)), score=0.5) for i, text in enumerate(DOCUMENTS)]

    expected = reranker.rank(QUERY, DOCUMENTS)
    model = GteRerank(model=reranker, top_n=3)
    for found in (
        model.postprocess_nodes(nodes(), query_str=QUERY),
        model.postprocess_nodes(nodes(), QueryBundle(QUERY)),
        asyncio.run(model.apostprocess_nodes(nodes(), query_str=QUERY)),
    ):
        assert [(node.node.id_, node.score) for node in found] == [(str(hit.index), hit.score) for hit in expected[:3]]
    assert model.postprocess_nodes([], query_str=QUERY) == []
    kept = GteRerank(2, str(XLMR), "cpu", True, False, **OPTIONS).postprocess_nodes(nodes(), query_str=QUERY)
    assert len(kept) == 2 and kept[0].node.metadata == {"retrieval_score": 0.5}
    language_model = gte.Reranker(FAMILIES / "qwen3-reranker", **OPTIONS)
    told = GteRerank(1, language_model, instruction="Find a poem").postprocess_nodes(nodes(), query_str=QUERY)
    assert told[0].score == language_model.rank(QUERY, DOCUMENTS, instruction="Find a poem")[0].score
    with pytest.raises(ValueError, match="needs a query"):
        model.postprocess_nodes(nodes())
    for error, words, arguments in [
        (TypeError, "model", {}),
        (TypeError, "nonsense", {"model": str(XLMR), "nonsense": 1}),
        (TypeError, "max_length", {"model": reranker, "max_length": 9}),
        (ValueError, "top_n", {"model": reranker, "top_n": -1}),
        (gte.DeviceError, "device cuda:99", {"model": str(XLMR), "device": "cuda:99"}),
    ]:
        with pytest.raises(error, match=words):
            GteRerank(**arguments)
    names, _ = source_of("llama_index.core", "postprocessor/sbert_rerank.py", "SentenceTransformerRerank", "__init__")
    ours = list(inspect.signature(GteRerank.__init__).parameters)[1:]
    assert ours[: len(names)] == names, "in the same positions"


def test_langchain_takes_what_hugging_face_cross_encoder_takes():
    from gte.langchain import GteCrossEncoder

    where = importlib.util.find_spec("langchain_community")
    assert where is not None, "langchain_community is missing: gte-py/tests/run.sh installs it"
    tree = ast.parse((Path(where.submodule_search_locations[0]) / "cross_encoders/huggingface.py").read_text())
    kind = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "HuggingFaceCrossEncoder")
    theirs = {node.target.id for node in kind.body if isinstance(node, ast.AnnAssign)} - {"client", "model_config"}
    assert theirs == set(list(inspect.signature(GteCrossEncoder.__init__).parameters)[1:])
