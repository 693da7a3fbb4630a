"""`gte.Reranker` on tiny models of every family of rerankers: numbers, arguments, behaviour, files.
"""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fixtures import FAMILIES, MODEL, run

import gte

RERANKERS = [
    "bert-classifier",
    "modernbert-reranker",
    "modernbert-reranker-cls",
    "new-reranker",
    "qwen3-reranker",
    "qwen3-reranker-logitscore",
    "qwen3-seqcls",
    "xlmr-reranker",
]
QUERY = "怎么退货？"
DOCUMENTS = ["七天内可以退货。", "今天天气真好。", "", "How do I return it?"]


@pytest.fixture(scope="module")
def reranker():
    return gte.Reranker(FAMILIES / "xlmr-reranker", precision="f32", threads=2)


@pytest.fixture(scope="module")
def language_model():
    return gte.Reranker(FAMILIES / "qwen3-reranker", precision="f32", threads=2)


def sigmoid(logits):
    return (1 / (1 + np.exp(-np.asarray(logits, np.float64)))).astype(np.float32)


@pytest.mark.parametrize("name", RERANKERS)
def test_scores_are_those_of_transformers(name):
    model = gte.Reranker(FAMILIES / name, precision="f32", threads=2)
    asked = json.loads((FAMILIES / name / "expected.json").read_text())
    assert len(asked["scores"]) == 2
    for question in asked["scores"]:
        query, documents, logits = question["query"], question["documents"], np.array(question["logits"], np.float32)
        size = np.maximum(np.abs(logits), 1).max()
        raw = model.scores(query, documents, raw=True)
        assert raw.dtype == np.float32 and raw.shape == logits.shape
        np.testing.assert_allclose(raw, logits, atol=1e-5 * size)
        np.testing.assert_allclose(model.scores(query, documents), sigmoid(logits), atol=1e-5)
        np.testing.assert_array_equal(model.logits(query, documents)[:, 0], raw)
        np.testing.assert_array_equal(model.score_pairs([(query, text) for text in documents], raw=True), raw)
        assert [hit.index for hit in model.rank(query, documents)] == np.argsort(-raw, kind="stable").tolist()
    for pair in asked["texts"]:
        assert model.tokenize(pair["query"], [pair["document"]])[0].tolist() == pair["ids"]


@pytest.mark.parametrize("arguments", [[], ["--raw"]])
@pytest.mark.parametrize("name", ["xlmr-reranker", "qwen3-reranker"])
def test_the_engines_bits(tmp_path, name, arguments):
    """The Rust example and our command print the same line."""
    binary = MODEL.parents[1] / "release/rerank"
    if not binary.exists():
        pytest.fail("target/release/rerank is needed: cargo build --release")
    # The limits are 64 and 512 tokens, and some of these pairs are a little longer.
    lengths = ["x " * count for count in range(20, 340, 8)]
    lines = [{"query": QUERY, "documents": DOCUMENTS}, {"query": "x " * 700, "documents": ["y " * 700, "z"]}]
    lines.append({"query": QUERY, "documents": lengths})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    model = ["--model", str(FAMILIES / name), *arguments]
    theirs = subprocess.run([binary, *model], input=text, capture_output=True, text=True, check=True).stdout.splitlines()
    ours = run("rerank", *model, input=text)
    assert ours.returncode == 0, ours.stderr
    assert [json.loads(line) for line in ours.stdout.splitlines()] == [json.loads(line) for line in theirs]
    assert "true" in theirs[1], "the long pair is truncated"


def test_rank(reranker):
    scores = reranker.scores(QUERY, DOCUMENTS)
    ranked = reranker.rank(QUERY, DOCUMENTS, return_documents=True)
    assert sorted(hit.index for hit in ranked) == [0, 1, 2, 3]
    for hit in ranked:
        assert hit.score == scores[hit.index] and hit.document == DOCUMENTS[hit.index] and isinstance(hit.score, float)
    assert [hit.score for hit in ranked] == sorted(scores.tolist(), reverse=True)
    assert reranker.rank(QUERY, DOCUMENTS, top_n=2) == [hit._replace(document=None) for hit in ranked[:2]]
    assert reranker.rank(QUERY, DOCUMENTS, top_n=0) == [] and reranker.rank(QUERY, []) == []
    index, score, document = reranker.rank(QUERY, ["a", "a"], raw=True)[0]
    assert index == 0 and document is None and score == reranker.scores(QUERY, ["a"], raw=True)[0]
    with pytest.raises(ValueError, match="top_n is -1"):
        reranker.rank(QUERY, DOCUMENTS, top_n=-1)
    with pytest.raises(TypeError, match="documents"):
        reranker.rank(QUERY, "a single text", return_documents=True)


def test_every_kind_of_documents(reranker):
    import pandas
    import polars
    import pyarrow

    expected = reranker.scores(QUERY, DOCUMENTS)
    for documents in [
        tuple(DOCUMENTS),
        (text for text in DOCUMENTS),
        np.array(DOCUMENTS),
        pandas.Series(DOCUMENTS),
        polars.Series(DOCUMENTS),
        pyarrow.array(DOCUMENTS),
        pyarrow.chunked_array([DOCUMENTS[:1], DOCUMENTS[1:]]),
    ]:
        np.testing.assert_array_equal(reranker.scores(QUERY, documents), expected, err_msg=str(type(documents)))
        if not hasattr(documents, "send"):
            ranked = reranker.rank(QUERY, documents, top_n=1, return_documents=True)
            assert ranked[0].document == DOCUMENTS[ranked[0].index], type(documents)
    assert reranker.scores(QUERY, []).shape == (0,) and reranker.logits(QUERY, []).shape == (0, 1)
    assert reranker.score_pairs([]).shape == (0,)


def test_a_score_does_not_depend_on_its_neighbours(reranker, language_model):
    for model in (reranker, language_model):
        documents = [f"{text} {i}" for i, text in enumerate(DOCUMENTS * 40)]
        together = model.scores(QUERY, documents, raw=True)
        for i in (0, 7, 159):
            assert model.scores(QUERY, documents[i : i + 1], raw=True)[0] == together[i]
        queries = [f"{QUERY} {i // 3}" for i in range(len(documents))]
        pairs = model.score_pairs(zip(queries, documents), raw=True)
        for i in (0, 8, 159):
            assert model.scores(queries[i], [documents[i]], raw=True)[0] == pairs[i]


def test_wrong_arguments_are_named(reranker, language_model):
    for error, words, query, documents in [
        (TypeError, "query is of type list", [QUERY], ["a"]),
        (TypeError, "query is of type NoneType", None, ["a"]),
        (TypeError, "documents is a single text", QUERY, "a"),
        (TypeError, "documents is a dict", QUERY, {"a": "b"}),
        (TypeError, "document 1 is of type int", QUERY, ["a", 1]),
        (ValueError, "document 1 is None", QUERY, ["a", None]),
        (ValueError, r"document 2 is not UTF-8.*U\+D800 at character 1", QUERY, ["a", "b", "c\ud800"]),
        (ValueError, "query is not UTF-8", "\udfff", ["a"]),
    ]:
        for call in (reranker.scores, reranker.rank, reranker.logits, reranker.tokenize, reranker.count_tokens):
            with pytest.raises(error, match=words):
                call(query, documents)
    for error, words, pairs in [
        (TypeError, "pairs is of type str", "ab"),
        (TypeError, "pair 1 is of type str", [("a", "b"), "ab"]),
        (TypeError, "pair 0 has 3 texts", [("a", "b", "c")]),
        (TypeError, "query 1 is of type int", [("a", "b"), (1, "b")]),
        (ValueError, "document 0 is None", [("a", None)]),
    ]:
        with pytest.raises(error, match=words):
            reranker.score_pairs(pairs)
    for documents in ([], ["a"]):
        for call in (reranker.scores, reranker.rank, reranker.tokenize):
            with pytest.raises(ValueError, match="instruction is .*xlmr-reranker is a cross-encoder"):
                call(QUERY, documents, instruction="x")
        with pytest.raises(ValueError, match='prompt_name is "nonsense"'):
            reranker.scores(QUERY, documents, prompt_name="nonsense")
    for told in ({"instruction": "a", "prompt": "b"}, {"prompt": "a", "prompt_name": "b"}):
        with pytest.raises(ValueError, match="pass only one of them"):
            language_model.scores(QUERY, ["a"], **told)


def test_wrong_models_and_options(tmp_path):
    with pytest.raises(gte.InvalidModel, match="all-MiniLM-L6-v2 is an embedder: open it with gte.Embedder"):
        gte.Reranker(MODEL)
    with pytest.raises(gte.InvalidModel, match="xlmr-reranker is a reranker: open it with gte.Reranker"):
        gte.Embedder(FAMILIES / "xlmr-reranker")
    with pytest.raises(gte.ModelNotFound):
        gte.Reranker(tmp_path)
    for options in [{"threads": 0}, {"precision": "int3"}, {"device": "tpu"}, {"max_length": 1}, {"max_batch_tokens": 0}]:
        with pytest.raises(ValueError):
            gte.Reranker(FAMILIES / "xlmr-reranker", **options)
    with pytest.raises(TypeError, match="pooling"):
        gte.Reranker(FAMILIES / "xlmr-reranker", pooling="mean")
    several = gte.Reranker(FAMILIES / "bert-classifier-3", precision="f32", threads=2)
    assert several.labels == 3 and several.logits("a", ["b", "c"]).shape == (2, 3)
    for raw in (True, False):
        with pytest.raises(gte.InvalidModel, match="3 labels"):
            several.scores("a", ["b"], raw=raw)


def with_prompts(place, name, prompts, **settings):
    place.mkdir()
    for path in (FAMILIES / name).iterdir():
        if path.name != "config_sentence_transformers.json":
            (place / path.name).symlink_to(path)
    content = {"prompts": prompts, **settings}
    known = FAMILIES / name / "config_sentence_transformers.json"
    if known.exists():
        content = {**json.loads(known.read_text()), **content}
    (place / "config_sentence_transformers.json").write_text(json.dumps(content))
    return gte.Reranker(place, precision="f32", threads=2)


def test_an_instruction_tells_a_language_model(language_model, tmp_path):
    plain = language_model.scores(QUERY, DOCUMENTS, raw=True)
    told = language_model.scores(QUERY, DOCUMENTS, raw=True, instruction="Find a poem")
    assert language_model.takes_instruction and (plain != told).all()
    np.testing.assert_array_equal(language_model.scores(QUERY, DOCUMENTS, raw=True, prompt="Find a poem"), told)
    pairs = [(QUERY, document) for document in DOCUMENTS] + [("another", DOCUMENTS[0])]
    np.testing.assert_array_equal(language_model.score_pairs(pairs, raw=True, instruction="Find a poem")[:4], told)
    ids = language_model.tokenize(QUERY, DOCUMENTS, instruction="Find a poem")
    assert len(ids) == 4 and ids[0].dtype == np.uint32
    assert [len(i) for i in ids] == language_model.count_tokens(QUERY, DOCUMENTS, instruction="Find a poem").tolist()


def test_prompts_of_the_files(reranker, tmp_path):
    plain = with_prompts(tmp_path / "plain", "qwen3-reranker-logitscore", {"poem": "Find a poem"}, default_prompt_name=None)
    told = plain.scores(QUERY, DOCUMENTS, raw=True, instruction="Find a poem")
    np.testing.assert_array_equal(plain.scores(QUERY, DOCUMENTS, raw=True, prompt_name="poem"), told)
    model = with_prompts(tmp_path / "default", "qwen3-reranker-logitscore", {"poem": "Find a poem"}, default_prompt_name="poem")
    assert model.default_prompt_name == "poem" and model.prompts["poem"] == "Find a poem"
    np.testing.assert_array_equal(model.scores(QUERY, DOCUMENTS, raw=True), told)
    with pytest.raises(ValueError, match="prompt is empty"):
        model.scores(QUERY, DOCUMENTS, prompt="")
    # Before the query of a cross-encoder, as in sentence-transformers.
    assert not reranker.takes_instruction
    expected = reranker.scores("query: " + QUERY, DOCUMENTS, raw=True)
    np.testing.assert_array_equal(reranker.scores(QUERY, DOCUMENTS, raw=True, prompt="query: "), expected)
    pairs = [(QUERY, document) for document in DOCUMENTS] + [("another", DOCUMENTS[0])]
    np.testing.assert_array_equal(reranker.score_pairs(pairs, raw=True, prompt="query: ")[:4], expected)
    assert (reranker.score_pairs(pairs, raw=True)[:4] != expected).any()


def test_manners(reranker, language_model):
    for model in (reranker, language_model):
        seen = []
        model.scores(QUERY, DOCUMENTS * 500, progress=seen.append)
        assert seen[-1] == 2000 and seen == sorted(seen) and len(seen) > 10
        with pytest.raises(ZeroDivisionError):
            model.scores(QUERY, ["a"], progress=lambda done: 1 / 0)
    assert "xlmr-reranker" in repr(reranker) and "labels=1" in repr(reranker)
    expected = reranker.scores(QUERY, DOCUMENTS)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reranker)).scores(QUERY, DOCUMENTS), expected)
    results = [None] * 6

    def work(i):
        results[i] = reranker.scores(QUERY, DOCUMENTS)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for result in results:
        np.testing.assert_array_equal(result, expected)


def _child(reranker, queue):
    queue.put(reranker.scores(QUERY, DOCUMENTS))


def test_a_forked_process_opens_the_model_again(reranker):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_child, args=(reranker, queue))
    process.start()
    np.testing.assert_array_equal(queue.get(timeout=60), reranker.scores(QUERY, DOCUMENTS))
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.parametrize("name", ["xlmr-reranker", "qwen3-reranker"])
def test_other_threads_run_meanwhile_and_an_interrupt_stops(name):
    model = gte.Reranker(FAMILIES / name, threads=2)
    counted, stop = [0], threading.Event()

    def count():
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=count)
    thread.start()
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    done = []
    try:
        with pytest.raises(KeyboardInterrupt):
            model.scores(QUERY, ["word " * 100] * 200_000, progress=done.append)
    finally:
        signal.signal(signal.SIGINT, before)
        stop.set()
        thread.join()
    assert counted[0] > 100, "the interpreter's lock was not released"
    assert not done or done[-1] < 200_000, "it was not interrupted"


def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


def test_files(tmp_path, reranker):
    model = ["--model", FAMILIES / "xlmr-reranker", "--precision", "f32"]
    questions = [{"query": f"{QUERY} {i}", "documents": DOCUMENTS[: i % 4]} for i in range(30)]
    (tmp_path / "in.jsonl").write_text("\n\n".join(json.dumps(question) for question in questions))
    done = run("rerank", tmp_path / "in.jsonl", *model)
    assert done.returncode == 0, done.stderr
    answers = lines_of(done.stdout)
    for question, answer in zip(questions, answers):
        scores = reranker.scores(question["query"], question["documents"])
        assert np.array_equal(np.array(answer["scores"], np.float32), scores)
        assert answer["ranking"] == np.argsort(-scores, kind="stable").tolist()
        assert answer["truncated"] == [False] * len(scores)
    assert len(answers) == 30
    written = run("rerank", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", *model)
    assert written.returncode == 0 and not written.stdout and lines_of((tmp_path / "out.jsonl").read_text()) == answers
    assert not list(tmp_path.glob("*.tmp"))
    tsv = "".join("\t".join([question["query"], *question["documents"]]) + "\r\n" for question in questions if question["documents"])
    (tmp_path / "in.tsv").write_text("\ufeff" + tsv, newline="")
    wanted = [answer for answer in answers if answer["scores"]]
    for arguments, text in [([tmp_path / "in.tsv"], None), (["--tsv"], tsv), (["-", "--tsv"], tsv)]:
        done = run("rerank", *arguments, *model, input=text)
        assert done.returncode == 0 and lines_of(done.stdout) == wanted, done.stderr

    told = [{"query": QUERY, "documents": DOCUMENTS, "instruction": "Find a poem"}, {"query": QUERY, "documents": DOCUMENTS}]
    text = "".join(json.dumps(line) + "\n" for line in told)
    done = run("rerank", "--model", FAMILIES / "qwen3-reranker", "--instruction", "Find a poem", input=text)
    assert done.returncode == 0, done.stderr
    first, second = lines_of(done.stdout)
    assert first == second
    for arguments, words in [
        (["rerank", tmp_path / "in.csv", *model], "in.csv: expected a .jsonl or .tsv"),
        (["rerank", tmp_path / "none.jsonl", *model], "none.jsonl"),
        (["rerank", "--instruction", "x", *model], "instruction"),
        (["rerank"], "use --model"),
        (["rerank", "--model", MODEL], "is an embedder"),
    ]:
        done = run(*arguments, input="", env={**os.environ, "GTE_MODEL": ""})
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_bad_lines_are_named_and_left_out(tmp_path, reranker):
    good = json.dumps({"query": QUERY, "documents": DOCUMENTS}).encode()
    bad = [
        (b"{", "line 2 is not JSON"),
        (b'["a"]', "line 2 is \\['a'\\], expected an object"),
        (b'{"query": "a"}', "line 2 has no key 'documents'"),
        (b'{"documents": []}', "line 2 has no key 'query'"),
        (b'{"query": "a", "documents": [], "document": 1}', "line 2 has the unknown key 'document'"),
        (b'{"query": 7, "documents": []}', "line 2 has a query that is 7"),
        (b'{"query": "a", "documents": "b"}', "line 2 has 'b' as documents"),
        (b'{"query": "a", "documents": ["b", null]}', "line 2 has document 1, which is None"),
        (b'{"query": "a", "documents": ["\\ud800"]}', r"line 2 has document 0, which is not UTF-8 .*U\+D800"),
        (b'{"query": "a", "documents": [], "instruction": 1}', "line 2 has an instruction that is 1"),
        (b"\xff", "line 2 is not UTF-8 .byte 0xff"),
        (b"[" * 100_000, "line 2 is JSON with too many levels"),
    ]
    from gte.questions import read_questions

    for line, words in bad:
        lines = [part.decode("utf-8", "surrogateescape") for part in (good, line)]
        with pytest.raises(ValueError, match=words) as error:
            list(read_questions(lines, False, "in.jsonl"))
        assert "in.jsonl" in str(error.value) and "--skip-bad-lines" in str(error.value)
    with pytest.raises(ValueError, match="line 1 has no document"):
        list(read_questions(["a query alone\n"], True, "in.tsv"))

    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join([good, *(line for line, _ in bad), good]))
    command = ["rerank", source, "--model", FAMILIES / "xlmr-reranker"]
    for arguments in (command, [*command, "-o", target]):
        stopped = run(*arguments)
        assert stopped.returncode == 1 and not stopped.stdout and "in.jsonl, line 2 is not JSON" in stopped.stderr
    assert not list(tmp_path.glob("out*")), "the line must be found before anything is written"
    done = run(*command, "--skip-bad-lines", "-o", target)
    assert done.returncode == 0 and "12 skipped" in done.stderr, done.stderr
    assert len(lines_of(target.read_text())) == 2
    listed = lines_of((tmp_path / "out.jsonl.skipped.jsonl").read_text())
    assert [line["place"] for line in listed] == [f"line {number}" for number in range(2, 14)]
    done = run(*command, "--skip-bad-lines")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2 and "and 2 more" in done.stderr
    source.write_bytes(good)
    assert run(*command, "--skip-bad-lines", "-o", target).returncode == 0
    assert not (tmp_path / "out.jsonl.skipped.jsonl").exists(), "the list of the previous run"


def test_answers_come_line_by_line():
    command = [Path(os.sys.executable), "-m", "gte", "rerank", "--model", str(FAMILIES / "xlmr-reranker")]
    line = json.dumps({"query": QUERY, "documents": DOCUMENTS}) + "\n"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(2):
            process.stdin.write(line)
            process.stdin.flush()
            assert len(json.loads(process.stdout.readline())["scores"]) == 4
        process.stdin.close()
        assert process.wait(60) == 0
