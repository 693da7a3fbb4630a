"""Runs LangChain's own tests of embeddings on our classes."""

from pathlib import Path
from typing import Any

from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from gte.langchain import GteEmbeddings

MODEL = Path(__file__).resolve().parents[2] / "target/models/all-MiniLM-L6-v2"


class Ours:
    @property
    def embeddings_class(self) -> type[GteEmbeddings]:
        return GteEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": str(MODEL), "threads": 2}


class TestUnit(Ours, EmbeddingsUnitTests):
    pass


class TestIntegration(Ours, EmbeddingsIntegrationTests):
    pass
