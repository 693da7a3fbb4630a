"""Two replicas behind haproxy, with clients that ask without a pause."""
import asyncio
import contextlib
import pathlib
import socket
import subprocess
import tempfile

import httpx
from server import Server

CONFIG = """
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 30s
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


async def load(url, stop, done, failed):
    async with httpx.AsyncClient(timeout=30) as client:
        n = 0
        while not stop.is_set():
            n += 1
            try:
                answer = await client.post(f"{url}/v1/embedding", json={"text": f"request {n} of many"})
                (done if answer.status_code == 200 else failed).append(answer.status_code)
            except httpx.HTTPError as e:
                failed.append(repr(e))


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
    """The address, the replicas a and b, and what became of the requests."""

    def __init__(self, arguments):
        self.ports = {name: free_port() for name in ("port", "a", "b")}
        self.url, self.arguments, self.done, self.failed = f"http://127.0.0.1:{self.ports['port']}", arguments, [], []
        self.replicas = {name: Server(*arguments, port=self.ports[name]) for name in "ab"}

    async def start(self, name):
        self.replicas[name] = await asyncio.to_thread(lambda: Server(*self.arguments, port=self.ports[name]))


@contextlib.asynccontextmanager
async def under_load(*arguments, config=CONFIG, clients=8):
    """Two replicas that are asked by `clients` at once; at the end all have their answers."""
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
