"""A rolling restart under load loses no request: two replicas behind haproxy are restarted in turn,
while clients send requests to the embedder and the reranker without a pause.

python restart.py [--seconds 20]
"""
import argparse
import asyncio
import time

from proxied import all_done, under_load


async def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=float, default=20)
    a = p.parse_args()
    restarts = 0
    async with under_load("--threads", "1", "--drain-delay", "2") as proxied:
        end = time.monotonic() + a.seconds
        while time.monotonic() < end or restarts < 4:
            name = "ab"[restarts % 2]
            status = await asyncio.to_thread(proxied.replicas[name].stop)
            assert status == 0, f"exit status {status}"
            await proxied.start(name)
            await asyncio.sleep(1)  # until the proxy has seen it
            restarts += 1
    done, failed = proxied.done, proxied.failed
    assert not failed, f"{len(failed)} of {len(done) + len(failed)} requests failed: {failed[:5]}"
    all_done(done, 200)
    print(f"rolling restart: passed, {restarts} restarts, {len(done)} requests, 0 failures")


asyncio.run(main())
