"""Row ops of ours against torch's, one thread, as `detcheck kernels` calls them: ours / stock by op, of few rows (1 to 8) and of 256, float32 and bfloat16.

python benchmarks/rowwise.py
"""

import itertools
import statistics

import torch
from measured import geometric_mean, in_turn, ratios, record

from detcheck import lookup

LEAST_S, ROUNDS = 0.01, 5  # of a round's calls, as the first one goes
ROWS, DTYPES = {"few": (1, 8), "256": (256,)}, (torch.float32, torch.bfloat16)
OPS = ["layer_norm", "group_norm", "sum", "cumsum", "conv1d", "solve_triangular", "sigmoid", "softplus", "elementwise"]


def compared(op, shape, rows, dtype):
    """{"ours", "stock": seconds of a call, the median of each round's}; None: torch has no such op in that dtype."""
    arguments = op.make(shape, rows, dtype, 0)
    try:
        op.stock(*arguments)
    except RuntimeError as error:
        print(f"    {op.name}, {dtype}: {str(error).splitlines()[0]}")
        return None
    works = {"ours": lambda: op.batch_invariant(*arguments), "stock": lambda: op.stock(*arguments)}
    (first,) = in_turn(works, 1)["ours"]  # warms up
    calls = max(5, min(200, int(LEAST_S / first)))
    rounds = [in_turn(works, calls) for _ in range(ROUNDS)]
    return {name: [statistics.median(took[name]) for took in rounds] for name in works}


def main():
    torch.set_num_threads(1)
    one = {}
    with torch.inference_mode():
        for name, (size, rows) in itertools.product(OPS, ROWS.items()):
            op = lookup.find("kernels", name).OP
            shapes = list(itertools.product(op.shapes[:2], rows, DTYPES))
            took = {shape: found for shape in shapes if (found := compared(op, *shape))}
            if size == "few" and op.shapes[0] == "67":
                one[name] = took["67", 1, torch.float32]
            found = [ratios(each["ours"], each["stock"]) for each in took.values()]
            each = [statistics.median(of) for of in found]
            told = f"{min(each):.1f} to {max(each):.1f}"
            print(f"{name}, {size} rows: {told}", flush=True)
            record(f"row-{name}-{size}", [geometric_mean(of) for of in zip(*found, strict=True)], told)
    us = {name: [statistics.median(took[who]) * 1e6 for who in ("ours", "stock")] for name, took in one.items()}
    ours, stock = zip(*us.values(), strict=True)
    slowest = max(us, key=us.get)
    told = f"{slowest}; all: {min(ours):.1f} to {max(ours):.1f} us, stock's {min(stock):.1f} to {max(stock):.1f}"
    print(f"a call on one row of 67: {told}")
    record("row-call", [seconds * 1e6 for seconds in one[slowest]["ours"]], told)


if __name__ == "__main__":
    main()
