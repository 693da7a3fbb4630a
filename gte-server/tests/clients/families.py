"""The tiny models of every family, for a server with several models. The engine's own tests compare
them with transformers.
"""
import contextlib
import json

import httpx
import numpy as np
from server import ROOT, running

FIXTURES = ROOT / "gte-core/tests/fixtures/families"
EMBEDDERS = ["bge-m3", "new-sparse", "qwen3"]
CLASSIFIER = "bert-classifier-3"
RERANKERS = sorted(path.parent.name for path in FIXTURES.glob("*/expected.json")
                   if "scores" in json.loads(path.read_text()) and path.parent.name != CLASSIFIER)
assert len(RERANKERS) >= 8, RERANKERS


class Scored:
    """A query with documents, and the score of each pair according to transformers in float64."""

    def __init__(self, case):
        self.query, self.documents = case["query"], case["documents"]
        self.logits = np.array(case["logits"], dtype="float64")
        self.scores = 1 / (1 + np.exp(-self.logits))
        # For a model with one label, the indices of the documents, best first.
        self.order = [int(i) for i in np.argsort(-self.scores, kind="stable")] if self.scores.ndim == 1 else None


def scored(name):
    """The queries and documents for which a model's scores are known."""
    return [Scored(case) for case in json.loads((FIXTURES / name / "expected.json").read_text())["scores"]]


def close(found, expected):
    """Scores in f32 must equal those in float64 up to rounding."""
    np.testing.assert_allclose(np.array(found, dtype="float64"), expected, rtol=1e-5, atol=2e-6)


def named(*names):
    """The options that name models."""
    return [option for name in names for option in ("--model", f"{name}={FIXTURES / name}")]


@contextlib.contextmanager
def serving(*names, options=()):
    """A server with these models in full precision. It must not fail while it is used, and must
    stop cleanly.
    """
    with running(*named(*names), "--precision", "f32", *options) as server:
        server.wait_ready()
        yield server
        assert server.process.poll() is None, "the server died"
        assert not server.errors, server.errors
        assert server.stop() == 0


class Client:
    """Plain requests."""

    def __init__(self, url, key=None):
        self.url, self.http = url, httpx.Client(timeout=60, headers={"authorization": f"Bearer {key}"} if key else {})

    def post(self, path, **body):
        answer = self.http.post(self.url + path, json=body)
        assert answer.status_code == 200, (path, body, answer.status_code, answer.text)
        return answer.json()

    def refused(self, path, status, *words, **body):
        """The server's message for a request that it refuses."""
        answer = self.http.post(self.url + path, json=body)
        assert answer.status_code == status, (path, body, answer.status_code, answer.text)
        assert all(word in answer.text for word in words), (words, answer.text)
        return answer.json()


def refused(call, *words, error=Exception):
    """The call must fail, and its error must contain the server's message."""
    try:
        call()
    except error as e:
        assert all(word in str(e) for word in words), f"{words} not in {type(e).__name__}: {e}"
        return e
    raise AssertionError(f"not refused: {words}")
