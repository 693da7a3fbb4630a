"""The results of a measurement, in benches/record/MACHINE/DATE-NAME.txt and .csv, from which
benches/report draws the charts.
"""

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
    # The text is written last: it shows that the measurement is complete.
    with open(file, "w", encoding="utf8") as f:
        versions = ", ".join(f"{p} {v}" for p, v in installed())
        f.write("\n".join([f"{title}, commit {commit}", versions, "", *lines, ""]))
        f.write("\n".join(["", machine()[1], said(["rustc", "-vV"]), ""]))


def installed():
    from importlib import metadata

    for package in ("torch", "transformers", "onnxruntime", "openvino", "nncf", "llama-cpp-python"):
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
