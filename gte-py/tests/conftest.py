"""The embedders that most tests use."""

import pytest
from fixtures import MODEL, TEXTS

import gte


# "auto" is bf16 on one machine and f32 on another, so tests that compare with something else name
# the precision.
@pytest.fixture(scope="session")
def embedder():
    return gte.Embedder(MODEL, precision="f32", threads=2)


# With default options, as the command line opens it.
@pytest.fixture(scope="session")
def default_embedder():
    return gte.Embedder(MODEL)


@pytest.fixture(scope="session")
def expected(embedder):
    return embedder.embed(TEXTS)
