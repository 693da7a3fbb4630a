"""`encode` of sentence-transformers, and the embeddings of LangChain, LlamaIndex and ModelScope."""

import ast
import asyncio
import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import gte
from fixtures import MODEL, TEXTS, changed_model, source_of


def test_encode_as_sentence_transformers(embedder, expected):
    np.testing.assert_array_equal(embedder.encode(TEXTS[0]), expected[0])
    np.testing.assert_array_equal(embedder.encode(TEXTS, batch_size=2, show_progress_bar=False), expected)
    np.testing.assert_array_equal(embedder.encode(sentences=TEXTS, chunk_size=3, task="query", device="cpu"), expected)
    np.testing.assert_array_equal(embedder.encode("x", prompt="query: "), embedder.embed(["query: x"])[0])
    np.testing.assert_array_equal(embedder.encode("x", None, "query: "), embedder.embed(["query: x"])[0])
    assert embedder.encode("x").shape == (384,) and embedder.encode(["x"]).shape == (1, 384) and embedder.encode([]).shape == (0, 384)
    # This model's files ask for unit length. A truncated vector is scaled to unit length only on
    # request.
    np.testing.assert_array_equal(embedder.encode(TEXTS, truncate_dim=100), expected[:, :100])
    np.testing.assert_array_equal(embedder.encode(TEXTS, truncate_dim=100, normalize_embeddings=True), embedder.embed(TEXTS, dimensions=100))
    np.testing.assert_array_equal(embedder.encode(TEXTS, precision="ubinary"), np.packbits(expected > 0, axis=1))
    np.testing.assert_array_equal(embedder.encode(TEXTS, precision="binary"), (np.packbits(expected > 0, axis=1) - 128).astype(np.int8))
    int8 = embedder.encode(TEXTS, precision="int8")
    assert int8.dtype == np.int8 and (int8.min(0) == -128).all() and (int8.max(0) >= 126).all()
    np.testing.assert_array_equal(embedder.encode(TEXTS, precision="uint8"), (int8.astype(int) + 128).astype(np.uint8))
    assert embedder.similarity(expected[:2], expected).shape == (2, 5)
    assert embedder.get_embedding_dimension() == embedder.get_sentence_embedding_dimension() == 384


@pytest.mark.parametrize(
    "error, name, value",
    [
        (ValueError, "output_value", "token_embeddings"),
        (ValueError, "output_value", None),
        (ValueError, "precision", "float16"),
        (ValueError, "device", "cuda:99"),
        (ValueError, "device", ["cpu", "cpu"]),
        (ValueError, "pool", {"input": None}),
        (ValueError, "batch_size", 0),
        (TypeError, "batch_size", "32"),
        (ValueError, "chunk_size", -1),
        (ValueError, "truncate_dim", 385),
        (ValueError, "prompt_name", "nonsense"),
        (TypeError, "prompt", 3),
        (TypeError, "processing_kwargs", {"text": {"max_length": 9}}),
        (TypeError, "nonsense", 1),
    ],
)
def test_what_encode_does_not_do_is_refused_by_name(embedder, error, name, value):
    for encode in (embedder.encode, embedder.encode_query, embedder.encode_document):
        for texts in ("x", ["x", "y"], []):
            with pytest.raises(error, match=name):
                encode(texts, **{name: value})
    with pytest.raises(TypeError, match="inputs"):
        embedder.encode()
    with pytest.raises(TypeError, match="inputs and sentences"):
        embedder.encode(["x"], sentences=["x"])


def test_tensors_need_torch(embedder, expected):
    if importlib.util.find_spec("torch") is None:
        for argument in ({"convert_to_tensor": True}, {"convert_to_numpy": False}):
            with pytest.raises(ImportError, match=next(iter(argument))):
                embedder.encode(TEXTS, **argument)
        return
    import torch

    assert torch.equal(embedder.encode(TEXTS, convert_to_tensor=True), torch.from_numpy(expected))
    rows = embedder.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(rows, list) and torch.equal(rows[1], torch.from_numpy(expected[1]))


def test_prompts_of_the_files(tmp_path, embedder):
    plain = embedder.embed(["a kettle"])
    prompts = {"query": "search: ", "passage": "text: ", "empty": ""}
    settings = {"prompts": prompts, "default_prompt_name": "passage"}
    model = changed_model(tmp_path / "prompts", **{"config_sentence_transformers.json": settings})
    # As in sentence-transformers, "query" and "document" always exist; they are empty if the files
    # do not have them.
    assert model.prompts == {**prompts, "document": ""} and model.default_prompt_name == "passage"
    assert embedder.prompts == {"query": "", "document": ""} and embedder.default_prompt_name is None

    def embedded(text):
        return embedder.embed([text])

    for found, text in [
        (model.embed(["a kettle"]), "text: a kettle"),
        (model.encode(["a kettle"]), "text: a kettle"),
        (model.encode(["a kettle"], "query"), "search: a kettle"),
        (model.embed(["a kettle"], prompt_name="query"), "search: a kettle"),
        (next(model.embed_iter(["a kettle"], prompt_name="query")), "search: a kettle"),
        (model.embed(["a kettle"], prompt=""), "a kettle"),
        (model.encode(["a kettle"], prompt="x ", prompt_name="query"), "x a kettle"),
        (model.encode(["a kettle"], prompt_name="document"), "a kettle"),
        (model.encode_query(["a kettle"]), "search: a kettle"),
        (model.encode_query(["a kettle"], None, "x "), "x a kettle"),
        (model.encode_query(["a kettle"], "empty", None, 8), "a kettle"),
        (model.encode_document(["a kettle"]), "a kettle"),
        (model.encode_document(["a kettle"], prompt_name="passage"), "text: a kettle"),
        (pickle.loads(pickle.dumps(model)).embed(["a kettle"]), "text: a kettle"),
    ]:
        np.testing.assert_array_equal(found, embedded(text), err_msg=text)
    assert model.count_tokens(["a kettle"])[0] == embedder.count_tokens(["text: a kettle"])[0]
    assert model.tokenize(["a"], prompt="")[0].tolist() == embedder.tokenize(["a"])[0].tolist()
    np.testing.assert_array_equal(embedder.encode_query(["a kettle"]), plain)
    for call in (model.embed, model.encode):
        with pytest.raises(ValueError, match='prompt_name is "nonsense", expected one of .*passage'):
            call(["a"], prompt_name="nonsense")
    with pytest.raises(ValueError, match="prompt and prompt_name"):
        model.embed(["a"], prompt="x", prompt_name="query")


def test_vectors_are_as_long_as_the_model_makes_them(tmp_path, embedder, expected):
    modules = [module for module in json.loads((MODEL / "modules.json").read_text()) if "Normalize" not in module["type"]]
    model = changed_model(tmp_path / "raw", **{"modules.json": modules})
    raw = model.encode(TEXTS)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert (np.abs(lengths - 1) > 0.1).all(), "the vectors are as the model pools them"
    np.testing.assert_allclose(raw / lengths, expected, atol=1e-6)
    np.testing.assert_array_equal(model.encode(TEXTS, normalize_embeddings=True), expected)
    np.testing.assert_array_equal(model.embed(TEXTS), expected)


def test_encode_has_the_arguments_of_sentence_transformers(embedder):
    import inspect

    for name in ("encode", "encode_query", "encode_document"):
        names, defaults = source_of("sentence_transformers", "sentence_transformer/model.py", "SentenceTransformer", name)
        assert names[0] == "inputs" and len(names) == len(defaults) + 1 == 14
        # Each argument works by name and by position.
        values = dict(zip(names[1:], defaults))
        np.testing.assert_array_equal(getattr(embedder, name)(["x"], **values), embedder.embed(["x"]))
        np.testing.assert_array_equal(getattr(embedder, name)(["x"], *defaults), embedder.embed(["x"]))
        if name == "encode":
            ours = list(inspect.signature(embedder.encode).parameters.values())
            assert [argument.name for argument in ours] == [*names, "kwargs"]
            assert [argument.default for argument in ours[1:-1]] == defaults


def test_langchain(embedder, expected):
    from langchain_core.vectorstores import InMemoryVectorStore

    from gte.langchain import GteEmbeddings

    store = InMemoryVectorStore.from_texts(["The sky is blue.", "Refunds take three days."], GteEmbeddings(embedder))
    assert store.similarity_search("How can I get my money back?", k=1)[0].page_content.startswith("Refunds")
    np.testing.assert_array_equal(np.array(GteEmbeddings(embedder).embed_documents(TEXTS), np.float32), expected)
    assert GteEmbeddings(embedder).embed_documents([]) == []


def test_langchain_takes_what_hugging_face_embeddings_take(embedder, expected):
    from gte.langchain import GteEmbeddings

    options = {"precision": "f32", "threads": 2}
    fields = {
        "model_name": str(MODEL),
        "cache_folder": "/no/such/folder",
        "model_kwargs": {"device": "cpu", "local_files_only": True},
        "encode_kwargs": {"batch_size": 8, "prompt": "text: "},
        "query_encode_kwargs": {"prompt": "query: "},
        "multi_process": False,
        "show_progress": False,
    }
    where = importlib.util.find_spec("langchain_huggingface").submodule_search_locations[0]
    tree = ast.parse((Path(where) / "embeddings/huggingface.py").read_text())
    kind = next(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "HuggingFaceEmbeddings")
    theirs = {node.target.id for node in kind.body if isinstance(node, ast.AnnAssign)} - {"model_config"}
    assert theirs == set(fields)
    model = GteEmbeddings(**fields, **options)
    assert model.embed_query("a") == embedder.embed(["query: a"])[0].tolist()
    assert model.embed_documents(["a"])[0] == embedder.embed(["text: a"])[0].tolist()
    assert GteEmbeddings(model=str(MODEL), **options).embed_query(TEXTS[0]) == expected[0].tolist()
    for error, words, arguments in [
        (TypeError, "nonsense", {"model": str(MODEL), "nonsense": 1}),
        (TypeError, "trust_remote_code", {"model": str(MODEL), "model_kwargs": {"trust_remote_code": True}}),
        (TypeError, "revision", {"model": embedder, "model_kwargs": {"revision": "main"}}),
        (TypeError, "model", {}),
        (ValueError, "multi_process", {"model": embedder, "multi_process": True}),
        (gte.DeviceError, "device cuda:99", {"model": str(MODEL), "model_kwargs": {"device": "cuda:99"}}),
    ]:
        with pytest.raises(error, match=words):
            GteEmbeddings(**arguments)
    with pytest.raises(TypeError, match="nonsense"):
        GteEmbeddings(embedder, encode_kwargs={"nonsense": 1}).embed_query("a")
    with pytest.raises(TypeError, match="single text|list"):
        GteEmbeddings(embedder).embed_documents("one text")


def test_llama_index(embedder, expected):
    from gte.llama_index import GteEmbedding

    model = GteEmbedding(embedder)
    np.testing.assert_array_equal(np.array(model.get_text_embedding_batch(TEXTS[2:4]), np.float32), expected[2:4])
    assert model.get_query_embedding(TEXTS[0]) == expected[0].tolist()
    assert asyncio.run(model.aget_text_embedding_batch(TEXTS[:2])) == expected[:2].tolist()
    assert asyncio.run(model.aget_text_embedding(TEXTS[0])) == expected[0].tolist()


def test_llama_index_takes_what_hugging_face_embedding_takes(tmp_path, embedder):
    from llama_index.core.callbacks import CallbackManager

    from gte.llama_index import GteEmbedding

    names, _ = source_of("llama_index.embeddings.huggingface", "base.py", "HuggingFaceEmbedding", "__init__")
    refused = {
        "tokenizer_name": "x",
        "tokenizer": "x",
        "pooling": "x",
        "trust_remote_code": True,
        "parallel_process": True,
        "target_devices": ["cuda:0"],
        "device": "cuda:99",
        "nonsense": 1,
    }
    taken = {
        "model_name": str(MODEL),
        "max_length": 16,
        "query_instruction": "query: ",
        "text_instruction": "text: ",
        "normalize": True,
        "embed_batch_size": 7,
        "cache_folder": "/no/such/folder",
        "callback_manager": CallbackManager([]),
        "show_progress_bar": False,
    }
    assert set(names) <= {*refused, *taken, "model"}
    options = {"precision": "f32", "threads": 2}
    model = GteEmbedding(**taken, **options)
    assert model.get_query_embedding("a") == embedder.embed(["query: a"])[0].tolist()
    assert model.get_text_embedding("a") == embedder.embed(["text: a"])[0].tolist()
    assert model.max_length == 16 and model.embed_batch_size == 7
    for name, value in refused.items():
        with pytest.raises((TypeError, ValueError, gte.DeviceError), match=name):
            GteEmbedding(str(MODEL), **options, **{name: value})
    with pytest.raises(TypeError, match="max_length"):
        GteEmbedding(embedder, max_length=16)
    prompts = {"prompts": {"query": "search: ", "document": "text: "}}
    model = GteEmbedding(changed_model(tmp_path / "prompts", **{"config_sentence_transformers.json": prompts}))
    assert model.get_query_embedding("a") == embedder.embed(["search: a"])[0].tolist()
    assert model.get_text_embedding("a") == embedder.embed(["text: a"])[0].tolist()


def test_modelscope(embedder, expected):
    from gte.modelscope import Pipeline, pipeline

    answer = Pipeline(embedder)({"source_sentence": [TEXTS[0]], "sentences_to_compare": TEXTS[2:4]})
    np.testing.assert_array_equal(answer["text_embedding"], expected[[0, 2, 3]])
    np.testing.assert_allclose(answer["scores"], expected[0] @ expected[2:4].T, atol=1e-6)
    for error, given in [(ValueError, {}), (ValueError, {"source_sentence": ["a"], "nonsense": 1}), (TypeError, {"source_sentence": "one text"})]:
        with pytest.raises(error, match="source_sentence"):
            Pipeline(embedder)(given)
    with pytest.raises(ValueError, match="text-generation"):
        pipeline("text-generation", model="a/b")
