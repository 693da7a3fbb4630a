"""Ours against what a user would pick instead, in one run and in turn (A B C A B C …), on one checkpoint, the same lengths and threads.

    python compare.py MODEL_DIR [--threads 2] [--precision f32] [--peers torch-f32,ort-f32,openvino-f32] [--rounds 5] [--out benches/record]

Each engine computes a workload once a round; a ratio is taken in every round, between neighbours in time, and the median over
the rounds is printed, so that a machine whose speed drifts does not decide; beside it the ratio of the best times, which is what a quiet
machine would show. Peers run mixed lengths sorted and padded at the
batch size that is fastest for them (see peers.py). Answers are checked first: ours against candle, the peers' against PyTorch.
Writes OUT/MACHINE/DATE-PRECISION.{csv,txt,svg}.
"""
import argparse
import csv
import datetime
import json
import os
import re
import statistics
import subprocess
import time

import peers

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PAUSE = 0.1  # seconds before each measurement: idle threads of the engine before it spin for a while


class Ours:
    def __init__(self, a):
        command = [os.path.join(ROOT, "target/release/forward"), a.model_dir, "--threads", str(a.threads), "--precision", a.precision,
                   "--workloads", os.path.join(ROOT, "benches/workloads.json"), "--in-turn", "--only", ",".join(a.workloads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self.process.stdout.readline().strip()
        found = re.search(r"^ready .* worst cosine ([0-9.]+)$", self.ready)
        assert found, self.ready or "the forward bench gave no answer"
        self.cosine = float(found.group(1))

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


def memory(a):
    """Of a process that never held the oracle, after one pass."""
    command = [os.path.join(ROOT, "target/release/forward"), a.model_dir, "--threads", str(a.threads), "--precision", a.precision, "--unchecked", "--in-turn",
               "--workloads", os.path.join(ROOT, "benches/workloads.json")]
    answers = subprocess.run(command, input="single1x128\nmemory\n", capture_output=True, text=True, check=True).stdout
    return answers.splitlines()[-1].strip()


def machine():
    text = subprocess.run(["lscpu"], capture_output=True, text=True).stdout
    field = lambda key: re.search(rf"^{key}:\s+(.*)$", text, re.M).group(1)
    name = f"{field('Model name')} family {field('CPU family')} model {field('Model')}".lower()
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-"), text


def main():
    p = argparse.ArgumentParser()
    p.add_argument("model_dir")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--precision", default="f32")
    p.add_argument("--peers", default="torch-f32,ort-f32,openvino-f32")
    p.add_argument("--workloads", default="query1x16,single1x128,uniform8x128,short32x32,long4x512,mixed64")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--out", default=os.path.join(ROOT, "benches/record"))
    a = p.parse_args()
    a.workloads = a.workloads.split(",")
    with open(os.path.join(a.model_dir, "config.json")) as f:
        vocab = json.load(f)["vocab_size"]
    with open(os.path.join(ROOT, "benches/workloads.json")) as f:
        loads = json.load(f)

    ours = Ours(a)
    print(ours.ready, flush=True)
    reference = peers.engine("torch-f32", a.model_dir, a.threads)
    expected = {w: peers.run(reference, peers.token_ids(loads[w], vocab), 4) for w in a.workloads}
    del reference
    rows, lines = [], []
    engines = {name: peers.engine(name, a.model_dir, a.threads) for name in a.peers.split(",")}
    for w in a.workloads:
        texts = peers.token_ids(loads[w], vocab)
        sizes, cosines = {}, {}
        for name, forward in engines.items():
            candidates = [len(texts)] if len(set(loads[w])) == 1 else [1, 2, 4, 8, 16]
            cosines[name] = float((peers.run(forward, texts, candidates[0]) * expected[w]).sum(1).mean())
            sizes[name] = min(candidates, key=lambda n: peers.timed(forward, texts, n)) if len(candidates) > 1 else candidates[0]
        ours.ask(w)
        # A short workload several times a round: its neighbours in time are then as near as a long one's.
        repeats = max(1, int(1.0 / (sum(loads[w]) / 200)))
        seconds = {name: [] for name in ["gte", *engines]}
        for _ in range(a.rounds):
            for _ in range(repeats):
                time.sleep(PAUSE)
                seconds["gte"].append(float(ours.ask(w)))
                for name, forward in engines.items():
                    time.sleep(PAUSE)
                    seconds[name].append(peers.timed(forward, texts, sizes[name]))
        tokens = sum(loads[w])
        ratio = lambda name: statistics.median(b / g for g, b in zip(seconds["gte"], seconds[name]))
        quiet = lambda name: min(seconds[name]) / min(seconds["gte"])
        best, best_quiet = min(engines, key=ratio), min(engines, key=quiet)
        for name in seconds:
            median = statistics.median(seconds[name])
            rows.append({"workload": w, "engine": f"gte-{a.precision}" if name == "gte" else name, "tokens": tokens, "seconds": round(median, 5),
                         "tokens_per_second": round(tokens / median, 1), "batch": sizes.get(name, ""), "cosine": round(cosines.get(name, ours.cosine), 6),
                         "best_seconds": round(min(seconds[name]), 5), "speed_of_ours_over_it": 1.0 if name == "gte" else round(ratio(name), 3),
                         "of_the_best_times": 1.0 if name == "gte" else round(quiet(name), 3)})
        p99 = sorted(seconds["gte"])[min(len(seconds["gte"]) - 1, int(0.99 * len(seconds["gte"])))]
        lines.append(f"{w:14} gte-{a.precision} {tokens / statistics.median(seconds['gte']):7.1f} tokens/s (p50 {1000 * statistics.median(seconds['gte']):.0f} ms, "
                     f"p99 {1000 * p99:.0f} ms)   " + "   ".join(f"{n} {tokens / statistics.median(seconds[n]):.1f}" for n in engines)
                     + f"   ours over the best ({best}): {ratio(best):.2f} x, of the best times ({best_quiet}): {quiet(best_quiet):.2f} x")
        print(lines[-1], flush=True)
    lines.append(f"resident memory of ours: {memory(a)}")
    print(lines[-1])

    name, lscpu = machine()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    rustc = subprocess.run(["rustc", "-vV"], capture_output=True, text=True).stdout
    folder = os.path.join(a.out, name)
    os.makedirs(folder, exist_ok=True)
    base = os.path.join(folder, f"{datetime.date.today()}-{a.precision}")
    with open(base + ".csv", "w", newline="") as f:
        writer = csv.DictWriter(f, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    with open(base + ".txt", "w") as f:
        f.write("\n".join([f"{os.path.basename(a.model_dir.rstrip('/'))}, {a.threads} threads, commit {commit}", ours.ready, "", *lines, "", lscpu, rustc]))
    plot(rows, a, base + ".svg")


def plot(rows, a, path):
    import matplotlib
    matplotlib.use("svg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(r["engine"] for r in rows))
    figure, axes = pyplot.subplots(figsize=(10, 4))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        values = [next(r["tokens_per_second"] for r in rows if r["engine"] == name and r["workload"] == w) for w in a.workloads]
        axes.bar([x + i * width for x in range(len(values))], values, width, label=name)
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(a.workloads))], a.workloads)
    axes.set_ylabel("tokens/s (higher is better)")
    axes.set_title(f"{os.path.basename(a.model_dir.rstrip('/'))}, {a.threads} threads")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
