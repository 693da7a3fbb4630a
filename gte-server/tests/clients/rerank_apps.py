"""Sends requests as applications send them, and reads of the responses what they read: python
rerank_apps.py

Each function imitates an application or one of its providers, according to its source code.
"""
import httpx
from families import CLASSIFIER, RERANKERS, Client, close, scored, serving

HTTP = httpx.Client()
QUERY, DOCUMENTS = "How do I return a kettle?", ["Kettles can be returned within 30 days.", "The weather is lovely today.", "怎么退货？"]


def post(url, headers=None, timeout=10, **body):
    answer = HTTP.post(url, headers={"Content-Type": "application/json", **(headers or {})}, json=body, timeout=timeout)
    answer.raise_for_status()
    assert answer.status_code == 200
    return answer.json()


def best_first(scores):
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores), scores


def dify_tei(url, model):
    """It asks for the kind of model before it saves the model, and then sends all documents in one
    request.
    """
    info = HTTP.get(f"{url}/info", params={"model": model}).json()
    kind = next(iter(info["model_type"]))
    assert kind == "reranker" and info["max_input_length"] > 0 and info["max_client_batch_size"] >= 1, info
    assert info["model_type"]["reranker"]["id2label"] and info["model_type"]["reranker"]["label2id"]
    kind = next(iter(HTTP.get(f"{url}/info", params={"model": "bge-m3"}).json()["model_type"]))
    assert kind == "embedding"
    results = post(f"{url}/rerank", query=QUERY, texts=DOCUMENTS * 100, return_text=True, model=model)
    assert len(results) == 300 and all(result["text"] == (DOCUMENTS * 100)[result["index"]] for result in results)
    best_first([result["score"] for result in results])
    # Its requests for embeddings.
    vectors = post(f"{url}/embed", inputs=DOCUMENTS, truncate=True, model="bge-m3")
    tokens = post(f"{url}/tokenize", inputs=DOCUMENTS, model="bge-m3")
    assert len(vectors) == len(tokens) == 3 and all(len(text) > 0 for text in tokens)


def dify_openai_compatible(url, model):
    """The endpoint may end in /v1 or not; there is no key; `top_n` may be 0."""
    for endpoint in (f"{url}/v1", url):
        for top_n in (0, 2, len(DOCUMENTS)):
            results = post(f"{endpoint}/rerank", model=model, query=QUERY, documents=DOCUMENTS, top_n=top_n)["results"]
            assert len(results) == (top_n or 3)
            # It normalizes scores by the lowest and the highest.
            low, high = min(r["relevance_score"] for r in results), max(r["relevance_score"] for r in results)
            assert [DOCUMENTS[result["index"]] for result in results] and high >= low


def dify_jina(url, model):
    results = post(f"{url}/v1/rerank", {"Authorization": "Bearer key"}, model=model, query=QUERY, documents=DOCUMENTS, top_n=None)
    assert {"prompt_tokens", "total_tokens"} <= results["usage"].keys() and results["model"] == model
    for result in results["results"]:
        # It accepts an object with `text`, or a missing document.
        text = result["document"]["text"] if "document" in result else DOCUMENTS[result["index"]]
        assert text == DOCUMENTS[result["index"]]


def dify_siliconflow(url, model):
    results = post(f"{url}/v1/rerank", model=model, query=QUERY, documents=DOCUMENTS, top_n=None, return_documents=True)["results"]
    assert [result["document"]["text"] for result in results] == [DOCUMENTS[result["index"]] for result in results]
    best_first([result["relevance_score"] for result in results])


def dify_gpustack_and_localai(url, model):
    """If `document` is present, it must be an object with `text`: these applications fail on null
    and strings. They wait for ten seconds.
    """
    for more in ({}, {"return_documents": True}, {"return_documents": False}):
        for result in post(f"{url}/v1/rerank", timeout=10, model=model, query=QUERY, documents=DOCUMENTS, top_n=2, **more)["results"]:
            text = result["document"]["text"] if "document" in result else DOCUMENTS[result["index"]]
            assert text == DOCUMENTS[result["index"]] and isinstance(result["relevance_score"], float)


def dify_xinference(url, model):
    for result in post(f"{url}/v1/rerank", model=model, query=QUERY, documents=DOCUMENTS, top_n=3, return_documents=True)["results"]:
        document = result["document"]
        assert (document["text"] if isinstance(document, dict) else document) == DOCUMENTS[result["index"]]


def ragflow_tei(url, model):
    """It sends eight texts per request."""
    texts = DOCUMENTS * 5
    for start in range(0, len(texts), 8):
        some = texts[start:start + 8]
        results = post(f"{url}/rerank", query=QUERY, texts=some, raw_scores=False, truncate=True, model=model)
        assert {result["index"] for result in results} == set(range(len(some)))
        assert all(0 <= result["score"] <= 1 for result in results)


def ragflow_xinference(url, model):
    """Booleans are strings, and there are extra fields."""
    found = post(f"{url}/v1/rerank", {"accept": "application/json", "Authorization": "Bearer x"}, model=model, query=QUERY,
                 return_documents="true", return_len="true", documents=DOCUMENTS)
    assert {result["index"]: result["relevance_score"] for result in found["results"]}.keys() == {0, 1, 2}
    # It needs the number of tokens for its bill.
    assert found["usage"]["total_tokens"] > 0


def ragflow_siliconflow(url, model):
    results = post(f"{url}/v1/rerank", {"accept": "application/json"}, model=model, query=QUERY, documents=DOCUMENTS, top_n=len(DOCUMENTS),
                   return_documents=False, max_chunks_per_doc=1024, overlap_tokens=8 if model != "bert-classifier" else 2)["results"]
    assert {result["index"] for result in results} == {0, 1, 2} and all("document" not in result for result in results)


def ragflow_jina_and_local(url, model):
    """LocalAI, OpenAI-API-Compatible, GPUStack: scores within [0, 1] are kept, others are rescaled.
    """
    found = post(f"{url}/v1/rerank", model=model, query=QUERY, documents=DOCUMENTS, top_n=len(DOCUMENTS))
    best_first([result["relevance_score"] for result in found["results"]])


def fastgpt(url, model):
    """An empty list of results is an error."""
    results = post(f"{url}/v1/rerank", {"Authorization": "Bearer x"}, timeout=30, model=model, query=QUERY, documents=DOCUMENTS)["results"]
    assert len(results) == 3
    best_first([result["relevance_score"] for result in results])


def vllm(url, model):
    """vLLM's own examples of scoring and reranking, with the current and the former field names."""
    for names in (("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2")):
        for path in ("/score", "/v1/score"):
            one = post(url + path, model=model, encoding_format="float", **dict(zip(names, (QUERY, DOCUMENTS[0]))))
            assert one["object"] == "list" and len(one["data"]) == 1 and one["data"][0]["object"] == "score"
            many = post(url + path, model=model, **dict(zip(names, (QUERY, DOCUMENTS))))["data"]
            assert [item["index"] for item in many] == [0, 1, 2] and many[0]["score"] == one["data"][0]["score"]
            pairs = post(url + path, model=model, **dict(zip(names, ([QUERY] * 3, DOCUMENTS))))["data"]
            assert [item["score"] for item in pairs] == [item["score"] for item in many]
            wrong = HTTP.post(url + path, json={"model": model, **dict(zip(names, ([QUERY] * 2, DOCUMENTS)))})
            assert wrong.status_code == 422 and "3 texts for 2 queries" in wrong.text, wrong.text
    documents = [{"content": [{"type": "text", "text": text}]} for text in DOCUMENTS]
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        found = post(url + path, model=model, query=QUERY, documents=documents, return_documents=True)
        assert found["id"].startswith("rerank-") and found["usage"]["total_tokens"] > 0
        assert [r["document"]["text"] for r in found["results"]] == [DOCUMENTS[r["index"]] for r in found["results"]]
        assert [(r["index"], r["relevance_score"]) for r in found["results"]] == [
            (r["index"], r["relevance_score"]) for r in post(url + path, model=model, query=QUERY, documents=DOCUMENTS)["results"]]
    wrong = HTTP.post(f"{url}/rerank", json={"model": "nonsense", "query": QUERY, "documents": DOCUMENTS})
    assert wrong.status_code == 404 and wrong.json()["message"] and wrong.json()["error"]["code"] == 404


def sglang(url, model):
    if model.startswith("qwen3"):
        plain, told = (post(f"{url}/v1/rerank", model=model, query=QUERY, documents=DOCUMENTS, **more) for more in ({}, {"instruct": "Find kettles."}))
        assert {r["index"] for r in plain["results"]} == {r["index"] for r in told["results"]}
        assert [r["relevance_score"] for r in plain["results"]] != [r["relevance_score"] for r in told["results"]]


APPLICATIONS = [dify_tei, dify_openai_compatible, dify_jina, dify_siliconflow, dify_gpustack_and_localai, dify_xinference, ragflow_tei,
                ragflow_xinference, ragflow_siliconflow, ragflow_jina_and_local, fastgpt, vllm, sglang]


def one_model_alone():
    """The plugins of Dify and Haystack name no model, and TEI's clients expect a server with one
    model.
    """
    with serving("xlmr-reranker") as server:
        assert next(iter(HTTP.get(f"{server.url}/info").json()["model_type"])) == "reranker"
        case = scored("xlmr-reranker")[0]
        ranks = Client(server.url).post("/rerank", query=case.query, texts=case.documents, return_text=True)
        assert [rank["text"] for rank in ranks] == [case.documents[i] for i in case.order]
        close([rank["score"] for rank in ranks], case.scores[case.order])
    with serving(CLASSIFIER) as server:
        client = Client(server.url)
        info = HTTP.get(f"{server.url}/info").json()
        assert list(info["model_type"]) == ["classifier"] and len(info["model_type"]["classifier"]["id2label"]) == 3, info
        assert len(client.post("/predict", inputs="a text")) == 3
        client.refused("/rerank", 424, "classifier", query="a", documents=["b"])
        client.refused("/score", 424, "classifier", queries="a", documents=["b"])


def main():
    with serving("bge-m3", *RERANKERS) as server:
        for application in APPLICATIONS:
            for model in RERANKERS:
                application(server.url, model)
            print(f"{application.__name__}: passed", flush=True)
    one_model_alone()
    print("a single model: passed")


if __name__ == "__main__":
    main()
