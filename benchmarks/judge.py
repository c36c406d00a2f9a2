"""Judging 100,000 completions of 1000 tokens with 100 distinct: seconds, and memory against the number of completions.

Goal: at most 1 s after the file is read, and memory that grows with the distinct outcomes, not with the completions. Beside it stands
the least that Python can do with the same observations: one pass that counts outcomes by condition.
"""

import statistics
import time
import tracemalloc
from collections import Counter, defaultdict

import numpy as np
from measured import in_turn, ratios, record

from detcheck.judge.conditions import judge
from detcheck.outcomes import outcome
from detcheck.records import Case, Condition, Observation

CASE = Case("judge", "benchmark", "user", "", "0")
DISTINCT, TOKENS, ROUNDS = 100, 1000, 7


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


def one_pass(recorded):
    found = defaultdict(Counter)
    for o in recorded:
        found[o.condition][o.outcome] += 1
    return found


def main():
    made = outcomes()
    by_id = {o.id: o for o in made}
    recorded = list(observations(made, 100_000))
    (finding,) = judge([CASE], None, recorded, by_id)
    assert (finding.samples, finding.distinct) == (100_000, DISTINCT)
    works = {
        "judge": lambda seen=recorded: judge([CASE], None, seen, by_id),
        "pass": lambda seen=recorded: one_pass(seen),
    }
    took = in_turn(works, ROUNDS)
    print(
        f"judging 100,000 completions of {TOKENS} tokens, {DISTINCT} distinct: {statistics.median(took['judge']):.2f} s, "
        f"{statistics.median(ratios(took['judge'], took['pass'])):.1f} times one pass over them"
    )
    began = time.process_time()
    judge([CASE], None, recorded, by_id)
    record("judge", took["judge"], f"{time.process_time() - began:.2f} s of CPU")
    record("judge-pass", ratios(took["judge"], took["pass"]))
    peaks = []
    for count in (10_000, 100_000):
        tracemalloc.start()
        judge([CASE], None, observations(made, count), by_id)
        peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
        print(f"peak memory while {count:>7,} stream by: {peaks[-1]:.2f} MB")
        tracemalloc.stop()
    record("judge-memory", [peaks[1] / peaks[0]], f"{peaks[1]:.2f} MB")


if __name__ == "__main__":
    main()
