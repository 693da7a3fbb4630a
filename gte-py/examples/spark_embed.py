"""Embeds a Parquet file of texts into Parquet files of vectors, on Spark: python spark_embed.py
in.parquet OUT_DIR --model MODEL --workers 2

A hash of the text divides the rows into slices. Each slice is one Spark job and one folder in
OUT_DIR, which Spark marks with _SUCCESS. After an interruption, the same command computes the
slices that are missing. There is one model per Python worker, which is opened once per partition.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql.functions import col, pandas_udf, pmod, xxhash64
from pyspark.sql.types import ArrayType, FloatType


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--column", default="text")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--slices", type=int, default=4)
    a = parser.parse_args()
    model, threads = a.model, max(1, (os.cpu_count() or 1) // a.workers)

    @pandas_udf(ArrayType(FloatType()))
    def embed(parts: Iterator[pd.Series]) -> Iterator[pd.Series]:
        import gte

        embedder = gte.Embedder(model, threads=threads)
        for texts in parts:
            yield pd.Series(list(embedder.embed(texts)))

    # The workers need the packages of this interpreter.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = SparkSession.builder.master(f"local[{a.workers}]").config("spark.ui.enabled", "false").config("spark.python.worker.reuse", "true").getOrCreate()
    try:
        texts = session.read.parquet(a.source)
        for number in range(a.slices):
            place = a.target / f"slice={number}"
            if (place / "_SUCCESS").exists():
                print(f"slice {number}: already done")
                continue
            rows = texts.where(pmod(xxhash64(col(a.column)), a.slices) == number).repartition(a.workers)
            rows.withColumn("embedding", embed(col(a.column))).write.mode("overwrite").parquet(str(place))
            print(f"slice {number}: done")
    finally:
        session.stop()


if __name__ == "__main__":
    main()
