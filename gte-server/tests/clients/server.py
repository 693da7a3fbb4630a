"""A gte-server for a test: the real binary with the real MiniLM weights. It is stopped when the
test ends.
"""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
BINARY = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/gte-server"
MODEL = ROOT / "target/models/all-MiniLM-L6-v2"
# A tiny reranker, for requests to two models at once.
RERANKER = ROOT / "gte-core/tests/fixtures/families/xlmr-reranker"
BOTH = ("--model", f"embedder={MODEL}", "--model", f"reranker={RERANKER}")


class Server:
    def __init__(self, *arguments, port=0, environment=None):
        model = () if "--model" in arguments else ("--model", MODEL)
        command = [BINARY, *model, "--host", "127.0.0.1", "--port", str(port), "--log-format", "json", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
        self.errors, self.address, start = [], None, []
        for line in self.process.stderr:
            entry = json.loads(line) if line.startswith("{") else {"message": line}
            if "address" in entry:
                self.address = entry["address"]
                break
            start.append(line)
        assert self.address, f"the server did not start: {start}"
        self.url = f"http://{self.address}"
        threading.Thread(target=self._drain_log, daemon=True).start()

    def _drain_log(self):
        for line in self.process.stderr:
            if '"level":"ERROR"' in line or "panicked" in line or '"level":"WARN"' in line:
                self.errors.append(line)

    def wait_ready(self):
        """Waits until all models are loaded: the first one serves requests while the others load.
        """
        for _ in range(3000):
            try:
                return urllib.request.urlopen(f"{self.url}/readyz", timeout=10).status
            except urllib.error.HTTPError as e:
                assert e.code == 503 and self.process.poll() is None, e
            time.sleep(0.02)
        raise AssertionError("not ready")

    def stop(self):
        """Sends SIGTERM, and returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def running(*arguments):
    server = Server(*arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()
