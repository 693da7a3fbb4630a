"""Our side: the benchmark `forward` in a separate process, controlled through its standard input.
"""

import json
import os
import re
import subprocess
import tempfile

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Ours:
    """`workloads` has token ids, or a query with documents, by name."""

    def __init__(self, checkpoint, precision, threads, workloads):
        self.file = tempfile.NamedTemporaryFile("w", suffix=".json")
        json.dump(workloads, self.file, default=lambda ids: ids.tolist())
        self.file.flush()
        command = [os.path.join(ROOT, "target/release/forward"), checkpoint.path, "--in-turn"]
        command += ["--unchecked", "--threads", str(threads), "--precision", precision]
        command += ["--workloads", self.file.name] + (["--rerank"] if checkpoint.scores else [])
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ready = self.process.stdout.readline().strip()
        if not self.ready.startswith("ready"):
            raise RuntimeError(f"{' '.join(command)} gave no result")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.file.close()

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"the benchmark forward gave no result for {line!r}")
        return answer

    def seconds(self, workload):
        return float(self.ask(workload))

    def answers(self, workload):
        return np.array(json.loads(self.ask("answers " + workload)), np.float32)

    def multiplications(self, workload):
        """Multiply-adds of the linear layers in one pass, and the shares of its operations."""
        before = json.loads(self.ask("profile"))
        self.seconds(workload)
        after = json.loads(self.ask("profile"))
        spent = {key: after[key] - before[key] for key in after}
        count = spent.pop("multiplications")
        return count, {key: value / sum(spent.values()) for key, value in spent.items()}

    def peak(self):
        """Multiply-adds per second of all threads, on registers alone."""
        return float(self.ask("peak"))

    def memory(self):
        """Resident memory in MB: now, and the maximum."""
        return [int(kb) * 1024 / 1e6 for kb in re.findall(r"(\d+) kB", self.ask("memory"))]
