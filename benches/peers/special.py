"""Compares our engine with itself, and measures its memory.

prefix  50 passages of 200 tokens with Qwen3-Reranker, as token ids: with the common beginning of
        all pairs computed once, and without. There is no switch: if no two pairs begin with the
        same token, nothing is shared, and every length and batch stays the same
memory  after a text of 128 tokens, and after one of 8,192
"""

import os
import time

import numpy as np

import record
from checkpoint import agreement
from compare import check
from ours import Ours
from rerank import PASSAGES, QUERY, TOKENS
from turns import Turns

# Number of tokens in Qwen3-Reranker's own text around a pair, counted by hand by the rules of its
# tokenizer: the system's line, the instruction and their marks before the query, then 3 before the
# passage, and 9 after it.
BEFORE, BETWEEN, BEHIND = 62, 3, 9


def finish(checkpoint, precision, threads, name, out, lines, rows):
    print("\n".join(lines[1:]), flush=True)
    record.write(out, name, f"{checkpoint.name}, {precision}, {threads} threads", lines, rows)


def pairs(checkpoint):
    """Pairs that begin with the same tokens, and the same pairs with a different first token each.
    """
    vocab = checkpoint.vocab
    rng = np.random.default_rng(5)
    draw = lambda n: rng.integers(vocab // 4, vocab - 200, n).astype(np.int64)
    common, behind = draw(BEFORE + QUERY + BETWEEN), draw(BEHIND)
    shared = [np.concatenate([common, draw(TOKENS), behind]) for _ in range(PASSAGES)]
    distinct = [text.copy() for text in shared]
    for i, text in enumerate(distinct):
        text[0] = vocab // 4 - 1 - i
    return {"shared": shared, "distinct": distinct, "two": shared[:2]}


def yes_less_no(checkpoint, texts, threads):
    """PyTorch's logit of yes minus that of no, for each text alone; computed once."""
    path = checkpoint.own("expected-prefix.npy")
    if os.path.exists(path):
        return np.load(path)
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    tokenizer = Tokenizer.from_file(checkpoint.file("tokenizer.json"))
    yes, no = tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")
    model = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32).eval()
    with torch.inference_mode():
        rows = [model(input_ids=torch.from_numpy(t[None])).logits[0, -1] for t in texts]
    np.save(path, np.array([[(row[yes] - row[no]).item()] for row in rows]))
    return np.load(path)


def prepare_prefix(checkpoint, precision, threads):
    texts = pairs(checkpoint)
    expected = yes_less_no(checkpoint, texts["two"], threads)
    with Ours(checkpoint, precision, threads, texts) as ours:
        close = agreement(ours.answers("two"), expected)
        print(f"{checkpoint.name} gte-{precision} prefix: agreement {close}", flush=True)
        check(checkpoint, "prefix", precision, close)


def prefix(checkpoint, precision, threads, seconds, name, out):
    end = time.perf_counter() + seconds
    texts = pairs(checkpoint)
    expected = yes_less_no(checkpoint, texts["two"], threads)
    with Ours(checkpoint, precision, threads, texts) as ours:
        close = agreement(ours.answers("two"), expected)
        check(checkpoint, "prefix", precision, close)
        run = lambda name: lambda: ours.seconds(name)
        left = end - time.perf_counter()
        turns = Turns(run("shared"), {"without": run("distinct")}, left, warm=True)
        ready = ours.ready
    tokens = BEFORE + QUERY + BETWEEN + TOKENS + BEHIND
    rows = [
        {"workload": "prefix1x50x200", "engine": n, "pairs": PASSAGES, **turns.row(n)}
        for n in turns.engines
    ]
    lines = [
        ready,
        f"{PASSAGES} pairs of {tokens} tokens, {tokens - TOKENS - BEHIND} of them shared; without: "
        "the same pairs with a first token of their own, so that none is shared",
        f"with {turns.median('gte'):.2f} s   without {turns.median('without'):.2f} s   "
        f"{turns.ratio('without'):.2f} x, of the best times {turns.quiet('without'):.2f} x, "
        f"{turns.rounds} rounds; agreement with PyTorch in f32 {close:.6f} (two pairs)",
    ]
    finish(checkpoint, precision, threads, name, out, lines, rows)


def memory(checkpoint, precision, threads, seconds, name, out):
    """Memory of a process that does nothing else. `seconds` has no effect."""
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "1048576")  # as the image sets it
    longest = min(8192, checkpoint.config["max_position_embeddings"] - 2)
    lengths = {"short": 128, "long": 8192 if longest >= 8190 else longest}
    texts = {key: checkpoint.ids([n]) for key, n in lengths.items()}
    with Ours(checkpoint, precision, threads, texts) as ours:
        ours.seconds("short")
        before = ours.memory()
        ours.seconds("long")
        after = ours.memory()
        ready = ours.ready
    weights = os.path.getsize(checkpoint.file("model.safetensors")) / 1e6
    lines = [
        ready,
        f"model.safetensors {weights:.0f} MB; resident after 128 tokens {before[0]:.0f} MB; after "
        f"{lengths['long']} tokens {after[0]:.0f} MB, at most {after[1]:.0f} MB since the start "
        f"(at most {before[1]:.0f} MB before)",
    ]
    finish(checkpoint, precision, threads, name, out, lines, [])
