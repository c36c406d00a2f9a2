"""What reports say of samples that were compared: how many differ, where and how often. Most findings are of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detcheck.advice import PADDING, advice, beyond_rounding, likely_cause, of_numbers
from detcheck.blocks import Block, Facts, Forks, Histogram, Mode, Table, Text, Totals
from detcheck.finding import Finding
from detcheck.pictures import along_the_tokens, what_they_say, which_gave_which
from detcheck.text import percent, visible


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
    blocks += which_gave_which(finding)
    title, histogram = which_histogram(finding)
    if histogram:
        blocks.append(Histogram(title, tuple(histogram)))
    blocks += along_the_tokens(finding, unit_of(finding))
    if finding.forks:
        blocks.append(Forks(finding.forks))
    blocks += what_they_say(finding, unit_of(finding))
    if finding.mode_text:
        blocks.append(Mode(visible(finding.mode_text)))
    notes = tuple(f"not tried: {visible(line)}" for line in not_tried(finding))
    sizes, conditions, places = size_table(finding), condition_table(finding), place_table(finding)
    if sizes:
        blocks.append(Table("Batch sizes", table(sizes), names_first=False, notes=notes))
    if conditions:
        blocks.append(Table("Conditions", table(conditions), notes=() if sizes else notes, on_pages=bool(sizes)))
    if places:
        blocks.append(Table("Condition by condition", table(places)))
    cause = (likely_cause(finding), beyond_rounding(finding), advice(finding, padding))
    said = tuple(line for line in (*coverage_lines(finding), *cause) if line)
    return (*blocks, Text(said)) if said else tuple(blocks)


def table(lines: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(map(tuple, lines))


def totals(finding: Finding) -> str:
    """The line that users paste into issues. Unique counts token sequences."""
    return f"Total samples: {finding.samples}, Unique samples: {finding.distinct}"


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
    if drawn := finding.evidence.get("seeds"):
        lines.append(f"{drawn['asked']} seeds gave {drawn['distinct']} different completions of this prompt")
    if drafted := finding.evidence.get("speculation"):
        lines.append(f"{drafted['accepted']} of {drafted['drafted']} drafted tokens were accepted")
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


def of_the_last(finding: Finding) -> str:
    """Where elements are logits of a prompt whose other positions were observed too, or the gradient of its first token's embedding."""
    if finding.evidence.get("gradients"):
        return " of the gradient of the prompt's first input"
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


def place_table(finding: Finding) -> list[list[str]]:
    """Of two runs: one line per condition, after a heading. A place is a slot of a sample in a batch."""
    heading = ["condition", "places in both", "other than before", "places in one alone"]
    rows = [[visible(name), *map(str, n.values())] for name, n in (finding.evidence.get("places") or {}).items()]
    return [heading, *rows] if rows else []


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


def not_tried(finding: Finding) -> list[str]:
    """What the schedule left out, a line a reason."""
    names: dict[str, list[str]] = {}
    for left_out in finding.evidence.get("not_tried", ()):
        names.setdefault(left_out.reason, []).append(left_out.what)
    return [f"{', '.join(group)}: {reason}" for reason, group in names.items()]
