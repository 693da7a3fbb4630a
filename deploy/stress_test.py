#!/usr/bin/env python3
"""A quick load test of the service. Prints concurrency, total, success rate, average, P50, P95,
P99, requests per second.

python3 deploy/stress_test.py http://localhost:7860/v1/embedding -c 16 -n 500
python3 deploy/stress_test.py http://localhost:7860/v1/rerank -c 4 -n 100

If the address ends in `rerank`, a request is a query with all other texts as its documents. Only
the standard library is needed. Each worker keeps one connection open; with --fresh it opens a new
one for every request, as many clients would, so that new replicas get their share of the load. The
exit status is 1 if a request failed. For percentiles of an open loop, mixed lengths and records,
see `cargo run -p benches --bin load`.
"""
import argparse
import http.client
import itertools
import json
import sys
import threading
import time
import urllib.parse

TEXTS = [
    "今天天气真好",
    "怎么申请退货退款？",
    "我的订单三天了还没有发货，请帮我查一下物流到哪里了。",
    "这款手机支持无线充电吗？电池能用多久？",
    "根据最新的季度财报，公司营业收入同比增长了百分之十二，净利润基本持平。",
    "How do I change the delivery address of my order?",
]


def question(path, number, a):
    """The body of a request."""
    chosen = number % len(TEXTS)
    # A number that no other request has, so that the text cannot be in the server's cache.
    own = f" {number}" if number % 100 < a.distinct else ""
    text = a.repeat * TEXTS[chosen] + own
    named = {"model": a.model} if a.model else {}
    if path.endswith("rerank"):
        return {**named, "query": text, "documents": [a.repeat * other for other in TEXTS if other != TEXTS[chosen]]}
    return {**named, "text": text}


def check(path, answer):
    """Fails if the response does not answer the request."""
    if path.endswith("rerank"):
        assert len(answer["results"]) == len(TEXTS) - 1, "not every document has a place"
    else:
        assert answer["embedding"], "no embedding"


def percentile(values, share):
    """The value below which `share` of the sorted values lie (nearest rank)."""
    return values[min(len(values) - 1, max(0, -(-len(values) * share // 100) - 1))] if values else float("nan")


class Worker(threading.Thread):
    def __init__(self, url, numbers, a):
        super().__init__(daemon=True)
        self.url, self.numbers, self.options = url, numbers, a
        self.milliseconds, self.failures, self.retried = [], [], []

    def run(self):
        kind = http.client.HTTPSConnection if self.url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self.url.hostname, self.url.port, timeout=self.options.timeout)
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {self.options.api_key}"} if self.options.api_key else {})}
        for number in self.numbers:
            start = time.perf_counter()
            for attempt in range(self.options.retries + 1):
                failure = self.ask(connection, number, headers)
                if failure is None:
                    self.milliseconds.append(1000 * (time.perf_counter() - start))
                elif attempt < self.options.retries:
                    self.retried.append(failure)
                    time.sleep(0.5 * 2**attempt)
                    continue
                else:
                    self.failures.append(failure)
                break

    def ask(self, connection, number, headers):
        """Sends one request. Returns an error message, or None."""
        try:
            connection.request("POST", self.url.path or "/", json.dumps(question(self.url.path, number, self.options)).encode(), headers)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                return f"HTTP {response.status}: {body[:80].decode(errors='replace')}"
            check(self.url.path, json.loads(body))
        except (OSError, http.client.HTTPException, AssertionError, KeyError, ValueError) as error:
            connection.close()
            return f"{type(error).__name__}: {error}"
        if self.options.fresh:
            connection.close()
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", default="http://localhost:7860/v1/embedding")
    parser.add_argument("-c", "--concurrency", type=int, default=10)
    parser.add_argument("-n", "--requests", type=int, default=100)
    parser.add_argument("--seconds", type=float, help="run for this time instead of a number of requests")
    parser.add_argument("--fresh", action="store_true", help="a new connection for every request")
    parser.add_argument("--repeat", type=int, default=1, help="repeat each text this many times, for longer texts and more work")
    parser.add_argument("--distinct", type=int, default=0, metavar="PERCENT", help="percentage of requests with a unique text, which a server with --cache-mb must compute")
    parser.add_argument("--retries", type=int, default=0, help="retry this many times after a failure, as OpenAI's clients do (2); embeddings can safely be requested twice")
    parser.add_argument("--model", default="", help="the model's name, if the server has several")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--timeout", type=float, default=60)
    a = parser.parse_args()
    if a.concurrency < 1 or a.requests < 1:
        parser.error("concurrency and requests must be at least 1")
    url = urllib.parse.urlsplit(a.url)
    if url.scheme not in ("http", "https") or not url.hostname:
        parser.error(f"{a.url}: not an http:// or https:// address")

    end = time.perf_counter() + a.seconds if a.seconds else None
    numbers = itertools.takewhile(lambda _: time.perf_counter() < end, itertools.count()) if end else iter(range(a.requests))
    lock = threading.Lock()

    def shared():
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            yield number

    workers = [Worker(url, shared(), a) for _ in range(a.concurrency if end else min(a.concurrency, a.requests))]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        time.sleep(0.2)
        done = sum(len(w.milliseconds) + len(w.failures) for w in workers)
        if sys.stderr.isatty():
            print(f"\r{done}{'' if end else f'/{a.requests}'}  {done / (time.perf_counter() - start):.1f} requests/s ", end="", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - start
    if sys.stderr.isatty():
        print(file=sys.stderr)
    times = sorted(t for w in workers for t in w.milliseconds)
    failures = [f for w in workers for f in w.failures]
    print(f"concurrency   {len(workers)}")
    total = len(times) + len(failures)
    print(f"requests      {total}")
    print(f"success rate  {100 * len(times) / max(total, 1):.2f} %")
    if times:
        print(f"average       {sum(times) / len(times):.1f} ms")
        for share in (50, 95, 99):
            print(f"P{share}           {percentile(times, share):.1f} ms")
        print(f"QPS           {len(times) / seconds:.1f}")
    retried = [f for w in workers for f in w.retried]
    for word, kind in (("retried", retried), ("failed", failures)):
        for failure in sorted(set(kind))[:5]:
            print(f"{word} {kind.count(failure)} x  {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
