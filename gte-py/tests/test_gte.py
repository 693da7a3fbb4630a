"""gte on the real MiniLM weights: numbers, arguments, behaviour."""

import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from fixtures import FAMILIES, MODEL, TEXTS

import gte


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
        (["a", float("nan")], ValueError, "text 1 is nan, which is a missing text"),
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
    for options in [{"threads": 0}, {"precision": "int3"}, {"device": "tpu"}, {"max_length": 1}, {"pooling": "max"}, {"max_batch_tokens": 0}]:
        with pytest.raises(ValueError):
            gte.Embedder(MODEL, **options)
    assert issubclass(gte.InvalidModel, gte.Error)


@pytest.mark.parametrize("name", ["xlmr-reranker", "new-reranker", "modernbert-reranker", "qwen3-reranker-logitscore"])
def test_a_reranker_is_no_embedder(name):
    with pytest.raises(gte.InvalidModel, match=f"{name} is a reranker: open it with"):
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
    embedder.embed([f"text number {i} of many" for i in range(3000)])
    progress = counted[0] - before
    stop.set()
    thread.join()
    assert progress > 100, "the interpreter's lock was not released"


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
    # Background processes of a shell start with this signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            embedder.embed(["word " * 200] * 20000)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < 20, "it was not interrupted"


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


def test_memory_stays(embedder):
    def resident():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * 4096

    # A leak shows in every round; memory that the allocator keeps shows only once.
    grown = []
    for _ in range(5):
        before = resident()
        for _ in range(2000):
            embedder.embed(["a b"])
        grown.append(resident() - before)
    assert min(grown[1:]) < 0.2e6, grown


def test_vectors_are_the_engines_buffer(embedder):
    vectors = embedder.embed(TEXTS)
    assert not vectors.flags.owndata and vectors.flags.writeable, "the memory is passed on without a copy"
    # Freed memory is overwritten and checked, so that a double free or a use after free is noticed.
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


def test_types(tmp_path):
    stubs = subprocess.run([sys.executable, "-m", "mypy.stubtest", "gte._gte"], capture_output=True, text=True)
    assert stubs.returncode == 0, stubs.stdout
    strict = subprocess.run([sys.executable, "-m", "mypy", "--strict", "-p", "gte", "--ignore-missing-imports"], capture_output=True, text=True, cwd=tmp_path)
    assert strict.returncode == 0, strict.stdout


def test_which_token_is_sent(tmp_path):
    """Requests go to a hub that records what it receives, and has nothing."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    sent = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            sent.append(self.headers.get("Authorization"))
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    hub = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        variables = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": "hf_env", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": ""}
        script = "import gte\ntry: gte.{}('a/b', token={})\nexcept gte.ModelNotFound: print('not found')"
        for door in ("Embedder", "Reranker"):
            for token, expected in [("'hf_mine'", "Bearer hf_mine"), ("None", "Bearer hf_env"), ("True", "Bearer hf_env"), ("False", None)]:
                sent.clear()
                done = subprocess.run([sys.executable, "-c", script.format(door, token)], env=variables, capture_output=True, text=True)
                assert done.stdout == "not found\n", done.stderr
                assert set(sent) == {expected}, token
    finally:
        hub.shutdown()
        hub.server_close()


def test_what_a_decoders_token_sees():
    texts = ["How do I return a kettle?"]
    said = gte.Embedder(FAMILIES / "qwen2-causal", precision="f32", threads=2).embed(texts)
    causal, full = (gte.Embedder(FAMILIES / "qwen2-causal", precision="f32", threads=2, causal=causal).embed(texts) for causal in (True, False))
    np.testing.assert_array_equal(said, causal)
    assert np.abs(full - causal).max() > 1e-3


def test_the_distribution_has_the_name_that_is_ours():
    assert importlib.metadata.version("gte-embed") == gte.__version__
    extras = importlib.metadata.metadata("gte-embed").get_all("Provides-Extra")
    for file in pathlib.Path(gte.__file__).parent.glob("*.py"):
        for name, extra in re.findall(r"pip install ([\w-]+)\[([\w-]+)\]", file.read_text(encoding="utf8").replace("\n", " ")):
            assert name == "gte-embed" and extra in extras, f"{file.name}: {name}[{extra}]"
