"""What a verdict means, in two sentences for somebody who reads a report for the first time: what was seen, and what follows from it. Pure."""

from __future__ import annotations

from detcheck.advice import of_numbers
from detcheck.finding import Finding
from detcheck.verdict import Role, Verdict

SEEN = {
    Verdict.IDENTICAL: "Every condition that was asked for came about, and the same {what} got the same {level} in all of them.",
    Verdict.RUN_VARIANT: "The same {what}, computed again under equal conditions, got other {level}.",
    Verdict.BATCH_VARIANT: "The same {what} gets the same {level} as long as its batch is the same, and other {level} in another batch.",
    Verdict.DIVERGENT: "The same {what} got different {level}, and what was observed does not tell why.",
    Verdict.INACCURATE: "The result is further from the exact one than its roundings can explain.",
    Verdict.INCONCLUSIVE: "There is not enough evidence to say that the {level} are always the same, or that they are not.",
    Verdict.FAILED: "It could not run, so nothing was observed.",
    Verdict.CERTIFIED: "In the compiled kernel, nothing that depends on the batch reaches the order in which it adds.",
    Verdict.REFUTED: "In the compiled kernel, something that depends on the batch reaches the order in which it adds.",
    Verdict.UNDECIDED: "What was read of the compiled kernel shows neither that the batch reaches its order of addition, nor that it does not.",
}
FOLLOWS = {
    Verdict.IDENTICAL: "That holds for this machine, these versions and these batches; how often it could still differ without having been seen is bounded below where that can be computed.",
    Verdict.RUN_VARIANT: "No choice of batches makes it repeatable: something in the program itself, such as atomics or a race, decides the bits.",
    Verdict.BATCH_VARIANT: "So {a result} depends on {the rest}; nothing is random in it, but kernels usually add in another order for another batch.",
    Verdict.DIVERGENT: "It may be the batch or the program itself; results that must be the same cannot rest on it.",
    Verdict.INACCURATE: "Whether its bits are always the same does not matter until that is mended.",
    Verdict.INCONCLUSIVE: "This is not a pass: the note says what is missing, and the question can be asked again.",
    Verdict.FAILED: "This says nothing about the bits; the note says what went wrong.",
    Verdict.CERTIFIED: "The same row gets the same bits in every batch, as far as the compiled code decides it; the code was read, not run.",
    Verdict.REFUTED: "Some batch can give a row other bits; the lines that do it are named below.",
    Verdict.UNDECIDED: "This is not a pass; what could not be followed is named below.",
}
OF_PROBE = {  # (probe, verdict) -> the two sentences, where the question is another one
    ("matmul", Verdict.IDENTICAL): (
        "The same product of the same matrices gave the same bits every time.",
        "One kernel at one shape repeats itself; whether the batch's size changes its bits, detcheck kernels asks.",
    ),
    ("judge", Verdict.IDENTICAL): (
        "All samples of the same request that were given have the same {level}.",
        "That holds for these samples; how often one could still differ without having been seen is bounded below where that can be computed.",
    ),
    ("score", Verdict.BATCH_VARIANT): (
        "The same text gets the same score as long as its batch is the same, and other bits of it in another batch.",
        "So a score depends on who else is scored at that moment, and two texts that are nearly equally likely can change places.",
    ),
    ("order", Verdict.IDENTICAL): (
        "The op adds its numbers in one and the same order at every batch size that was tried.",
        "So these batch sizes cannot change its bits through the order of addition.",
    ),
    ("order", Verdict.BATCH_VARIANT): (
        "The op adds its numbers in another order when the batch has another size.",
        "Sums in another order are rounded differently, so the same row gets other bits; the trees below show both orders.",
    ),
    ("order", Verdict.INCONCLUSIVE): (
        "The order in which this op adds could not be read with certainty.",
        "This is not a pass: whether its bits follow the batch, detcheck kernels asks, whatever its order.",
    ),
    ("bisect", Verdict.BATCH_VARIANT): (
        "This is the op whose inputs were equal and whose result was not, once other requests were in the batch.",
        "The difference begins here, and what comes after it only carries it on; what to do is said below.",
    ),
    ("bisect", Verdict.RUN_VARIANT): (
        "This is the op that gave other bits when it was asked again with the very same inputs.",
        "The difference begins here, and no choice of batches removes it; what to do is said below.",
    ),
    ("bisect", Verdict.IDENTICAL): (
        "Every op gave the same bits alone and in the batches that were tried, and so did the logits.",
        "No cause was found in these batches; another batch may still show one.",
    ),
    ("logprobs", Verdict.IDENTICAL): (
        "Sampler and trainer gave each token the same log-probability, to the last bit.",
        "Training on these samples is on-policy as far as numerics goes.",
    ),
    ("logprobs", Verdict.DIVERGENT): (
        "Sampler and trainer gave some tokens different log-probabilities.",
        "The trainer weighs tokens by a policy that did not make them, so training is off-policy by that much.",
    ),
    ("compare", Verdict.IDENTICAL): (
        "The second run gave what the first one gave, in every condition that both have.",
        "Between the two nothing changed that reaches these bits; whether each run repeats itself is said by its own report.",
    ),
    ("compare", Verdict.DIVERGENT): (
        "The second run gave other bits than the first one.",
        "Something that changed between the two reaches the bits; what changed is listed below as far as it was recorded.",
    ),
    ("fleet", Verdict.IDENTICAL): (
        "Every member of the fleet was asked, and all have the same {level}.",
        "So it does not matter which of them computes {a result}, as far as these conditions reach.",
    ),
    ("fleet", Verdict.DIVERGENT): (
        "Members of the fleet that were asked the same have different {level}.",
        "So {a result} depends on who computes it; who differs, and what is different there, is named below as far as it was recorded.",
    ),
    ("reload", Verdict.IDENTICAL): (
        "After the update the engine gives the bits of a fresh load of the new weights.",
        "Nothing of the old weights was found to be left.",
    ),
    ("reload", Verdict.DIVERGENT): (
        "After the update the engine does not give the bits of a fresh load of the new weights.",
        "Something of the old weights, or of what was computed from them, is still in use.",
    ),
}
NOT_THE_BATCH = {  # what bits depend on -> in words, where it is neither the batch nor who is in it
    "adapters": "the adapters of the requests beside it",
    "alignment": "the alignment of its numbers in memory",
    "cache": "whether its beginning is in the prefix cache",
    "chunk": "the pieces that its prompt is fed in",
    "padding": "the padding around it",
    "prefill": "whether its tokens are computed in one go or one after the other",
    "process": "the process that computes it",
    "slot": "its place in the batch",
    "strides": "the strides of its numbers in memory",
    "threads": "the number of threads",
}
ANOTHER_WAY = (
    "The same {what} repeats its {level}, and gets other {level} when this changes: {aspects}.",
    "So {a result} depends on that; nothing is random in it, but kernels usually add in another order then.",
)
UNSEEN = "All samples of the same {what} have the same {level}, but the batches that they were computed in could not be seen."
UNSEEN_RUN = (  # run-variant, where others may have been computed with it
    "The same {what}, asked again in the same way, got other {level}, and the batches that it was computed in could not be seen.",
    "It may be the program itself, such as a race, or other people's requests that were computed with it, so the batch may still be the cause.",
)
LEVELS = {"digits": "tokens and log-probabilities", "tokens": "tokens", "text": "text"}
LATENT = "The tokens are the same in all of them; only the log-probabilities' bits differ, which can turn into other tokens with another prompt."


def meaning(finding: Finding) -> str:
    """Two sentences. Of a control: what it is there for."""
    verdict = finding.verdict
    if finding.role is not Role.GATES:
        reacted = verdict in (Verdict.RUN_VARIANT, Verdict.BATCH_VARIANT, Verdict.DIVERGENT)
        what = "This is the control: the same test, on a subject that is expected to differ."
        if finding.role is Role.CONTROL:
            return "This is what stands beside it for comparison. It decides neither the verdict nor the exit code."
        return f"{what} {'It did, so the test can see a difference here.' if reacted else 'It did not, so equal bits elsewhere are no evidence.'}"
    if (
        "batches" not in finding.evidence
        and finding.samples
        and ("compare", verdict) in OF_PROBE
        and "changed" in finding.evidence
    ):
        return " ".join(OF_PROBE["compare", verdict])
    aspects = depends_on(finding)
    if verdict is Verdict.BATCH_VARIANT and aspects and set(aspects) <= set(NOT_THE_BATCH):
        named = ", ".join(NOT_THE_BATCH[aspect] for aspect in aspects)
        follows = LATENT if finding.latent else ANOTHER_WAY[1]
        return f"{ANOTHER_WAY[0]} {follows}".format_map(words(finding) | {"aspects": named})
    said = OF_PROBE.get((finding.case.probe, verdict)) or (SEEN[verdict], FOLLOWS[verdict])
    unseen = "batches" in finding.evidence and finding.evidence["batches"] is None
    if verdict is Verdict.IDENTICAL and unseen:
        said = (UNSEEN, said[1])
    elif verdict is Verdict.RUN_VARIANT and unseen and (finding.case.probe, verdict) not in OF_PROBE:
        said = UNSEEN_RUN
    if finding.latent and verdict is Verdict.BATCH_VARIANT and (finding.case.probe, verdict) not in OF_PROBE:
        said = (said[0], LATENT)
    return " ".join(said).format_map(words(finding))


def depends_on(finding: Finding) -> list[str]:
    """Aspects of what was asked that bits go with, as far as they were told apart."""
    found = list(finding.evidence.get("varies_with") or ())
    return found or ["cache"] * (finding.evidence.get("first_variant_condition") == "cold")


def words(finding: Finding) -> dict[str, str]:
    """What was asked about, and how deep it was compared."""
    level = LEVELS.get(str(finding.evidence.get("compared")), "bits")
    if of_numbers(finding):
        return {
            "what": "row",
            "level": level,
            "a result": "a row's result",
            "the rest": "the other rows that are computed with it",
        }
    return {"what": "request", "level": level, "a result": "an answer", "the rest": "who else is served at that moment"}
