"""The embedders that most tests use."""

import pytest
from fixtures import MODEL, TEXTS

import gte


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
