"""Tests rerankers and Cohere's embeddings in Python frameworks, each through its own client: python
frameworks_rerank.py [NAME…]

Each must return the scores of transformers in float64, best first.
"""
import os
import sys

os.environ.update(HAYSTACK_TELEMETRY_ENABLED="False", LITELLM_LOCAL_MODEL_COST_MAP="True", LANGSMITH_TRACING="false")

import numpy as np
from families import Client, close, refused, scored, serving

KEY, MODEL = "a-key", "xlmr-reranker"
CASES = scored(MODEL)


def langchain_infinity(url):
    from infinity_client import Client as InfinityClient
    from langchain_community.document_compressors import InfinityRerank
    from langchain_core.documents import Document

    client = InfinityClient(base_url=url, headers={"Authorization": f"Bearer {KEY}"})
    for case in CASES:
        documents = [Document(text, metadata={"place": i}) for i, text in enumerate(case.documents)]
        found = InfinityRerank(client=client, model=MODEL, top_n=2).compress_documents(documents, case.query)
        assert [document.metadata["place"] for document in found] == case.order[:2]
        close([document.metadata["relevance_score"] for document in found], case.scores[case.order][:2])


def langchain_jina(url):
    """Its address is a constant of its module."""
    from langchain_community.document_compressors import JinaRerank, jina_rerank
    from langchain_core.documents import Document

    jina_rerank.JINA_API_URL = f"{url}/v1/rerank"
    for case in CASES:
        documents = [Document(text, metadata={"place": i}) for i, text in enumerate(case.documents)]
        found = JinaRerank(jina_api_key=KEY, model=MODEL, top_n=2).compress_documents(documents, case.query)
        assert [document.metadata["place"] for document in found] == case.order[:2]
        close([document.metadata["relevance_score"] for document in found], case.scores[case.order][:2])
    # It shows `detail` of an error.
    refused(lambda: JinaRerank(jina_api_key=KEY, model="nonsense").rerank(documents, "a"), "this server has", error=RuntimeError)
    refused(lambda: JinaRerank(jina_api_key=KEY, model="bge-m3").rerank(documents, "a"), "cannot rerank", error=RuntimeError)
    refused(lambda: JinaRerank(jina_api_key=KEY, model=MODEL).rerank([3], "a"), "documents[0]", error=RuntimeError)
    refused(lambda: JinaRerank(jina_api_key="wrong", model=MODEL).rerank(documents, "a"), "key", error=RuntimeError)


def langchain_cohere(url):
    from langchain_cohere import CohereEmbeddings, CohereRerank
    from langchain_core.documents import Document

    for case in CASES:
        documents = [Document(text or " ", metadata={"place": i}) for i, text in enumerate(case.documents)]
        reranker = CohereRerank(model=MODEL, cohere_api_key=KEY, base_url=url, top_n=2)
        found = reranker.compress_documents(documents, case.query)
        # LangChain also sends empty documents. Only the order of the others is checked.
        if "" not in case.documents:
            assert [document.metadata["place"] for document in found] == case.order[:2]
            close([document.metadata["relevance_score"] for document in found], case.scores[case.order][:2])
    refused(lambda: CohereRerank(model="bge-m3", cohere_api_key=KEY, base_url=url).compress_documents(documents, "a"), "424", "cannot rerank")
    # Its embeddings use version 1 of the API.
    embeddings = CohereEmbeddings(model="bge-m3", cohere_api_key=KEY, base_url=url)
    texts = ["How do I return a kettle?", "怎么退货？"] * 60
    plain = [item["embedding"] for item in Client(url, KEY).post("/v1/embeddings", model="bge-m3", input=texts)["data"]]
    np.testing.assert_allclose(embeddings.embed_documents(texts), plain, rtol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query(texts[0]), plain[0], rtol=1e-6)


def llama_index_tei(url):
    """Haystack's client names no model, sends its token as it is, and requires that every text has
    a score.
    """
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    for case in CASES:
        nodes = [NodeWithScore(node=TextNode(text=text, id_=str(i)), score=0.0) for i, text in enumerate(case.documents)]
        reranker = TextEmbeddingInference(base_url=url, top_n=3, auth_token=f"Bearer {KEY}")
        found = reranker.postprocess_nodes(nodes, query_str=case.query)
        assert [int(node.node.node_id) for node in found] == case.order[:3]
        close([node.score for node in found], case.scores[case.order][:3])


def llama_index_cohere(url):
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    for case in CASES:
        nodes = [NodeWithScore(node=TextNode(text=text, id_=str(i)), score=0.0) for i, text in enumerate(case.documents)]
        found = CohereRerank(model=MODEL, api_key=KEY, base_url=url, top_n=2).postprocess_nodes(nodes, query_str=case.query)
        assert [int(node.node.node_id) for node in found] == case.order[:2]
        close([node.score for node in found], case.scores[case.order][:2])


def haystack_cohere(url):
    from haystack import Document
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.cohere import CohereRanker

    for case in CASES:
        ranker = CohereRanker(model=MODEL, api_key=Secret.from_token(KEY), api_base_url=url, top_k=2)
        ranker.warm_up()
        found = ranker.run(query=case.query, documents=[Document(content=text, meta={"place": i}) for i, text in enumerate(case.documents)])["documents"]
        assert [document.meta["place"] for document in found] == case.order[:2]
        close([document.score for document in found], case.scores[case.order][:2])


def litellm(url):
    """Under the names of five servers: two APIs and three paths."""
    import litellm

    for case in CASES:
        for provider in ("cohere", "hosted_vllm", "infinity", "jina_ai", "huggingface"):
            # Infinity's documents are strings, which litellm does not understand, so none are
            # requested.
            found = litellm.rerank(model=f"{provider}/{MODEL}", query=case.query, documents=case.documents, api_base=url, api_key=KEY, top_n=2,
                                   return_documents=provider != "infinity").results
            # Hugging Face's API has no `top_n`: all results are there.
            assert [result["index"] for result in found][:2] == case.order[:2], (provider, found)
            close([result["relevance_score"] for result in found][:2], case.scores[case.order][:2])
    for provider in ("cohere", "hosted_vllm", "infinity", "jina_ai"):
        refused(lambda: litellm.rerank(model=f"{provider}/nonsense", query="a", documents=["b"], api_base=url, api_key=KEY, max_retries=0), "this server has")
        refused(lambda: litellm.rerank(model=f"{provider}/bge-m3", query="a", documents=["b"], api_base=url, api_key=KEY, max_retries=0), "cannot rerank")


FRAMEWORKS = [langchain_infinity, langchain_jina, langchain_cohere, llama_index_tei, llama_index_cohere, haystack_cohere, litellm]


def main():
    asked = sys.argv[1:] or [framework.__name__ for framework in FRAMEWORKS]
    os.environ["GTE_API_KEYS"] = KEY
    with serving("bge-m3", MODEL) as server:
        for framework in FRAMEWORKS:
            if framework.__name__ in asked:
                framework(server.url)
                print(f"{framework.__name__}: passed", flush=True)


if __name__ == "__main__":
    main()
