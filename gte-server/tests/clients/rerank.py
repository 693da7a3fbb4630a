"""Tests rerankers of every family with the published clients of Cohere and infinity, and with plain
requests: python rerank.py

The expected scores are those of transformers in float64.
"""
import os
from random import Random

import cohere
import httpx
import numpy as np
from cohere.core.api_error import ApiError
from families import CLASSIFIER, EMBEDDERS, FIXTURES, RERANKERS, Client, close, refused, scored, serving
from infinity_client import AuthenticatedClient
from infinity_client import Client as InfinityClient
from infinity_client.api.default import rerank as infinity_rerank
from infinity_client.models import HTTPValidationError, RerankInput

KEY = "a-key"


def cohere_clients(url):
    """Version 1, which RAGFlow's vLLM provider uses too, and version 2."""
    v1, v2 = cohere.Client(KEY, base_url=url), cohere.ClientV2(KEY, base_url=url)
    for model in RERANKERS:
        for case in scored(model):
            for client in (v1, v2):
                found = client.rerank(model=model, query=case.query, documents=case.documents)
                assert [result.index for result in found.results] == case.order, model
                close([result.relevance_score for result in found.results], case.scores[case.order])
                assert found.id and found.meta.api_version.version == "2"
            best = v1.rerank(model=model, query=case.query, documents=[{"text": text} for text in case.documents], top_n=1,
                             rank_fields=["text"], return_documents=True, max_chunks_per_doc=1)
            assert len(best.results) == 1 and best.results[0].document.text == case.documents[case.order[0]]
            best = v2.rerank(model=model, query=case.query, documents=case.documents, top_n=2, max_tokens_per_doc=100000)
            assert [result.index for result in best.results] == case.order[:2]
    case = scored(RERANKERS[0])[0]
    for client in (v1, v2):
        def ask(model=RERANKERS[0], documents=case.documents, client=client, **more):
            return client.rerank(model=model, query=case.query, documents=documents, request_options={"max_retries": 0}, **more)
        e = refused(lambda: ask("nonsense"), error=cohere.NotFoundError)
        assert all(name in e.body["message"] for name in RERANKERS), e.body
        e = refused(lambda: ask("bge-m3"), error=ApiError)
        assert e.status_code == 424 and e.body["message"] == "bge-m3 is an embedder: it cannot rerank", e.body
        e = refused(lambda: ask(CLASSIFIER), error=ApiError)
        assert e.status_code == 424 and "classifier" in e.body["message"], e.body
        e = refused(lambda: ask(documents=[]), error=cohere.UnprocessableEntityError)
        assert "documents" in e.body["message"], e.body
        refused(lambda: ask(documents=["a"] * 2049), "2049 texts", error=ApiError)
    e = refused(lambda: v1.rerank(query="a", documents=[{"title": "b"}], model=RERANKERS[0]), error=cohere.UnprocessableEntityError)
    assert "documents[0]" in e.body["message"], e.body
    e = refused(lambda: v1.rerank(query="a", documents=["b"], model=RERANKERS[0], rank_fields=["title"]), error=cohere.UnprocessableEntityError)
    assert "rank_fields" in e.body["message"], e.body
    stranger = cohere.ClientV2("wrong", base_url=url)
    refused(lambda: stranger.rerank(model="a", query="a", documents=["b"]), "key", error=cohere.UnauthorizedError)
    print("cohere: passed")


def infinity_client(url):
    client = AuthenticatedClient(base_url=url, token=KEY, raise_on_unexpected_status=True)
    for model in RERANKERS:
        for case in scored(model):
            body = RerankInput(model=model, query=case.query, documents=case.documents)
            found = infinity_rerank.sync(client=client, body=body)
            assert [result.index for result in found.results] == case.order
            close([result.relevance_score for result in found.results], case.scores[case.order])
            assert found.model == model and found.usage.total_tokens > 0 and found.object_.value == "rerank", found
            raw = infinity_rerank.sync(client=client, body=RerankInput(model=model, query=case.query, documents=case.documents, raw_scores=True, top_n=1))
            np.testing.assert_allclose([raw.results[0].relevance_score], [case.logits.max()], rtol=1e-5, atol=2e-6)
    wrong = infinity_rerank.sync(client=client, body=RerankInput(model=RERANKERS[0], query="a", documents=[]))
    assert isinstance(wrong, HTTPValidationError) and "documents" in wrong.detail[0].msg, wrong
    assert wrong.detail[0].loc == ["body", "documents"], wrong
    refused(lambda: infinity_rerank.sync(client=client, body=RerankInput(model="nonsense", query="a", documents=["b"])), "404", "this server has")
    refused(lambda: infinity_rerank.sync(client=client, body=RerankInput(model="bge-m3", query="a", documents=["b"])), "424", "cannot rerank")
    print("infinity_client: passed")


def plain(client):
    """Every path and both APIs return the same scores; /score returns them in the order of the
    request.
    """
    for model in RERANKERS:
        for case in scored(model):
            body = {"model": model, "query": case.query}
            ranks = client.post("/rerank", texts=case.documents, **body)
            for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
                found = client.post(path, documents=case.documents, **body)["results"]
                assert [(r["index"], r["relevance_score"]) for r in found] == [(r["index"], r["score"]) for r in ranks], (model, path)
                assert all("document" not in r for r in found) and all("text" not in r for r in ranks)
            close([rank["score"] for rank in ranks], case.scores[case.order])
            for path in ("/score", "/v1/score"):
                found = client.post(path, model=model, queries=case.query, documents=case.documents)
                close([item["score"] for item in found["data"]], case.scores)
            labels = client.post("/predict", model=model, inputs=[[case.query, text] for text in case.documents])
            close([label[0]["score"] for label in labels], case.scores)
            logits = client.post("/predict", model=model, inputs=[case.query, case.documents[0]], raw_scores=True)
            np.testing.assert_allclose(logits[0]["score"], case.logits[0], rtol=1e-5, atol=2e-6)
    for case in scored(CLASSIFIER):
        labels = client.post("/predict", model=CLASSIFIER, inputs=[[case.query, text] for text in case.documents])
        probabilities = np.exp(case.logits) / np.exp(case.logits).sum(axis=1, keepdims=True)
        for found, expected in zip(labels, probabilities, strict=True):
            close([label["score"] for label in found], sorted(expected, reverse=True))
            assert [int(label["label"].rpartition("_")[2]) for label in found] == list(np.argsort(-expected))
    print("all paths, both dialects: passed")


def fields(client):
    case = scored("xlmr-reranker")[0]
    body = {"model": "xlmr-reranker", "query": case.query, "documents": case.documents}
    everything = client.post("/rerank", **body)["results"]
    for top_n in (None, 0, len(case.documents), 1000):
        assert client.post("/rerank", top_n=top_n, **body)["results"] == everything, top_n
    assert client.post("/rerank", top_n=1, **body)["results"] == everything[:1]
    # A long document is truncated with a warning, refused, or read in pieces of which the best
    # counts.
    long = {**body, "documents": ["words " * 200 + case.documents[0], case.documents[0]]}
    cut = client.post("/rerank", **long)
    assert len(cut["meta"]["warnings"]) == 1, cut["meta"]
    client.refused("/rerank", 422, "documents", truncate=False, **long)
    pieces = client.post("/rerank", max_chunks_per_doc=100, overlap_tokens=4, **long)
    by_index = [{r["index"]: r["relevance_score"] for r in found["results"]} for found in (cut, pieces)]
    assert by_index[1][0] >= by_index[0][0] and by_index[1][1] == by_index[0][1] and "warnings" not in pieces["meta"]
    one = client.post("/rerank", max_tokens_per_doc=1, **body)["results"]
    assert one != everything
    for field in ("max_tokens_per_doc", "max_chunks_per_doc"):
        client.refused("/rerank", 422, field, **{field: 0}, **body)
    client.refused("/rerank", 422, "instruction", instruction="x", **body)
    client.refused("/rerank", 422, "texts", texts=["a"], **body)
    client.refused("/rerank", 422, "query", model="xlmr-reranker", documents=["a"])
    client.refused("/rerank", 422, "documents", model="xlmr-reranker", query="a")
    # Errors in the form of text-embeddings-inference.
    for status, found in [
        (422, client.refused("/rerank", 422, model="xlmr-reranker", query="a", texts=[])),
        (422, client.refused("/rerank", 422, model="xlmr-reranker", query="a", texts=[1])),
        (422, client.refused("/rerank", 422, model="xlmr-reranker", texts=["a"])),
        (424, client.refused("/rerank", 424, model="bge-m3", query="a", texts=["b"])),
        (404, client.refused("/rerank", 404, model="nonsense", query="a", texts=["b"])),
        (413, client.refused("/rerank", 413, model="xlmr-reranker", query="a", texts=["b"] * 2049)),
    ]:
        assert isinstance(found["error"], str) and found["error_type"], (status, found)
    # For a language model the instruction is part of the question.
    case = scored("qwen3-reranker")[0]
    body = {"model": "qwen3-reranker", "query": case.query, "documents": case.documents}
    plain = client.post("/rerank", **body)["results"]
    for name in ("instruction", "instruct"):
        told = client.post("/rerank", **{name: "Which of these is about food?"}, **body)["results"]
        assert {r["relevance_score"] for r in told} != {r["relevance_score"] for r in plain}
    print("fields: passed")


def many(client):
    """A thousand documents in one request, as Dify sends them, have the same scores as each
    document alone.
    """
    for model in ("xlmr-reranker", "qwen3-reranker"):
        documents = [f"document {i} of many" for i in range(1000)]
        found = client.post("/v1/rerank", model=model, query="which one?", documents=documents)["results"]
        assert sorted(result["index"] for result in found) == list(range(1000))
        scores = [result["relevance_score"] for result in found]
        assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
        for result in found[:3]:
            alone = client.post("/v1/rerank", model=model, query="which one?", documents=[documents[result["index"]]])
            assert alone["results"][0]["relevance_score"] == result["relevance_score"]
    print("1000 documents: passed")


# Strings that tokenizers change, join, split, or mistake for special tokens.
PIECES = ["e\u0301", "ﬁ", "㈱", "İ", "ß", "\u200d", "👩\u200d👩\u200d👧", "\0", "\ufffd", "ｅ\u0301", "\u3000", " ", "\n", "<pad>", "</s>", "[SEP]",
          "<|endoftext|>", "<|im_end|>", "한국어", "ก็", "𝕏", "\u202e", "a", "word ", "怎么", "。", "\u0300\u0300", "½", "\u00ad", "ǆ", "\u0345", "ﷺ"]


def odd_texts(client):
    """Whatever the texts contain, and however they are split into pieces, each gets a score."""
    random = Random(7)

    def text():
        return "".join(random.choice(PIECES) for _ in range(random.choice([0, 1, 5, 40, 120])))

    for model in RERANKERS * 30:
        found = client.post("/rerank", model=model, query=text(), documents=[text() for _ in range(3)], max_chunks_per_doc=random.choice([None, 2, 50]),
                            overlap_tokens=random.choice([None, 0, 1, 7, 30, 1000]), max_tokens_per_doc=random.choice([None, 1, 5, 30]))
        assert all(0 <= result["relevance_score"] <= 1 for result in found["results"]) and len(found["results"]) == 3
    print("odd texts: passed")


def sizes(client):
    """A small request cannot cause a large use of memory or time."""
    query = "a long query " * 100_000
    for path in ("/rerank", "/score"):
        key = "query" if path == "/rerank" else "queries"
        client.refused(path, 413, "bytes", model="xlmr-reranker", **{key: query}, documents=["a"] * 2000)
        client.refused(path, 413, "bytes", model="qwen3-reranker", instruction=query, **{key: "a"}, documents=["a"] * 2000)
    client.refused("/v1/embeddings", 413, "bytes", model="bge-m3", prompt=query, input=["a"] * 2000)
    text = "words and other words " * 50_000
    found = client.post("/rerank", model="xlmr-reranker", query="a", documents=[text], max_chunks_per_doc=10**9, overlap_tokens=10**9)
    assert len(found["results"]) == 1 and "warnings" not in found["meta"], found
    # The bi-encoder reads a query once, however many documents are compared with it.
    usage = client.post("/score", model="bge-m3", queries="a b c", documents=["d"] * 1000)["usage"]
    assert usage["prompt_tokens"] < 4100, usage
    print("sizes: passed")


def choice():
    """If a request names no model, the first suitable one is used: for scores a reranker, if there
    is one.
    """
    with serving("bge-m3", "xlmr-reranker") as server:
        client = Client(server.url)
        case = scored("xlmr-reranker")[0]
        assert client.post("/v1/embeddings", input="a")["model"] == "bge-m3"
        assert client.post("/rerank", query=case.query, documents=case.documents)["model"] == "xlmr-reranker"
        # Infinity's client sends a placeholder as the name.
        found = infinity_rerank.sync(client=InfinityClient(base_url=server.url), body=RerankInput(query=case.query, documents=case.documents))
        assert found.model == "xlmr-reranker" and [result.index for result in found.results] == case.order
        found = client.post("/score", queries=case.query, documents=case.documents)
        assert (found["model"], found["scoring"]) == ("xlmr-reranker", "sigmoid"), found
        found = client.post("/score", model="bge-m3", queries=case.query, documents=case.documents)
        assert found["scoring"] == "cosine", found
        assert client.post("/score", model=str(FIXTURES / "xlmr-reranker"), queries="a", documents="b")["model"] == "xlmr-reranker"
    with serving("xlmr-reranker") as server:
        client = Client(server.url)
        # A single model answers to any name, because OpenAI's clients must send one.
        assert client.post("/rerank", model="BAAI/bge-reranker-v2-m3", query="a", documents=["b"])["model"] == "xlmr-reranker"
        for path, body in [("/v1/embeddings", {"input": "a"}), ("/embed", {"inputs": "a"}), ("/embed_sparse", {"inputs": "a"}),
                           ("/v1/outputs", {"input": "a"}), ("/v2/embed", {"texts": ["a"]}), ("/", {"inputs": "a"}), ("/embed_all", {"inputs": "a"}),
                           ("/v1/similarity", {"source_text": "a", "candidate_texts": ["b"]})]:
            client.refused(path, 424, "xlmr-reranker is a reranker: it cannot make", **body)
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "xlmr-reranker"
    print("which model: passed")


def main():
    os.environ["GTE_API_KEYS"] = KEY
    with serving(*EMBEDDERS, *RERANKERS, CLASSIFIER) as server:
        client = Client(server.url, KEY)
        cohere_clients(server.url)
        infinity_client(server.url)
        plain(client)
        fields(client)
        many(client)
        odd_texts(client)
        sizes(client)
    del os.environ["GTE_API_KEYS"]
    choice()


if __name__ == "__main__":
    main()
