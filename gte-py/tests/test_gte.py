"""gte on the real MiniLM weights: numbers, arguments, manners, drop-ins, files."""

import ast
import asyncio
import importlib.util
import json
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

import gte

MODEL = Path(__file__).resolve().parents[2] / "target/models/all-MiniLM-L6-v2"
FAMILIES = Path(__file__).resolve().parents[2] / "gte-core/tests/fixtures/families"
TEXTS = ["How do I return a kettle?", "", "The weather is lovely.", "今天天气真好", "a " * 700]


# "auto" is bf16 on one machine and f32 on another: what is compared with something else names its precision.
@pytest.fixture(scope="session")
def embedder():
    return gte.Embedder(MODEL, precision="f32", threads=2)


# As the command line makes it, which is run with its defaults.
@pytest.fixture(scope="session")
def default_embedder():
    return gte.Embedder(MODEL)


@pytest.fixture(scope="session")
def expected(embedder):
    return embedder.embed(TEXTS)


def test_vectors(expected):
    assert expected.shape == (5, 384) and expected.dtype == np.float32 and expected.flags.c_contiguous
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("precision", ["f32", "bf16", "int8", "auto"])
def test_the_engines_bits(precision):
    """The Rust example prints the shortest decimals that give the same f32."""
    binary = MODEL.parents[1] / "release/embed"
    if not binary.exists():
        pytest.fail("target/release/embed is needed: cargo build --release")
    texts = [text for text in TEXTS if text]
    lines = subprocess.run([binary, "--model", MODEL, "--precision", precision, *texts], capture_output=True, text=True, check=True).stdout.splitlines()
    vectors = np.array([json.loads(line)["embedding"] for line in lines], np.float32)
    np.testing.assert_array_equal(vectors, gte.Embedder(MODEL, precision=precision, threads=2).embed(texts))


def test_every_kind_of_texts(embedder, expected):
    import pandas
    import polars
    import pyarrow

    for texts in [
        tuple(TEXTS),
        (t for t in TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        pandas.Series(TEXTS),
        pandas.Series(TEXTS, dtype="string"),
        polars.Series(TEXTS),
        pyarrow.array(TEXTS),
        pyarrow.array(TEXTS, pyarrow.large_string()),
        pyarrow.array(["x", *TEXTS, "y"])[1:-1],
        pyarrow.chunked_array([TEXTS[:2], TEXTS[2:]]),
    ]:
        np.testing.assert_array_equal(embedder.embed(texts), expected, err_msg=str(type(texts)))
        if not isinstance(texts, types.GeneratorType):
            pieces = list(embedder.embed_iter(texts, 2))
            assert [len(piece) for piece in pieces] == [2, 2, 1], type(texts)
            np.testing.assert_array_equal(np.vstack(pieces), expected, err_msg=str(type(texts)))
    assert embedder.embed([]).shape == (0, 384)


def test_wrong_texts_are_named(embedder):
    import pandas
    import pyarrow

    for texts, error, words in [
        ("one text", TypeError, "list"),
        (["a", 1], TypeError, "text 1 is of type int"),
        (["a", None], ValueError, "text 1 is None"),
        (["a", float("nan")], ValueError, "text 1 is nan: a text that is missing"),
        (["a", b"b"], TypeError, "text 1 is of type bytes"),
        (7, TypeError, "int"),
        (b"bytes", TypeError, "bytes"),
        (bytearray(b"bytes"), TypeError, "bytearray"),
        ({"a": "b"}, TypeError, "dict"),
        ({"a"}, TypeError, "set"),
        (frozenset(["a"]), TypeError, "frozenset"),
        (types.MappingProxyType({"a": "b"}), TypeError, "mappingproxy"),
        (pandas.DataFrame({"text": ["a"]}), TypeError, "table|2 dimensions"),
        (np.array([["a"], ["b"]]), TypeError, "2 dimensions"),
        (pandas.Series(["a", None]), ValueError, "text 1 is|null"),
        (pyarrow.array([1, 2]), TypeError, "Int64"),
        (pyarrow.array(["a", None]), ValueError, "text 1 is null"),
    ]:
        for call in (embedder.embed, embedder.encode, embedder.tokenize, lambda texts: list(embedder.embed_iter(texts))):
            if call == embedder.encode and isinstance(texts, str):
                continue
            with pytest.raises(error, match=words):
                call(texts)
    reader = pyarrow.RecordBatchReader.from_batches(pyarrow.schema([("text", pyarrow.string())]), [])
    with pytest.raises(TypeError, match="RecordBatchReader, which cannot be sliced"):
        list(embedder.embed_iter(reader))


def test_a_str_that_is_no_utf8_is_named(embedder):
    texts = ["a"] * 1500 + ["fine so far \ud800 and on"]
    words = r"text 1500 is not UTF-8: the lone surrogate U\+D800 at character 12"
    for call in (embedder.embed, embedder.encode, embedder.count_tokens, lambda texts: list(embedder.embed_iter(texts, 100))):
        with pytest.raises(ValueError, match=words):
            call(texts)
    with pytest.raises(ValueError, match=r"text 0 is not UTF-8.*U\+DCFF at character 1"):
        embedder.encode(b"a\xff".decode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"prompt is not UTF-8.*U\+DFFF at character 0"):
        embedder.embed(["a"], prompt="\udfff")


def test_wrong_models_and_options(tmp_path):
    with pytest.raises(gte.ModelNotFound):
        gte.Embedder(tmp_path)
    with pytest.raises(gte.ModelNotFound):
        gte.Embedder("no/such-model", offline=True)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(gte.InvalidModel):
        gte.Embedder(tmp_path)
    for options in [{"threads": 0}, {"precision": "int3"}, {"device": "tpu"}, {"max_length": 1}, {"pooling": "max"}, {"batch_tokens": 0}]:
        with pytest.raises(ValueError):
            gte.Embedder(MODEL, **options)
    assert issubclass(gte.InvalidModel, gte.Error)


@pytest.mark.parametrize("name", ["xlmr-reranker", "new-reranker", "modernbert-reranker", "qwen3-reranker-logitscore"])
def test_a_reranker_is_no_embedder(name):
    with pytest.raises(gte.InvalidModel, match=f"{name} is a reranker: open it as one"):
        gte.Embedder(FAMILIES / name)


def test_tokens(embedder):
    assert embedder.count_tokens(TEXTS).tolist() == [9, 2, 7, embedder.count_tokens(["今天天气真好"])[0], 702]
    ids = embedder.tokenize(TEXTS)
    assert ids[1].tolist() == [101, 102] and len(ids[4]) == embedder.max_length == 256


def test_shorter_and_smaller_vectors(embedder, expected):
    short = embedder.embed(TEXTS, dimensions=100)
    np.testing.assert_allclose(short, expected[:, :100] / np.linalg.norm(expected[:, :100], axis=1, keepdims=True), atol=1e-6)
    int8 = embedder.embed(TEXTS, output="int8")
    assert int8.dtype == np.int8 and (np.abs(int8).max(1) == 127).all()
    bits = embedder.embed(TEXTS, output="ubinary")
    np.testing.assert_array_equal(bits, np.packbits(expected > 0, axis=1))
    for options in [{"dimensions": 0}, {"dimensions": 385}, {"output": "float16"}]:
        with pytest.raises(ValueError):
            embedder.embed(TEXTS, **options)


def test_similarity_rank_top_k(embedder, expected):
    assert embedder.similarity("refund", "money back") > embedder.similarity("refund", "blue sky")
    assert embedder.similarity(["a"], ["b", "c"]).shape == (1, 2)
    ranking = embedder.rank("How can I get a refund?", ["The sky is blue.", "Refunds take three days.", "I like tea."])
    assert ranking[0][0] == 1 and len(ranking) == 3 and len(embedder.rank("a", ["b", "c"], top_k=1)) == 1
    indices, scores = gte.top_k(expected, expected, 2)
    assert indices[:, 0].tolist() == [0, 1, 2, 3, 4] and scores.shape == (5, 2)
    np.testing.assert_allclose(gte.cos_sim(expected, 3 * expected), expected @ expected.T, atol=1e-6)
    assert gte.cos_sim([0, 0], [1, 0]) == 0


def test_other_threads_run_meanwhile(embedder):
    counted, stop = [0], threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    before = counted[0]
    embedder.embed([f"text number {i} of many" for i in range(300)])
    progress = counted[0] - before
    stop.set()
    thread.join()
    assert progress > 100, "the interpreter was locked"


def test_many_threads_share_an_embedder(embedder, expected):
    results = [None] * 8

    def work(i):
        results[i] = embedder.embed(TEXTS)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_progress(embedder):
    seen = []
    embedder.embed(["a b c"] * 3000, progress=seen.append)
    assert seen[-1] == 3000 and seen == sorted(seen) and len(seen) > 10
    with pytest.raises(ZeroDivisionError):
        embedder.embed(["a"], progress=lambda done: 1 / 0)


def test_interrupt_stops_within_a_batch(embedder):
    # What runs in the background of a shell starts with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            embedder.embed(["word " * 200] * 20000)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < 20, "it went on"


def _child(embedder, queue):
    queue.put(embedder.embed(TEXTS))


def test_pickle_and_processes(embedder, expected):
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(embedder)).embed(TEXTS), expected)
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=_child, args=(embedder, queue))
        process.start()
        np.testing.assert_array_equal(queue.get(timeout=60), expected)
        process.join(60)
        assert process.exitcode == 0


def test_repr_and_docs(embedder):
    assert "all-MiniLM-L6-v2" in repr(embedder) and "dim=384" in repr(embedder)
    for name in gte.__all__:
        assert name.startswith("__") or getattr(gte, name).__doc__, name


def test_encode_as_sentence_transformers(embedder, expected):
    np.testing.assert_array_equal(embedder.encode(TEXTS[0]), expected[0])
    np.testing.assert_array_equal(embedder.encode(TEXTS, batch_size=2, show_progress_bar=False), expected)
    np.testing.assert_array_equal(embedder.encode(sentences=TEXTS, chunk_size=3, task="query", device="cpu"), expected)
    np.testing.assert_array_equal(embedder.encode("x", prompt="query: "), embedder.embed(["query: x"])[0])
    np.testing.assert_array_equal(embedder.encode("x", None, "query: "), embedder.embed(["query: x"])[0])
    assert embedder.encode("x").shape == (384,) and embedder.encode(["x"]).shape == (1, 384) and embedder.encode([]).shape == (0, 384)
    # This model's files normalize; a shorter vector is of unit length only where that is asked for.
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
        (ValueError, "device", "cuda"),
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


def changed_model(place, **files):
    """The model with other content in some of its files; None takes a file away."""
    place.mkdir()
    for path in MODEL.rglob("*"):
        inside = path.relative_to(MODEL)
        if path.is_file() and inside.name not in files:
            (place / inside).parent.mkdir(exist_ok=True)
            (place / inside).symlink_to(path)
    for name, content in files.items():
        if content is not None:
            (place / name).write_text(json.dumps(content))
    return gte.Embedder(place, precision="f32", threads=2)


def test_prompts_of_the_files(tmp_path, embedder):
    plain = embedder.embed(["a kettle"])
    prompts = {"query": "search: ", "passage": "text: ", "empty": ""}
    settings = {"prompts": prompts, "default_prompt_name": "passage"}
    model = changed_model(tmp_path / "prompts", **{"config_sentence_transformers.json": settings})
    # As in sentence-transformers, "query" and "document" are always there, empty where the files lack them.
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
    assert (np.abs(lengths - 1) > 0.1).all(), "they are as they are pooled"
    np.testing.assert_allclose(raw / lengths, expected, atol=1e-6)
    np.testing.assert_array_equal(model.encode(TEXTS, normalize_embeddings=True), expected)
    np.testing.assert_array_equal(model.embed(TEXTS), expected)


def source_of(package, path, kind, name):
    """The arguments of a function of another package and their defaults, read from its source."""
    where = importlib.util.find_spec(package)
    assert where is not None, f"{package} is missing: gte-py/tests/run.sh installs it"
    tree = ast.parse((Path(where.submodule_search_locations[0]) / path).read_text())
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == kind]
    # The last one, behind its overloads.
    function = [node for node in classes[0].body if isinstance(node, ast.FunctionDef) and node.name == name][-1].args
    names = [argument.arg for argument in [*function.args, *function.kwonlyargs]][1:]
    defaults = [*function.defaults, *function.kw_defaults]
    return names, [ast.literal_eval(default) for default in defaults if isinstance(default, ast.Constant)]


def test_encode_has_the_arguments_of_sentence_transformers(embedder):
    import inspect

    for name in ("encode", "encode_query", "encode_document"):
        names, defaults = source_of("sentence_transformers", "sentence_transformer/model.py", "SentenceTransformer", name)
        assert names[0] == "inputs" and len(names) == len(defaults) + 1 == 14
        # Each by name, and in its place.
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
        (ValueError, "device", {"model": str(MODEL), "model_kwargs": {"device": "cuda"}}),
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
        "device": "cuda",
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
        with pytest.raises((TypeError, ValueError), match=name):
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


def run(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "gte", *map(str, arguments)], capture_output=True, text=True, **options)


def test_files(tmp_path, default_embedder):
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    # More than a piece of the work, most of it short: five times it is embedded.
    texts = [f"{i}" if i % 25 else f'text "{i}", 第{i}行' for i in range(5000)]
    (tmp_path / "in.txt").write_text("\n".join(texts), encoding="utf8")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"body": t}) + "\n" for t in texts))
    table = pyarrow.table({"id": range(5000), "body": texts})
    pyarrow.csv.write_csv(table, tmp_path / "in.csv")
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    expected = default_embedder.embed(texts)
    for source, target in [("in.txt", "a.npy"), ("in.jsonl", "b.npy"), ("in.csv", "c.jsonl"), ("in.parquet", "d.parquet")]:
        done = run("embed", tmp_path / source, "-o", tmp_path / target, "--model", MODEL, "--column", "body")
        assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), expected)
    lines = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text(encoding="utf8").splitlines()]
    assert [line["text"] for line in lines] == texts
    np.testing.assert_array_equal(np.array([line["embedding"] for line in lines], np.float32), expected)
    written = pyarrow.parquet.read_table(tmp_path / "d.parquet")
    assert written["text"].to_pylist() == texts
    np.testing.assert_array_equal(np.array(written["embedding"].to_pylist(), np.float32), expected)
    assert not list(tmp_path.glob("*.parts")) and not list(tmp_path.glob("*.tmp"))

    for arguments, words in [
        (["embed", tmp_path / "in.csv", "-o", tmp_path / "x.npy", "--model", MODEL], "--column"),
        (["embed", tmp_path / "in.txt", "-o", tmp_path / "x.pdf", "--model", MODEL], ".parquet"),
        (["embed", tmp_path / "none.txt", "-o", tmp_path / "x.npy", "--model", MODEL], "none.txt"),
        (["similarity", "a", "b", "--model", tmp_path / "nowhere"], "nowhere"),
    ]:
        done = run(*arguments)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert 0.9 < float(run("similarity", "a cat", "a cat", "--model", MODEL).stdout) <= 1


def test_files_as_people_have_them(tmp_path):
    from gte.files import read_texts

    def read(name, content, column="text"):
        (tmp_path / name).write_bytes(content)
        return list(read_texts(tmp_path / name, column))

    long = "长" * 200_000
    assert read("excel.csv", f"\ufefftext,id\r\n{long},1\r\n".encode()) == [long]
    assert read("mark.txt", "\ufeff一\r\n二\n".encode()) == ["一", "二"]
    assert read("gaps.jsonl", '"一"\n\n{"text": "二"}\n'.encode()) == ["一", "二"]
    for name, content, words in [
        ("old.csv", "text\n退货\n".encode("gb18030"), "line 2 is not UTF-8.*GB18030"),
        ("old.txt", "好\n".encode() + "退货\n".encode("gb18030"), "line 2 is not UTF-8"),
        ("cut.jsonl", b'"a"\n{"text": \n', "line 2 is not JSON"),
        ("null.jsonl", b'"a"\n{"body": "b"}\n', "line 2 has no key 'text'"),
        ("none.jsonl", b'"a"\n{"text": null}\n', "line 2 is None"),
        ("deep.jsonl", b'"a"\n' + b"[" * 100_000, "line 2 is"),
        ("half.jsonl", b'"a"\n"\\ud83d"\n', r"line 2 is not UTF-8 \(the lone surrogate U\+D83D at character 0"),
        ("bytes.jsonl", b'"a"\n"\xff"\n', "line 2 is not UTF-8 .byte 0xff at character 1"),
        ("commas.csv", b"text,id\nhello, world,1\n", "line 2 has 3 fields"),
        ("short.csv", b"id,text\n1,a\n2\n", "line 3 ends before"),
        ("quote.csv", b'text\na\n"open\nb\n', "line 3 is not CSV"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            read(name, content)
        assert name in str(error.value) and "--skip-bad-lines" in str(error.value)
    with pytest.raises(ValueError, match="2 columns are named 'text'"):
        read("twice.csv", b"text,text\na,b\n")


def test_bad_lines_are_left_out_and_listed(tmp_path, embedder):
    import pyarrow
    import pyarrow.parquet

    good = [f"text {i}" for i in range(3000)]
    lines = [json.dumps(text).encode() for text in good]
    lines[2500:2500], lines[17:17] = [b'{"text": 7}'], [b"\xff\xfe", b'"\\udc00"', b"{"]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None, "b"]}), tmp_path / "in.parquet")
    command = ["embed", tmp_path / "in.jsonl", "-o", tmp_path / "out.npy", "--model", MODEL, "--precision", "f32"]
    stopped = run(*command)
    assert stopped.returncode == 1 and "in.jsonl, line 18 is not UTF-8" in stopped.stderr and "--skip-bad-lines" in stopped.stderr
    assert not list(tmp_path.glob("out.npy*")), "the line is found before anything is written"
    done = run(*command, "--skip-bad-lines")
    assert done.returncode == 0 and "4 left out" in done.stderr and "line 2504 is 7" in done.stderr, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), embedder.embed(good))
    listed = [json.loads(line) for line in (tmp_path / "out.npy.skipped.jsonl").read_text().splitlines()]
    assert [bad["place"] for bad in listed] == ["line 18", "line 19", "line 20", "line 2504"] and "7" in listed[3]["reason"]
    done = run("embed", tmp_path / "in.parquet", "-o", tmp_path / "out.npy", "--model", MODEL, "--skip-bad-lines")
    assert done.returncode == 0 and "row 1 is None" in done.stderr and len(np.load(tmp_path / "out.npy")) == 2


def test_prompts_and_variables_of_the_command_line(tmp_path, embedder):
    (tmp_path / "in.txt").write_text("a\n")
    arguments = ["embed", tmp_path / "in.txt", "-o", tmp_path / "out.npy", "--precision", "f32"]
    done = run(*arguments, "--prompt", "query: ", "--model", MODEL)
    assert done.returncode == 0 and "384 dimensions, f32" in done.stderr, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), embedder.embed(["query: a"]))
    for options, words in [(["--prompt-name", "nonsense"], "nonsense"), (["--prompt", "a", "--prompt-name", "b"], "not allowed with")]:
        done = run(*arguments, *options, "--model", MODEL)
        assert done.returncode != 0 and words in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "model").symlink_to(MODEL)
    for model, variables in [
        ("all-MiniLM", {"GTE_MODEL": "~/model", "HOME": str(tmp_path / "home"), "GTE_THREADS": "", "GTE_ISA": " ", "HF_TOKEN": ""}),
        ("bundled", {"GTE_MODEL": "", "HF_HUB_OFFLINE": "Yes", "GTE_THREADS": "1\n"}),
    ]:
        done = run(*arguments, env={**os.environ, **variables})
        assert done.returncode == 0 and ("bundled model" in done.stderr) == (model == "bundled"), done.stderr
    done = run(*arguments, "--model", MODEL, env={**os.environ, "HF_HUB_OFFLINE": "maybe"})
    assert done.returncode == 1 and "HF_HUB_OFFLINE is maybe" in done.stderr and "yes" in done.stderr


def test_a_killed_run_goes_on(tmp_path, default_embedder):
    texts = [f"text {i}" for i in range(9000)]
    source, target = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text("\n".join(texts))
    command = [sys.executable, "-m", "gte", "embed", source, "-o", target, "--model", MODEL]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    parts = tmp_path / "out.npy.parts"
    while not list(parts.glob("*.npy")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = sorted(parts.glob("*.npy"))
    assert done and not target.exists()
    before = {p: p.stat().st_mtime_ns for p in done}
    other = run("embed", source, "-o", target, "--model", MODEL, "--max-length", 50)
    assert other.returncode == 1 and "another run" in other.stderr
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    seen = dict(before)
    while process.poll() is None:
        seen |= {p: p.stat().st_mtime_ns for p in done if p.exists()}
        time.sleep(0.01)
    assert seen == before, "pieces that were done were done again"
    np.testing.assert_array_equal(np.load(target), default_embedder.embed(texts))


def test_memory_stays(embedder):
    def resident():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * 4096

    for _ in range(300):
        embedder.embed(["a b"])
    before = resident()
    for _ in range(10000):
        embedder.embed(["a b"])
    assert resident() - before < 8e6


def test_vectors_are_the_engines_buffer(embedder):
    vectors = embedder.embed(TEXTS)
    assert not vectors.flags.owndata and vectors.flags.writeable, "handed over, not copied"
    # Freed memory is filled with rubbish and checked: a buffer that is freed twice, or used after, does not go unnoticed.
    script = f"""
import gc, gte, numpy as np
embedder = gte.Embedder({str(MODEL)!r}, threads=2)
kept = [embedder.embed(["text %d" % i]) for i in range(200)]
views = [rows[:, 3:7] for rows in kept]
copies = [view.copy() for view in views]
del embedder, kept
gc.collect()
rubbish = [bytes(1536) for _ in range(10000)]
assert all((view == copy).all() for view, copy in zip(views, copies))
del views
gc.collect()
"""
    checked = {**os.environ, "LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3:glibc.malloc.perturb=165"}
    run = subprocess.run([sys.executable, "-c", script], env=checked, capture_output=True, text=True)
    assert run.returncode == 0 and "cannot be preloaded" not in run.stderr, run.stderr


def test_bundled():
    embedder = gte.Embedder.bundled(threads=2)
    assert embedder.dim == 384 and embedder.name == "bundled"
    ranking = embedder.rank("我想退货", ["今天天气真好", "How do I return an item?", "怎么办理退货退款"])
    assert ranking[-1][0] == 0
    again = pickle.loads(pickle.dumps(embedder))
    np.testing.assert_array_equal(again.embed(["你好"]), embedder.embed(["你好"]))
    run = subprocess.run([sys.executable, "-m", "gte", "similarity", "怎么退货", "如何办理退货"], capture_output=True, text=True)
    assert run.returncode == 0 and float(run.stdout) > 0.6 and "bundled model" in run.stderr, run


def test_precisions(expected):
    for precision, least in [("f32", 0.999999), ("bf16", 0.999), ("int8", 0.99)]:
        embedder = gte.Embedder(MODEL, precision=precision, threads=2)
        assert embedder.precision == precision and precision in repr(embedder)
        assert (embedder.embed(TEXTS) * expected).sum(1).min() > least, precision
    assert gte.Embedder(MODEL, precision="auto").precision in ("f32", "bf16")


def test_serve():
    import urllib.request

    program = MODEL.parents[1] / "release/gte-server"
    if not program.exists():
        pytest.fail("target/release/gte-server is needed: cargo build --release")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gte", "serve", "--host", "127.0.0.1", "--port", str(port), "--drain-delay", "0"]
    nowhere = subprocess.run(command, env={**os.environ, "PATH": ""}, capture_output=True, text=True)
    assert nowhere.returncode == 1 and "cargo install" in nowhere.stderr
    server = subprocess.Popen(command, env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                info = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/info"))
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
        assert info["dimension"] == 384 and "bundled" in info["note"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    finally:
        server.kill()


def test_types(tmp_path):
    stubs = subprocess.run([sys.executable, "-m", "mypy.stubtest", "gte._gte"], capture_output=True, text=True)
    assert stubs.returncode == 0, stubs.stdout
    strict = subprocess.run([sys.executable, "-m", "mypy", "--strict", "-p", "gte", "--ignore-missing-imports"], capture_output=True, text=True, cwd=tmp_path)
    assert strict.returncode == 0, strict.stdout
