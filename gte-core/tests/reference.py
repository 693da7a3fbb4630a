"""Compares model directories that differ from a working one in one key, in sentence-transformers
and in our `embed` and `rerank`.

    MODELS=target/models OURS=target/release/embed python gte-core/tests/reference.py [WORD...]

`rerank` must be in the same folder as `embed`. A case passes if every cosine with the reference is
above 0.9999 (every raw score within 1e-4), or if we refuse, the case allows that, and the message
names the key. If the reference itself cannot load or compute a case, our result passes in any case,
but is shown. With words, only cases whose names contain one of them run. `--reference` runs the
reference alone.
"""

import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "critical")
warnings.filterwarnings("ignore")

HERE = pathlib.Path(__file__).parent
MODELS = pathlib.Path(os.environ.get("MODELS", "target/models"))
OURS = os.environ.get("OURS", "target/release/embed")


def copy(base):
    """A copy of the base to work on, in a folder whose name does not reveal the model."""
    source = (
        MODELS / "all-MiniLM-L6-v2" if base == "minilm" else HERE / "fixtures" / "families" / base
    )
    target = pathlib.Path(tempfile.mkdtemp(prefix="gte-reference-")) / "model"
    # Weights are large, so a link is enough; a case that changes them writes another file.
    link = lambda a, b: (
        os.link(a, b)
        if a.endswith(".safetensors") and os.stat(a).st_dev == os.stat(os.path.dirname(b)).st_dev
        else shutil.copy2(a, b)
    )
    shutil.copytree(
        source,
        target,
        copy_function=link,
        ignore=shutil.ignore_patterns(
            "README.md", "data_config.json", ".gitattributes", "expected.json"
        ),
    )
    return target


def reference(case, directory):
    """Vectors or scores of the reference, or its error."""
    import torch
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    settings = {"device": "cpu", "local_files_only": True, "model_kwargs": {"dtype": torch.float32}}
    try:
        if case.program == "rerank":
            model = CrossEncoder(str(directory), **settings)
            score = lambda query, document: model.predict(
                [(query, document)], activation_fn=torch.nn.Identity(), show_progress_bar=False
            )[0]
            return [
                [score(query, d).tolist() for d in documents] for query, documents in case.texts
            ], None
        model = SentenceTransformer(str(directory), **settings)
        return [model.encode(t, show_progress_bar=False).tolist() for t in case.texts], None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}".split("\n")[0][:160]


def ours(case, directory):
    """Those of our programs, or the error message."""
    rerank = case.program == "rerank"
    lines = [
        json.dumps({"query": t[0], "documents": t[1]}, ensure_ascii=False) if rerank else t
        for t in case.texts
    ]
    command = [os.path.join(os.path.dirname(OURS), "rerank"), "--raw"] if rerank else [OURS]
    command += ["--precision", "f32", "--model", str(directory)]
    run = subprocess.run(
        command, input="".join(line + "\n" for line in lines), capture_output=True, text=True
    )
    if run.returncode:
        return None, run.stderr.strip()
    key = "scores" if rerank else "embedding"
    return [json.loads(line)[key] for line in run.stdout.splitlines() if line.startswith("{")], None


def cosine(a, b):
    if len(a) != len(b):
        return -1.0
    size = math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b)) / size if size else 0.0


def judge(case, wanted, complaint, found, error):
    """(passed, message)."""
    refused = found is None
    crashed = refused and "panicked" in error
    if crashed:
        return False, f"panics: {error[:200]}"
    if refused and case.refuse and case.refuse in error:
        return True, f"refused: {error[:150]}"
    if case.must_refuse:
        return (
            False,
            f"must be refused with a word on {case.refuse}: {'computed' if not refused else error[:200]}",
        )
    if wanted is None:
        return (
            True,
            f"the reference fails ({complaint}), ours {'refuses: ' + error[:100] if refused else 'computes'}",
        )
    if refused:
        return (
            False,
            f"refused{', without the name ' + case.refuse if case.refuse else ''}: {error[:200]}",
        )
    if case.program == "rerank":
        worst = max(abs(a - b) for x, y in zip(found, wanted) for a, b in zip(x, y))
        return len(found) == len(
            wanted
        ) and worst < 1e-4, f"largest difference of a score {worst:.1e}"
    worst, text = min((cosine(a, b), t) for a, b, t in zip(found, wanted, case.texts))
    return len(found) == len(wanted) and worst > 0.9999, f"cosine {worst:.6f}" + (
        "" if worst > 0.9999 else f" for {text[:30]!r}"
    )


def main():
    from model_files import config, families, modules, rerankers, tokenizer

    words = [w for w in sys.argv[1:] if not w.startswith("--")]
    alone = "--reference" in sys.argv
    failed = total = 0
    for part in (config, tokenizer, modules, families, rerankers):
        for case in part.CASES:
            name = f"{part.__name__.split('.')[-1]}: {case.name}" + (
                "" if case.base == "minilm" else f" ({case.base})"
            )
            if words and not any(w in name for w in words):
                continue
            total += 1
            directory = copy(case.base)
            for edit in case.edits:
                edit(str(directory))
            wanted, complaint = reference(case, directory)
            if alone:
                print(f"{name}: {complaint or 'loads'}", flush=True)
            else:
                passed, said = judge(case, wanted, complaint, *ours(case, directory))
                failed += not passed
                print(f"{'ok  ' if passed else 'FAIL'} {name}: {said}", flush=True)
            shutil.rmtree(directory.parent)
    if not total:
        sys.exit("no such case")
    print(f"{total} cases, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
