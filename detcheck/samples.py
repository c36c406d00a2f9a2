"""What reports say of samples that were compared: how many differ, where, how often, and what to do. Most findings are of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detcheck.blocks import Block, Facts, Forks, Histogram, Mode, Table, Text, Totals
from detcheck.finding import Finding
from detcheck.text import visible
from detcheck.verdict import Verdict

ADVICE = {
    Verdict.IDENTICAL: "",
    Verdict.RUN_VARIANT: "Look for atomics, autotuning or races: try torch.use_deterministic_algorithms(True) and CUBLAS_WORKSPACE_CONFIG=:4096:8, "
    "and see whether the repeats agree then.",
    Verdict.BATCH_VARIANT: "Kernels choose their reduction order by the shape of the batch. Serve with batch-invariant kernels, or keep the batch's shape "
    "fixed where bits matter.",
    Verdict.DIVERGENT: "To tell the run from the batch, observe again where batches can be seen, with every condition repeated.",
    Verdict.INACCURATE: "Equal bits do not help where they are wrong. Look at the accumulator's dtype, at masks, and at what is left over after whole tiles.",
    Verdict.INCONCLUSIVE: "Ask again so that what is named above happens; this is not a pass.",
    Verdict.FAILED: "",
}
NOT_OURS = (  # run-variant, where somebody else runs the model
    "A lone request that does not repeat has its cause in the engine, not in the load: whoever runs it should look for atomics, autotuning, "
    "races, or replicas that are not alike."
)
COLD = (
    "A prompt whose beginning comes from the prefix cache is computed in other pieces than a new one. Serve with batch-invariant kernels, "
    "switch the prefix cache off where bits matter, or leave the first answer out (--conditions without cold)."
)

OURS_DIFFER = (
    "Bits differ on our kernels too: an op that has none of ours (they are named above) or something else in the model depends on the batch. "
    "detcheck bisect --kernels batch-invariant names it."
)
OURS_EVERYWHERE = (  # every op that multiplies or adds ran on ours
    "Bits differ although every op that multiplies or adds ran on our kernels: the model itself looks at its neighbours, its padding or how a "
    "prompt is cut. detcheck bisect --kernels batch-invariant names the first module; detcheck batch tells padding from the rest."
)
CHUNK = "Fed in pieces, the prompt goes another way through this model than in one go: feed it in pieces of one size everywhere."
ADAPTERS = (
    "An adapter of its neighbours reaches the row, or changes the shapes that its own is computed in. Ask the adapter alone what it gives: where the "
    "batch has another text altogether, the row had a wrong adapter. Until it is mended, keep to one adapter a batch, or merge it into the weights."
)
PADDING = "Batch requests of equal length, or serve them without padding (as vLLM does): here no kernel changes bits, padding does."
OF_RUNS = (  # divergent, where two runs are compared
    "Look at what changed around it (versions, kernels, dtype, machine), and change one thing at a time. Where the batch decides it, "
    "detcheck bisect RUN names the op."
)
OF_TWO = (  # unequal, where the answers of two systems are compared
    "Ask each system by itself first: one that does not repeat itself cannot equal another. Then compare what stands around it: versions, "
    "kernels, dtype, chat template."
)


BEYOND = {  # what moves more than half of a number's digits -> where it may come from
    "neighbours": "What a neighbour holds moves more than half of the digits. {rounding}Otherwise look at masks, at cache slots, at scales that are "
    "taken over the whole tensor (dynamic quantisation), and at an expert's capacity.",
    "padding": "Padding moves more than half of the digits. {rounding}Otherwise look at the attention mask, at the positions of padded rows, and at "
    "layers that mix tokens (convolutions, states).",
    "unequal lengths": "Padding among other rows moves more than half of the digits. {rounding}Otherwise look at the attention mask and at the "
    "positions of padded rows.",
    "batches": "Other rows of the same length move more than half of the digits. {rounding}Otherwise the result is wrong in one of the two: "
    "detcheck kernels --op asks a kernel against float64.",
}
ROUNDING = (
    "Rounding does that only in a model that amplifies it: detcheck bisect shows where it begins, and how small. "
)


def describe(
    finding: Finding, *, given: bool = False, padding: str = PADDING, first: tuple[str, ...] = ()
) -> tuple[Block, ...]:
    """All of it, in the order in which it is read.

    `given`: the tokens were not made by the model, so that equal ones tell nothing. `padding`: the advice where padding is the cause.
    `first`: facts of the probe's own, before the others.
    """
    blocks: list[Block] = [Totals(totals(finding))] if finding.samples else []
    if lines := (*first, *figures(finding, given)):
        blocks.append(Facts(tuple(lines)))
    title, histogram = which_histogram(finding)
    if histogram:
        blocks.append(Histogram(title, tuple(histogram)))
    if finding.forks:
        blocks.append(Forks(finding.forks))
    if finding.mode_text:
        blocks.append(Mode(visible(finding.mode_text)))
    notes = tuple(f"not tried: {visible(line)}" for line in not_tried(finding))
    sizes, conditions = size_table(finding), condition_table(finding)
    if sizes:
        blocks.append(Table("Batch sizes", table(sizes), names_first=False, notes=notes))
    if conditions:
        blocks.append(Table("Conditions", table(conditions), notes=() if sizes else notes, on_pages=bool(sizes)))
    cause = (likely_cause(finding), beyond_rounding(finding), advice(finding, padding))
    said = tuple(line for line in (*coverage_lines(finding), *cause) if line)
    return (*blocks, Text(said)) if said else tuple(blocks)


def table(lines: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(map(tuple, lines))


def totals(finding: Finding) -> str:
    """The line that users paste into issues. Unique counts token sequences."""
    return f"Total samples: {finding.samples}, Unique samples: {finding.distinct}"


def advice(finding: Finding, padding: str = PADDING) -> str:
    """What to do; "" where there is nothing to do."""
    if "sides" in finding.evidence and finding.verdict in (Verdict.RUN_VARIANT, Verdict.DIVERGENT):
        return OF_TWO
    if finding.verdict is Verdict.DIVERGENT and finding.samples and "batches" not in finding.evidence:
        return OF_RUNS
    if finding.verdict is Verdict.RUN_VARIANT and not finding.case.dtype and not of_numbers(finding):
        return NOT_OURS
    if finding.evidence.get("first_variant_condition") == "cold":
        return COLD
    coverage = finding.evidence.get("coverage") or {}
    if finding.verdict is Verdict.BATCH_VARIANT:
        varies = set(finding.evidence.get("varies_with") or ())
        if "adapters" in varies and (coverage.get("overridden") or varies == {"adapters"}):
            return ADAPTERS
        if varies == {"padding"} or (varies == {"chunk", "padding"} and coverage.get("overridden")):
            return f"{padding} {CHUNK}" if "chunk" in varies else padding
        if coverage.get("overridden"):
            return OURS_DIFFER if coverage.get("uncovered") else OURS_EVERYWHERE
    return ADVICE.get(finding.verdict, "")


UNITS = {"text": "character", "choice": "choice", "element": "element", "word": "word of its digest"}
CONDITIONS = {
    "asked": "batches asked", "formed": "formed", "samples": "samples", "distinct": "distinct", "distinct_bits": "distinct bits",
    "requests": "most requests a step", "tokens": "most tokens a step",
}  # fmt: skip  # fmt: skip
SIZES = {
    "stock_ms": "stock ms",
    "ours_ms": "ours ms",
    "ratio": "ratio",
    "error": "error",
}  # columns, where measured  # columns, where measured


def coverage_lines(finding: Finding) -> list[str]:
    """What ran on our kernels and what did not, where that was counted."""
    coverage = finding.evidence.get("coverage") or {}
    said = {
        "overridden": "on batch-invariant kernels",
        "uncovered": "without one of ours",
        "alike": "of these, a row has the bits that it has alone",
        "unlike": "of these, a row has other bits than alone",
    }
    lines = []
    for kind, words in said.items():
        if calls := coverage.get(kind):
            lines.append(f"{words}: {', '.join(f'{visible(name)} {n}' for name, n in calls.items())}")
    return lines


def percent(rate: float) -> str:
    return f"{100 * rate:.3g}%"


def figures(finding: Finding, given: bool = False) -> list[str]:
    """What differs and how often, a fact a line."""
    if not finding.samples:
        return []
    compared, n = finding.evidence.get("compared"), finding.evidence.get("batches")
    unit, numbers = unit_of(finding) + "s", of_numbers(finding)
    lines = [f"the most common came {finding.mode_count} times"]
    if finding.evidence.get("unit") != "word":
        lines[0] += f"; the first {finding.common_prefix} {unit}{of_the_last(finding)} are common to all"
    if compared in ("bits", "digits") and not numbers:
        with_them = "log-probability bits" if compared == "bits" else "log-probabilities as they were printed"
        lines.append(
            f"with {with_them}: {finding.distinct_bits} distinct, equal up to {unit_of(finding)} {finding.common_prefix_bits}"
        )
    if given:
        pass  # that the tokens are equal is no finding
    elif finding.latent and numbers_differ(finding):
        which = "log-probabilities" if compared == "digits" else "log-probability bits"
        lines.append(f"the divergence is latent: {unit} are equal, {which} are not")
    elif finding.latent and (reasons := finding.evidence.get("finish_reasons")):
        ends = ", ".join(f"{visible(reason)} {count}" for reason, count in reasons.items())
        lines.append(f"the {unit} are equal, the reasons to finish are not: {ends}")
    if numbers:
        lines += measured(finding)
    elif "max_abs" in finding.metrics:
        # Of numbers that were written down nobody knows the width that they were computed in: an ulp means nothing there.
        ulp = f" ({finding.metrics['max_ulp']:.0f} ulp)" if "max_ulp" in finding.metrics else ""
        lines.append(f"log-probabilities of shared {unit} are up to {finding.metrics['max_abs']:.3g} nats{ulp} apart")
    if len(far := finding.evidence.get("apart") or {}) > 1:
        lines.append(how_far(far, finding.evidence["largest"], numbers))
    if requests := finding.evidence.get("concurrency"):
        again = finding.evidence.get("resent")
        lines.append(
            f"up to {requests} requests were in flight at once"
            + (f"; {again} were sent again, since the server was busy" if again else "")
        )
    if changed := finding.evidence.get("changed"):
        lines.append(f"changed around it: {visible('; '.join(changed))}")
    if "batches" not in finding.evidence:  # two runs, compared
        return lines
    if times := finding.evidence.get("preemptions"):
        lines.append(f"the engine put samples aside and computed them again {times} times")
    low, high = finding.interval_bits if finding.latent or compared in ("bits", "digits") else finding.interval
    if n is None:
        lines.append("which samples shared a batch is not known, so nothing bounds how often they differ")
    elif low == 0.0:
        lines.append(f"no batch of {n} left the mode: at most {percent(high)} do under this schedule (95%)")
    else:
        rates = f"{percent(low)} to {percent(high)}"
        lines.append(f"of batches under this schedule {rates} hold a sample that leaves the mode (95%, {n} batches)")
    return lines


WAYS = {
    "batches": "in batches of equal lengths",
    "padding": "where it is padded alone",
    "unequal lengths": "in batches of unequal lengths",
    "neighbours": "by what its neighbours hold",
}


def how_far(found: Mapping[str, float], largest: float, numbers: bool) -> str:
    """By what was done to the row."""
    said = [f"{f'up to {far:.3g}' if far else 'not at all'} {WAYS[way]}" for way, far in found.items()]
    of = f"; its largest number is {largest:.3g}" if numbers else ""
    return f"from the row alone: {', '.join(said)}{of}"


def of_numbers(finding: Finding) -> bool:
    """Whether it is about a tensor's rows: elements that differ, not tokens that lead elsewhere."""
    return finding.evidence.get("unit") in ("element", "word")


def of_the_last(finding: Finding) -> str:
    """Where elements are logits of a prompt whose other positions were observed too."""
    return " of the last position" if finding.evidence.get("positions") else ""


def unit_of(finding: Finding) -> str:
    """What an index counts."""
    unit = str(finding.evidence.get("unit", ""))
    return UNITS.get(unit) or UNITS.get(str(finding.evidence.get("compared")), "token")


def measured(finding: Finding) -> list[str]:
    """What an op's probe measured, a fact a line."""
    found, lines = finding.metrics, []
    if "max_abs" in found:
        where = of_the_last(finding)
        lines.append(f"elements{where} are up to {found['max_abs']:.3g} ({found['max_ulp']:.0f} ulp) apart")
    elif finding.histogram and finding.evidence["unit"] == "element":
        lines.append("where elements differ, one of them is not a number or infinite")
    if "error" in found:
        stock = f"; stock's is {found['error_stock']:.3g}" if "error_stock" in found else ""
        allowed = f", {found['error_share']:.2g} of what is allowed" if "error_share" in found else ""
        lines.append(f"error against float64: {found['error']:.3g} of the row's scale{allowed}{stock}")
    if "ratio" in found:
        lines.append(f"time: {found['ratio']:.2f} of stock's (median over the sizes)")
    return lines


def size_table(finding: Finding) -> list[list[str]]:
    """One line per batch size, after a heading; the rows that have other bits than the row alone come last."""
    sizes = finding.evidence.get("sizes") or {}
    columns = [name for name in SIZES if any(name in line for line in sizes.values())]
    table = [["rows", *(SIZES[name] for name in columns), "observed", "mismatching"]]
    for size, line in sizes.items():
        numbers = [f"{line[name]:.3g}" if name in line else "" for name in columns]
        table.append([size, *numbers, f"{line['rows']:.0f}", f"{line['mismatching']:.0f}"])
    return table if sizes else []


def condition_table(finding: Finding) -> list[list[str]]:
    """One line per condition, after a heading. What an engine that forms its batches itself computed in a step comes last."""
    conditions = finding.evidence.get("conditions") or {}
    shown = [key for key in CONDITIONS if any(key in counts for counts in conditions.values())]
    table = [["condition", *(CONDITIONS[key] for key in shown)]]
    for name, counts in conditions.items():
        table.append([visible(name), *(str(counts.get(key, "")) for key in shown)])
    return table if conditions else []


def which_histogram(finding: Finding) -> tuple[str, Sequence[tuple[int, int]]]:
    """The histogram worth showing, with its title: of tokens, or of bits where tokens never leave the mode."""
    if finding.evidence.get("unit") == "word":
        return "", ()
    unit = unit_of(finding)
    if finding.histogram or of_numbers(finding) or not numbers_differ(finding):
        return f"First {unit} that leaves the mode", finding.histogram
    which = "log-probability leaves" if finding.evidence.get("compared") == "digits" else "log-probability bits leave"
    return f"First {unit} whose {which} the mode", finding.histogram_bits


def numbers_differ(finding: Finding) -> bool:
    """Whether log-probabilities differ before tokens do, if those ever do; else only the ends of equal samples may."""
    return finding.common_prefix_bits < finding.common_prefix


def likely_cause(finding: Finding) -> str:
    evidence = finding.evidence
    first, varies = evidence.get("first_variant_condition"), evidence.get("varies_with")
    if finding.verdict not in (Verdict.BATCH_VARIANT, Verdict.RUN_VARIANT) or not first:
        return ""
    return f"Bits first differ in {visible(str(first))}" + (
        f"; they depend on: {', '.join(varies)}." if varies else "."
    )


def beyond_rounding(finding: Finding) -> str:
    """What to look at where a difference is larger than another order of the same sums makes it: at the most telling way."""
    ways = finding.evidence.get("beyond_rounding") or ()
    return next((said.format(rounding=ROUNDING) for way, said in BEYOND.items() if way in ways), "")


def not_tried(finding: Finding) -> list[str]:
    """What the schedule left out, a line a reason."""
    names: dict[str, list[str]] = {}
    for left_out in finding.evidence.get("not_tried", ()):
        names.setdefault(left_out.reason, []).append(left_out.what)
    return [f"{', '.join(group)}: {reason}" for reason, group in names.items()]
