"""Backward passes of ours against torch's: a weight's gradient, and an attention's; ours / stock, in turn, two threads.

python benchmarks/backward.py
"""

import itertools
import statistics

import torch
from measured import geometric_mean, in_turn, ratios, record
from torch.nn.functional import linear, scaled_dot_product_attention

import detcheck

TOKENS, WEIGHTS, ROUNDS = (512, 2048), ((1024, 1024), (3072, 1024)), 7


def of_weight(tokens, n, k, dtype):
    """Calls that give the gradient of weight[n, k] alone."""
    x, weight = torch.randn(tokens, k).to(dtype), torch.randn(n, k).to(dtype).requires_grad_()
    grad = torch.randn(tokens, n).to(dtype)
    out = linear(x, weight)
    return lambda: torch.autograd.grad(out, weight, grad, retain_graph=True)


def of_attention():
    q, k, v = (torch.randn(4, 8, 300, 64).requires_grad_() for _ in range(3))
    out = scaled_dot_product_attention(q, k, v, is_causal=True)
    grad = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)


def compared(make):
    """Ours / stock in each round."""
    torch.manual_seed(0)
    stock = make()

    def ours_made():
        with detcheck.batch_invariant():
            torch.manual_seed(0)
            return make()

    given = ours_made()

    def ours():
        with detcheck.batch_invariant():
            given()

    in_turn({"ours": ours, "stock": stock}, 1)
    took = in_turn({"ours": ours, "stock": stock}, ROUNDS)
    return ratios(took["ours"], took["stock"])


def main():
    torch.set_num_threads(2)
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        found = [compared(lambda t=t, w=w, d=dtype: of_weight(t, *w, d)) for t, w in itertools.product(TOKENS, WEIGHTS)]
        each = [statistics.median(of) for of in found]
        told = f"{min(each):.2f} to {max(each):.2f}"
        print(f"a weight's gradient, {name}: {told}", flush=True)
        record(f"gradient-{name}", [geometric_mean(of) for of in zip(*found, strict=True)], told)
    found = compared(of_attention)
    print(f"an attention's gradients: {statistics.median(found):.2f}")
    record("gradient-attention", found)


if __name__ == "__main__":
    main()
