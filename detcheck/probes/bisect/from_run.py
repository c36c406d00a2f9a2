"""What a stored run found to differ, as a question for `bisect`: which prompt, alone against in which batch, until which token. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from detcheck.bits import as_integers, first_difference
from detcheck.condition_name import ConditionKind, kind_of
from detcheck.errors import UsageError
from detcheck.finding import Finding, Run
from detcheck.records import Observation, Outcome, Prompt, Step, Traffic
from detcheck.schedules import lone
from detcheck.spec import Kernels
from detcheck.verdict import Role

LONGEST = 64  # tokens that are fed one by one, at most: each is a forward pass, traced


@dataclass(frozen=True)
class Differing:
    """Two conditions of a run that differ, and where."""

    prompt: Prompt
    """as the run asked it"""
    weights: str
    """as `weights_of` names them"""
    kernels: Kernels
    condition: str
    rows: tuple[int, ...]
    """of the batch, as its schedule has it"""
    fed: tuple[int, ...]
    """tokens that both gave before they differ, in text or in bits"""
    decoding: bool = False
    """whether both fed the last tokens of the prompt one by one"""
    traffic: Traffic | None = None
    """how the rows reached an engine that forms its batches itself"""
    padding: int = 0
    """pad tokens before the prompt, where it is padded alone"""


def first_divergence(run: Run, observations: Iterable[Observation], outcomes: Mapping[str, Outcome]) -> Differing:
    """The first condition whose text leaves the lone one, or else its bits. Raises UsageError where there is none, or none that bisect can form."""
    where = str(run.path)
    if run.spec.probe not in ("completions", "batch"):
        raise UsageError(f"{where} is a run of {run.spec.probe}; bisect takes one of completions or batch")
    if any(step.load for step in run.subject.schedule.steps):
        raise UsageError(
            f"{where} was asked of a server, and bisect looks into an engine that it starts itself. Ask with --model, and --engine vllm for vLLM"
        )
    if any(step.turns > 1 for step in run.subject.schedule.steps):
        raise UsageError(
            f"{where} is a run of conversations (--turns), and bisect asks one prompt. Give it the history before the turn that differs with --prompt"
        )
    if not any(finding.samples for finding in run.findings):
        raise UsageError(
            f"{where} holds no sample that can be read: it was stopped before the first, or its files are damaged"
        )
    finding = chosen(run.findings)
    if finding is None:
        raise UsageError(
            f"nothing differs in {where}, so there is nothing to look for. Ask with --model to look at every op all the same"
        )
    seen: dict[str, list[Outcome]] = {}
    for o in observations:
        if o.case == finding.case and o.outcome in outcomes:
            seen.setdefault(o.condition.name, []).append(outcomes[o.outcome])
    cases = [case for case, _ in run.subject.cases]
    steps = [s for s in run.subject.schedule.steps if cases[s.case] == finding.case and s.condition in seen]
    lones = {is_decoding(s): seen[s.condition][0] for s in reversed(steps) if is_lone(s)}
    pairs = [
        (step, usual, other)
        for step in steps
        if not is_lone(step) and not is_of_another_kind(step) and (usual := lones.get(is_decoding(step)))
        for other in seen[step.condition]
        if other.id != usual.id
    ]
    if pairs:  # a fork in the text is what was seen; where there is none, bits are
        step, usual, other = next((p for p in pairs if forks_at(*p[1:]) is not None), pairs[0])
        fed = (
            () if run.spec.probe == "batch" else tuple(int(t) for t in usual.tokens[: parting(usual, other)][:LONGEST])
        )
        arm = Kernels(finding.case.kernels)
        prompt = next(p for p in run.subject.inputs if p.name == finding.case.input)
        prompt = replace(prompt, seed=None)  # of tokens that were drawn, those that were are fed
        weights = weights_of(run.subject.digests)
        how = is_decoding(step), step.traffic, step.padding
        return Differing(prompt, weights, arm, step.condition, step.rows, fed, *how)
    if any(kind_of(name) == "adapters" for name in seen):
        raise UsageError(
            f"in {where} batches differ by the adapters of their neighbours, if at all, and bisect puts on one adapter. "
            "Look at how the engine gives rows their adapters"
        )
    if found := list(dict.fromkeys(step.condition for step in steps if lone.of_step(step))):
        raise UsageError(
            f"in {where} no batch differs from the prompt alone, and {' and '.join(found)} is about the prompt alone: bisect compares it with a batch. "
            "detcheck batch has decode-N, the last tokens of a prompt fed one by one"
        )
    raise UsageError(f"in {where} no batch differs from the prompt alone; bisect compares these two. Ask with --model")


def weights_of(digests: Mapping[str, str]) -> str:
    """Digest of the model's weights, and of its adapter's where it has one; "" where they are not known."""
    return "+".join(digests[name] for name in ("model", "adapter") if name in digests)


def is_of_another_kind(step: Step) -> bool:
    """Whether it is of neighbours with another adapter, or of the prompt alone made in another way: bisect forms none of these."""
    return kind_of(step.condition) == ConditionKind.ADAPTERS or lone.of_step(step)


def is_lone(step: Step) -> bool:
    """Whether the prompt is computed alone, in one piece, and with nothing before it."""
    if lone.of_step(step):
        return False
    cut = step.traffic is not None and (step.traffic.token_budget is not None or step.traffic.cached)
    return len(step.rows) == 1 and not cut and not step.padding


def is_decoding(step: Step) -> bool:
    """Whether it is a `decode-N` of `batch`: alone too the prompt's last tokens are fed one by one there."""
    return kind_of(step.condition) == "decode"


def chosen(findings: Iterable[Finding]) -> Finding | None:
    """The first that differs: of those that gate, else of the controls."""
    differ = [f for f in findings if f.distinct_bits > 1]
    return min(differ, key=lambda f: f.role is not Role.GATES, default=None)


def forks_at(lone: Outcome, other: Outcome) -> int | None:
    """Tokens before the first that differs; of a tensor, where indices are no tokens, None."""
    return first_difference(lone.tokens, other.tokens) if lone.unit == "token" else None


def parting(lone: Outcome, other: Outcome) -> int:
    """Tokens before the first that differs or has other bits: bits part first, and what they part by is what the text parts by."""
    found = [forks_at(lone, other)]
    if lone.logprobs is not None and other.logprobs is not None:
        found.append(first_difference(as_integers(lone.logprobs), as_integers(other.logprobs)))
    return min((at for at in found if at is not None), default=0)
