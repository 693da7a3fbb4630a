"""Reads texts from files: which lines contain a text, and what is wrong with the others."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Callable, NamedTuple, Union


class BadLine(NamedTuple):
    """A line of a text file, or a row of a parquet file, with invalid content."""

    place: str
    reason: str


Read = Iterator[tuple[int, Union[str, "Bad"]]]


class Bad(str):
    """Why a line contains no text."""


def left_out(path: Path | str, bad: BadLine, unit: str = "line") -> ValueError:
    return ValueError(f"{path}, {bad.place} {bad.reason}: correct it, or skip such {unit}s with --skip-bad-lines")


def read_texts(path: Path, column: str, skip: Callable[[BadLine], object] | None = None) -> Iterator[str]:
    """The texts of a file, in order: lines of .txt, strings or objects of .jsonl, a column of .csv
    and .parquet. The files are UTF-8, with or without the byte order mark that Excel writes. An
    invalid line is passed to ``skip``, or is a ValueError without it.
    """
    unit = "row" if path.suffix == ".parquet" else "line"
    for number, text in _read(path, column):
        if not isinstance(text, Bad):
            yield text
        elif skip is not None:
            skip(BadLine(f"{unit} {number}", text))
        else:
            raise left_out(path, BadLine(f"{unit} {number}", text), unit)


def _read(path: Path, column: str) -> Read:
    if path.suffix == ".parquet":
        yield from _read_parquet(path, column)
        return
    # Bytes that are not UTF-8 become lone surrogates, so that the error can name their line.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if path.suffix == ".txt":
            for number, line in enumerate(file, 1):
                yield number, text_or_why(line.rstrip("\r\n"))
        elif path.suffix == ".jsonl":
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _json_text(line, column)
        else:
            yield from _read_csv(path, file, column)


def _json_text(line: str, column: str) -> str | Bad:
    raw = text_or_why(line)
    if isinstance(raw, Bad):
        return raw
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return Bad(f"is not JSON ({error.msg} at character {error.pos})")
    except RecursionError:
        return Bad("is JSON with too many levels")
    if isinstance(value, dict):
        if column not in value:
            return Bad(f"has no key {column!r}")
        value = value[column]
    return text_or_why(value)


def _read_csv(path: Path, file: IO[str], column: str) -> Read:
    # A text may be longer than 128 Ki characters, the default limit of the module.
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
            yield number, Bad(f"is not CSV ({error})")
            continue
        if len(row) > len(header):
            yield number, Bad(f"has {len(row)} fields, but the header has {len(header)} (a text with commas needs quotes)")
        elif row:
            yield number, text_or_why(row[place]) if place < len(row) else Bad(f"ends before the column {column!r}")


def _read_parquet(path: Path, column: str) -> Read:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        _check_column(path, column, names)
        kind = file.schema_arrow.field(column).type
        kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
        if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind) or arrow.types.is_string_view(kind)):
            raise ValueError(f"{path}: the column {column!r} is of type {kind}, expected strings: select another one with --column")
        first = 0
        for batch in file.iter_batches(columns=[column]):
            for row, value in enumerate(batch.column(0), first):
                try:
                    yield row, text_or_why(value.as_py())
                except UnicodeDecodeError as error:
                    yield row, Bad(f"is not UTF-8 ({error.reason} at byte {error.start})")
            first += batch.num_rows


def _check_column(path: Path, column: str, names: Sequence[str]) -> None:
    if column not in names:
        raise ValueError(f"{path}: no column {column!r} among {', '.join(names)}: select one with --column")
    if names.count(column) > 1:
        raise ValueError(f"{path}: {names.count(column)} columns are named {column!r}: rename all but one")


def text_or_why(value: Any) -> str | Bad:
    if not isinstance(value, str):
        return Bad(f"is {value!r:.50}, expected a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        if 0xDC80 <= code <= 0xDCFF:
            return Bad(
                f"is not UTF-8 (byte 0x{code - 0xDC00:02x} at character {error.start}; a whole file is converted with"
                " iconv -f GB18030 -t UTF-8)"
            )
        return Bad(f"is not UTF-8 (the lone surrogate U+{code:04X} at character {error.start})")
    return value
