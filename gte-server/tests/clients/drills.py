"""Causes the failures that happen in production, on purpose: python drills.py

One of two replicas behind haproxy is killed with -9 under load; the clock jumps; the disk is full
while a model is downloaded; there is no hub; a directory is not a model. (A rolling restart is in
restart.py. A drain and an overload are in two_models.py. Workers and a broker that are killed are
in ../jobs.rs.)
"""
import asyncio
import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading

from proxied import CONFIG, all_done, free_port, load, ready, under_load
from server import BINARY, BOTH, MODEL, RERANKER, Server

BUNDLED = pathlib.Path(__file__).resolve().parents[3] / "gte-core/bundled"
# Requests for embeddings may be repeated: the proxy does so if a replica dies while it has a
# request.
RETRYING = CONFIG.replace("  # Nothing is tried twice: a lost request would show.\n  retries 0\n",
                          "  retries 3\n  option redispatch 1\n  option http-buffer-request\n  retry-on conn-failure empty-response junk-response response-timeout 503\n")


async def killed():
    assert RETRYING != CONFIG
    async with under_load("--threads", "1", config=RETRYING) as proxied:
        for name in "abab":
            await asyncio.sleep(1)
            proxied.replicas[name].process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(proxied.replicas[name].process.wait)
            await asyncio.sleep(1)
            await proxied.start(name)
            await ready(proxied.replicas[name].url)
    done, failed = proxied.done, proxied.failed
    assert not failed, f"{len(failed)} of {len(done) + len(failed)} failed: {failed[:5]}"
    all_done(done, 100)
    print(f"kill -9 of a replica, four times: {len(done)} requests, 0 failures")


async def clock():
    library = next(iter(sorted(pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
    assert library, "this drill needs the Debian package libfaketime"
    with tempfile.TemporaryDirectory() as folder:
        offset = pathlib.Path(folder) / "offset"
        offset.write_text("+0")
        environment = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        server = Server(*BOTH, "--threads", "1", environment=environment)
        try:
            await ready(server.url)
            stop, done, failed = asyncio.Event(), [], []
            clients = [asyncio.create_task(load(server.url, stop, done, failed)) for _ in range(4)]
            for jump in ("+2h", "-3h", "+400d", "+0"):
                await asyncio.sleep(0.7)
                offset.write_text(jump)
            await asyncio.sleep(0.7)
            stop.set()
            await asyncio.gather(*clients)
            assert not failed, f"{len(failed)} failed of {len(done)}: {failed[:3]}"
            all_done(done, 50)
            assert server.stop() == 0
        finally:
            server.process.kill()
    print(f"a clock that jumps by hours and back: {len(done)} requests, 0 failures")


class Hub(http.server.BaseHTTPRequestHandler):
    """A Hugging Face hub with one model: its API and its files, in ranges if requested."""

    FILES = {path.relative_to(BUNDLED).as_posix(): path for path in BUNDLED.rglob("*") if path.is_file() and "train" not in path.parts}
    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def do_GET(self):
        path = self.path.split("?")[0]
        if path.startswith("/api/models/"):
            files = [{"rfilename": name, "size": file.stat().st_size, "lfs": {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size": file.stat().st_size}}
                     for name, file in self.FILES.items()]
            return self.send(200, json.dumps({"sha": self.COMMIT, "siblings": files}).encode())
        file = self.FILES.get(path.partition(f"/resolve/{self.COMMIT}/")[2])
        if not file:
            return self.send(404, b"")
        content, status = file.read_bytes(), 200
        if asked := self.headers.get("range"):
            content, status = content[int(asked.removeprefix("bytes=").rstrip("-")):], 206
        self.send(status, content)

    def send(self, status, content):
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(OSError):  # a client with a full disk hangs up
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def refused(*arguments, **environment):
    """Runs a start that must fail, and returns its error line."""
    run = subprocess.run([BINARY, "--port", "0", "--host", "127.0.0.1", *arguments], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    lines = [line for line in run.stderr.splitlines() if line.startswith("gte-server: ")]
    assert run.returncode == 1 and len(lines) == 1, (run.returncode, run.stderr)
    return lines[0]


def full_disk():
    hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "gte-drill", folder], capture_output=True, text=True)
        if mounted.returncode:
            print(f"NOT RUN: a full disk (no right to mount a small one: {mounted.stderr.strip()})", file=sys.stderr)
            return
        try:
            environment = {"HF_ENDPOINT": endpoint, "HF_HOME": folder}
            line = refused("--model", "some/model", **environment)
            assert "No space left" in line or "space" in line, line
            whole = [p for p in pathlib.Path(folder).rglob("model.safetensors")]
            assert not whole, f"a file that is not whole has its final name: {whole}"
            print(f"a full disk: {line}")
            subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
            # Three init containers at once, then a server that contacts no hub.
            fetching = [subprocess.Popen([BINARY, "--download", "--model", "some/model"], env={**os.environ, **environment}, stderr=subprocess.DEVNULL) for _ in range(3)]
            assert [process.wait(60) for process in fetching] == [0, 0, 0]
            hub.shutdown()
            server = Server("--model", "some/model", environment={**environment, "GTE_OFFLINE": "true"})
            asyncio.run(ready(server.url))
            assert server.stop() == 0
            print("with enough space: three --download at once, and a server that starts offline")
        finally:
            subprocess.run(["umount", folder], check=True)


def no_hub_and_no_model():
    with tempfile.TemporaryDirectory() as folder:
        line = refused("--model", "some/model", HF_ENDPOINT=f"http://127.0.0.1:{free_port()}", HF_HOME=folder)
        assert "some/model" in line or "127.0.0.1" in line, line
        print(f"no hub: {line}")
        (pathlib.Path(folder) / "config.json").write_text("{}")
        line = refused("--model", folder)
        assert "config.json" in line, line
        print(f"no model: {line.replace(folder, 'DIR')}")
        # If one of two models fails to load, the server does not keep running with the other alone.
        line = refused("--model", f"a={MODEL}", "--model", f"b={folder}", "--drain-delay", "0")
        assert "config.json" in line, line
        line = refused("--model", str(RERANKER), "--pooling", "mean")
        assert "pooling" in line and "reranker" in line, line
        print(f"an option that only embedders have: {line}")


asyncio.run(killed())
asyncio.run(clock())
full_disk()
no_hub_and_no_model()
