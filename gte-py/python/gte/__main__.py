"""The command line: ``python -m gte embed | similarity | serve``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from . import Embedder, Error, __version__
from .files import embed_file, skipped_file

# Lines that were left out and are shown; the file lists all.
SHOWN = 10


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gte", description="Text embeddings with GTE models.")
    parser.add_argument("--version", action="version", version=f"gte {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", default=os.environ.get("GTE_MODEL", "").strip() or "bundled", help="directory, hub id such as thenlper/gte-large-zh, or bundled: the small one for trying (GTE_MODEL; default: %(default)s)")
    model.add_argument("--precision", default="auto", help="f32, bf16, int8 or auto (default: %(default)s)")
    model.add_argument("--threads", type=int, help="compute threads")
    model.add_argument("--max-length", type=int, help="tokens at which texts are cut")
    model.add_argument("--offline", action="store_true", help="make no request")

    embed = commands.add_parser("embed", parents=[model], help="a file of texts into a file of vectors; goes on where it was interrupted")
    embed.add_argument("source", type=Path, help=".txt, .jsonl, .csv or .parquet")
    embed.add_argument("-o", "--output", type=Path, required=True, help=".npy, .jsonl or .parquet")
    embed.add_argument("--column", default="text", help="key or column of the texts (default: %(default)s)")
    embed.add_argument("--skip-bad-lines", action="store_true", help="leave out the lines that hold no text, and list them beside the output")
    prompts = embed.add_mutually_exclusive_group()
    prompts.add_argument("--prompt-name", metavar="NAME", help="the prompt of the model's files that goes before each text (default: its default prompt)")
    prompts.add_argument("--prompt", metavar="TEXT", help="goes before each text instead; '' for nothing")

    similarity = commands.add_parser("similarity", parents=[model], help="the cosine of two texts")
    similarity.add_argument("a")
    similarity.add_argument("b")

    commands.add_parser("serve", add_help=False, help="start gte-server; everything after it is passed on")

    known, rest = parser.parse_known_args(arguments)
    if known.command == "serve":
        return serve(rest)
    if rest:
        parser.error(f"unknown: {' '.join(rest)}")
    try:
        embedder = Embedder(known.model, precision=known.precision, threads=known.threads, max_length=known.max_length, offline=known.offline)
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
        print("gte: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _embed(embedder: Embedder, known: argparse.Namespace) -> int:
    bar: Any = None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        pass
    else:
        bar = tqdm(unit="text", disable=None)

    def report(done: int, total: int) -> None:
        if bar is not None:
            bar.total = total
            bar.update(done - bar.n)

    try:
        count, skipped = embed_file(
            embedder,
            known.source,
            known.output,
            known.column,
            report,
            prompt=known.prompt,
            prompt_name=known.prompt_name,
            skip_bad_lines=known.skip_bad_lines,
        )
    finally:
        if bar is not None:
            bar.close()
    print(f"{count} texts, {embedder.dim} dimensions, {embedder.precision}: {known.output}", file=sys.stderr)
    if skipped:
        print(f"gte: {len(skipped)} left out, listed in {skipped_file(known.output)}:", file=sys.stderr)
        for bad in skipped[:SHOWN]:
            print(f"gte: {bad.place} {bad.reason}", file=sys.stderr)
        if len(skipped) > SHOWN:
            print(f"gte: and {len(skipped) - SHOWN} more", file=sys.stderr)
    return 0


def serve(rest: list[str]) -> int:
    program = shutil.which("gte-server")
    if program is None:
        print("gte: gte-server is not on the PATH: cargo install --path gte-server, or use its image", file=sys.stderr)
        return 1
    os.execv(program, [program, *rest])


if __name__ == "__main__":
    sys.exit(main())
