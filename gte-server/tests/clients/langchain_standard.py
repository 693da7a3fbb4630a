"""LangChain's standard tests of embeddings, with both APIs: GTE_URL=http://… python -m pytest
langchain_standard.py
"""
import os

from huggingface_hub import AsyncInferenceClient, InferenceClient
from langchain_huggingface import HuggingFaceEndpointEmbeddings
from langchain_openai import OpenAIEmbeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests

URL = os.environ["GTE_URL"]


class AtAddress(HuggingFaceEndpointEmbeddings):
    """Clients that only have an address no longer accept `model`."""

    def __init__(self, **arguments):
        super().__init__(model="any/model", provider="hf-inference", **arguments)
        self.client, self.async_client = InferenceClient(URL), AsyncInferenceClient(URL)


class TestTextEmbeddingsInference(EmbeddingsIntegrationTests):
    embeddings_class, embedding_model_params = AtAddress, {}


class TestOpenAI(EmbeddingsIntegrationTests):
    embeddings_class = OpenAIEmbeddings
    embedding_model_params = {"base_url": f"{URL}/v1", "api_key": "none", "model": "any", "check_embedding_ctx_length": False}
