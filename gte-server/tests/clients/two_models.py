"""An embedder and a reranker in one server, during a shutdown and during an overload: python
two_models.py

Admitted requests are answered, other requests are refused at once with a time to retry, and neither
model blocks the other.
"""
import asyncio
import signal

import httpx
from families import named
from server import MODEL, Server

WORDS = "A parcel that was never opened can be returned within thirty days of its delivery. " * 4
EMBED = ("/v1/embeddings", {"model": "embedder", "input": [WORDS] * 3 + [f"{i} {WORDS}" for i in range(12)]})
RERANK = ("/v1/rerank", {"model": "qwen3-reranker", "query": "Can I return it?", "documents": [f"{i} {WORDS}" for i in range(100)]})
SMALL = ("/v1/rerank", {"model": "qwen3-reranker", "query": "Can I return it?", "documents": ["Yes.", "No."]})
MODELS = ("--model", f"embedder={MODEL}", *named("qwen3-reranker"))


async def ask(client, url, request):
    path, body = request
    return await client.post(url + path, json=body)


async def drained():
    """SIGTERM while both models compute: every request gets its response, also those that arrive
    before the listener closes.
    """
    server = Server(*MODELS, "--threads", "1", "--drain-delay", "6")
    try:
        server.wait_ready()
        async with httpx.AsyncClient(timeout=60) as client:
            asking = [asyncio.create_task(ask(client, server.url, request)) for request in (EMBED, RERANK) * 4]
            await asyncio.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            not_ready = await client.get(f"{server.url}/readyz")
            assert not_ready.status_code == 503, not_ready.status_code
            late = await ask(client, server.url, SMALL)
            answers = [*await asyncio.gather(*asking), late]
        assert [answer.status_code for answer in answers] == [200] * 9, [answer.text[:200] for answer in answers]
        assert len(answers[1].json()["results"]) == 100 and len(answers[0].json()["data"]) == 15
        assert await asyncio.to_thread(server.process.wait, 60) == 0
        try:
            httpx.get(f"{server.url}/livez")
        except httpx.ConnectError:
            pass
        else:
            raise AssertionError("the server is still there")
    finally:
        server.process.kill()
    print("drain: 9 of 9 requests to two models answered")


async def overloaded():
    """Forty clients, but room for few: the status is 200, or 429 with `Retry-After`. Each model
    gets its share of the time. Afterwards the server works as before.
    """
    server = Server(*MODELS, "--threads", "1", "--queue-texts", "300", "--queue-requests", "8")
    try:
        server.wait_ready()
        stop, seen = asyncio.Event(), {}

        async def storm(request):
            async with httpx.AsyncClient(timeout=60) as client:
                while not stop.is_set():
                    answer = await ask(client, server.url, request)
                    assert answer.status_code in (200, 429), (answer.status_code, answer.text)
                    if answer.status_code == 429:
                        assert int(answer.headers["retry-after"]) >= 1 and answer.json()["error"]["type"] == "rate_limit_error", answer.text
                        await asyncio.sleep(0.05)
                    path = request[0]
                    seen[path, answer.status_code] = seen.get((path, answer.status_code), 0) + 1

        clients = [asyncio.create_task(storm(request)) for request in (EMBED, RERANK) * 20]
        async with httpx.AsyncClient(timeout=60) as probe:
            shown = [(EMBED[0], 200), (RERANK[0], 200), (EMBED[0], 429), (RERANK[0], 429)]
            for _ in range(60):
                await asyncio.sleep(1)
                if all(seen.get(kind, 0) > 2 for kind in shown):
                    break
                for path in ("/livez", "/readyz"):
                    answer = await probe.get(server.url + path)
                    assert answer.status_code == 200, (path, answer.status_code, answer.text)
            stop.set()
            await asyncio.gather(*clients)
            assert all(seen.get(kind, 0) > 2 for kind in shown), f"no overload, or a model was shut out: {seen}"
            for request in (EMBED, RERANK, SMALL):
                assert (await ask(probe, server.url, request)).status_code == 200
        assert not [line for line in server.errors if '"level":"ERROR"' in line or "panicked" in line], server.errors
        assert server.stop() == 0
    finally:
        server.process.kill()
    print(f"overload of two models: passed, {seen}")


def tight():
    """A request that is larger than the queue gets a final refusal, without a time to retry."""
    server = Server(*MODELS, "--queue-texts", "50")
    try:
        server.wait_ready()
        answer = httpx.post(server.url + RERANK[0], json=RERANK[1])
        assert answer.status_code == 413 and "--queue-texts" in answer.text and "retry-after" not in answer.headers, answer.text
        assert httpx.post(server.url + SMALL[0], json=SMALL[1]).status_code == 200
        assert server.stop() == 0
    finally:
        server.process.kill()
    print("a request larger than the queue: refused by name")


asyncio.run(drained())
asyncio.run(overloaded())
tight()
