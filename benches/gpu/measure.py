"""What run.sh measures on a GPU. Each part says what it found as soon as it has it, and is left out
where there is no time for it: the last line names those.

The same token ids go to both sides. PyTorch's side is what sentence-transformers does with them:
texts sorted by length, padded in batches, attention by SDPA, pooled on the device.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../peers"), os.path.join(HERE, "../../gte-core/tests")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

# What each model must keep: cosines with PyTorch in float64, and in f32 the largest difference of
# two values of unit vectors, or of two scores relative to their size.
BF16, F16, F32 = 0.9999, 0.9999, 1e-5
SHAPES = ["gte-large-zh", "gte-multilingual-base", "gte-modernbert-base", "Qwen3-Embedding-0.6B", "bge-reranker-base"]
LENGTHS = [1, 2, 16, 31, 128, 129, 200, 333, 500]
BATCHES = (32, 128, 256)  # texts, of PyTorch: the best one counts
THREADS = (1, 2, 4, 8, 16)


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--forward", required=True, help="the binary of benches")
    p.add_argument("--emulator", help="the kernels' library: a dry run on the CPU, on tiny models")
    p.add_argument("--out", required=True)
    p.add_argument("--seconds", type=float, default=450, help="after which no part is begun any more")
    return p.parse_args()


class Report:
    """Lines for people and values for programs, whole or in part."""

    def __init__(self, out, seconds):
        self.out, self.start, self.seconds = out, time.time(), seconds
        self.lines, self.values, self.left_out = [], {}, []
        os.makedirs(out, exist_ok=True)

    def say(self, line):
        self.lines.append(line)
        print(f"[{time.time() - self.start:5.0f} s] {line}", flush=True)
        self.write()

    def part(self, name, work):
        """Does a part, if there is time; what fails is told, and the next one is done."""
        if time.time() - self.start > self.seconds:
            self.left_out.append(name)
            return
        try:
            work()
        except Exception as e:  # one part that fails must not cost the others
            self.left_out.append(f"{name} ({type(e).__name__}: {e})")
            print(f"{name}: {e}", file=sys.stderr, flush=True)

    def write(self):
        file = os.path.join(self.out, f"{datetime.date.today()}-gpu")
        with open(file + ".txt", "w", encoding="utf8") as f:
            f.write("\n".join([*self.lines, ""]))
        with open(file + ".json", "w", encoding="utf8") as f:
            json.dump(self.values, f, indent=1)


class Ours:
    """Our engine in a process of its own, which answers line by line."""

    def __init__(self, options, model, workloads, *, device="cuda:0", precision="bf16", threads=2, rerank=False):
        command = [options.forward, model, "--device", device, "--precision", precision, "--workloads", workloads]
        command += ["--threads", str(threads), "--in-turn", "--unchecked"]
        command += ["--rerank"] if rerank else []
        command += ["--emulator", options.emulator] if options.emulator else []
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **pipes)
        self.ready = self.process.stdout.readline().strip()
        if not self.ready:
            raise RuntimeError(f"{' '.join(command)}: it did not start")

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{line}: no answer")
        return json.loads(answer)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def token_ids(lengths, vocab, seed=11):
    random = np.random.default_rng(seed)
    low = min(670, vocab // 4)
    return [random.integers(low, vocab - low // 4, length).tolist() for length in lengths]


def config_of(path):
    with open(os.path.join(path, "config.json"), encoding="utf8") as f:
        return json.load(f)


class PyTorch:
    """The model in PyTorch: a row per text."""

    def __init__(self, path, dtype, device, attention="sdpa"):
        import transformers

        own = config_of(path)
        place = os.path.join(path, "as-gte") if own["model_type"] == "new" else path
        self.scores = "SequenceClassification" in own["architectures"][0]
        kind = transformers.AutoModelForSequenceClassification if self.scores else transformers.AutoModel
        self.model = kind.from_pretrained(place, dtype=dtype, attn_implementation=attention).eval().to(device)
        self.device, self.last = device, own["model_type"].startswith("qwen")

    def __call__(self, texts, batch):
        """Sorted by length and padded, as sentence-transformers does it."""
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        rows = [None] * len(texts)
        with torch.inference_mode():
            for start in range(0, len(order), batch):
                some = order[start : start + batch]
                width = len(texts[some[0]])
                ids, mask = np.zeros((2, len(some), width), np.int64)
                for row, i in enumerate(some):
                    ids[row, : len(texts[i])] = texts[i]
                    mask[row, : len(texts[i])] = 1
                ids, mask = (torch.from_numpy(x).to(self.device) for x in (ids, mask))
                output = self.model(input_ids=ids, attention_mask=mask)
                if self.scores:
                    made = output.logits
                else:
                    states = output.last_hidden_state
                    at = mask.sum(1) - 1 if self.last else torch.zeros(len(some), dtype=torch.long, device=self.device)
                    made = torch.nn.functional.normalize(states[torch.arange(len(some), device=self.device), at], dim=1)
                for i, row in zip(some, made.double().cpu().numpy()):
                    rows[i] = row
        return np.array(rows)


def made(options, root, name):
    import make_model

    path = os.path.join(root, name)
    if not os.path.exists(os.path.join(path, "config.json")):
        os.makedirs(root, exist_ok=True)
        make_model.make(name, path, tiny=bool(options.emulator))
    return path


def workloads_file(root, name, workloads):
    file = os.path.join(root, f"{name}.workloads.json")
    with open(file, "w", encoding="utf8") as f:
        json.dump(workloads, f)
    return file


def correctness(options, report, root, name, device):
    path = made(options, root, name)
    lengths = [length for length in LENGTHS if length <= 40] if options.emulator else LENGTHS
    texts = token_ids(lengths, config_of(path)["vocab_size"])
    expected = PyTorch(path, torch.float64, device, "eager")(texts, 1)
    scores = "reranker" in name
    file = workloads_file(root, name, {"all": texts, **{str(i): [text] for i, text in enumerate(texts)}})
    line = [name]
    for precision, bound in [("f32", F32), ("bf16", BF16), ("f16", F16)]:
        with Ours(options, path, file, precision=precision, rerank=scores) as ours:
            found = np.array(ours.ask("answers all"))
            # Three times: plain, recorded, repeated.
            alone = [np.array(ours.ask(f"answers {i}")[0]) for i in range(len(texts)) for _ in range(3)]
        same = all(np.array_equal(alone[3 * i + k], found[i]) for i in range(len(texts)) for k in range(3))
        largest = (np.abs(found - expected) / np.maximum(1, np.abs(expected) if scores else 1)).max()
        cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        kept = (largest <= bound if precision == "f32" else scores or cosine.min() >= bound) and same
        measure = f"{largest:.1e}" if scores or precision == "f32" else f"{cosine.min():.6f}"
        line.append(f"{precision} {measure}{'' if same else ' NOT THE SAME ALONE'}{'' if kept else ' BEYOND THE BOUND'}")
        report.values[f"correctness {name} {precision}"] = {"largest": largest, "cosine": cosine.min(), "same": bool(same)}
    report.say(f"{line[0]:24} {', '.join(line[1:])}")


def best(work, at_least=3, seconds=1.5):
    """The median of some runs, after one that warms."""
    work()
    times, start = [], time.time()
    while len(times) < at_least or (time.time() - start < seconds and len(times) < 50):
        times.append(work())
    return sorted(times)[len(times) // 2]


def timed(work):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak(report, device):
    """Matrix products of random bf16 numbers: what PyTorch reaches is the limit here."""
    n = 8192 if device == "cuda" else 512
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))

    def products():
        for _ in range(10):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()

    report.values["peak"] = 20 * n**3 / best(lambda: timed(products))
    report.say(f"peak of bf16 products: {report.values['peak'] / 1e12:.1f} TFLOP/s")


def operations(config, lengths):
    """Of a BERT-like encoder: two per multiply-add."""
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    per_token = 4 * hidden * hidden + 2 * hidden * inner
    return 2 * layers * sum(length * (per_token + 2 * hidden * length) for length in lengths)


def speed(options, report, root, device):
    path = made(options, root, "gte-large-zh")
    config = config_of(path)
    with open(os.path.join(HERE, "../workloads.json"), encoding="utf8") as f:
        lengths = {k: v for k, v in json.load(f).items() if isinstance(v, list) and max(v) <= 512}
    mixed = lengths["mixed64"]
    lengths |= {"long64x512": [512] * 64, "mixed256": mixed * 4}
    if options.emulator:
        lengths = {"query1x16": [16], "mixed8": mixed[:8]}
    texts = {name: token_ids(of, config["vocab_size"]) for name, of in lengths.items()}
    file = workloads_file(root, "speed", texts)
    torch_f16 = PyTorch(path, torch.float16 if device == "cuda" else torch.float32, device)
    rows = []
    with Ours(options, path, file, precision="bf16") as bf16, Ours(options, path, file, precision="f16") as f16:
        report.say(f"ours: {bf16.ready}; {bf16.ask('device')}")
        for name, of in texts.items():
            tokens = sum(map(len, of))
            seconds = {"bf16": best(lambda: bf16.ask(name)), "f16": best(lambda: f16.ask(name))}
            batches = [batch for batch in BATCHES if batch == BATCHES[0] or batch < 2 * len(of)]
            seconds["PyTorch f16"] = min(best(lambda: timed(lambda: torch_f16(of, batch))) for batch in batches)
            share = operations(config, lengths[name]) / seconds["bf16"] / report.values.get("peak", float("nan"))
            rows.append((name, tokens, seconds, share))
            report.values[f"speed {name}"] = {"tokens": tokens, "share of peak": share, **seconds}
            rates = ", ".join(f"{k} {tokens / v:,.0f}" for k, v in seconds.items())
            ratio = seconds["PyTorch f16"] / min(seconds["bf16"], seconds["f16"])
            report.say(f"{name:12} {tokens:6} tokens: tokens/s {rates}; {ratio:.2f} x PyTorch, {share:.1%} of the peak")
        one = {"graph": best(lambda: bf16.ask("query1x16"), 20), "plain": best(lambda: bf16.ask("plain query1x16"), 20)}
        report.values["query of 16 tokens"] = one
        report.say(f"one query of 16 tokens: {one['graph'] * 1e3:.2f} ms with a graph, {one['plain'] * 1e3:.2f} ms without")
        for name in [max(lengths, key=lambda name: sum(lengths[name])), "query1x16"]:
            bf16.ask(f"kernels {name}")
            times = sorted(bf16.ask(f"kernels {name}"), key=lambda time: -time[2])
            total = sum(time[2] for time in times)
            report.values[f"kernels {name}"] = times
            report.say(f"kernels of {name}, {total * 1e3:.2f} ms in all:")
            for kernel, calls, spent in times:
                report.say(f"  {kernel:28} {calls:5} calls {spent * 1e3:9.3f} ms {spent / total:6.1%}")


def threads(options, report, root):
    path = made(options, root, "gte-large-zh")
    names = ["query1x16", "mixed8"] if options.emulator else ["query1x16", "uniform8x128", "mixed64"]
    file = os.path.join(root, "speed.workloads.json")
    with open(file, encoding="utf8") as f:
        tokens = {name: sum(map(len, texts)) for name, texts in json.load(f).items()}
    for count in (1, 2) if options.emulator else THREADS:
        if count > (os.cpu_count() or 1):
            break
        with Ours(options, path, file, device="cpu", precision="auto", threads=count) as ours:
            rates = {name: tokens[name] / best(lambda: ours.ask(name), 2, 0.5) for name in names}
            at_once = ours.ask("device")["max_batch_tokens"]
        report.values[f"CPU {count}"] = rates
        shown = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
        report.say(f"CPU, {count:2} threads, {ours.ready.split()[1]}, max_batch_tokens {at_once}: tokens/s {shown}")


def main():
    options = arguments()
    device = "cpu" if options.emulator else "cuda"
    report = Report(options.out, options.seconds)
    root = os.path.join(options.out if options.emulator else os.environ.get("TMPDIR", "/tmp"), "gpu-models")
    card = torch.cuda.get_device_name(0) if device == "cuda" else "an emulated GPU: figures mean nothing"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    report.say(f"{card}; PyTorch {torch.__version__}; commit {commit or 'not known here'}")
    report.part("peak", lambda: peak(report, device))
    report.part("correctness gte-large-zh", lambda: correctness(options, report, root, "gte-large-zh", device))
    report.part("speed", lambda: speed(options, report, root, device))
    for name in SHAPES[1:]:
        report.part(f"correctness {name}", lambda: correctness(options, report, root, name, device))
    report.part("threads", lambda: threads(options, report, root))
    report.say("left out: " + (", ".join(report.left_out) or "nothing"))
    sys.exit(bool(report.left_out) or any("BEYOND" in line or "NOT THE SAME" in line for line in report.lines))


if __name__ == "__main__":
    main()
