"""What reports say of two sides' log-probabilities. Pure."""

from __future__ import annotations

from detcheck.blocks import Block, Curve, Facts, Table, Text, Totals
from detcheck.finding import Finding
from detcheck.probes.logprobs.judge import Compared, Details
from detcheck.probes.logprobs.measures import Estimate
from detcheck.spec import Kernels
from detcheck.text import percent, visible
from detcheck.verdict import Verdict

SHOWN = 8  # sequences in the table
MOST_TEXT = 60  # characters of the text before a mismatch

ADVICE = {
    "stock": "No temperature, soft cap, penalty, top-k, top-p, min-p or shift explains the differences, as far as was seen. What is left is numerics (kernels that add "
    "in another order than the other side's), or weights that are not the same. --kernels both shows the two sides on batch-invariant kernels beside these.",
    "files": "The numbers alone show no other cause, so it is likely numerics: kernels that add in another order than the other side's. To know, score the sampler's "
    "tokens here: --trainer transformers --model, with --kernels both.",
    "ours": "These are batch-invariant kernels on every side that runs here, so an op ran without one, or the two engines compute it differently. `detcheck bisect` says "
    "of each engine which op its bits depend on.",
}


def describe(finding: Finding) -> tuple[Block, ...]:
    details = finding.detail
    if not isinstance(details, Details):
        return ()
    blocks: list[Block] = [Totals(totals(finding)), Facts(tuple(facts(finding, details)))]
    if len(details.compared) > 1 or details.control or any(c.measures.mismatching for c in details.compared):
        blocks.append(table(finding.case.kernels, details))
    if any(point.max_abs for point in details.points):
        points = tuple((point.first, point.mean_abs, point.max_abs) for point in details.points)
        blocks.append(Curve("Differences along the sequence", "place of the token", "nats, mean", points))
    if sum(bool(one["mismatching"]) for one in details.prompts) > 1:
        blocks.append(sequences(details))
    if finding.verdict is not Verdict.IDENTICAL and (said := advice(finding, details)):
        blocks.append(Text((said,)))
    return tuple(blocks)


def totals(finding: Finding) -> str:
    m = finding.metrics
    return f"Total tokens: {m['tokens']}, Mismatching: {m['mismatching']} ({percent(m['share'], '.2f')}), in {m['different_sequences']} of {m['sequences']} sequences"


def facts(finding: Finding, details: Details) -> list[str]:
    worst = next(c for c in details.compared if c.name == finding.evidence["worst"])
    m = worst.measures
    lines = []
    if m.mismatching:
        lines.append(f"log-probabilities are up to {m.max_abs:.4g} nats apart, in the mean {m.mean_abs:.3g}")
        lines.append(f"KL(sampler || trainer): k1 {spread(m.k1)}, k2 {spread(m.k2)}, k3 {spread(m.k3)} nats a token")
        lines.append(
            f"effective sample size of the importance ratios: {percent(m.ess_tokens, '.2f')} of the tokens, {percent(m.ess_sequences, '.2f')} of the sequences"
        )
    if m.not_finite:
        lines.append(f"{m.not_finite} tokens are NaN or infinite on one side alone")
    if (first := details.first) is not None:
        which = "" if first["token"] is None else f" (id {first['token']})"
        lines.append(
            f"first in sequence {visible(str(first['sequence']))} at token {first['index']}{which}: {first['sampler']:.9g} and {first['trainer']:.9g} nats, {first['sampler_bits']} and {first['trainer_bits']}"
        )
        if first.get("around"):
            before, own, behind = (visible(str(one)) for one in first["around"])
            lines.append(f"its text, in [ ]: {before}[{own}]{behind}")
        elif first["text"]:
            lines.append(f"its text: {visible(str(first['text'])[:MOST_TEXT])}")
    if not details.ids:
        lines.append("no token ids were given, so both sides are taken to have scored the same tokens")
    lines += [f"not tried: {one}" for one in finding.evidence.get("not_tried", ())]
    lines += [f"also: {visible(cause.why)}" for cause in details.causes[1:]]
    return lines


def spread(one: Estimate) -> str:
    return f"{one.mean:.3g} ± {one.error:.2g}"


def table(kernels: str, details: Details) -> Table:
    head = (
        "trainer",
        "sequences",
        "tokens",
        "mismatching",
        "max nats",
        "mean nats",
        "k3",
        "ESS tokens",
        "ESS sequences",
    )
    rows = [line(one) for one in details.compared]
    if details.control:  # side by side, without what both have in common
        short = [0, 3, 4, 6, 7, 8]
        both = [("ours" if kernels == Kernels.BATCH_INVARIANT else kernels, row) for row in rows]
        both += [(str(Kernels.STOCK), line(one)) for one in details.control]
        head = ("kernels", *(head[n] for n in short))
        rows = [(whose, *(row[n] for n in short)) for whose, row in both]
    return Table("How the trainer scored", (head, *rows))


def line(one: Compared) -> tuple[str, ...]:
    m = one.measures
    return (
        visible(one.name), str(m.sequences), str(m.tokens), f"{m.mismatching} ({percent(m.share, '.1f')})", f"{m.max_abs:.3g}", f"{m.mean_abs:.3g}",
        f"{m.k3.mean:.3g}", percent(m.ess_tokens, ".2f"), percent(m.ess_sequences, ".2f"),
    )  # fmt: skip


def sequences(details: Details) -> Table:
    head = ("sequence", "tokens", "mismatching", "max nats", "k3", "first at")
    rows = [
        (visible(str(one["sequence"])), str(one["tokens"]), str(one["mismatching"]), f"{one['max_abs']:.3g}", f"{one['k3']:.3g}", "" if one["first"] is None else str(one["first"]))
        for one in details.prompts[:SHOWN]
    ]  # fmt: skip
    rest = len(details.prompts) - SHOWN
    return Table(
        "Sequences, the furthest apart first",
        (head, *rows),
        notes=(f"and {rest} more; report.json has 20",) if rest > 0 else (),
    )


def advice(finding: Finding, details: Details) -> str:
    if any(cause.certain for cause in details.causes):
        return "Mend that first: what numerics adds to it can only be seen behind it."
    if details.causes or not any(c.measures.mismatching for c in details.compared):
        return ""
    kernels = finding.case.kernels
    return ADVICE[
        "ours" if kernels in (Kernels.BATCH_INVARIANT, Kernels.ENGINE) else "files" if kernels == "user" else "stock"
    ]
