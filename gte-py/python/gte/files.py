"""Files of texts → files of vectors, in pieces that survive an interruption. Nothing is under the final name before it is whole."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Callable, NamedTuple, Union

import numpy as np

from .embedder import Embedder

# Texts in a piece: what an interruption costs at most.
PIECE = 2048
INPUTS = (".txt", ".jsonl", ".csv", ".parquet")
OUTPUTS = (".npy", ".jsonl", ".parquet")


class BadLine(NamedTuple):
    """A line of a text file, or a row of a parquet file, that holds no text."""

    place: str
    reason: str


class Done(NamedTuple):
    """What ``embed_file`` has written, and the lines that it has left out."""

    texts: int
    skipped: list[BadLine]


Read = Iterator[tuple[int, Union[str, "_Bad"]]]


class _Bad(str):
    """Why a line holds no text."""


def read_texts(path: Path, column: str, skip: Callable[[BadLine], object] | None = None) -> Iterator[str]:
    """The texts of a file, in order: lines of .txt, strings or objects of .jsonl, a column of .csv and .parquet. UTF-8, with or without the
    mark that Excel puts at the beginning. A line that holds no text is given to ``skip``, without it a ValueError."""
    unit = "row" if path.suffix == ".parquet" else "line"
    for number, text in _read(path, column):
        if not isinstance(text, _Bad):
            yield text
        elif skip is not None:
            skip(BadLine(f"{unit} {number}", text))
        else:
            raise ValueError(f"{path}, {unit} {number} {text}: mend it, or leave such {unit}s out with --skip-bad-lines")


def _read(path: Path, column: str) -> Read:
    if path.suffix == ".parquet":
        yield from _read_parquet(path, column)
        return
    # Bytes that are no UTF-8 become lone surrogates, so that they are found in their line.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if path.suffix == ".txt":
            for number, line in enumerate(file, 1):
                yield number, _text(line.rstrip("\r\n"))
        elif path.suffix == ".jsonl":
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _json_text(line, column)
        else:
            yield from _read_csv(path, file, column)


def _json_text(line: str, column: str) -> str | _Bad:
    raw = _text(line)
    if isinstance(raw, _Bad):
        return raw
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return _Bad(f"is not JSON ({error.msg} at character {error.pos})")
    except RecursionError:
        return _Bad("is not a text but JSON of too many levels")
    if isinstance(value, dict):
        if column not in value:
            return _Bad(f"has no key {column!r}")
        value = value[column]
    return _text(value)


def _read_csv(path: Path, file: IO[str], column: str) -> Read:
    # A text may be longer than the 128 Ki characters that the module allows by itself.
    csv.field_size_limit(1 << 30)
    rows = csv.reader(file, strict=True)
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise ValueError(f"{path}, line 1: {error}") from None
    _check_column(path, column, header)
    place = header.index(column)
    while True:
        number = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, _Bad(f"is not CSV ({error})")
            continue
        if len(row) > len(header):
            yield number, _Bad(f"has {len(row)} fields and the header {len(header)} (a text with commas needs quotes)")
        elif row:
            yield number, _text(row[place]) if place < len(row) else _Bad(f"ends before the column {column!r}")


def _read_parquet(path: Path, column: str) -> Read:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        _check_column(path, column, names)
        kind = file.schema_arrow.field(column).type
        kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
        if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind) or arrow.types.is_string_view(kind)):
            raise ValueError(f"{path}: the column {column!r} is of type {kind}, not of strings: give --column")
        first = 0
        for batch in file.iter_batches(columns=[column]):
            for row, value in enumerate(batch.column(0), first):
                try:
                    yield row, _text(value.as_py())
                except UnicodeDecodeError as error:
                    yield row, _Bad(f"is not UTF-8 ({error.reason} at byte {error.start})")
            first += batch.num_rows


def _check_column(path: Path, column: str, names: Sequence[str]) -> None:
    if column not in names:
        raise ValueError(f"{path}: no column {column!r}, there are {', '.join(names)}: give --column")
    if names.count(column) > 1:
        raise ValueError(f"{path}: {names.count(column)} columns are named {column!r}: rename all but one")


def _text(value: Any) -> str | _Bad:
    if not isinstance(value, str):
        return _Bad(f"is {value!r:.50} and no text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        if 0xDC80 <= code <= 0xDCFF:
            return _Bad(
                f"is not UTF-8 (byte 0x{code - 0xDC00:02x} at character {error.start}; a whole file is converted with"
                " iconv -f GB18030 -t UTF-8)"
            )
        return _Bad(f"is not UTF-8 (the lone surrogate U+{code:04X} at character {error.start})")
    return value


def embed_file(
    embedder: Embedder,
    source: Path,
    target: Path,
    column: str = "text",
    report: Callable[[int, int], object] = lambda done, total: None,
    *,
    prompt: str | None = None,
    prompt_name: str | None = None,
    skip_bad_lines: bool = False,
) -> Done:
    """Embeds the texts of ``source`` into ``target``. Interrupted, it goes on where it was when it is called again with the same file,
    model and options; ``report`` is called with the number of texts done and of all.

    The file is read to its end before the first text is embedded: a line that holds no text is an error at once. With ``skip_bad_lines``
    such lines are left out, and listed in a file beside ``target``, ``.skipped.jsonl``."""
    if source.suffix not in INPUTS or target.suffix not in OUTPUTS:
        raise ValueError(f"{source} to {target}: from {', '.join(INPUTS)} to {', '.join(OUTPUTS)}")
    # A prompt that the model does not have is an error before there is anything to go on with.
    embedder.tokenize([], prompt=prompt, prompt_name=prompt_name)
    skipped: list[BadLine] = []
    total = sum(1 for _ in read_texts(source, column, skipped.append if skip_bad_lines else None))
    parts = target.with_name(target.name + ".parts")
    state = {
        "source": str(source.resolve()),
        "size": source.stat().st_size,
        "modified": source.stat().st_mtime_ns,
        "model": embedder.name,
        "precision": embedder.precision,
        "max_length": embedder.max_length,
        "column": column,
        "prompt": prompt,
        "prompt_name": prompt_name,
        "piece": PIECE,
    }
    parts.mkdir(parents=True, exist_ok=True)
    known = parts / "state.json"
    if known.exists() and json.loads(known.read_text()) != state:
        raise ValueError(f"{parts} is of another run (another file, model or option): finish that one, or delete it")
    _whole(known, lambda path: path.write_text(json.dumps(state)))

    def read() -> Iterator[str]:
        return read_texts(source, column, (lambda bad: None) if skip_bad_lines else None)

    texts, count = read(), 0
    for number in range(1 << 60):
        piece = list(islice(texts, PIECE))
        if not piece:
            break
        place = parts / f"{number:09}.npy"
        if not place.exists():
            vectors = embedder.embed(piece, prompt=prompt, prompt_name=prompt_name, progress=False)
            _whole(place, lambda path: _save(path, vectors))
        count += len(piece)
        report(count, total)
    pieces = (np.load(parts / f"{number:09}.npy") for number in range(-(-count // PIECE)))
    write = {".npy": _write_npy, ".jsonl": _write_jsonl, ".parquet": _write_parquet}[target.suffix]
    if skipped:
        lines = "".join(json.dumps(bad._asdict(), ensure_ascii=False) + "\n" for bad in skipped)
        _whole(skipped_file(target), lambda path: path.write_text(lines, encoding="utf8"))
    else:
        # That of an earlier run into the same file.
        skipped_file(target).unlink(missing_ok=True)
    _whole(target, lambda path: write(path, pieces, read(), count, embedder.dim))
    shutil.rmtree(parts)
    return Done(count, skipped)


def skipped_file(target: Path) -> Path:
    """Where the lines that were left out are listed."""
    return target.with_name(target.name + ".skipped.jsonl")


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
