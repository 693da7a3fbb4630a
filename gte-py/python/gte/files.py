"""Embeds files of texts into files of vectors, in pieces that survive an interruption. A file gets
its final name only when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .embedder import Embedder
from .outputs import MultiVectors, SparseEmbeddings
from .texts import BadLine, read_texts

# Number of texts per piece, which is the most that an interruption loses.
PIECE = 2048
INPUTS = (".txt", ".jsonl", ".csv", ".parquet")
# The outputs per text, and the file types they can be written to.
OUTPUTS = {"dense": (".npy", ".jsonl", ".parquet"), "sparse": (".jsonl", ".parquet"), "colbert": (".jsonl", ".parquet")}


class Done(NamedTuple):
    """What ``embed_file`` has written, and the lines that it has skipped."""

    texts: int
    skipped: list[BadLine]


def embed_file(
    embedder: Embedder,
    source: Path,
    target: Path,
    column: str = "text",
    report: Callable[[int, int], object] = lambda done, total: None,
    *,
    vectors: str = "dense",
    prompt: str | None = None,
    prompt_name: str | None = None,
    skip_bad_lines: bool = False,
) -> Done:
    """Embeds the texts of ``source`` into ``target``. After an interruption, the same call with the
    same file, model and options continues where it stopped. ``report`` is called with the number of
    finished and of all texts. ``vectors`` is ``dense``, ``sparse`` or ``colbert``.

    The whole file is read before the first text is embedded, so that an invalid line fails at once.
    With ``skip_bad_lines`` such lines are skipped, and listed in a file beside ``target``,
    ``.skipped.jsonl``.
    """
    if vectors not in OUTPUTS:
        raise ValueError(f"vectors {vectors!r}: {', '.join(OUTPUTS)}")
    if source.suffix not in INPUTS or target.suffix not in OUTPUTS[vectors]:
        raise ValueError(f"{source} to {target}: expected {', '.join(INPUTS)} to {', '.join(OUTPUTS[vectors])}")
    # A prompt or an output that the model does not have must fail before any work is done.
    nothing = _embedded(embedder, vectors, [], prompt, prompt_name)
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
        "vectors": vectors,
        "prompt": prompt,
        "prompt_name": prompt_name,
        "piece": PIECE,
    }
    parts.mkdir(parents=True, exist_ok=True)
    known = parts / "state.json"
    if known.exists() and json.loads(known.read_text()) != state:
        raise ValueError(f"{parts} belongs to a run with another file, model or option: finish that run, or delete the folder")
    whole(known, lambda path: path.write_text(json.dumps(state)))

    def read() -> Iterator[str]:
        return read_texts(source, column, (lambda bad: None) if skip_bad_lines else None)

    texts, count = read(), 0
    for number in range(1 << 60):
        piece = list(islice(texts, PIECE))
        if not piece:
            break
        place = _part(parts, number, vectors)
        if not place.exists():
            embedded = _embedded(embedder, vectors, piece, prompt, prompt_name)
            whole(place, lambda path: _save(path, embedded))
        count += len(piece)
        report(count, total)
    pieces = (_load(_part(parts, number, vectors), embedder.vocab) for number in range(-(-count // PIECE)))
    write = {".npy": _write_npy, ".jsonl": _write_jsonl, ".parquet": _write_parquet}[target.suffix]
    list_skipped(target, skipped)
    whole(target, lambda path: write(path, pieces, read(), count, nothing))
    shutil.rmtree(parts)
    return Done(count, skipped)


def skipped_file(target: Path) -> Path:
    """The file that lists the skipped lines."""
    return target.with_name(target.name + ".skipped.jsonl")


def list_skipped(target: Path, skipped: list[BadLine]) -> None:
    """Writes that list. If no line was skipped, deletes the list of an earlier run with the same
    target.
    """
    if not skipped:
        skipped_file(target).unlink(missing_ok=True)
        return
    lines = "".join(json.dumps(bad._asdict(), ensure_ascii=False) + "\n" for bad in skipped)
    whole(skipped_file(target), lambda path: path.write_text(lines, encoding="utf8"))


def _part(parts: Path, number: int, vectors: str) -> Path:
    return parts / f"{number:09}.{'npy' if vectors == 'dense' else 'npz'}"


def _embedded(embedder: Embedder, vectors: str, texts: list[str], prompt: str | None, prompt_name: str | None) -> Any:
    """An array, SparseEmbeddings or MultiVectors."""
    if vectors == "dense":
        return embedder.embed(texts, prompt=prompt, prompt_name=prompt_name, progress=False)
    all_ = embedder.embed_all(texts, [vectors], prompt=prompt, prompt_name=prompt_name, progress=False)
    return all_.sparse if vectors == "sparse" else all_.colbert


def whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets ``write`` write a temporary file, which gets its final name when it is complete."""
    neighbour = path.with_name(path.name + ".tmp")
    write(neighbour)
    with neighbour.open("rb+") as file:
        os.fsync(file.fileno())
    neighbour.replace(path)


def _save(path: Path, embedded: Any) -> None:
    # Opened here, because numpy would add a suffix to a file name.
    with path.open("wb") as file:
        if isinstance(embedded, SparseEmbeddings):
            np.savez(file, indptr=embedded.indptr, ids=embedded.ids, weights=embedded.weights)
        elif isinstance(embedded, MultiVectors):
            np.savez(file, indptr=embedded.indptr, values=embedded.values)
        else:
            np.save(file, embedded)


def _load(path: Path, vocab: int) -> Any:
    if path.suffix == ".npy":
        return np.load(path)
    with np.load(path) as arrays:
        if "ids" in arrays:
            return SparseEmbeddings(arrays["indptr"], arrays["ids"], arrays["weights"], vocab=vocab)
        return MultiVectors(arrays["indptr"], arrays["values"])


def _key(nothing: Any) -> str:
    """The name of vectors of this kind in a file."""
    return {SparseEmbeddings: "sparse", MultiVectors: "colbert"}.get(type(nothing), "embedding")


def _write_npy(path: Path, pieces: Iterator[Any], texts: Iterator[str], count: int, nothing: Any) -> None:
    if not count:
        return _save(path, nothing)
    out, row = np.lib.format.open_memmap(path, "w+", np.float32, (count, nothing.shape[1])), 0
    for piece in pieces:
        out[row : row + len(piece)] = piece
        row += len(piece)
    out.flush()


def _write_jsonl(path: Path, pieces: Iterator[Any], texts: Iterator[str], count: int, nothing: Any) -> None:
    key = _key(nothing)
    with path.open("w", encoding="utf8") as file:
        for piece in pieces:
            # Dense vectors as lists, or dicts of token ids, which become strings in JSON.
            rows = piece if isinstance(piece, SparseEmbeddings) else (row.tolist() for row in piece)
            for row in rows:
                file.write(json.dumps({"text": next(texts), key: row}, ensure_ascii=False) + "\n")


def _write_parquet(path: Path, pieces: Iterator[Any], texts: Iterator[str], count: int, nothing: Any) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    def column(piece: Any) -> Any:
        if isinstance(piece, (SparseEmbeddings, MultiVectors)):
            return piece.to_arrow()
        return arrow.FixedSizeListArray.from_arrays(arrow.array(piece.reshape(-1)), piece.shape[1])

    key = _key(nothing)
    schema = arrow.schema([("text", arrow.large_string()), (key, column(nothing).type)])
    with parquet.ParquetWriter(path, schema) as writer:
        for piece in pieces:
            part = arrow.array(list(islice(texts, len(piece))), arrow.large_string())
            writer.write_table(arrow.Table.from_arrays([part, column(piece)], schema=schema))
