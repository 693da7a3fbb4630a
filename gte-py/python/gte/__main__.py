"""The command line: ``python -m gte embed | rerank | similarity | serve``."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import Embedder, Error, Reranker, __version__
from .files import OUTPUTS, embed_file, list_skipped, skipped_file, whole
from .questions import answer, read_questions
from .texts import BadLine

# Lines that were left out and are shown; the file lists all.
SHOWN = 10


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gte", description="Text embeddings and reranking with GTE models.")
    parser.add_argument("--version", action="version", version=f"gte {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", default=os.environ.get("GTE_MODEL", "").strip() or "bundled", help="directory, hub id such as thenlper/gte-large-zh, or bundled: the small embedder for trying (GTE_MODEL; default: %(default)s)")
    model.add_argument("--precision", default="auto", help="f32, bf16, int8 or auto (default: %(default)s)")
    model.add_argument("--threads", type=int, help="compute threads")
    model.add_argument("--max-length", type=int, help="tokens at which texts are cut")
    model.add_argument("--offline", action="store_true", help="make no request")

    embed = commands.add_parser("embed", parents=[model], help="a file of texts into a file of vectors; goes on where it was interrupted")
    embed.add_argument("source", type=Path, help=".txt, .jsonl, .csv or .parquet")
    embed.add_argument("-o", "--output", type=Path, required=True, help=".npy, .jsonl or .parquet")
    embed.add_argument("--vectors", choices=OUTPUTS, default="dense", help="a vector per text, weights of token ids, or a vector per token (default: %(default)s)")
    embed.add_argument("--column", default="text", help="key or column of the texts (default: %(default)s)")
    embed.add_argument("--skip-bad-lines", action="store_true", help="leave out the lines that hold no text, and list them beside the output")
    prompts = embed.add_mutually_exclusive_group()
    prompts.add_argument("--prompt-name", metavar="NAME", help="the prompt of the model's files that goes before each text (default: its default prompt)")
    prompts.add_argument("--prompt", metavar="TEXT", help="goes before each text instead; '' for nothing")

    rerank = commands.add_parser("rerank", parents=[model], help="queries with their documents into a line of scores for each", description='A line of JSON, {"query", "documents"} and if wanted "instruction", or of a query and its documents between tabs, into a line {"scores", "ranking", "truncated"}.')
    rerank.add_argument("source", nargs="?", default="-", help=".jsonl or .tsv; - or nothing for standard input, of JSON")
    rerank.add_argument("-o", "--output", type=Path, help="a file instead of standard output")
    rerank.add_argument("--tsv", action="store_true", help="standard input is of queries and documents between tabs")
    rerank.add_argument("--raw", action="store_true", help="the model's logits in place of scores from 0 to 1")
    rerank.add_argument("--instruction", metavar="TEXT", help="what an answer is, for a language model, where a line does not say it")
    rerank.add_argument("--skip-bad-lines", action="store_true", help="leave out the lines that hold no question, and list them beside the output, or on standard error")

    similarity = commands.add_parser("similarity", parents=[model], help="the cosine of two texts")
    similarity.add_argument("a")
    similarity.add_argument("b")

    commands.add_parser("serve", add_help=False, help="start gte-server; everything after it is passed on")

    known, rest = parser.parse_known_args(arguments)
    if known.command == "serve":
        return serve(rest)
    if rest:
        parser.error(f"unknown: {' '.join(rest)}")
    options = {"precision": known.precision, "threads": known.threads, "max_length": known.max_length, "offline": known.offline}
    try:
        if known.command == "rerank":
            if known.model == "bundled":
                raise ValueError("the bundled model is no reranker: give --model, such as BAAI/bge-reranker-v2-m3")
            return _rerank(Reranker(known.model, **options), known)
        embedder = Embedder(known.model, **options)
        if known.model == "bundled":
            print("gte: bundled model, 384 dimensions, for trying and testing; for production --model thenlper/gte-large-zh", file=sys.stderr)
        if known.command == "similarity":
            print(f"{embedder.similarity(known.a, known.b):.4f}")
            return 0
        return _embed(embedder, known)
    except (Error, OSError, ValueError, ImportError) as error:
        print(f"gte: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("gte: interrupted; the same command goes on from here" if known.command == "embed" else "gte: interrupted", file=sys.stderr)
        return 130


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """What is to be called with the number done and of all; a bar of tqdm on a terminal."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield lambda done, total: None
        return
    with tqdm(unit=unit, disable=None) as bar:

        def report(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report


def _embed(embedder: Embedder, known: argparse.Namespace) -> int:
    with _bar("text") as report:
        count, skipped = embed_file(
            embedder,
            known.source,
            known.output,
            known.column,
            report,
            vectors=known.vectors,
            prompt=known.prompt,
            prompt_name=known.prompt_name,
            skip_bad_lines=known.skip_bad_lines,
        )
    dimensions = f"{embedder.dim} dimensions" if known.vectors == "dense" else known.vectors
    print(f"{count} texts, {dimensions}, {embedder.precision}: {known.output}", file=sys.stderr)
    if skipped:
        print(f"gte: {len(skipped)} left out, listed in {skipped_file(known.output)}:", file=sys.stderr)
        _show(skipped)
    return 0


def _show(skipped: list[BadLine]) -> None:
    for bad in skipped[:SHOWN]:
        print(f"gte: {bad.place} {bad.reason}", file=sys.stderr)
    if len(skipped) > SHOWN:
        print(f"gte: and {len(skipped) - SHOWN} more", file=sys.stderr)


def _rerank(reranker: Reranker, known: argparse.Namespace) -> int:
    if known.source != "-" and not known.source.endswith((".jsonl", ".tsv")):
        raise ValueError(f"{known.source}: .jsonl or .tsv, or - for standard input")
    tsv = known.tsv or known.source.endswith(".tsv")
    # What the model does not take is an error before the first line.
    reranker.logits("", [], instruction=known.instruction)
    skipped: list[BadLine] = []
    skip = skipped.append if known.skip_bad_lines else None

    def answers(lines: Iterable[str], report: Callable[[int, int | None], None], total: int | None) -> Iterator[str]:
        name = "standard input" if known.source == "-" else known.source
        for done, (number, question) in enumerate(read_questions(lines, tsv, name, skip), 1):
            try:
                yield answer(reranker, question, known.instruction, known.raw) + "\n"
            except ValueError as error:
                raise ValueError(f"{name}, line {number}: {error}") from None
            report(done, total)

    def write(lines: Iterable[str], total: int | None = None) -> None:
        if known.output is None:
            # One line in, one line out: someone may wait for it.
            for line in answers(lines, lambda done, total: None, total):
                print(line, end="", flush=True)
            return
        with _bar("query") as report:
            whole(known.output, lambda path: _write(path, answers(lines, report, total)))

    if known.source == "-":
        write(io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig", "surrogateescape", newline="\n"))
    else:
        # A line that holds no question is an error before the first is answered.
        with open(known.source, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            total = sum(1 for _ in read_questions(file, tsv, known.source, skip))
            skipped.clear()
            file.seek(0)
            write(file, total)
    if known.output is not None:
        list_skipped(known.output, skipped)
    if skipped:
        print(f"gte: {len(skipped)} left out:", file=sys.stderr)
        _show(skipped)
    return 0


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf8") as file:
        file.writelines(lines)


def serve(rest: list[str]) -> int:
    program = shutil.which("gte-server")
    if program is None:
        print("gte: gte-server is not on the PATH: cargo install --path gte-server, or use its image", file=sys.stderr)
        return 1
    os.execv(program, [program, *rest])


if __name__ == "__main__":
    sys.exit(main())
