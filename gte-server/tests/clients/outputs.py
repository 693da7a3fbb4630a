"""Tests what a server with several models returns besides rankings: Cohere's embed, sparse and
ColBERT vectors, raw bytes, prompts: python outputs.py
"""
import base64
import json

import cohere
import numpy as np
from families import EMBEDDERS, FIXTURES, Client, refused, serving
from qdrant_client import QdrantClient, models

TEXTS = ["How do I return a kettle?", "The weather is lovely today.", "怎么退货？", ""]


def unit(rows):
    rows = np.array(rows, dtype="float64")
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cohere_embed(client):
    """Cohere's client of version 2: every format, input types with the model's prompts, errors."""
    v2 = cohere.ClientV2("a-key", base_url=client.url)

    def embed(model="bge-m3", texts=TEXTS, input_type="search_document", types=("float",), **more):
        return v2.embed(model=model, texts=texts, input_type=input_type, embedding_types=list(types), request_options={"max_retries": 0}, **more)

    plain = client.post("/v1/embeddings", model="bge-m3", input=TEXTS)["data"]
    found = embed(types=("float", "int8", "uint8", "binary", "ubinary", "base64"))
    vectors = np.array(found.embeddings.float_, dtype="float32")
    assert found.texts == TEXTS and found.response_type == "embeddings_by_type" and found.meta.billed_units.input_tokens > 0
    assert np.array_equal(vectors, np.array([item["embedding"] for item in plain], dtype="float32"))
    packed = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in found.embeddings.base64]
    assert np.array_equal(vectors, packed)
    int8, uint8 = np.array(found.embeddings.int8), np.array(found.embeddings.uint8)
    assert np.array_equal(int8 + 128, uint8) and int8.min() >= -127 and (np.abs(int8).max(axis=1) == 127).all()
    assert ((unit(int8) * vectors).sum(axis=1) > 0.999).all()
    bits = np.packbits(vectors > 0, axis=1)
    assert np.array_equal(bits, found.embeddings.ubinary) and np.array_equal(bits.astype(int) - 128, found.embeddings.binary)
    parts = v2.embed(model="bge-m3", input_type="search_document", embedding_types=["float"],
                     inputs=[{"content": [{"type": "text", "text": text}]} for text in TEXTS])
    assert parts.embeddings.float_ == found.embeddings.float_
    # Version 1, without formats in the request. Its client sends 96 texts per request.
    v1 = cohere.Client("a-key", base_url=client.url)
    old = v1.embed(model="bge-m3", texts=TEXTS * 30, input_type="search_document")
    assert old.response_type == "embeddings_floats" and old.embeddings == found.embeddings.float_ * 30 and old.texts == TEXTS * 30
    old = v1.embed(model="bge-m3", texts=TEXTS, input_type="search_document", embedding_types=["int8"])
    assert old.embeddings.int8 == found.embeddings.int8
    short = embed(output_dimension=8)
    np.testing.assert_allclose(np.array(short.embeddings.float_), unit(vectors[:, :8]), atol=1e-6)
    # With the model's prompt for queries.
    query = embed(model="qwen3", input_type="search_query").embeddings.float_
    assert query == embed(model="qwen3", input_type="query").embeddings.float_
    prompt = json.loads((FIXTURES / "qwen3/config_sentence_transformers.json").read_text())["prompts"]["query"]
    bare = client.post("/v1/embeddings", model="qwen3", input=[prompt + text for text in TEXTS])["data"]
    assert query == [item["embedding"] for item in bare]
    for input_type in ("search_document", "document", "classification", "clustering"):
        assert embed(model="qwen3", input_type=input_type).embeddings.float_ != query
    long = "many words about kettles " * 100
    end, start = (embed(texts=[long + "the end"], truncate=side) for side in ("END", "START"))
    assert end.embeddings.float_ != start.embeddings.float_ and "1 of the texts" in str(end.meta.warnings)
    for error, words, call in [
        (cohere.UnprocessableEntityError, ["must have less than"], lambda: embed(texts=[long], truncate="NONE")),
        (cohere.UnprocessableEntityError, ["truncate"], lambda: embed(truncate="MIDDLE")),
        (cohere.UnprocessableEntityError, ["embedding_types", "int4"], lambda: embed(types=["int4"])),
        (cohere.UnprocessableEntityError, ["embedding_types"], lambda: embed(types=[])),
        (cohere.UnprocessableEntityError, ["output_dimension"], lambda: embed(output_dimension=9999)),
        (cohere.UnprocessableEntityError, ["input_type", "image"], lambda: embed(input_type="image")),
        (cohere.UnprocessableEntityError, ["images"], lambda: v2.embed(model="bge-m3", input_type="image", embedding_types=["float"], images=["data:"])),
        (cohere.UnprocessableEntityError, ["texts"], lambda: embed(texts=[])),
        (cohere.NotFoundError, ["this server has", *EMBEDDERS], lambda: embed(model="nonsense")),
        (cohere.core.api_error.ApiError, ["424", "cannot make vectors"], lambda: embed(model="xlmr-reranker")),
    ]:
        refused(call, *words, error=error)
    print("cohere embed: passed")


def bare_bytes(client):
    """The raw bytes equal the numbers in JSON."""
    def both(path, kind="<f4", **body):
        answer = client.http.post(client.url + path, json=body, headers={"Accept": "application/octet-stream"})
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/octet-stream", answer.text
        names = {"float32": "<f4", "int8": "i1", "uint8": "u1"}
        assert names[answer.headers["x-embedding-type"]] == kind
        shape = [int(n) for n in answer.headers["x-embedding-shape"].split(",")]
        return np.frombuffer(answer.content, dtype=kind).reshape(shape), client.post(path, **body)

    for model in EMBEDDERS:
        for more in ({}, {"dimensions": 8}, {"input_type": "query"}):
            found, answer = both("/v1/embeddings", model=model, input=TEXTS, **more)
            assert np.array_equal(found, np.array([item["embedding"] for item in answer["data"]], dtype="<f4"))
            for more_yet in ({}, {"normalize": False}):
                found, answer = both("/embed", model=model, inputs=TEXTS, **more, **more_yet)
                assert np.array_equal(found, np.array(answer, dtype="<f4")), (model, more, more_yet)
        for output, kind in [("float", "<f4"), ("int8", "i1"), ("uint8", "u1"), ("binary", "i1"), ("ubinary", "u1")]:
            found, answer = both("/v1/embeddings", kind, model=model, input=TEXTS, output_dtype=output)
            assert np.array_equal(found, np.array([item["embedding"] for item in answer["data"]], dtype=kind)), output
            packed = client.post("/v1/embeddings", model=model, input=TEXTS, output_dtype=output, encoding_format="base64")["data"]
            assert b"".join(base64.b64decode(item["embedding"]) for item in packed) == found.tobytes()
            found, answer = both("/embed", kind, model=model, inputs=TEXTS, output_dtype=output)
            assert np.array_equal(found, np.array(answer, dtype=kind))
    # A client that prefers JSON, or accepts anything, gets JSON; an error is always JSON.
    for accept in ("application/json, application/octet-stream", "*/*", "application/json"):
        answer = client.http.post(f"{client.url}/embed", json={"inputs": "a", "model": "bge-m3"}, headers={"Accept": accept})
        assert answer.headers["content-type"] == "application/json", accept
    answer = client.http.post(f"{client.url}/embed", json={"inputs": [], "model": "bge-m3"}, headers={"Accept": "application/octet-stream"})
    assert answer.status_code == 422 and answer.json()["error_type"] == "Empty"
    print("bare bytes: passed")


def sparse_and_colbert(client):
    """Token ids and weights equal those of transformers, on both routes, and a vector database can
    search by them.
    """
    for model in ("bge-m3", "new-sparse"):
        all_ids = json.loads((FIXTURES / model / "expected.json").read_text())["cases"]
        cases = [case for case in all_ids if "sparse" in case]
        # All weights of the tiny new-sparse are 0.
        assert model == "new-sparse" or any(len(case["sparse"]) > 5 for case in cases)
        ids = [case["ids"] for case in cases]
        outputs = client.post("/v1/outputs", model=model, input=ids)["data"]
        for case, found, alone in zip(cases, outputs, client.post("/embed_sparse", model=model, inputs=ids), strict=True):
            weights = dict(zip(found["sparse"]["indices"], found["sparse"]["values"]))
            assert {value["index"]: value["value"] for value in alone} == weights
            assert found["sparse"]["indices"] == sorted(weights) and {str(key) for key in weights} == case["sparse"].keys()
            np.testing.assert_allclose(list(weights.values()), [case["sparse"][str(key)] for key in weights], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(found["dense"], case["embedding"], atol=2e-6)
            if "colbert" in case:
                np.testing.assert_allclose(found["colbert"], case["colbert"], atol=4e-6)
            assert ("colbert" in found) == (model == "bge-m3")
    for outputs in (["dense"], ["sparse"], ["colbert"], ["sparse", "colbert"]):
        item = client.post("/v1/outputs", model="bge-m3", input=TEXTS[0], outputs=outputs)["data"][0]
        assert item.keys() == {"index", *outputs}, item.keys()
    client.refused("/v1/outputs", 422, "outputs", model="bge-m3", input="a", outputs=["words"])
    client.refused("/v1/outputs", 422, "outputs", "dense, sparse and colbert", model="bge-m3", input="a", outputs=[])
    client.refused("/v1/outputs", 424, "vector per token", model="new-sparse", input="a", outputs=["colbert"])
    client.refused("/v1/outputs", 424, "sparse", model="qwen3", input="a", outputs=["sparse"])
    client.refused("/embed_sparse", 424, "sparse", model="qwen3", inputs="a")
    states = client.post("/embed_all", model="bge-m3", inputs=TEXTS)
    counts = [len(tokens) for tokens in client.post("/tokenize", model="bge-m3", inputs=TEXTS)]
    assert [len(text) for text in states] == counts and len(states[0][0]) == 32


def qdrant(client):
    """Hybrid search: dense, sparse and ColBERT vectors of one response in one collection."""
    database = QdrantClient(":memory:")
    cosine = models.Distance.COSINE
    database.create_collection(
        "texts", vectors_config={
            "dense": models.VectorParams(size=32, distance=cosine),
            "colbert": models.VectorParams(size=32, distance=cosine, multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)),
        }, sparse_vectors_config={"sparse": models.SparseVectorParams()})
    texts = [text for text in TEXTS if text] + ["holiday economy " * i for i in range(1, 8)]
    made = client.post("/v1/outputs", model="bge-m3", input=texts)["data"]
    database.upsert("texts", [models.PointStruct(id=item["index"], vector={
        "dense": item["dense"], "colbert": item["colbert"], "sparse": models.SparseVector(**item["sparse"])}) for item in made])
    query = client.post("/v1/outputs", model="bge-m3", input=texts[4])["data"][0]
    for name, vector in [("dense", query["dense"]), ("colbert", query["colbert"]), ("sparse", models.SparseVector(**query["sparse"]))]:
        points = database.query_points("texts", query=vector, using=name, limit=3).points
        if name != "sparse" or query["sparse"]["indices"]:
            assert points, name
        if name == "dense":
            assert points[0].id == 4 and abs(points[0].score - 1) < 1e-5, points
    print("sparse, colbert, qdrant: passed")


def main():
    with serving(*EMBEDDERS, "xlmr-reranker", options=("--token-ids",)) as server:
        client = Client(server.url)
        cohere_embed(client)
        bare_bytes(client)
        sparse_and_colbert(client)
        qdrant(client)
    # Responses from the cache are the same, bit for bit.
    with serving("bge-m3", options=("--cache-mb", "16")) as server:
        client = Client(server.url)
        for path, body in [("/v1/outputs", {"input": TEXTS}), ("/embed", {"inputs": TEXTS, "normalize": False}), ("/embed_sparse", {"inputs": TEXTS})]:
            assert client.post(path, **body) == client.post(path, **body)
        assert "cache" in client.http.get(f"{server.url}/metrics").text
    print("cache: passed")


if __name__ == "__main__":
    main()
