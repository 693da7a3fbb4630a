"""Runs the examples for Ray and Spark on two workers, with an interruption after which they
continue.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest

import gte

MODEL = Path(__file__).resolve().parents[2] / "target/models/all-MiniLM-L6-v2"
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TEXTS = [f"text {i} about kettles and refunds" for i in range(400)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("distributed") / "in.parquet"
    parquet.write_table(pyarrow.table({"id": range(len(TEXTS)), "text": TEXTS}), path, row_group_size=100)
    return path


def run(example, source, target):
    done = subprocess.run([sys.executable, EXAMPLES / example, source, target, "--model", MODEL], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def check(target):
    table = parquet.read_table(target).sort_by("id")
    assert table["id"].to_pylist() == list(range(len(TEXTS))), "rows are missing or duplicated"
    expected = gte.Embedder(MODEL).embed(TEXTS)
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), np.float32), expected)


def test_ray(source, tmp_path):
    assert "0 done" in run("ray_embed.py", source, tmp_path / "out")
    check(tmp_path / "out")
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    assert len(parts) == 4
    kept = parts[0].stat().st_mtime_ns
    parts[2].unlink()
    assert "3 done" in run("ray_embed.py", source, tmp_path / "out")
    assert parts[0].stat().st_mtime_ns == kept
    check(tmp_path / "out")


def test_spark(source, tmp_path):
    run("spark_embed.py", source, tmp_path / "out")
    check(tmp_path / "out")
    shutil.rmtree(tmp_path / "out/slice=1")
    assert run("spark_embed.py", source, tmp_path / "out").count("already done") == 3
    check(tmp_path / "out")
