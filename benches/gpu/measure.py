"""What run.sh measures on a GPU. Each part prints and records its result immediately. A part that
fails, or for which there is no time, is left out; the last line names those.

The same token ids go to both sides. PyTorch's side does what sentence-transformers does with them:
texts are sorted by length, padded in batches, computed with SDPA, and pooled on the device.
"""

import argparse
import contextlib
import datetime
import json
import math
import os
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../peers"), os.path.join(HERE, "../../gte-core/tests")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
import torch

# The bounds: cosines with PyTorch in float64; in f32 the largest difference of two values of unit
# vectors, or of two scores relative to their size; and the same for scores in f16 and bf16.
BF16, F16, F32, SCORE = 0.9999, 0.9999, 1e-5, 5e-2
# In bf16 a lower cosine is right too if 1 - cosine is at most OF_PYTORCH of that of PyTorch in bf16
# with the same weights: random weights can amplify each rounding, theirs as ours.
OF_PYTORCH = 0.75
# fp8 has four bits fewer than bf16, so each rounding is COARSER times as coarse: scores are off by
# at most so many times as much as in bf16, and 1 - cosine is at most its square.
COARSER = 16
SHAPES = ["gte-large-zh", "gte-multilingual-base", "gte-modernbert-base", "Qwen3-Embedding-0.6B", "bge-reranker-base"]
LENGTHS = [1, 2, 16, 31, 128, 129, 200, 333, 500]
BATCHES = (32, 128, 256)  # texts per batch of PyTorch; the best one counts
THREADS = (1, 2, 4, 8, 16)
ANSWER = 90  # seconds for one answer of our engine, or for its start
LONG = 4  # seconds of a run that is not repeated


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--forward", required=True, help="the binary of benches")
    p.add_argument("--emulator", help="the kernels' library: a dry run on the CPU, on tiny models")
    p.add_argument("--out", required=True)
    p.add_argument("--seconds", type=float, default=450, help="after which no part is started any longer")
    return p.parse_args()


class Report:
    """Lines for people and values for programs. The files are written after each line, so that they
    exist even if the run is stopped.
    """

    def __init__(self, out, seconds):
        self.out, self.start, self.seconds = out, time.time(), seconds
        self.lines, self.values, self.left_out, self.wrong = [], {}, [], []
        os.makedirs(out, exist_ok=True)

    def say(self, line):
        self.lines.append(line)
        print(f"[{time.time() - self.start:5.0f} s] {line}", flush=True)
        self.write()

    def left(self):
        """Seconds until no part is started any longer."""
        return self.seconds - (time.time() - self.start)

    def part(self, name, work, least=0):
        """Runs a part if at least `least` seconds are left, and returns its result. A part that
        fails is reported, and does not stop the others.
        """
        if self.left() < least:
            self.left_out.append(f"{name} (no time)")
            return None
        try:
            return work()
        except Exception as e:
            self.left_out.append(f"{name} ({type(e).__name__})")
            self.say(f"FAILED: {name}: {type(e).__name__}: {e}")
            return None

    def write(self):
        file = os.path.join(self.out, f"{datetime.date.today()}-gpu")
        with open(file + ".txt", "w", encoding="utf8") as f:
            f.write("\n".join([*self.lines, ""]))
        with open(file + ".json", "w", encoding="utf8") as f:
            json.dump(self.values, f, indent=1)


class Ours:
    """Our engine in a process of its own, which answers line by line. It is killed if an answer
    takes longer than `ANSWER` seconds, or ten times as long on an emulated GPU.
    """

    def __init__(self, options, model, workloads, *, device="cuda:0", precision="bf16", threads=2, rerank=False):
        command = [options.forward, model, "--device", device, "--precision", precision, "--workloads", workloads]
        command += ["--threads", str(threads), "--in-turn", "--unchecked"]
        command += ["--rerank"] if rerank else []
        # The search for the number of tokens per batch takes minutes on an emulated GPU.
        command += ["--emulator", options.emulator, "--max-batch-tokens", "512"] if options.emulator else []
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **pipes)
        self.limit = 10 * ANSWER if options.emulator else ANSWER
        self.ready = self.answer(f"the start of {precision} on {device}")

    def answer(self, question):
        watch = threading.Timer(self.limit, self.process.kill)
        watch.start()
        line = self.process.stdout.readline().strip()
        watch.cancel()
        if not line:
            raise RuntimeError(f"{question}: no answer, exit status {self.process.wait()}")
        return line

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.answer(line))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
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


def has_fp8(options):
    """Whether there are products of e4m3: from Ada and Hopper on, and on an emulated GPU."""
    return bool(options.emulator) or torch.cuda.get_device_capability(0) >= (8, 9)


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

    def worst_cosine(found):
        return float(((found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)).min())

    def of(precision, bound, on="cuda:0"):
        with Ours(options, path, file, device=on, precision=precision, rerank=scores) as ours:
            found = np.array(ours.ask("answers all"))
            # Three times: plain, recorded, repeated.
            alone = [np.array(ours.ask(f"answers {i}")[0]) for i in range(len(texts)) for _ in range(3)]
        same = all(np.array_equal(alone[3 * i + k], found[i]) for i in range(len(texts)) for k in range(3))
        largest = float((np.abs(found - expected) / np.maximum(1, np.abs(expected) if scores else 1)).max())
        cosine = worst_cosine(found)
        by_cosine = precision != "f32" and not scores
        limit = bound if precision == "f32" else SCORE
        if precision == "fp8":
            ours = report.values[f"correctness {name} bf16"]
            bound, limit = round(1 - COARSER**2 * (1 - ours["cosine"]), 6), COARSER * ours["largest"]
        kept = cosine >= bound if by_cosine else largest <= limit
        measure = f"cosine {cosine:.6f}, at least {bound}" if by_cosine else f"largest difference {largest:.1e}, at most {limit:.0e}"
        if precision == "bf16" and by_cosine:
            theirs = worst_cosine(PyTorch(path, torch.bfloat16, device)(texts, 1))
            kept = kept or 1 - cosine <= OF_PYTORCH * (1 - theirs)
            measure += f", or 1 - cosine at most {OF_PYTORCH} of PyTorch's in bf16 ({theirs:.6f})"
            report.values[f"correctness {name} PyTorch bf16"] = {"cosine": theirs}
        faults = [] if kept else ["BEYOND THE BOUND"]
        faults += [] if same else ["NOT THE SAME ALONE"]
        shown = precision if on == "cuda:0" else f"{precision} on {on}"
        report.wrong += [f"{name} {shown}: {fault}" for fault in faults]
        report.values[f"correctness {name} {shown}"] = {"largest": largest, "cosine": cosine, "same alone": same}
        report.say(f"{name:24} {shown:4} {measure}; {', '.join(faults) or 'the same bit for bit alone'}")

    for precision, bound in [("bf16", BF16), ("f32", F32), ("f16", F16), ("fp8", None)][: 4 if has_fp8(options) else 3]:
        report.part(f"correctness {name} {precision}", lambda precision=precision, bound=bound: of(precision, bound))
    if options.emulator:
        # The second emulated GPU is an Ada, whose products have no scale per row.
        report.part(f"correctness {name} fp8 on cuda:1", lambda: of("fp8", None, "cuda:1"))


def best(work, at_least=3, seconds=1.5):
    """The median of some runs, after one that warms up. A long run counts by itself."""
    start = time.time()
    first = work()
    if time.time() - start > LONG:
        return first
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
    """Matrix products of random bf16 numbers: the speed that PyTorch reaches is the limit here."""
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
    """The operations of a BERT-like encoder: two per multiply-add."""
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    per_token = 4 * hidden * hidden + 2 * hidden * inner
    return 2 * layers * sum(length * (per_token + 2 * hidden * length) for length in lengths)


def speed_workloads(options):
    """Name → lengths: the shared workloads of up to 512 tokens, and three larger ones."""
    with open(os.path.join(HERE, "../workloads.json"), encoding="utf8") as f:
        lengths = {name: of for name, of in json.load(f).items() if isinstance(of, list) and max(of) <= 512}
    mixed = lengths["mixed64"]
    if options.emulator:
        return {"query1x16": [16], "mixed8": mixed[:8]}
    return lengths | {"long64x512": [512] * 64, "mixed256": mixed * 4}


def speed(options, report, root, device):
    path = made(options, root, "gte-large-zh")
    config, lengths = config_of(path), speed_workloads(options)
    texts = {name: token_ids(of, config["vocab_size"]) for name, of in lengths.items()}
    file = workloads_file(root, "speed", texts)
    dtype = torch.float16 if device == "cuda" else torch.float32
    torch_f16 = report.part("PyTorch f16", lambda: PyTorch(path, dtype, device))
    with contextlib.ExitStack() as stack:
        engines = {}
        for precision in ("bf16", "f16", "fp8")[: 3 if has_fp8(options) else 2]:
            start = lambda precision=precision: stack.enter_context(Ours(options, path, file, precision=precision))
            engines[precision] = report.part(f"start in {precision}", start)
        bf16 = engines["bf16"]
        if bf16:
            report.say(f"ours: {bf16.ready}; {bf16.ask('device')}")

        def seconds_of(engine, name):
            if engine == "PyTorch f16":
                count = len(texts[name])
                batches = [batch for batch in BATCHES if batch == BATCHES[0] or batch < 2 * count]
                return torch_f16 and min(best(lambda: timed(lambda: torch_f16(texts[name], batch))) for batch in batches)
            ours = engines[engine]
            return ours and best(lambda: ours.ask(name))

        def of_workload(name):
            tokens = sum(lengths[name])
            seconds = {k: report.part(f"speed {name} {k}", lambda k=k: seconds_of(k, name)) for k in (*engines, "PyTorch f16")}
            rates = "".join(f" {tokens / of:15,.0f}" if of else f"{'failed':>16}" for of in seconds.values())
            # In 16 bits, as PyTorch's.
            ours = min((seconds[k] for k in engines if seconds[k] and k != "fp8"), default=None)
            ratio = seconds["PyTorch f16"] / ours if ours and seconds["PyTorch f16"] else math.nan
            share = operations(config, lengths[name]) / (seconds["bf16"] or math.nan) / report.values.get("peak", math.nan)
            report.values[f"speed {name}"] = {"tokens": tokens, "share of peak": None if math.isnan(share) else share, **seconds}
            report.say(f"{name:14} {tokens:8} {rates} {ratio:14.2f} {share:8.1%}")

        names = "".join(f" {engine:>15}" for engine in (*engines, "PyTorch f16"))
        report.say(f"{'tokens/s':14} {'tokens':>8} {names} {'x PyTorch':>14} {'of peak':>8}")
        for name in texts:
            report.part(f"speed {name}", lambda name=name: of_workload(name), least=10)

        def query():
            one = {"graph": best(lambda: bf16.ask("query1x16"), 20), "plain": best(lambda: bf16.ask("plain query1x16"), 20)}
            report.values["query of 16 tokens"] = one
            report.say(f"one query of 16 tokens: {one['graph'] * 1e3:.2f} ms with a graph, {one['plain'] * 1e3:.2f} ms without")

        def kernels(name):
            bf16.ask(f"kernels {name}")
            times = sorted(bf16.ask(f"kernels {name}"), key=lambda time: -time[2])
            total = sum(time[2] for time in times)
            report.values[f"kernels {name}"] = times
            report.say(f"kernels of {name}, {total * 1e3:.2f} ms together:")
            for kernel, calls, spent in times:
                report.say(f"  {kernel:28} {calls:5} calls {spent * 1e3:9.3f} ms {spent / total:6.1%}")

        if not bf16:
            return
        report.part("one query", query)
        for name in [max(lengths, key=lambda name: sum(lengths[name])), "query1x16"]:
            report.part(f"kernels of {name}", lambda name=name: kernels(name))


def threads(options, report, root):
    """Our CPU engine. The most threads come first, because they take the least time."""
    path = made(options, root, "gte-large-zh")
    lengths = speed_workloads(options)
    names = ["query1x16", "mixed8"] if options.emulator else ["query1x16", "uniform8x128", "mixed64"]
    texts = {name: token_ids(lengths[name], config_of(path)["vocab_size"]) for name in names}
    file = workloads_file(root, "threads", texts)

    def of(count):
        with Ours(options, path, file, device="cpu", precision="auto", threads=count) as ours:
            rates = {name: sum(lengths[name]) / best(lambda: ours.ask(name), 2, 0.5) for name in names}
            at_once = ours.ask("device")["max_batch_tokens"]
        report.values[f"CPU {count}"] = rates | {"max_batch_tokens": at_once}
        shown = "".join(f" {rate:13,.0f}" for rate in rates.values())
        report.say(f"{count:7} {ours.ready.split()[1]:>9} {at_once:>16} {shown}")

    report.say(f"{'CPU':>7} {'precision':>9} {'max_batch_tokens':>16} {''.join(f' {name:>13}' for name in names)}  (threads; tokens/s)")
    for count in reversed((1, 2) if options.emulator else THREADS):
        if count <= (os.cpu_count() or 1):
            report.part(f"CPU {count} threads", lambda count=count: of(count), least=5)


def main():
    options = arguments()
    if not options.emulator and not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU here: benches/gpu/run.sh --dry-run needs none")
    device = "cpu" if options.emulator else "cuda"
    report = Report(options.out, options.seconds)
    root = os.path.join(options.out if options.emulator else os.environ.get("TMPDIR", "/tmp"), "gpu-models")
    card = torch.cuda.get_device_name(0) if device == "cuda" else "an emulated GPU, whose speed means nothing"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    report.say(f"{card}; PyTorch {torch.__version__}; commit {commit or 'not known here'}")
    report.part("peak", lambda: peak(report, device))
    report.part("correctness gte-large-zh", lambda: correctness(options, report, root, "gte-large-zh", device))
    report.part("speed", lambda: speed(options, report, root, device), least=60)
    for name in SHAPES[1:]:
        report.part(f"correctness {name}", lambda name=name: correctness(options, report, root, name, device), least=30)
    report.part("threads", lambda: threads(options, report, root), least=20)
    report.say("wrong: " + (", ".join(report.wrong) or "nothing"))
    report.say("left out: " + (", ".join(report.left_out) or "nothing"))
    sys.exit(bool(report.left_out or report.wrong))


if __name__ == "__main__":
    main()
