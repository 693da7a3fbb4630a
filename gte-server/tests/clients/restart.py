"""A rolling restart under load loses no request: two replicas behind haproxy, restarted in turn, under constant load.

    python restart.py [--seconds 20]
"""
import argparse
import asyncio
import pathlib
import socket
import subprocess
import tempfile
import time

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


async def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=float, default=20)
    a = p.parse_args()
    ports = {name: free_port() for name in ("port", "a", "b")}
    start = lambda name: Server("--threads", "1", "--drain-delay", "2", port=ports[name])
    replicas = {name: start(name) for name in "ab"}
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "haproxy.cfg"
        config.write_text(CONFIG.format(**ports))
        proxy = subprocess.Popen(["haproxy", "-db", "-q", "-f", config])
        try:
            url = f"http://127.0.0.1:{ports['port']}"
            await ready(url)
            stop, done, failed, restarts = asyncio.Event(), [], [], 0
            clients = [asyncio.create_task(load(url, stop, done, failed)) for _ in range(8)]
            end = time.monotonic() + a.seconds
            while time.monotonic() < end or restarts < 4:
                name = "ab"[restarts % 2]
                status = await asyncio.to_thread(replicas[name].stop)
                assert status == 0, f"exit status {status}"
                replicas[name] = await asyncio.to_thread(start, name)
                await asyncio.sleep(1)  # until the proxy has seen it
                restarts += 1
            stop.set()
            await asyncio.gather(*clients)
        finally:
            proxy.kill()
            for replica in replicas.values():
                replica.process.kill()
    assert not failed, f"{len(failed)} of {len(done) + len(failed)} requests failed: {failed[:5]}"
    assert len(done) > 200, f"only {len(done)} requests: no load"
    print(f"rolling restart: passed, {restarts} restarts, {len(done)} requests, 0 failures")


if __name__ == "__main__":
    asyncio.run(main())
