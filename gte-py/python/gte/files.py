"""Files of texts → files of vectors, in pieces that survive an interruption. Nothing is under the final name before it is whole."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Callable

import numpy as np

from .embedder import Embedder

# Texts in a piece: what an interruption costs at most.
PIECE = 2048
INPUTS = (".txt", ".jsonl", ".csv", ".parquet")
OUTPUTS = (".npy", ".jsonl", ".parquet")


def read_texts(path: Path, column: str) -> Iterator[str]:
    """The texts of a file, in order: lines of .txt, strings or objects of .jsonl, a column of .csv and .parquet. UTF-8, with or without the
    mark that Excel puts at the beginning."""
    try:
        yield from _read_parquet(path, column) if path.suffix == ".parquet" else _read_lines(path, column)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}): convert it, such as with iconv -f GB18030 -t UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path}: {error}") from None


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        _check_column(path, column, file.schema_arrow.names)
        first = 0
        for batch in file.iter_batches(columns=[column]):
            for row, value in enumerate(batch.column(0).to_pylist(), first):
                yield _text(value, path, f"row {row}")
            first += batch.num_rows


def _read_lines(path: Path, column: str) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".txt":
            for line in file:
                yield line.rstrip("\r\n")
        elif path.suffix == ".jsonl":
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}, line {number} is not JSON: {error.msg} at character {error.pos}") from None
                yield _text(value.get(column) if isinstance(value, dict) else value, path, f"line {number}")
        else:
            # A text may be longer than the 128 Ki characters that the module allows by itself.
            csv.field_size_limit(1 << 30)
            rows = csv.DictReader(file)
            _check_column(path, column, rows.fieldnames or [])
            for row in rows:
                yield _text(row[column], path, f"line {rows.line_num}")


def _check_column(path: Path, column: str, names: Sequence[str]) -> None:
    if column not in names:
        raise ValueError(f"{path}: no column {column!r}, there are {', '.join(names)}: give --column")


def _text(value: Any, path: Path, place: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{path}, {place}: {value!r} is no text")
    return value


def embed_file(embedder: Embedder, source: Path, target: Path, column: str = "text", report: Callable[[int], object] = lambda done: None) -> int:
    """Embeds the texts of ``source`` into ``target``, and says how many there were. Interrupted, it goes on where it was when it is called
    again with the same file, model and options; ``report`` is called with the number of texts done."""
    if source.suffix not in INPUTS or target.suffix not in OUTPUTS:
        raise ValueError(f"{source} to {target}: from {', '.join(INPUTS)} to {', '.join(OUTPUTS)}")
    parts = target.with_name(target.name + ".parts")
    state = {
        "source": str(source.resolve()),
        "size": source.stat().st_size,
        "modified": source.stat().st_mtime_ns,
        "model": embedder.name,
        "precision": embedder.precision,
        "max_length": embedder.max_length,
        "column": column,
        "piece": PIECE,
    }
    parts.mkdir(parents=True, exist_ok=True)
    known = parts / "state.json"
    if known.exists() and json.loads(known.read_text()) != state:
        raise ValueError(f"{parts} is of another run (another file, model or option): finish that one, or delete it")
    _whole(known, lambda path: path.write_text(json.dumps(state)))

    texts, count = read_texts(source, column), 0
    for number in range(1 << 60):
        piece = list(islice(texts, PIECE))
        if not piece:
            break
        place = parts / f"{number:09}.npy"
        if not place.exists():
            vectors = embedder.embed(piece, progress=False)
            _whole(place, lambda path: _save(path, vectors))
        count += len(piece)
        report(count)
    pieces = (np.load(parts / f"{number:09}.npy") for number in range(-(-count // PIECE)))
    write = {".npy": _write_npy, ".jsonl": _write_jsonl, ".parquet": _write_parquet}[target.suffix]
    _whole(target, lambda path: write(path, pieces, read_texts(source, column), count, embedder.dim))
    shutil.rmtree(parts)
    return count


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """``write`` to a neighbour that gets the name when it is whole."""
    neighbour = path.with_name(path.name + ".tmp")
    write(neighbour)
    with neighbour.open("rb+") as file:
        os.fsync(file.fileno())
    neighbour.replace(path)


def _save(path: Path, vectors: Any) -> None:
    # By handle: by name, numpy would add a suffix.
    with path.open("wb") as file:
        np.save(file, vectors)


def _write_npy(path: Path, pieces: Iterator[Any], texts: Iterator[str], count: int, dim: int) -> None:
    if not count:
        return _save(path, np.zeros((0, dim), np.float32))
    out, row = np.lib.format.open_memmap(path, "w+", np.float32, (count, dim)), 0
    for piece in pieces:
        out[row : row + len(piece)] = piece
        row += len(piece)
    out.flush()


def _write_jsonl(path: Path, pieces: Iterator[Any], texts: Iterator[str], count: int, dim: int) -> None:
    with path.open("w", encoding="utf8") as file:
        for piece in pieces:
            for vector in piece.tolist():
                file.write(json.dumps({"text": next(texts), "embedding": vector}, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, pieces: Iterator[Any], texts: Iterator[str], count: int, dim: int) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    schema = arrow.schema([("text", arrow.large_string()), ("embedding", arrow.list_(arrow.float32(), dim))])
    with parquet.ParquetWriter(path, schema) as writer:
        for piece in pieces:
            vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(piece.reshape(-1)), dim)
            part = arrow.array(list(islice(texts, len(piece))), arrow.large_string())
            writer.write_table(arrow.Table.from_arrays([part, vectors], schema=schema))
