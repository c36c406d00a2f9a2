"""What reports say of an update: how much was moved how fast, what came after it, and what to do."""

from __future__ import annotations

from detcheck.blocks import Block, Facts, Table, Text
from detcheck.finding import Finding
from detcheck.text import visible
from detcheck.verdict import Verdict

MIB = 1 << 20
ADVICE = {
    "cache": "Empty the prefix cache with each update: reset_prefix_cache() of vLLM's, /reset_prefix_cache of its server.",
    "left": "Look at how that tensor is named and fused on its way into the engine: its loader passed it over, or took it from the wrong place.",
    "nothing": "Look at whether the update's call returned before its work was done, or went to another process than the one that serves.",
    "derived": "Look for what is computed from weights once and kept: packed or quantised copies, folded constants, captured graphs. Make it again "
    "with each update.",
    "failed_torn": "End this engine and start it again: what it gives belongs to no version of the weights.",
}
ADVICE["derived_old"] = ADVICE["derived"]


def describe(finding: Finding) -> tuple[Block, ...]:
    blocks: list[Block] = []
    lines = []
    if "seconds" in finding.metrics:
        moved, took = finding.metrics["bytes"], finding.metrics["seconds"]
        speed = f", {moved / took / MIB:.4g} MiB/s" if took else ""
        lines.append(f"updated {moved / MIB:.4g} MiB in {took:.3g} s{speed}")
    if far := finding.evidence.get("apart"):
        where = "the tokens are the same" if far["token"] is None else f"the first other token is {far['token']}"
        nats = (
            ""
            if far["max_abs"] is None
            else f", and log-probabilities of shared tokens are up to {far['max_abs']:.3g} nats apart"
        )
        lines.append(f"after the update against a fresh load: {where}{nats}")
    if lines:
        blocks.append(Facts(tuple(lines)))
    if after := finding.evidence.get("after"):
        heads = list(next(iter(after.values())))
        rows = [("asked", *heads), *((stage, *(str(n) for n in counts.values())) for stage, counts in after.items())]
        blocks.append(Table("Completions", tuple(map(tuple, rows))))
    said = [
        ADVICE[c["code"]]
        for c in finding.evidence.get("causes", ())
        if c["code"] in ADVICE and finding.verdict is Verdict.DIVERGENT
    ]
    update = finding.evidence.get("update")
    if finding.verdict is Verdict.DIVERGENT and update and len(update["left"]) > 1:
        rows = [
            ("tensor", "rows that differ", "of", "bits"),
            *(
                (visible(o["name"]), str(o["rows"]), str(o["of"]), "old" if o["old"] else "neither")
                for o in update["left"]
            ),
        ]
        more = update["left_count"] - len(update["left"])
        blocks.append(Table("Tensors left behind", tuple(rows), notes=(f"and {more} more",) if more else ()))
    return (*blocks, Text(tuple(said))) if said else tuple(blocks)
