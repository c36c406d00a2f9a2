"""Row ops of ours against torch's, one thread: ours / stock by op, few rows (1 to 8) and 256, rows of 67 and 1024, float32 and bfloat16.

python benchmarks/rowwise.py
"""

import itertools
import statistics

import torch
from measured import geometric_mean, in_turn, ratios, record

import detcheck

CALLS, ROUNDS = 30, 5
WIDTHS, ROWS, DTYPES = (67, 1024), {"few": (1, 8), "256": (256,)}, (torch.float32, torch.bfloat16)
OPS = {
    "layer_norm": lambda x: torch.nn.functional.layer_norm(x, x.shape[-1:]),
    "group_norm": lambda x: torch.nn.functional.group_norm(x[:, None], 1),
    "sum": lambda x: x.sum(-1),
    "cumsum": lambda x: x.cumsum(-1),
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "tanh": torch.tanh,
}

ROW = OPS.keys() - {"tanh"}


def compared(op, x):
    """Seconds of so many calls, each round, of both."""

    def stock():
        for _ in range(CALLS):
            op(x)

    def ours():  # the switch itself is thrown outside of what is timed
        for _ in range(CALLS):
            op(x)

    took = {"ours": [], "stock": []}
    for _ in range(ROUNDS):
        took["stock"] += in_turn({"stock": stock}, 1)["stock"]
        with detcheck.batch_invariant():
            op(x)
            took["ours"] += in_turn({"ours": ours}, 1)["ours"]
    return took


def main():
    torch.set_num_threads(1)
    calls = {}
    with torch.inference_mode():
        for name, op in OPS.items():
            for size, rows in ROWS.items():
                shapes = list(itertools.product(rows, WIDTHS, DTYPES))
                took = [compared(op, torch.randn(m, k).to(dtype)) for m, k, dtype in shapes]
                if name in ROW and size == "few":
                    calls[name] = took[shapes.index((1, 67, torch.float32))]
                found = [ratios(each["ours"], each["stock"]) for each in took]
                each = [statistics.median(of) for of in found]
                told = f"{min(each):.1f} to {max(each):.1f}"
                print(f"{name}, {size} rows: {told}", flush=True)
                record(f"row-{name}-{size}", [geometric_mean(of) for of in zip(*found, strict=True)], told)
    us = {
        name: [statistics.median(took[who]) / CALLS * 1e6 for who in ("ours", "stock")] for name, took in calls.items()
    }
    slowest = max(us, key=us.get)
    told = f"{min(us.values())[0]:.1f} to {us[slowest][0]:.1f} us; stock's {min(s for _, s in us.values()):.1f} to {max(s for _, s in us.values()):.1f}"
    print(f"a call on one row of 67: {told}")
    record("row-call", [t / CALLS * 1e6 for t in calls[slowest]["ours"]], f"{slowest}; {told}")


if __name__ == "__main__":
    main()
