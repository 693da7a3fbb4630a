"""gte on the real MiniLM weights: numbers, arguments, manners, drop-ins, files."""

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
from pathlib import Path

import numpy as np
import pytest

import gte

MODEL = Path(__file__).resolve().parents[2] / "target/models/all-MiniLM-L6-v2"
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
    assert embedder.embed([]).shape == (0, 384)


def test_wrong_texts_are_named(embedder):
    import pyarrow

    for texts, error, words in [
        ("one text", TypeError, "list"),
        (["a", 1], TypeError, "text 1 is of type int"),
        (["a", None], ValueError, "text 1 is None"),
        (7, TypeError, "int"),
        (pyarrow.array([1, 2]), TypeError, "Int64"),
        (pyarrow.array(["a", None]), ValueError, "text 1 is null"),
    ]:
        with pytest.raises(error, match=words):
            embedder.embed(texts)


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
    assert isinstance(embedder.encode(TEXTS, convert_to_numpy=False), list)
    np.testing.assert_array_equal(embedder.encode("x", prompt="query: "), embedder.embed(["query: x"])[0])


def test_langchain(embedder, expected):
    from langchain_core.vectorstores import InMemoryVectorStore

    from gte.langchain import GteEmbeddings

    store = InMemoryVectorStore.from_texts(["The sky is blue.", "Refunds take three days."], GteEmbeddings(embedder))
    assert store.similarity_search("How can I get my money back?", k=1)[0].page_content.startswith("Refunds")
    np.testing.assert_array_equal(np.array(GteEmbeddings(embedder).embed_documents(TEXTS), np.float32), expected)


def test_llama_index(embedder, expected):
    from gte.llama_index import GteEmbedding

    model = GteEmbedding(embedder)
    np.testing.assert_array_equal(np.array(model.get_text_embedding_batch(TEXTS[2:4]), np.float32), expected[2:4])
    assert model.get_query_embedding(TEXTS[0]) == expected[0].tolist()


def test_modelscope(embedder, expected):
    from gte.modelscope import Pipeline

    answer = Pipeline(embedder)({"source_sentence": [TEXTS[0]], "sentences_to_compare": TEXTS[2:4]})
    np.testing.assert_array_equal(answer["text_embedding"], expected[[0, 2, 3]])
    np.testing.assert_allclose(answer["scores"], expected[0] @ expected[2:4].T, atol=1e-6)


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
        ("old.csv", "text\n退货\n".encode("gb18030"), "GB18030"),
        ("cut.jsonl", b'"a"\n{"text": \n', "line 2"),
        ("null.jsonl", b'"a"\n{"body": "b"}\n', "line 2"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            read(name, content)
        assert name in str(error.value)


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
