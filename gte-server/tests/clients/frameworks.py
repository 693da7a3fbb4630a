"""Tests Python frameworks for retrieval, each through its own client, against the server: python
frameworks.py [NAME…]

Each must return the vectors of a plain request, and report the server's message if it refuses a
request.
"""
import asyncio
import os
import pathlib
import sys

os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", ANONYMIZED_TELEMETRY="False", HAYSTACK_TELEMETRY_ENABLED="False", LITELLM_LOCAL_MODEL_COST_MAP="True",
                  LANGSMITH_TRACING="false")

import httpx
import numpy as np
from server import running

KEY = "a-key"
TEXTS = ["How do I return a kettle?", "The weather is lovely today.", "怎么退货？"]
LONG = "many words about kettles " * 400
MODEL = "all-MiniLM-L6-v2"


class Plain:
    """The server's responses to plain requests."""

    def __init__(self, url):
        self.url, self.client = url, httpx.Client(headers={"authorization": f"Bearer {KEY}"})
        self.vectors = self.ask(inputs=TEXTS)
        self.raw = self.ask(inputs=TEXTS, normalize=False)
        self.left = self.ask(inputs=[LONG + "the end"], truncation_direction="left")

    def ask(self, **body):
        answer = self.client.post(f"{self.url}/embed", json=body)
        assert answer.status_code == 200, answer.text
        return np.array(answer.json(), dtype="float32")


def same(found, expected):
    np.testing.assert_allclose(np.array(found, dtype="float32"), expected, rtol=1e-6, atol=1e-7)


def refused(call, *words):
    """The call must fail, and its error must contain the server's message."""
    try:
        call()
    except Exception as e:  # noqa: BLE001 - each client has its own
        assert all(word in str(e) for word in words), f"{words} not in {type(e).__name__}: {e}"
    else:
        raise AssertionError(f"not refused: {words}")


def huggingface_hub(url, plain):
    from huggingface_hub import AsyncInferenceClient, InferenceClient

    for address in (url, f"{url}/", f"{url}/embed"):
        client = InferenceClient(address, token=KEY)
        same([client.feature_extraction(text)[0] for text in TEXTS], plain.vectors)
        same(client.feature_extraction(TEXTS), plain.vectors)
        same(client.feature_extraction(TEXTS, normalize=False), plain.raw)
        same(client.feature_extraction(LONG + "the end", truncate=True, truncation_direction="left"), plain.left)
        same(client.feature_extraction(TEXTS, dimensions=384, encoding_format="float"), plain.vectors)
        refused(lambda: client.feature_extraction("a", prompt_name="nonsense"), "422", "prompt_name", "nonsense")
        refused(lambda: client.feature_extraction("a", truncation_direction="sideways"), "422", "truncation_direction")
        refused(lambda: client.feature_extraction("a", encoding_format="base64"), "422", "encoding_format")
        refused(lambda: client.feature_extraction(LONG, truncate=False), "422", "must have less than")
    client = InferenceClient(url, token=KEY)
    scores = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])
    same(scores, plain.vectors[1:] @ plain.vectors[0])
    same(asyncio.run(AsyncInferenceClient(url, token=KEY).feature_extraction(TEXTS)), plain.vectors)
    named = InferenceClient(url, token=KEY, provider="hf-inference")
    info = named.get_endpoint_info()
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}, info
    assert named.health_check()
    refused(lambda: InferenceClient(url, token="wrong").feature_extraction("a"), "401", "key")


def langchain_huggingface(url, plain):
    from huggingface_hub import AsyncInferenceClient, InferenceClient
    from langchain_huggingface import HuggingFaceEndpointEmbeddings

    def at_address(**arguments):
        """Clients that only have an address no longer accept `model`."""
        embeddings = HuggingFaceEndpointEmbeddings(model=MODEL, provider="hf-inference", huggingfacehub_api_token=KEY, **arguments)
        embeddings.client, embeddings.async_client = InferenceClient(url, token=KEY), AsyncInferenceClient(url, token=KEY)
        return embeddings

    embeddings = at_address()
    same(embeddings.embed_documents(TEXTS), plain.vectors)
    same(embeddings.embed_query(TEXTS[0]), plain.vectors[0])
    same(asyncio.run(embeddings.aembed_documents(TEXTS)), plain.vectors)
    same(at_address(model_kwargs={"normalize": False}).embed_documents(TEXTS), plain.raw)


def langchain_openai(url, plain):
    import litellm
    from langchain_openai import OpenAIEmbeddings

    # The vocabulary of tiktoken would be downloaded, but litellm contains it.
    os.environ["TIKTOKEN_CACHE_DIR"] = str(pathlib.Path(litellm.__file__).parent / "litellm_core_utils/tokenizers")
    right = OpenAIEmbeddings(base_url=f"{url}/v1", api_key=KEY, model=MODEL, check_embedding_ctx_length=False)
    same(right.embed_documents(TEXTS), plain.vectors)
    same(right.embed_query(TEXTS[2]), plain.vectors[2])
    # By default it sends token ids of another vocabulary.
    wrong = OpenAIEmbeddings(base_url=f"{url}/v1", api_key=KEY, model=MODEL, max_retries=0)
    for text in TEXTS:
        refused(lambda: wrong.embed_query(text), "422", "check_embedding_ctx_length=False", "--token-ids")


def llama_index(url, plain):
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    tei = TextEmbeddingsInference(model_name=MODEL, base_url=url, auth_token=KEY, text_instruction="", query_instruction="")
    openai = OpenAILikeEmbedding(model_name=MODEL, api_base=f"{url}/v1", api_key=KEY, max_retries=0)
    for embedding in (tei, openai):
        same(embedding.get_text_embedding_batch(TEXTS), plain.vectors)
        same(embedding.get_query_embedding(TEXTS[0]), plain.vectors[0])
        same(asyncio.run(embedding.aget_text_embedding(TEXTS[1])), plain.vectors[1])
    short = OpenAILikeEmbedding(model_name=MODEL, api_base=f"{url}/v1", api_key=KEY, dimensions=64, max_retries=0)
    assert len(short.get_text_embedding("a")) == 64


def haystack(url, plain):
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
    from haystack.utils import Secret
    from haystack_integrations.components.embedders.huggingface_api import HuggingFaceAPIDocumentEmbedder, HuggingFaceAPITextEmbedder

    token, documents = Secret.from_token(KEY), [Document(content=text) for text in TEXTS]
    tei = {"api_type": "text_embeddings_inference", "api_params": {"url": url}, "token": token}
    openai = {"api_base_url": f"{url}/v1", "api_key": token, "model": MODEL}
    for text, many in [
        (HuggingFaceAPITextEmbedder(**tei, normalize=True), HuggingFaceAPIDocumentEmbedder(**tei, normalize=True, progress_bar=False)),
        (OpenAITextEmbedder(**openai), OpenAIDocumentEmbedder(**openai, progress_bar=False)),
    ]:
        same(text.run(TEXTS[0])["embedding"], plain.vectors[0])
        same([d.embedding for d in many.run(documents)["documents"]], plain.vectors)
    # By default its vectors are not of unit length.
    same(HuggingFaceAPITextEmbedder(**tei).run(TEXTS[0])["embedding"], plain.raw[0])


def chroma(url, plain):
    import chromadb
    from chromadb.utils.embedding_functions import HuggingFaceEmbeddingServer, OpenAIEmbeddingFunction

    os.environ.update(CHROMA_HUGGINGFACE_API_KEY=KEY, CHROMA_OPENAI_API_KEY=KEY)
    for function in [
        HuggingFaceEmbeddingServer(url=url, api_key_env_var="CHROMA_HUGGINGFACE_API_KEY"),
        HuggingFaceEmbeddingServer(url=f"{url}/embed", api_key_env_var="CHROMA_HUGGINGFACE_API_KEY"),
        OpenAIEmbeddingFunction(api_key_env_var="CHROMA_OPENAI_API_KEY", api_base=f"{url}/v1", model_name=MODEL),
    ]:
        same(function(TEXTS), plain.vectors)
    collection = chromadb.EphemeralClient().create_collection("texts", embedding_function=HuggingFaceEmbeddingServer(
        url=url, api_key_env_var="CHROMA_HUGGINGFACE_API_KEY"))
    collection.add(ids=["0", "1", "2"], documents=TEXTS)
    assert collection.query(query_texts=["sending back a kettle"], n_results=1)["ids"] == [["0"]]


def litellm(url, plain):
    import litellm

    for arguments in [
        {"model": f"openai/{MODEL}", "api_base": f"{url}/v1"},
        {"model": f"hosted_vllm/{MODEL}", "api_base": f"{url}/v1"},
        {"model": f"huggingface/{MODEL}", "api_base": url, "input_type": "feature-extraction"},
    ]:
        answer = litellm.embedding(input=TEXTS, api_key=KEY, **arguments)
        same([item["embedding"] for item in answer.data], plain.vectors)
    openai = {"model": f"openai/{MODEL}", "api_base": f"{url}/v1", "api_key": KEY, "allowed_openai_params": ["dimensions"]}
    assert len(litellm.embedding(input=["a"], dimensions=64, **openai).data[0]["embedding"]) == 64
    refused(lambda: litellm.embedding(input=["a"], dimensions=9999, **openai), "dimensions")


FRAMEWORKS = [huggingface_hub, langchain_huggingface, langchain_openai, llama_index, haystack, chroma, litellm]


def main():
    asked = sys.argv[1:] or [framework.__name__ for framework in FRAMEWORKS]
    os.environ["GTE_API_KEYS"] = KEY
    with running() as server:
        plain = Plain(server.url)
        for framework in FRAMEWORKS:
            if framework.__name__ in asked:
                framework(server.url, plain)
                print(f"{framework.__name__}: passed", flush=True)
        assert not server.errors, server.errors


main()
