"""What reports say of why samples differ, and of what to do."""

from __future__ import annotations

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
NOT_OURS_UNSEEN = (
    "Ask again where nobody else's requests can come in between, or where batches can be seen. A lone request that does not repeat there has its "
    "cause in the engine: whoever runs it should look for atomics, autotuning, races, or replicas that are not alike."
)
COLD = (
    "A prompt whose beginning comes from the prefix cache is computed in other pieces than a new one. Serve with batch-invariant kernels, "
    "switch the prefix cache off where bits matter, or leave the first answer out (--conditions without cold)."
)
THREADS = (
    "Kernels share out a sum among the threads that there are. Keep their number fixed where bits matter (OMP_NUM_THREADS, "
    "torch.set_num_threads), or use kernels whose order of addition does not depend on it."
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


def advice(finding: Finding, padding: str = PADDING) -> str:
    """What to do; "" where there is nothing to do."""
    if "sides" in finding.evidence and finding.verdict in (Verdict.RUN_VARIANT, Verdict.DIVERGENT):
        return OF_TWO
    if finding.verdict is Verdict.DIVERGENT and finding.samples and "batches" not in finding.evidence:
        return OF_RUNS
    if finding.verdict is Verdict.RUN_VARIANT and not finding.case.dtype and not of_numbers(finding):
        return NOT_OURS if finding.evidence.get("batches", 0) is not None else NOT_OURS_UNSEEN
    if finding.evidence.get("first_variant_condition") == "cold":
        return COLD
    coverage = finding.evidence.get("coverage") or {}
    if finding.verdict is Verdict.BATCH_VARIANT:
        varies = set(finding.evidence.get("varies_with") or ())
        if "adapters" in varies and (coverage.get("overridden") or varies == {"adapters"}):
            return ADAPTERS
        if varies == {"threads"}:
            return THREADS
        if varies == {"padding"} or (varies == {"chunk", "padding"} and coverage.get("overridden")):
            return f"{padding} {CHUNK}" if "chunk" in varies else padding
        if coverage.get("overridden"):
            return OURS_DIFFER if coverage.get("uncovered") else OURS_EVERYWHERE
    return ADVICE.get(finding.verdict, "")


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


def of_numbers(finding: Finding) -> bool:
    """Whether it is about a tensor's rows: elements that differ, not tokens that lead elsewhere."""
    return finding.evidence.get("unit") in ("element", "word")
