"""`gte.SparseEmbedder`, sparse vectors and vectors per token, on tiny models that have them."""

import json
import pickle
import subprocess

import numpy as np
import pytest
from fixtures import FAMILIES, MODEL, run

import gte

# The model's weights are random, and few tokens have a positive one.
SERVICE = "这家火锅店服务特别周到，连手机套都给你准备好。 The service at this hot pot restaurant is thoughtful. "
TEXTS = ["ＡＢＣ１２３ ﬁ ① … Ⅷ", "", "3.14 1,000 50% a@b.c ABC", "董事会 board of directors met in May", SERVICE * 5]


@pytest.fixture(scope="module")
def embedder():
    return gte.Embedder(FAMILIES / "bge-m3", precision="f32", threads=2)


@pytest.fixture(scope="module")
def sparse_embedder():
    return gte.SparseEmbedder(FAMILIES / "bge-m3", precision="f32", threads=2)


@pytest.fixture(scope="module")
def all_(embedder):
    return embedder.embed_all(TEXTS)


def lines_of_the_example(*arguments):
    binary = MODEL.parents[1] / "release/embed"
    if not binary.exists():
        pytest.fail("target/release/embed is needed: cargo build --release")
    command = [binary, "--model", FAMILIES / "bge-m3", "--precision", "f32", *arguments, "--", *TEXTS]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def rows_of(dicts):
    return [[(int(i), np.float32(weight)) for i, weight in row.items()] for row in dicts]


def test_the_engines_bits(embedder, sparse_embedder, all_):
    """The Rust example prints the shortest decimals that give the same f32."""
    theirs = [line["sparse"] for line in lines_of_the_example("--output", "sparse")]
    assert sum(map(len, theirs)) > 15
    for vectors in (all_.sparse, sparse_embedder.embed(TEXTS)):
        # Some JSON keys are sorted as strings, others as numbers.
        assert [sorted(row) for row in rows_of(vectors)] == [sorted(row) for row in rows_of(theirs)]
    theirs = [line["colbert"] for line in lines_of_the_example("--output", "colbert")]
    assert len(all_.colbert) == len(theirs) == len(TEXTS)
    for found, expected in zip(all_.colbert, theirs):
        np.testing.assert_array_equal(found, np.array(expected, np.float32).reshape(-1, all_.colbert.dim))
    np.testing.assert_array_equal(all_.dense, embedder.embed(TEXTS))


def test_sparse_vectors(sparse_embedder, all_):
    vectors = sparse_embedder.embed(TEXTS)
    assert len(vectors) == 5 and vectors.vocab == sparse_embedder.vocab and "5 vectors" in repr(vectors)
    assert (vectors.indptr.dtype, vectors.ids.dtype, vectors.weights.dtype) == (np.int64, np.uint32, np.float32)
    assert (vectors.weights > 0).all() and vectors.indptr[0] == 0 and vectors.indptr[-1] == len(vectors.ids)
    assert vectors[1] == {} and vectors[-1] == vectors[4] and len(vectors[0]) > 1
    for i, row in enumerate(vectors):
        ids = vectors.ids[vectors.indptr[i] : vectors.indptr[i + 1]].tolist()
        assert list(row) == ids == sorted(ids) and set(ids) <= set(sparse_embedder.tokenize([TEXTS[i]])[0].tolist())
    assert vectors.to_dicts() == list(vectors)
    named = vectors.to_dicts(sparse_embedder.tokens)
    assert [list(row.values()) for row in named] == [list(row.values()) for row in vectors]
    assert "B" in named[0] and "董" in named[3]
    assert list(vectors.to_dicts(lambda ids: map(str, ids))[0]) == [str(i) for i in vectors[0]]
    for part, rows in [(slice(1, 3), [1, 2]), (slice(None, None, -2), [4, 2, 0]), (slice(3, 1), []), (slice(-2, None), [3, 4])]:
        assert list(vectors[part]) == [vectors[i] for i in rows]
    with pytest.raises(IndexError):
        vectors[5]
    top = vectors.top(2)
    for row, kept in zip(vectors, top):
        assert len(kept) == min(2, len(row)) and sorted(kept.values()) == sorted(row.values())[-2:] and kept.items() <= row.items()
    with pytest.raises(ValueError, match="k is 0"):
        vectors.top(0)
    again = pickle.loads(pickle.dumps(vectors))
    assert list(again) == list(vectors) and again.vocab == vectors.vocab
    assert len(sparse_embedder.embed([])) == 0 and list(sparse_embedder.embed([])) == []


def test_products(sparse_embedder):
    vectors = sparse_embedder.embed(TEXTS)
    others = vectors[1:4]
    expected = [[sum(weight * b[i] for i, weight in a.items() if i in b) for b in others] for a in vectors]
    found = vectors.dot(others)
    assert found.dtype == np.float32 and found.shape == (5, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(vectors.dot(), vectors.dot(vectors))
    assert vectors.dot()[0, 2] > 0 and (vectors.dot()[1] == 0).all()
    with pytest.raises(ValueError, match="vocabularies"):
        vectors.dot(gte.SparseEmbeddings(np.zeros(1, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.float32), vocab=3))


def test_scipy_and_arrow(monkeypatch, sparse_embedder, all_):
    import scipy.sparse as scipy

    vectors = sparse_embedder.embed(TEXTS)
    matrix = vectors.to_scipy()
    assert isinstance(matrix, scipy.csr_array) and matrix.shape == (5, vectors.vocab)
    dense = np.zeros(matrix.shape, np.float32)
    for i, row in enumerate(vectors):
        dense[i, list(row)] = list(row.values())
    np.testing.assert_array_equal(matrix.toarray(), dense)
    np.testing.assert_allclose((matrix @ matrix.T).toarray(), vectors.dot(), rtol=1e-6)
    column = vectors.to_arrow()
    assert [{pair["id"]: np.float32(pair["weight"]) for pair in row} for row in column.to_pylist()] == list(vectors)
    matrices = all_.colbert.to_arrow().to_pylist()
    for found, expected in zip(matrices, all_.colbert):
        np.testing.assert_array_equal(np.array(found, np.float32).reshape(expected.shape), expected)
    for module, call in [("scipy.sparse", vectors.to_scipy), ("pyarrow", vectors.to_arrow), ("pyarrow", all_.colbert.to_arrow)]:
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(ImportError, match=f"needs {module.split('.')[0]}: pip install"):
            call()


def test_vectors_per_token(embedder, all_):
    vectors = all_.colbert
    assert isinstance(vectors, gte.MultiVectors) and "5 texts" in repr(vectors)
    counts = [len(ids) - 1 for ids in embedder.tokenize(TEXTS)]
    assert [matrix.shape for matrix in vectors] == [(count, vectors.dim) for count in counts]
    np.testing.assert_allclose(np.linalg.norm(vectors.values, axis=1), 1, atol=1e-6)
    assert vectors[0].base is not None, "a view without a copy"
    np.testing.assert_array_equal(vectors[-1], vectors[4])
    np.testing.assert_array_equal(vectors[1:3][1], vectors[2])
    scores = vectors.max_sim(vectors)
    expected = [[(query @ document.T).max(1).mean() for document in vectors] for query in vectors]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_allclose(np.diag(scores), 1, atol=1e-6)
    assert gte.max_sim(vectors[0], vectors[3]) == pytest.approx(scores[0, 3], abs=1e-6)
    nothing = np.zeros((0, vectors.dim), np.float32)
    assert gte.max_sim(nothing, vectors[0]) == gte.max_sim(vectors[0], nothing) == 0
    for wrong in (vectors[0][:, :5], vectors[0][0]):
        with pytest.raises(ValueError, match="max_sim of matrices"):
            gte.max_sim(vectors[0], wrong)
    with pytest.raises(ValueError, match="dimensions"):
        vectors.max_sim(gte.MultiVectors(np.zeros(1, np.int64), np.zeros((0, 3), np.float32)))
    again = pickle.loads(pickle.dumps(vectors))
    np.testing.assert_array_equal(again.values, vectors.values)


def test_what_is_asked_for_is_given(embedder, all_):
    assert embedder.outputs == ("dense", "sparse", "colbert") and gte.Embedder(MODEL).outputs == ("dense",)
    for outputs in (["dense"], ["sparse", "colbert"], ("colbert",)):
        given = embedder.embed_all(TEXTS, outputs)
        assert [name for name in given._fields if getattr(given, name) is not None] == list(outputs)
    given = embedder.embed_all([])
    assert given.dense.shape == (0, embedder.dim) and len(given.sparse) == 0 and len(given.colbert) == 0
    assert given.colbert.dim == all_.colbert.dim
    # More texts than one piece of the tokenizer, in the engine's own batches.
    many = embedder.embed_all(TEXTS * 300)
    np.testing.assert_array_equal(many.dense[-5:], all_.dense)
    assert list(many.sparse[-5:]) == list(all_.sparse)
    np.testing.assert_array_equal(many.colbert[-3], all_.colbert[2])
    for error, words, outputs in [
        (ValueError, "nonsense", ["nonsense"]),
        (ValueError, "outputs is empty", []),
        (TypeError, "expected a list", "sparse"),
    ]:
        with pytest.raises(error, match=words):
            embedder.embed_all(TEXTS, outputs)
    plain = gte.Embedder(MODEL, threads=2)
    for texts in (TEXTS, []):
        for output, file in [("sparse", "sparse_linear.pt"), ("colbert", "colbert_linear.pt")]:
            with pytest.raises(ValueError, match=file):
                plain.embed_all(texts, [output])


def test_manners(embedder, sparse_embedder):
    seen = []
    sparse_embedder.embed(TEXTS * 300, progress=seen.append)
    assert seen[-1] == 1500 and seen == sorted(seen) and len(seen) > 10
    expected = list(sparse_embedder.embed(TEXTS))
    pieces = list(sparse_embedder.embed_iter(TEXTS, 2))
    assert [len(piece) for piece in pieces] == [2, 2, 1] and [row for piece in pieces for row in piece] == expected
    assert list(pickle.loads(pickle.dumps(sparse_embedder)).embed(TEXTS)) == expected
    assert "SparseEmbedder('bge-m3', vocab=" in repr(sparse_embedder)
    for call in (sparse_embedder.embed, embedder.embed_all, lambda texts: list(sparse_embedder.embed_iter(texts))):
        for error, words, texts in [
            (TypeError, "texts is a single text", "a"),
            (ValueError, "text 3 is None", ["a", "b", "c", None]),
            (TypeError, "texts is a dict", {"a": 1}),
        ]:
            with pytest.raises(error, match=words):
                call(texts)
    with pytest.raises(ValueError, match="text 3 is None"):
        list(sparse_embedder.embed_iter(["a", "b", "c", None], 2))


def test_prompts(embedder, sparse_embedder):
    expected = list(sparse_embedder.embed(["query: ABC 123"]))
    assert expected != list(sparse_embedder.embed(["ABC 123"]))
    for vectors in (
        sparse_embedder.embed(["ABC 123"], prompt="query: "),
        embedder.embed_all(["ABC 123"], prompt="query: ").sparse,
        next(sparse_embedder.embed_iter(["ABC 123"], prompt="query: ")),
    ):
        assert list(vectors) == expected
    assert list(sparse_embedder.embed(["ABC 123"], prompt_name="query")) == list(sparse_embedder.embed(["ABC 123"]))
    for texts in (["a"], []):
        with pytest.raises(ValueError, match='prompt_name is "nonsense"'):
            sparse_embedder.embed(texts, prompt_name="nonsense")
        with pytest.raises(ValueError, match="pass only one of them"):
            sparse_embedder.embed(texts, prompt="a", prompt_name="query")


def test_tokens_by_id(sparse_embedder):
    ids = sparse_embedder.tokenize(["Hello"])[0]
    tokens = sparse_embedder.tokens(ids)
    assert tokens[0] == "<s>" and tokens[-1] == "</s>" and "".join(tokens[1:-1]) == "▁Hello"
    assert gte.Embedder(MODEL).tokens([101, 102]) == ["[CLS]", "[SEP]"]
    with pytest.raises(ValueError, match="token id 999999 is outside the vocabulary"):
        sparse_embedder.tokens([999_999])


def test_models_that_have_no_weights():
    model = gte.SparseEmbedder(FAMILIES / "new-sparse", threads=2)
    assert model.outputs == ("dense", "sparse") and len(model.embed(TEXTS)) == 5
    with pytest.raises(gte.InvalidModel, match="sparse_linear.pt"):
        gte.SparseEmbedder(MODEL)
    with pytest.raises(gte.InvalidModel, match="is a reranker"):
        gte.SparseEmbedder(FAMILIES / "xlmr-reranker")


@pytest.mark.parametrize("kind", ["sparse", "colbert"])
def test_files(tmp_path, embedder, kind):
    import pyarrow.parquet

    texts = [f"ABC {i} in May 3.14" for i in range(2100)]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    command = ["embed", tmp_path / "in.txt", "--vectors", kind, "--precision", "f32", "--model", FAMILIES / "bge-m3"]
    expected = getattr(embedder.embed_all(texts, [kind]), kind)
    for name in ("out.jsonl", "out.parquet"):
        done = run(*command, "-o", tmp_path / name)
        assert done.returncode == 0 and f"2100 texts, {kind}" in done.stderr, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert [line["text"] for line in lines] == table["text"].to_pylist() == texts
    columns = [[line[kind] for line in lines], table[kind].to_pylist()]
    if kind == "sparse":
        columns[1] = [{pair["id"]: pair["weight"] for pair in row} for row in columns[1]]
        assert all(rows_of(column) == rows_of(expected) for column in columns)
    else:
        for column in columns:
            for found, wanted in zip(column, expected):
                np.testing.assert_array_equal(np.array(found, np.float32), wanted)
    assert not list(tmp_path.glob("*.parts")) and not list(tmp_path.glob("*.tmp"))
    (tmp_path / "none.txt").write_text("")
    for name in ("none.jsonl", "none.parquet"):
        assert run("embed", tmp_path / "none.txt", *command[2:], "-o", tmp_path / name).returncode == 0
    assert len(pyarrow.parquet.read_table(tmp_path / "none.parquet")) == 0
    for arguments, words in [(["-o", tmp_path / "out.npy"], ".jsonl, .parquet"), (["-o", tmp_path / "x.jsonl", "--model", MODEL], f"{kind}_linear.pt")]:
        done = run(*command, *arguments)
        assert done.returncode == 1 and words in done.stderr and not list(tmp_path.glob("x.*")), done.stderr
