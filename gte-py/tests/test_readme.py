"""Runs the examples of the README as they are, except that the models are tiny ones of the same
kind.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures import FAMILIES

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf8")
MODELS = {
    "thenlper/gte-large-zh": "bundled",
    "BAAI/bge-m3": FAMILIES / "bge-m3",
    "BAAI/bge-reranker-v2-m3": FAMILIES / "xlmr-reranker",
    "Qwen/Qwen3-Reranker-0.6B": FAMILIES / "qwen3-reranker",
}


def blocks(language):
    for block in re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S):
        for name, place in MODELS.items():
            block = block.replace(name, str(place))
        yield block


def test_python():
    namespace = {}
    examples = list(blocks("python"))
    assert len(examples) == 10
    for example in examples:
        exec(compile(example, "gte-py/README.md", "exec"), namespace)  # noqa: S102, it is ours


@pytest.mark.parametrize("example", [block for block in blocks("sh") if "python -m gte" in block])
def test_shell(tmp_path, example):
    script = "set -euo pipefail\n" + example.replace("python -m gte", f"{sys.executable} -m gte")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if "rerank" in example:
        assert done.stdout.count('"ranking"') == 2
    else:
        assert {path.name for path in tmp_path.iterdir()} == {"texts.jsonl", "vectors.npy", "weights.jsonl", "tokens.parquet"}
