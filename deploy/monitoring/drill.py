"""Runs the dashboard's queries on a real Prometheus: python drill.py PROMETHEUS [PICTURE.svg]   (an
address, such as http://127.0.0.1:9090)

Runs every query of every panel over the last minutes. Fails if one fails or returns nothing, if a
legend uses a label that its query does not have, or if two lines of a panel have the same name.
Without a GPU, the queries of GPU_PANELS return nothing, and only have to be valid. Then draws the
results.
"""
import json
import math
import pathlib
import sys
import time
import urllib.parse
import urllib.request

import dashboard

MINUTES = 5
STEP = 5


def series(prometheus, query):
    end = time.time()
    query = query.replace("$__rate_interval", "30s").replace("$namespace", ".*").replace("$model", ".*")
    asked = urllib.parse.urlencode({"query": query, "start": end - 60 * MINUTES, "end": end, "step": STEP})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{asked}") as answer:
        result = json.load(answer)["data"]["result"]
    rows = [(r["metric"], [(float(t), float(v)) for t, v in r["values"] if not math.isnan(float(v))]) for r in result]
    return [(labels, values) for labels, values in rows if values]


def main():
    prometheus, picture = sys.argv[1].rstrip("/"), pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
    found, empty, wrong = [], [], []
    for title, unit, queries in dashboard.PANELS + dashboard.GPU_PANELS:
        lines, needs_gpu = [], (title, unit, queries) in dashboard.GPU_PANELS
        for legend, query in queries:
            got = series(prometheus, query)
            if not got and not needs_gpu:
                empty.append(f"{title}: {query}")
            for labels, values in got:
                name = legend
                for label, value in labels.items():
                    name = name.replace("{{" + label + "}}", value)
                lines.append((name, values))
        names = [name for name, _ in lines]
        wrong.extend(f"{title}: {name}" for name in sorted(set(names)) if "{{" in name or names.count(name) > 1)
        if lines or not needs_gpu:
            found.append((title, unit, lines))
    faults = [f"empty: {line}" for line in empty] + [f"a legend with a missing label, or used twice: {line}" for line in wrong]
    print("\n".join(faults) or f"{sum(len(q) for *_, q in dashboard.PANELS)} queries of {len(dashboard.PANELS)} panels, none empty, every line with its own name; {len(dashboard.GPU_PANELS)} more for GPUs are valid")
    if picture:
        draw(found, picture)
    sys.exit(bool(faults))


def draw(found, picture):
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    matplotlib.rcParams["svg.hashsalt"] = "gte"
    figure, axes = plt.subplots(math.ceil(len(found) / 3), 3, figsize=(15, 3 * math.ceil(len(found) / 3)), layout="constrained")
    last = max(values[-1][0] for *_, lines in found for _, values in lines)
    for axis, (title, unit, lines) in zip(axes.flat, found):
        for name, values in lines:
            axis.plot([(t - last) / 60 for t, _ in values], [v for _, v in values], label=name, linewidth=1.2)
        axis.set_title(f"{title} ({unit})", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=6, loc="upper left")
    for axis in axes.flat[len(found):]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("minutes", fontsize=8)
    figure.savefig(picture, metadata={"Date": None})


main()
