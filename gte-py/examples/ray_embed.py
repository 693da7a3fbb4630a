"""Embeds a Parquet file of texts into Parquet files of vectors, on Ray: python ray_embed.py
in.parquet OUT_DIR --model MODEL --workers 2

Each row group of the input becomes a file in OUT_DIR, which is written completely or not at all.
After an interruption, the same command computes only what is missing. There is one model per
worker, and the workers share the machine's threads.
"""

import argparse
import os
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import ray


class EmbedRowGroups:
    """A Ray Data worker: turns row group numbers into files."""

    def __init__(self, source: str, target: str, column: str, model: str, threads: int) -> None:
        import gte

        self.file, self.target, self.column = parquet.ParquetFile(source), Path(target), column
        self.embedder = gte.Embedder(model, threads=threads)

    def __call__(self, batch: dict) -> dict:
        for number in batch["row_group"]:
            table = self.file.read_row_group(int(number))
            vectors = self.embedder.embed(table[self.column])
            column = arrow.FixedSizeListArray.from_arrays(arrow.array(vectors.reshape(-1)), self.embedder.dim)
            place = part(self.target, number)
            neighbour = place.with_suffix(".tmp")
            parquet.write_table(table.append_column("embedding", column), neighbour)
            neighbour.replace(place)
        return {"row_group": batch["row_group"]}


def part(target: Path, number: int) -> Path:
    return target / f"part-{number:06}.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--column", default="text")
    parser.add_argument("--workers", type=int, default=2)
    a = parser.parse_args()
    a.target.mkdir(parents=True, exist_ok=True)
    groups = parquet.ParquetFile(a.source).num_row_groups
    missing = [number for number in range(groups) if not part(a.target, number).exists()]
    print(f"{groups} row groups, {groups - len(missing)} done")
    if not missing:
        return
    ray.init(ignore_reinit_error=True, include_dashboard=False)
    arguments = (os.path.abspath(a.source), os.path.abspath(a.target), a.column, a.model, max(1, (os.cpu_count() or 1) // a.workers))
    rows = ray.data.from_items([{"row_group": number} for number in missing], override_num_blocks=len(missing))
    done = rows.map_batches(EmbedRowGroups, fn_constructor_args=arguments, batch_size=1, concurrency=a.workers).count()
    print(f"{done} row groups embedded")


if __name__ == "__main__":
    main()
