"""Runs engines in turn (A B C A B C …), within a time limit."""

import statistics
import time

PAUSE = 0.1  # seconds before each measurement, because idle threads of the previous engine spin for a while
SLOW = 1.6  # a peer slower than the best one by this factor is measured only once
LEAST, MOST = 2, 7  # rounds


class Turns:
    """Seconds of `ours` and of each of `peers`, which are functions that compute a workload and
    return their seconds, over several rounds. A ratio is computed in every round, between
    neighbours in time, and the median over the rounds counts, so that a machine whose speed drifts
    does not decide.
    """

    def __init__(self, ours, peers, seconds, repeats=1, known=None, warm=False):
        """`known` has the seconds of peers that have already computed the workload. `warm` says
        that the first round counts, which it may if a pass takes long.
        """
        self.engines, self.repeats = {"gte": ours, **peers}, repeats
        end = time.perf_counter() + seconds
        known = known or {}
        first = {n: known.get(n) or self.least(n) for n in self.engines}
        best = min(first[name] for name in peers)
        self.slow = [name for name in peers if first[name] > SLOW * best]
        kept = list(self.engines) if warm else self.slow
        self.seconds = {name: [first[name]] if name in kept else [] for name in self.engines}
        self.rounds, longest = int(warm), 0.0
        least = LEAST if seconds > 0 else 1  # earlier entries took too long
        while self.rounds < MOST:
            started = time.perf_counter()
            if self.rounds >= least and started + longest > end:
                break
            self.round()
            longest = max(longest, time.perf_counter() - started)

    def least(self, name):
        return min(self.once(name) for _ in range(self.repeats))

    def once(self, name):
        time.sleep(PAUSE)
        return self.engines[name]()

    def round(self):
        for _ in range(self.repeats):
            for name in self.engines:
                if name not in self.slow:
                    self.seconds[name].append(self.once(name))
        self.rounds += 1

    def median(self, name):
        return statistics.median(self.seconds[name])

    def p99(self, name):
        ordered = sorted(self.seconds[name])
        return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]

    def ratio(self, name):
        """How many times faster ours is, by the median over the rounds."""
        if name in self.slow:
            return self.seconds[name][0] / self.median("gte")
        pairs = zip(self.seconds[name], self.seconds["gte"])
        return statistics.median(theirs / ours for theirs, ours in pairs)

    def quiet(self, name):
        """The same with the best times, which is what a quiet machine would show."""
        return min(self.seconds[name]) / min(self.seconds["gte"])

    def row(self, name):
        return {
            "seconds": round(self.median(name), 5),
            "best_seconds": round(min(self.seconds[name]), 5),
            "runs": len(self.seconds[name]),
            "speed_of_ours_over_it": round(self.ratio(name), 3),
            "of_the_best_times": round(self.quiet(name), 3),
        }

    def verdict(self):
        peers = [name for name in self.engines if name != "gte"]
        best, quiet = min(peers, key=self.ratio), min(peers, key=self.quiet)
        return (
            f"ours over the best ({best}): {self.ratio(best):.2f} x, "
            f"of the best times ({quiet}): {self.quiet(quiet):.2f} x, {self.rounds} rounds"
        )
