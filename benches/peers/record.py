"""The results of a measurement, in benches/record/MACHINE/DATE-NAME.txt, .csv and .svg."""

import csv
import datetime
import os
import re
import subprocess

from ours import ROOT

OUT = os.path.join(ROOT, "benches/record")


def machine():
    text = said(["lscpu"])
    field = lambda key: re.search(rf"^{key}:\s+(.*)$", text, re.M).group(1)
    name = f"{field('Model name')} family {field('CPU family')} model {field('Model')}".lower()
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-"), text


def said(command):
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip()


def path(out, name):
    """Parses the text of a record. The date in it is today's."""
    return os.path.join(out, machine()[0], f"{datetime.date.today()}-{name}.txt")


def write(out, name, title, lines, rows):
    file = path(out, name)
    os.makedirs(os.path.dirname(file), exist_ok=True)
    commit = said(["git", "rev-parse", "--short", "HEAD"])
    if rows:
        with open(file.removesuffix(".txt") + ".csv", "w", newline="") as f:
            writer = csv.DictWriter(f, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    if rows and "tokens_per_second" in rows[0]:
        plot(rows, title, file.removesuffix(".txt") + ".svg")
    # The text is written last: it shows that the measurement is complete.
    with open(file, "w", encoding="utf8") as f:
        versions = ", ".join(f"{p} {v}" for p, v in installed())
        f.write("\n".join([f"{title}, commit {commit}", versions, "", *lines, ""]))
        f.write("\n".join(["", machine()[1], said(["rustc", "-vV"]), ""]))


def plot(rows, title, path):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    engines = list(dict.fromkeys(r["engine"] for r in rows))
    workloads = list(dict.fromkeys(r["workload"] for r in rows))
    speed = {(r["engine"], r["workload"]): r["tokens_per_second"] for r in rows}
    figure, axes = pyplot.subplots(figsize=(10, 4))
    width = 0.8 / len(engines)
    for i, engine in enumerate(engines):
        places = [x + i * width for x in range(len(workloads))]
        axes.bar(places, [speed[engine, w] for w in workloads], width, label=engine)
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(workloads))], workloads)
    axes.set_ylabel("tokens/s (higher is better)")
    axes.set_title(title)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def installed():
    from importlib import metadata

    for package in ("torch", "transformers", "onnxruntime", "openvino", "nncf", "llama-cpp-python"):
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
