"""Judging 100,000 completions of 1000 tokens with 100 distinct: seconds, and memory against the number of completions.

Goal: at most 3 s after the file is read, and memory that grows with the distinct outcomes, not with the completions.
"""

import time
import tracemalloc

import numpy as np

from detcheck.judge.conditions import judge
from detcheck.outcomes import outcome
from detcheck.records import Case, Condition, Observation

CASE = Case("judge", "benchmark", "user", "", "0")
DISTINCT, TOKENS = 100, 1000


def outcomes():
    rng = np.random.default_rng(0)
    common = rng.integers(0, 100_000, TOKENS)
    made = []
    for n in range(DISTINCT):
        tokens = common.copy()
        tokens[9 * n + 50 :] = rng.integers(0, 100_000, TOKENS - 9 * n - 50)
        made.append(outcome(tokens, logprobs=-rng.random(TOKENS, np.float32), text=" ".join(map(str, tokens))))
    return made


def observations(made, count):
    for n in range(count):
        size = 1 + n % 64
        yield Observation(
            CASE, Condition(f"batch-{size}", size, None), n // 64, n, 0, made[(n * 7919) % DISTINCT].id, (size,)
        )


def main():
    made = outcomes()
    by_id = {o.id: o for o in made}
    recorded = list(observations(made, 100_000))
    started = time.perf_counter()
    (finding,) = judge([CASE], None, recorded, by_id)
    seconds = time.perf_counter() - started
    assert (finding.samples, finding.distinct) == (100_000, DISTINCT)
    print(f"judging 100,000 completions of {TOKENS} tokens, {DISTINCT} distinct: {seconds:.2f} s")
    del recorded
    for count in (10_000, 100_000):
        tracemalloc.start()
        judge([CASE], None, observations(made, count), by_id)
        print(f"peak memory while {count:>7,} stream by: {tracemalloc.get_traced_memory()[1] / 1e6:.2f} MB")
        tracemalloc.stop()


if __name__ == "__main__":
    main()
