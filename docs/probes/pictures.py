"""Draws the pictures in order.md on the machine at hand: which orders of addition a product has at which batch sizes.

python docs/probes/pictures.py
"""

from pathlib import Path

import detcheck
from detcheck.blocks import Trees
from detcheck.probes.order.describe import describe
from detcheck.probes.order.options import Options
from detcheck.spec import Kernels
from detcheck.summation.svg import picture

ASKED = {
    "order-stock.svg": (Options(shape=(4096, 1024)), Kernels.STOCK),
    "order-ours.svg": (Options("matmul", shape=(4096, 1024)), Kernels.BATCH_INVARIANT),
}
INK, MARKED = "#444", "#b45309"

for name, (options, kernels) in ASKED.items():
    spec = detcheck.Spec("order", options, kernels=kernels, device="cpu", batch_sizes=(1, 2, 4, 64))
    run = detcheck.run(spec)
    (finding,) = run.record.findings
    (trees,) = (block.trees for block in describe(finding) if isinstance(block, Trees))
    svg = picture([(tree.title, tree.outline) for tree in trees if tree.outline]).replace(
        "<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1
    )
    svg = (
        svg.replace("currentColor", INK)
        .replace("var(--bar)", MARKED)
        .replace("<svg", '<svg font-family="sans-serif"', 1)
    )
    (Path(__file__).parent / name).write_text(svg + "\n", "utf-8")
    print(f"{name}: {finding.verdict}, {finding.note}")
