"""The sentences that all human reports share: what was found, why, what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detcheck.probes.bisect import describe as culprit_words
from detcheck.probes.certify.judge import NOT_PROVEN, in_words, summary
from detcheck.records import SEVERITY, Case, Environment, Finding, Fork, Role, Run, Verdict
from detcheck.text import visible

BINS = 12  # lines of a histogram
SHOWN_FORKS = 12  # of the tree in human reports; report.json has all
SHOWN_FINDINGS = 8
SHOWN_OPS = 24  # of a bisection's table; report.json has all
MARGIN = "margin: how far the runner-up was behind, in nats"

MEANING = {
    Verdict.IDENTICAL: "every condition asked for was exercised, and all bits are equal",
    Verdict.RUN_VARIANT: "equal conditions, different bits: true nondeterminism",
    Verdict.BATCH_VARIANT: "each condition repeats itself, but conditions differ: not batch-invariant",
    Verdict.DIVERGENT: "different bits, and whether by the run or the batch cannot be told",
    Verdict.INACCURATE: "the result is wrong against float64 beyond the accuracy rule",
    Verdict.INCONCLUSIVE: "not enough evidence for a verdict",
    Verdict.FAILED: "it could not run, and nothing was observed",
    Verdict.CERTIFIED: "nothing of the batch reaches the order in which it adds",
    Verdict.REFUTED: "the batch reaches the order in which it adds",
    Verdict.UNDECIDED: "what was read of the kernel does not show it either way",
}

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
    Verdict.CERTIFIED: NOT_PROVEN,
    Verdict.REFUTED: "Let loop bounds, branches, masks and addresses along what is added follow the row's own length and constants alone.",
    Verdict.UNDECIDED: "This is no certificate. Where the reason is the kernel's form, write it so that it can be read; else test it on a GPU.",
}


BITS_INSTEAD = "This is not a pass. Whether an op's bits follow the batch, detcheck kernels asks, whatever its order."
NOT_OURS = (  # run-variant, where somebody else runs the model
    "A lone request that does not repeat has its cause in the engine, not in the load: whoever runs it should look for atomics, autotuning, "
    "races, or replicas that are not alike."
)


def advice(finding: Finding) -> str:
    """What to do; "" where a finding says it itself, or there is nothing to do."""
    if finding.evidence.get("culprit"):
        return ""
    if (
        finding.verdict is Verdict.RUN_VARIANT
        and not finding.case.dtype
        and not finding.case.probe.startswith("kernel")
    ):
        return NOT_OURS
    if finding.verdict is Verdict.INCONCLUSIVE and any(
        not order["sure"] for order in finding.evidence.get("orders", ())
    ):
        return BITS_INSTEAD
    return ADVICE[finding.verdict]


ROLES = {Role.GATES: "", Role.CONTROL: " (control)", Role.REACTS: " (control)", Role.PLANTED: " (planted control)"}
UNITS = {"text": "character", "element": "element", "word": "word of its digest"}
CONDITIONS = {
    "asked": "batches asked", "formed": "formed", "samples": "samples", "distinct": "distinct", "distinct_bits": "distinct bits",
    "requests": "most requests a step", "tokens": "most tokens a step",
}  # fmt: skip
SIZES = {"stock_ms": "stock ms", "ours_ms": "ours ms", "ratio": "ratio", "error": "error"}  # columns, where measured


def coverage_lines(finding: Finding) -> list[str]:
    """What ran on our kernels and what did not, where that was counted."""
    coverage = finding.evidence.get("coverage") or {}
    said = {"overridden": "on batch-invariant kernels", "uncovered": "without one of ours"}
    lines = []
    for kind, words in said.items():
        if calls := coverage.get(kind):
            lines.append(f"{words}: {', '.join(f'{visible(name)} {n}' for name, n in calls.items())}")
    return lines


def percent(rate: float) -> str:
    return f"{100 * rate:.3g}%"


def subject_line(finding: Finding) -> str:
    case = finding.case
    return (
        " · ".join(
            part
            for part in (
                case.probe,
                visible(case.subject),
                replica(case),
                case.kernels,
                case.dtype,
                visible(case.input),
            )
            if part
        )
        + ROLES[finding.role]
    )


def replica(case: Case) -> str:
    return f"replica {case.replica}" if case.replica else ""


def totals(finding: Finding) -> str:
    """The line that users paste into issues. Unique counts token sequences; of a compiled kernel, what it takes."""
    if certificate := finding.evidence.get("certificate"):
        return summary(certificate)
    if of_a_bisection(finding):
        return visible(culprit_words.headline(finding.evidence))
    return f"Total samples: {finding.samples}, Unique samples: {finding.distinct}"


def figures(finding: Finding) -> list[str]:
    """What differs and how often, a fact a line."""
    if not finding.samples:
        return []
    if certificate := finding.evidence.get("certificate"):
        return certified(certificate)
    if of_a_bisection(finding):
        return [visible(line) for line in culprit_words.lines(finding.evidence)]
    if orders := finding.evidence.get("orders"):
        return revealed(orders)
    compared, n = finding.evidence.get("compared"), finding.evidence.get("batches")
    unit, numbers = unit_of(finding) + "s", of_numbers(finding)
    lines = [f"the most common came {finding.mode_count} times"]
    if finding.evidence.get("unit") != "word":
        lines[0] += f"; the first {finding.common_prefix} {unit} are common to all"
    if compared in ("bits", "digits") and not numbers:
        with_them = "log-probability bits" if compared == "bits" else "log-probabilities as they were printed"
        lines.append(
            f"with {with_them}: {finding.distinct_bits} distinct, equal up to token {finding.common_prefix_bits}"
        )
    if finding.latent and "max_ulp" in finding.metrics:
        lines.append("the divergence is latent: tokens are equal, log-probability bits are not")
    elif finding.latent:
        ends = ", ".join(
            f"{visible(reason)} {count}" for reason, count in finding.evidence.get("finish_reasons", {}).items()
        )
        lines.append(f"the {unit} are equal, the reasons to finish are not: {ends}")
    if numbers:
        lines += measured(finding)
    elif "max_abs" in finding.metrics:
        ulp, nats = finding.metrics["max_ulp"], finding.metrics["max_abs"]
        lines.append(f"log-probabilities of shared tokens are up to {nats:.3g} nats ({ulp:.0f} ulp) apart")
    if requests := finding.evidence.get("concurrency"):
        again = finding.evidence.get("resent")
        lines.append(
            f"up to {requests} requests were in flight at once"
            + (f"; {again} were sent again, since the server was busy" if again else "")
        )
    if changed := finding.evidence.get("changed"):
        lines.append(f"changed around it: {visible('; '.join(changed))}")
    if finding.case.probe == "compare":
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


def revealed(orders: Sequence[Mapping[str, object]]) -> list[str]:
    """Each order of addition that was seen, where, and its tree as an outline."""
    lines = []
    for n, order in enumerate(orders):
        checked = order["checked"]
        proof = (
            f"re-added in {order['adds_in']}: {checked['equal']} of {checked['columns']} columns equal"
            if order["sure"]
            else "not sure" + (f": {order['why']}" if len(orders) > 1 else "")  # of one alone the note says why
        )
        if order["sure"] and "proved" in order:
            proof += f"; all {order['proved']['pairs']:,} pairs of summands meet where it says"
        lines.append(
            f"order {n + 1} {order['tree']}: {order['words']}; {proof}".replace("  ", " ")
            if order["sure"]
            else f"order {n + 1}: {visible(str(proof))}"
        )
        shown = order["conditions"]
        lines.append(
            f"   with {'; '.join(map(str, shown[:4]))}" + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
        )
        lines += [f"   {line}" for line in order["outline"]] if order["sure"] else []
    return lines


def certified(certificate: Mapping[str, object]) -> list[str]:
    """What was read of a compiled kernel, a fact a line."""
    flags = ", ".join(f"{name} {value}" for name, value in sorted(certificate["flags"].items()))
    found = certificate["found"]
    lines = [f"against it: {visible(in_words(f))}" for f in found] if len(found) > 1 else []
    return [
        *lines,
        f"forms of a launch: {certificate['forms']}, different binaries: {sum(map(len, certificate['binaries'].values()))}; {visible(flags)}",
    ]


def of_a_bisection(finding: Finding) -> bool:
    return "culprit" in finding.evidence or "bisection" in finding.evidence


def of_numbers(finding: Finding) -> bool:
    """Whether it is about a tensor's rows: elements that differ, not tokens that lead elsewhere."""
    return finding.evidence.get("unit") in ("element", "word")


def unit_of(finding: Finding) -> str:
    """What an index counts."""
    unit = str(finding.evidence.get("unit", ""))
    return UNITS.get(unit) or UNITS.get(str(finding.evidence.get("compared")), "token")


def measured(finding: Finding) -> list[str]:
    """What an op's probe measured, a fact a line."""
    found, lines = finding.metrics, []
    if "max_abs" in found:
        lines.append(f"elements are up to {found['max_abs']:.3g} ({found['max_ulp']:.0f} ulp) apart")
    elif finding.distinct_bits > 1 and finding.evidence["unit"] == "element":
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
    """One line per condition, after a heading. What an engine that forms its batches itself computed in a step comes last.

    Of a bisection: one line per op.
    """
    if "calls" in finding.evidence:
        return [list(map(visible, line)) for line in culprit_words.rows(finding.evidence, SHOWN_OPS)]
    conditions = finding.evidence.get("conditions") or {}
    shown = [key for key in CONDITIONS if any(key in counts for counts in conditions.values())]
    table = [["condition", *(CONDITIONS[key] for key in shown)]]
    for name, counts in conditions.items():
        table.append([visible(name), *(str(counts.get(key, "")) for key in shown)])
    return table if conditions else []


def histogram_bins(histogram: Sequence[tuple[int, int]], most: int = BINS) -> list[tuple[str, int]]:
    """(label, samples): an index each, or equal ranges of indices where there are too many."""
    if len(histogram) <= most:
        return [(str(index), count) for index, count in histogram]
    low, high = histogram[0][0], histogram[-1][0]
    width = -(-(high - low + 1) // most)
    bins: dict[int, int] = {}
    for index, count in histogram:
        bins[(index - low) // width] = bins.get((index - low) // width, 0) + count
    return [(f"{low + b * width}-{min(high, low + (b + 1) * width - 1)}", bins.get(b, 0)) for b in range(max(bins) + 1)]


def which_histogram(finding: Finding) -> tuple[str, Sequence[tuple[int, int]]]:
    """The histogram worth showing, with its title: of tokens, or of bits where tokens never leave the mode."""
    if of_a_bisection(finding) or finding.evidence.get("unit") == "word":
        return "", ()
    unit = unit_of(finding)
    if finding.histogram or of_numbers(finding) or "max_ulp" not in finding.metrics:
        return f"First {unit} that leaves the mode", finding.histogram
    return "First token whose log-probability bits leave the mode", finding.histogram_bits


def branch_text(fork: Fork, n: int) -> str:
    branch = fork.branches[n]
    if branch.token is None:
        return "(ends here)"
    return visible(branch.text) or f"token {branch.token}"


def likely_cause(finding: Finding) -> str:
    evidence = finding.evidence
    first, varies = evidence.get("first_variant_condition"), evidence.get("varies_with")
    if finding.verdict not in (Verdict.BATCH_VARIANT, Verdict.RUN_VARIANT) or not first:
        return ""
    return f"Bits first differ in {visible(str(first))}" + (f"; they go with: {', '.join(varies)}." if varies else ".")


def worst_first(run: Run) -> list[Finding]:
    """Those that gate first, then the controls."""
    return sorted(
        run.findings, key=lambda f: (f.role is not Role.GATES, SEVERITY.index(f.verdict), f.mode_count - f.samples)
    )


def gating(run: Run) -> list[Finding]:
    return [f for f in worst_first(run) if f.role is Role.GATES]


def controls(run: Run) -> list[Finding]:
    return [f for f in worst_first(run) if f.role is not Role.GATES]


def what_is_judged(run: Run) -> str:
    """Of what there is a finding each."""
    return "cases" if run.subject and run.subject.cases else "prompts"


def tally_line(run: Run) -> str:
    counts = {v: sum(f.verdict is v for f in run.findings if f.role is Role.GATES) for v in SEVERITY}
    return ", ".join(f"{n} {v}" for v, n in counts.items() if n)


def not_tried(finding: Finding) -> list[str]:
    """What the schedule left out, a line a reason."""
    names: dict[str, list[str]] = {}
    for line in finding.evidence.get("not_tried", ()):
        name, _, reason = line.partition(": ")
        names.setdefault(reason, []).append(name)
    return [f"{', '.join(group)}: {reason}" for reason, group in names.items()]


def server_lines(environment: Environment) -> list[str]:
    """What each server is, and what it was found to do, a line a server."""
    lines: dict[str, list[str]] = {}
    for name, said in environment.flags.items():
        server, _, what = name.partition(".")
        lines.setdefault(server, []).append(f"{what}: {said}" if what else said)
    return [f"{server}: {'; '.join(said)}" for server, said in lines.items()]
