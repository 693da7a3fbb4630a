"""Two replicas with an embedder and a reranker behind haproxy, and clients that send requests to
both models without a pause.
"""
import asyncio
import contextlib
import pathlib
import socket
import subprocess
import tempfile

import httpx
from server import BOTH, Server

CONFIG = """
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 30s
  # A replica that is slow because the machine is busy is not gone.
  timeout check 5s
  # Nothing is tried twice: a lost request would show.
  retries 0
frontend in
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  balance roundrobin
  option httpchk GET /readyz
  default-server check inter 200ms fall 1 rise 1
  server a 127.0.0.1:{a}
  server b 127.0.0.1:{b}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


REQUESTS = [
    lambda n: ("/v1/embedding", {"text": f"request {n} of many"}),
    lambda n: ("/v1/rerank", {"model": "reranker", "query": f"request {n}", "documents": [f"document {i} of {n}" for i in range(3)]}),
    lambda n: ("/v2/rerank", {"query": f"request {n}", "documents": [f"document {i} of {n}" for i in range(3)], "top_n": 1}),
    lambda n: ("/v1/embeddings", {"model": "embedder", "input": [f"request {n}"]}),
]


def all_done(done, least):
    """Every kind of request was answered, and enough of them for a load."""
    kinds = {request(0)[0] for request in REQUESTS}
    assert set(done) == kinds and len(done) > least, f"{len(done)} requests, of {set(done)}: no load"


async def load(url, stop, done, failed):
    async with httpx.AsyncClient(timeout=30) as client:
        n = 0
        while not stop.is_set():
            n += 1
            path, body = REQUESTS[n % len(REQUESTS)](n)
            try:
                answer = await client.post(url + path, json=body)
                if answer.status_code == 200:
                    done.append(path)
                else:
                    failed.append(f"{path}: {answer.status_code} {answer.text}")
            except httpx.HTTPError as e:
                failed.append(f"{path}: {e!r}")


async def ready(url):
    async with httpx.AsyncClient() as client:
        while True:
            try:
                if (await client.get(f"{url}/readyz")).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.1)


class Proxied:
    """The address, the replicas a and b, and the results of the requests."""

    def __init__(self, arguments):
        self.ports = {name: free_port() for name in ("port", "a", "b")}
        self.url, self.done, self.failed = f"http://127.0.0.1:{self.ports['port']}", [], []
        self.arguments = (*BOTH, *arguments)
        self.replicas = {name: Server(*self.arguments, port=self.ports[name]) for name in "ab"}

    async def start(self, name):
        self.replicas[name] = await asyncio.to_thread(lambda: Server(*self.arguments, port=self.ports[name]))


@contextlib.asynccontextmanager
async def under_load(*arguments, config=CONFIG, clients=8):
    """Two replicas under the load of `clients` clients. At the end every request has a response."""
    proxied = Proxied(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "haproxy.cfg"
        path.write_text(config.format(**proxied.ports))
        proxy = subprocess.Popen(["haproxy", "-db", "-q", "-f", path])
        try:
            await ready(proxied.url)
            stop = asyncio.Event()
            asking = [asyncio.create_task(load(proxied.url, stop, proxied.done, proxied.failed)) for _ in range(clients)]
            yield proxied
            stop.set()
            await asyncio.gather(*asking)
        finally:
            proxy.kill()
            for replica in proxied.replicas.values():
                replica.process.kill()
