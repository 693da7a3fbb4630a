"""The records of `make bench-peers`, read back: the newest of each machine, shape and precision."""

import csv
import pathlib
import re
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECORD = ROOT / "benches/record"

MACHINES = {
    "amd-epyc-family-25-model-17": "AMD EPYC, Zen 4 (AVX-512, bf16, VNNI)",
    "amd-epyc-family-25-model-1": "AMD EPYC, Zen 3 (AVX2)",
}
# The columns of the tables, in their order.
WORKLOADS = {
    "query1x16": "a query of 16",
    "single1x128": "a text of 128",
    "uniform8x128": "8 × 128",
    "short32x32": "32 × 32",
    "long4x512": "4 × 512",
    "mixed64": "64 of mixed lengths",
}
# Workloads of one shape alone.
SPECIAL = {
    "long1x8192": "one text of 8,192 tokens",
    "rerank1x50x200": "50 passages of 200 tokens, scored for one query",
    "prefix1x50x200": "50 pairs with a common beginning, computed once",
}
PRECISIONS = ["f32", "bf16", "int8"]
ENGINES = {
    "gte": "gte",
    "openvino": "OpenVINO",
    "ort": "ONNX Runtime",
    "torch": "PyTorch",
    "llama": "llama.cpp",
    "without": "without it",
}
NAME = re.compile(r"(\d{4}-\d\d-\d\d)-(?:(.+)-)?(f32|bf16|int8)")


class Row(NamedTuple):
    """One engine on one workload."""

    engine: str
    tokens_per_second: float  # 0 where a workload is not counted in tokens
    seconds: float
    ratio: float  # how many times faster ours is
    agreement: float  # with PyTorch in f32; 0 where it is not in the record


class Record(NamedTuple):
    """One file of measurements: ours beside the peers, in one precision."""

    path: pathlib.Path  # of the CSV file; the text beside it has the same name
    machine: str
    date: str
    name: str
    precision: str
    rows: dict  # workload → rows, ours first

    @property
    def shape(self):
        """The model whose shape was measured."""
        return re.sub(r"-(8192|50x200|prefix)$", "", self.name)

    @property
    def text(self):
        """The whole record: versions, commit, machine."""
        return self.path.with_suffix(".txt")

    def best(self, workload):
        """Ours, and the fastest peer, by the ratio that was taken in turn."""
        ours, *peers = self.rows[workload]
        return ours, min(peers, key=lambda row: row.ratio)


def read(path):
    """A record, or None for a CSV file that is something else."""
    found = NAME.fullmatch(path.stem)
    if not found:
        return None
    date, name, precision = found.groups()
    rows = {}
    with open(path, encoding="utf8", newline="") as file:
        for line in csv.DictReader(file):
            engine = line["engine"].removeprefix("cross-encoder-").partition("-")[0]
            row = Row(
                engine,
                float(line.get("tokens_per_second") or 0),
                float(line["seconds"]),
                float(line["speed_of_ours_over_it"]),
                float(line.get("cosine") or line.get("agreement") or 0),
            )
            rows.setdefault(line["workload"], []).append(row)
    for engines in rows.values():
        engines.sort(key=lambda row: row.engine != "gte")
    return Record(path, path.parent.name, date, name or "gte-large-zh", precision, rows)


def newest():
    """The newest record of each machine, name and precision; the machine with the most first."""
    found = {}
    for path in sorted(RECORD.glob("*/*.csv")):
        record = read(path)
        if record:
            found[record.machine, record.name, record.precision] = record
    records = list(found.values())
    count = lambda record: sum(other.machine == record.machine for other in records)
    order = lambda r: (-count(r), r.machine, r.name != "gte-large-zh", r.shape, r.name, PRECISIONS.index(r.precision))
    return sorted(records, key=order)
