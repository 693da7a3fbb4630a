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

# Maximum number of skipped lines that are shown. The file lists all of them.
SHOWN = 10


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gte", description="Text embeddings and reranking with GTE models.")
    parser.add_argument("--version", action="version", version=f"gte {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", default=os.environ.get("GTE_MODEL", "").strip() or "bundled", help="directory, id on a hub such as thenlper/gte-large-zh, or bundled: the small embedding model of this package, for trials (GTE_MODEL; default: %(default)s)")
    model.add_argument("--precision", default="auto", help="f32, bf16, int8 or auto; on a GPU f16, from Ada and Hopper on fp8 (default: %(default)s)")
    model.add_argument("--threads", type=int, help="number of compute threads")
    model.add_argument("--max-length", type=int, help="length in tokens at which texts are truncated")
    model.add_argument("--offline", action="store_true", help="never contact a hub")

    embed = commands.add_parser("embed", parents=[model], help="embed a file of texts into a file of vectors; continues after an interruption")
    embed.add_argument("source", type=Path, help=".txt, .jsonl, .csv or .parquet")
    embed.add_argument("-o", "--output", type=Path, required=True, help=".npy, .jsonl or .parquet")
    embed.add_argument("--vectors", choices=OUTPUTS, default="dense", help="a vector per text, weights of token ids, or a vector per token (default: %(default)s)")
    embed.add_argument("--column", default="text", help="key or column that contains the texts (default: %(default)s)")
    embed.add_argument("--skip-bad-lines", action="store_true", help="skip lines without a valid text, and list them in a file beside the output")
    prompts = embed.add_mutually_exclusive_group()
    prompts.add_argument("--prompt-name", metavar="NAME", help="name of the model's prompt to put before each text (default: the model's default prompt)")
    prompts.add_argument("--prompt", metavar="TEXT", help="text to put before each text instead of a prompt of the model; '' for none")

    rerank = commands.add_parser("rerank", parents=[model], help="score the documents of each query, one line per query", description='Each input line is a JSON object with "query", "documents" and optionally "instruction", or a query and its documents separated by tabs. Each output line is {"scores", "ranking", "truncated"}.')
    rerank.add_argument("source", nargs="?", default="-", help=".jsonl or .tsv file; - or nothing for JSON on standard input")
    rerank.add_argument("-o", "--output", type=Path, help="output file instead of standard output")
    rerank.add_argument("--tsv", action="store_true", help="standard input has queries and documents separated by tabs")
    rerank.add_argument("--raw", action="store_true", help="the model's logits instead of scores from 0 to 1")
    rerank.add_argument("--instruction", metavar="TEXT", help="tells a language model what counts as an answer, for lines without an instruction")
    rerank.add_argument("--skip-bad-lines", action="store_true", help="skip invalid lines, and list them in a file beside the output, or on standard error")

    similarity = commands.add_parser("similarity", parents=[model], help="print the cosine of two texts")
    similarity.add_argument("a")
    similarity.add_argument("b")

    commands.add_parser("serve", add_help=False, help="start gte-server with all further arguments")

    known, rest = parser.parse_known_args(arguments)
    if known.command == "serve":
        return serve(rest)
    if rest:
        parser.error(f"unknown: {' '.join(rest)}")
    options = {"precision": known.precision, "threads": known.threads, "max_length": known.max_length, "offline": known.offline}
    try:
        if known.command == "rerank":
            if known.model == "bundled":
                raise ValueError("the bundled model is not a reranker: use --model, for example --model BAAI/bge-reranker-v2-m3")
            return _rerank(Reranker(known.model, **options), known)
        embedder = Embedder(known.model, **options)
        if known.model == "bundled":
            print("gte: the bundled model (384 dimensions) is meant for trials and tests; for production, use --model thenlper/gte-large-zh", file=sys.stderr)
        if known.command == "similarity":
            print(f"{embedder.similarity(known.a, known.b):.4f}")
            return 0
        return _embed(embedder, known)
    except (Error, OSError, ValueError, ImportError) as error:
        print(f"gte: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("gte: interrupted; run the same command again to continue" if known.command == "embed" else "gte: interrupted", file=sys.stderr)
        return 130


@contextmanager
def _bar(unit: str) -> Iterator[Callable[[int, int | None], None]]:
    """The function to call with the number of finished and of all items. Shows a bar of tqdm on a
    terminal.
    """
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
        print(f"gte: {len(skipped)} skipped, listed in {skipped_file(known.output)}:", file=sys.stderr)
        _show(skipped)
    return 0


def _show(skipped: list[BadLine]) -> None:
    for bad in skipped[:SHOWN]:
        print(f"gte: {bad.place} {bad.reason}", file=sys.stderr)
    if len(skipped) > SHOWN:
        print(f"gte: and {len(skipped) - SHOWN} more", file=sys.stderr)


def _rerank(reranker: Reranker, known: argparse.Namespace) -> int:
    if known.source != "-" and not known.source.endswith((".jsonl", ".tsv")):
        raise ValueError(f"{known.source}: expected a .jsonl or .tsv file, or - for standard input")
    tsv = known.tsv or known.source.endswith(".tsv")
    # An instruction that the model cannot use must fail before the first line.
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
            # One line in, one line out, without delay: another program may wait for each answer.
            for line in answers(lines, lambda done, total: None, total):
                print(line, end="", flush=True)
            return
        with _bar("query") as report:
            whole(known.output, lambda path: _write(path, answers(lines, report, total)))

    if known.source == "-":
        write(io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig", "surrogateescape", newline="\n"))
    else:
        # An invalid line must fail before the first query is answered.
        with open(known.source, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
            total = sum(1 for _ in read_questions(file, tsv, known.source, skip))
            skipped.clear()
            file.seek(0)
            write(file, total)
    if known.output is not None:
        list_skipped(known.output, skipped)
    if skipped:
        print(f"gte: {len(skipped)} skipped:", file=sys.stderr)
        _show(skipped)
    return 0


def _write(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf8") as file:
        file.writelines(lines)


def serve(rest: list[str]) -> int:
    program = shutil.which("gte-server")
    if program is None:
        print("gte: gte-server is not on the PATH: install it with cargo install --path gte-server, or use its image", file=sys.stderr)
        return 1
    os.execv(program, [program, *rest])


if __name__ == "__main__":
    sys.exit(main())
