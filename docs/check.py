"""Checks the documents: that their commands run, and that they say what is so.

    python3 docs/check.py            everything: runs every command of every page
    python3 docs/check.py --lint     what takes no time: links, complete lists, languages
    python3 docs/check.py PAGE…      runs the commands of these pages

A block that is marked `sh` or `python` is run, `console` too, where what is shown must be what
comes out: a `…` stands for anything, and numbers may differ in their third digit. Blocks of Rust
are run by `examples/tests/pages.rs`. What cannot be run here is in `docs/not-run.toml`, with the
reason.

A page's commands run one after another in a folder of their own, which looks like the repository.
There, `cargo run` takes what is built already, `gte-server` is started in the background and
awaited, its ports are free ones, and models of a hub are tiny ones of the same kind: nothing is
downloaded.
"""

import fnmatch
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib

from facts import facts

ROOT = pathlib.Path(__file__).resolve().parents[1]
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
RELEASE = TARGET / "release"
FAMILIES = ROOT / "gte-core/tests/fixtures/families"
BLOCK = re.compile(r"^```(\w[\w,]*)\n(.*?)^```$", re.M | re.S)
RUN = ("sh", "bash", "console", "python")
BASH = ["bash", "-euo", "pipefail"]
# Where pages say these ports, others are used.
PORTS = ("7860", "7861", "8080", "4222")
MODELS = {
    "thenlper/gte-large-zh": "bundled",
    "BAAI/bge-m3": FAMILIES / "bge-m3",
    "BAAI/bge-reranker-v2-m3": FAMILIES / "xlmr-reranker",
    "BAAI/bge-reranker-base": FAMILIES / "xlmr-reranker",
    "Qwen/Qwen3-Reranker-0.6B": FAMILIES / "qwen3-reranker",
    "Qwen/Qwen3-Embedding-0.6B": FAMILIES / "qwen3",
}

# Stands for cargo in the pages' shell: what is built is run, and everything else is refused.
CARGO = """#!/usr/bin/env bash
bin=
while [ $# -gt 0 ]; do
  case $1 in
    run|--release|-q) shift ;;
    -p) [ -n "$bin" ] || bin=$2; shift 2 ;;
    --bin) bin=$2; shift 2 ;;
    --) shift; break ;;
    *) echo "docs/check.py: cargo $1 is not for a page: list the block in docs/not-run.toml" >&2; exit 1 ;;
  esac
done
command -v "$bin" >/dev/null || { echo "docs/check.py: $bin is not built: run make docs" >&2; exit 1; }
exec "$bin" "$@"
"""
# Stands for gte-server: one that serves is started in the background, and ended with its page.
SERVER = """#!/usr/bin/env bash
case " $* " in *" --help "*|*" --version "*|*" --download "*) exec "$RELEASE/gte-server" "$@" ;; esac
port=$GTE_PORT; for ((i = 1; i < $#; i++)); do next=$((i + 1)); [ "${!i}" = --port ] && port=${!next}; done
before=$(cat "$PAGE/$port.pid" 2>/dev/null) && kill -9 "$before" 2>/dev/null
while [ -n "$before" ] && kill -0 "$before" 2>/dev/null; do sleep 0.02; done
setsid "$RELEASE/gte-server" --host 127.0.0.1 --drain-delay 0 "$@" >"$PAGE/$port.log" 2>&1 </dev/null &
echo $! > "$PAGE/$port.pid"
scheme=http; case " $* " in *" --tls-cert "*) scheme=https ;; esac
for ((i = 0; i < 600; i++)); do
  "$CURL" -ksf "$scheme://127.0.0.1:$port/readyz" >/dev/null && exit 0
  kill -0 "$(cat "$PAGE/$port.pid")" 2>/dev/null || break
  sleep 0.05
done
cat "$PAGE/$port.log" >&2; exit 1
"""
# Stands for curl: a refusal is a failure.
CLIENT = """#!/usr/bin/env bash
exec "$CURL" --fail-with-body "$@"
"""
NATS = """#!/usr/bin/env bash
setsid "$NATS" -p "$NATS_PORT" -sd "$PAGE/nats" "$@" >"$PAGE/nats.log" 2>&1 </dev/null &
echo $! > "$PAGE/nats.pid"; sleep 0.3
"""


def pages():
    """Every page of the repository, those that are not in git yet too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return sorted(page for page in set(found) if (ROOT / page).exists())


def blocks(page):
    """The blocks of a page that a person would run: (number of the first line, language, text)."""
    text = (ROOT / page).read_text(encoding="utf8")
    for found in BLOCK.finditer(text):
        yield text.count("\n", 0, found.start()) + 2, found[1], found[2]


class NotRun:
    """docs/not-run.toml: blocks and pages that are left out, each with its reason."""

    def __init__(self):
        listed = tomllib.loads((ROOT / "docs/not-run.toml").read_text(encoding="utf8"))
        self.pages = {entry["page"]: entry["reason"] for entry in listed["page"]}
        self.blocks = [(entry["page"], entry["begins"], entry["reason"]) for entry in listed["block"]]
        self.used = set()

    def page(self, page):
        return any(fnmatch.fnmatch(page, pattern) for pattern in self.pages)

    def reason(self, page, block):
        for entry in self.blocks:
            if entry[0] == page and block.startswith(entry[1]):
                self.used.add(entry)
                return entry[2]
        return None

    def stale(self, all_pages):
        for page in all_pages:
            for _, kind, block in blocks(page):
                kind in RUN and self.reason(page, block)
        for pattern in self.pages:
            if "*" not in pattern and pattern not in all_pages:
                yield f"docs/not-run.toml: {pattern} is no page"
        left = [entry for entry in self.blocks if entry not in self.used]
        yield from (f"docs/not-run.toml: no block of {page} begins with {begins!r}" for page, begins, _ in left)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Page:
    """A folder that looks like the repository, and what runs in it."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.work, self.bin, self.state = self.folder / "work", self.folder / "bin", self.folder / "state"
        for each in (self.work, self.bin, self.state):
            each.mkdir()
        for path in ROOT.iterdir():
            if path.name != ".git":
                (self.work / path.name).symlink_to(path)
        for name, script in (("cargo", CARGO), ("gte-server", SERVER), ("nats-server", NATS), ("curl", CLIENT)):
            (self.bin / name).write_text(script)
            (self.bin / name).chmod(0o755)
        self.ports = dict(zip(PORTS, free_ports(len(PORTS))))
        path = f"{self.bin}:{RELEASE}:{venv('gte')}/bin:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "RELEASE": str(RELEASE), "PAGE": str(self.state)}
        for name, program in (("CURL", "curl"), ("NATS", "nats-server")):
            self.environment[name] = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin") or program
        self.environment |= {"GTE_PORT": self.ports["7860"], "NATS_PORT": self.ports["4222"]}
        self.environment |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}

    def placed(self, block):
        for name, stand_in in MODELS.items():
            block = block.replace(name, str(stand_in))
        for port, own in self.ports.items():
            block = re.sub(rf"\b{port}\b", own, block)
        return block

    def run(self, kind, block):
        """What went wrong, or None."""
        if kind == "console":
            return self.console(block)
        imports = re.findall(r"^(?:import|from) (\w+)", block, re.M)
        python = [venv(*imports) / "bin/python", "-"]
        done = self.command(python if kind == "python" else BASH, self.placed(block))
        if done.returncode == 0:
            return None
        return f"exit status {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}"

    def command(self, command, text):
        more = {"cwd": self.work, "env": self.environment, "capture_output": True, "text": True, "timeout": 120}
        return subprocess.run(command, input=text, **more)

    def console(self, block):
        parts = re.split(r"^\$ ", block, flags=re.M)[1:]
        for part in parts:
            command = [(lines := part.splitlines())[0]]
            while command[-1].endswith(("\\", "|")) and len(lines) > len(command):
                command.append(lines[len(command)])
            shown = lines[len(command) :]
            done = self.command(BASH, self.placed("\n".join(command)))
            if done.returncode:
                return f"$ {command[0]}: exit status {done.returncode}\n{done.stderr[-1500:]}"
            if not alike(shown, done.stdout.splitlines()):
                return f"$ {command[0]}: it shows\n" + "\n".join(shown) + f"\nand gives\n{done.stdout[-1500:]}"
        return None

    def close(self):
        for pid in self.state.glob("*.pid"):
            try:
                os.killpg(int(pid.read_text()), signal.SIGKILL)
            except (OSError, ValueError):
                pass


def venv(*imports):
    """The environment that has these packages."""
    name = "venv-py" if "gte" in imports else "venv-clients"
    return TARGET / name


NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def alike(shown, given):
    """Whether the lines that a page shows are what came out; a line `…` stands for any of them."""
    if not shown:
        return True
    if shown[0] == "…":
        return any(alike(shown[1:], given[i:]) for i in range(len(given) + 1))
    if not given:
        return False
    return line_alike(shown[0], given[0]) and (len(shown) > 1 or len(given) == 1) and alike(shown[1:], given[1:])


def line_alike(shown, given):
    pattern = "".join(".*" if part == "…" else number_pattern(part) for part in re.split("(…)", shown))
    found = re.fullmatch(pattern, given)
    wanted = [float(number) for part in shown.split("…") for number in NUMBER.findall(part)]
    return bool(found) and all(abs(float(a) - b) < 5e-3 for a, b in zip(found.groups(), wanted))


def number_pattern(text):
    parts = NUMBER.split(text)
    return rf"({NUMBER.pattern})".join(re.escape(part) for part in parts)


def run(names, not_run):
    """Runs the pages' commands, and yields what went wrong."""
    for name in ("gte-server", "embed", "search", "rerank"):
        if not (RELEASE / name).exists():
            yield f"{RELEASE / name} is missing: run cargo build --release --workspace"
            return
    for package, script in (("gte", "gte-py/tests/run.sh"), ("openai", "gte-server/tests/clients/run.sh")):
        if not (venv(package) / "bin/python").exists():
            yield f"{venv(package)} is missing: run {script}"
            return
    for name in names:
        if not_run.page(name):
            continue
        count, start = 0, time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            page = Page(folder)
            try:
                for line, kind, block in blocks(name):
                    if kind not in RUN or not_run.reason(name, block):
                        continue
                    count += 1
                    problem = page.run(kind, block)
                    if problem:
                        yield f"{name}:{line}: {problem}"
            except subprocess.TimeoutExpired as late:
                yield f"{name}:{line}: still running after {late.timeout} s"
            finally:
                page.close()
        if count:
            print(f"{name}: {count} blocks run in {time.monotonic() - start:.1f} s", flush=True)


def main():
    arguments = sys.argv[1:]
    all_pages, not_run = pages(), NotRun()
    problems = [] if arguments and arguments != ["--lint"] else [*not_run.stale(all_pages), *facts(ROOT, all_pages)]
    for problem in problems:
        print(problem, file=sys.stderr)
    failed = bool(problems)
    if arguments != ["--lint"]:
        for problem in run(arguments or all_pages, not_run):
            print(problem, file=sys.stderr, flush=True)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
