"""Compares ``encode`` with ``SentenceTransformer.encode``: the same vectors, shapes and types for
the same arguments.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import gte

os.environ["HF_HUB_OFFLINE"] = "1"
import sentence_transformers  # noqa: E402
import torch  # noqa: E402

MODEL = Path(__file__).resolve().parents[2] / "target/models/all-MiniLM-L6-v2"
TEXTS = ["How do I return a kettle?", "", "The weather is lovely.", "今天天气真好", "a " * 700]


@pytest.fixture(scope="module", params=["plain", "prompts", "raw", "default"])
def both(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param) / "model"
    place.mkdir()
    for path in MODEL.rglob("*"):
        inside = path.relative_to(MODEL)
        if path.is_file():
            (place / inside).parent.mkdir(exist_ok=True)
            (place / inside).write_bytes(path.read_bytes())
    settings = {}
    if request.param in ("prompts", "default"):
        settings["prompts"] = {"query": "search: ", "passage": "text: ", "document": "doc: ", "other": "other: "}
    if request.param == "default":
        del settings["prompts"]["document"]
        settings["default_prompt_name"] = "other"
    if settings:
        (place / "config_sentence_transformers.json").write_text(json.dumps(settings))
    if request.param == "raw":
        modules = [module for module in json.loads((place / "modules.json").read_text()) if "Normalize" not in module["type"]]
        (place / "modules.json").write_text(json.dumps(modules))
    ours = gte.Embedder(place, precision="f32", threads=2)
    return ours, sentence_transformers.SentenceTransformer(str(place), device="cpu")


CALLS = [
    {},
    {"normalize_embeddings": True},
    {"truncate_dim": 100},
    {"truncate_dim": 100, "normalize_embeddings": True},
    {"convert_to_tensor": True},
    {"convert_to_numpy": False},
    {"precision": "binary"},
    {"precision": "ubinary"},
    {"prompt": "x: "},
    {"prompt": ""},
    {"prompt_name": "query"},
    {"prompt_name": "document"},
    {"prompt": "x: ", "prompt_name": "query"},
    {"batch_size": 2, "chunk_size": 3, "device": "cpu", "task": "query"},
]


@pytest.mark.parametrize("name", ["encode", "encode_query", "encode_document"])
@pytest.mark.parametrize("arguments", CALLS, ids=str)
def test_the_same(both, name, arguments):
    ours, reference = both
    if name != "encode":
        arguments = {key: value for key, value in arguments.items() if key != "task"}
    for texts in (TEXTS, TEXTS[0], tuple(TEXTS[2:]), np.array(TEXTS)):
        found, expected = (getattr(model, name)(texts, **arguments) for model in (ours, reference))
        assert type(found) is type(expected)
        if isinstance(found, list):
            assert all(type(a) is type(b) and a.shape == b.shape for a, b in zip(found, expected))
            found, expected = torch.stack(found), torch.stack(expected)
        found, expected = np.asarray(found), np.asarray(expected)
        assert found.shape == expected.shape and found.dtype == expected.dtype
        if "precision" in arguments:
            # A value near zero may have either sign.
            assert (np.unpackbits(found.view(np.uint8)) == np.unpackbits(expected.view(np.uint8))).mean() > 0.995
        else:
            np.testing.assert_allclose(found, expected, atol=5e-6)


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_the_same_small_numbers(both, precision):
    ours, reference = both
    found, expected = (model.encode(TEXTS, precision=precision) for model in (ours, reference))
    assert found.dtype == expected.dtype and np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    with pytest.raises(ValueError):
        reference.encode(TEXTS[0], precision=precision)
    with pytest.raises(ValueError, match=precision):
        ours.encode(TEXTS[0], precision=precision)


def test_the_same_prompts(both):
    ours, reference = both
    assert ours.prompts == reference.prompts
    assert ours.default_prompt_name == reference.default_prompt_name
    for model in both:
        with pytest.raises(ValueError, match="nonsense"):
            model.encode(TEXTS, prompt_name="nonsense")
