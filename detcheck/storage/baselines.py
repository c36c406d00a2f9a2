"""A baseline: what a run gave, as a small file that can be kept in git. Hashes, not payloads.

Of each case it holds the hashes of its outcomes with their counts, which of them each condition gave, and of the commonest one a hash
of every prefix, so that a later run can be told where it parts without the text being there.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from detcheck import strict_json
from detcheck.bits import as_integers
from detcheck.errors import UsageError
from detcheck.files import write_file
from detcheck.finding import Finding
from detcheck.hashes import content_hash
from detcheck.outcomes import token_key
from detcheck.records import Case, Condition, Environment, Outcome, Subject
from detcheck.spec import Spec
from detcheck.storage import typed
from detcheck.verdict import Role

FILE = "baseline.json"  # in a run's folder
VERSION = 1
ASKED = ("max_tokens", "ignore_eos", "chat", "temperature")  # knobs that must be equal where both have them
NUMBERS = ("element", "word", "position")  # units without an order that a prefix would follow
HEX = 8  # characters of a prefix's hash


@dataclass(frozen=True)
class Settled:
    """Conditions that are alike but for the slot, and the one outcome that each of them always gave."""

    condition: Condition
    """its slot is None"""
    slots: tuple[int | None, ...]
    """(): of an older baseline, whose condition has a name and, as its composition, the hash of all that makes it"""
    outcome: str


@dataclass(frozen=True)
class Known:
    """A case, as far as a baseline holds it."""

    case: Case
    verdict: str
    missing: int
    compared: str
    """the level at which outcomes were compared: bits, digits, tokens or text"""
    unit: str
    """what an outcome is made of: token (ids), spelled token, character, element, word, position (of logits, all of a prompt's)"""
    outcomes: Mapping[str, int]
    """hash of an outcome -> samples"""
    tokens: Mapping[str, str]
    """hash of an outcome -> hash of its tokens alone"""
    prefixes: str
    """of the commonest outcome: HEX characters of a hash of its first token, then of its first two ...; "" of a tensor's row"""
    prefixes_bits: str
    """the same with the bits of log-probabilities"""
    conditions: tuple[Settled, ...] = ()
    """() in old baselines, and in older ones where all samples are equal"""
    unsteady: int = 0
    """conditions that gave several outcomes (in older baselines also those that are not known in full)"""

    @property
    def length(self) -> int:
        """Tokens of the commonest outcome."""
        return len(self.prefixes) // HEX


@dataclass(frozen=True)
class Baseline:
    """What can be compared of a run."""

    name: str
    """where it came from"""
    probe: str
    asked: Mapping[str, Any]
    digests: Mapping[str, str]
    environment: Mapping[str, Any]
    cases: tuple[Known, ...]
    payloads: Mapping[str, Outcome] = field(default_factory=dict)
    """by their hashes, where the run's folder is there: they are not in the file"""


def of_environment(environment: Environment) -> dict[str, Any]:
    """What two runs' environments are compared by: settings are there as flags and variables, and problems follow from them."""
    return {name: value for name, value in asdict(environment).items() if name not in ("settings", "problems")}


def of_run(
    name: str,
    spec: Spec,
    subject: Subject,
    findings: Sequence[Finding],
    samples: Mapping[Case, Mapping[Condition, Counter[str]]],
    outcomes: Mapping[str, Outcome],
) -> Baseline:
    """`samples`: case -> condition -> outcome -> how often it came."""
    flat = spec.flat()
    asked = {key: flat[key] for key in ASKED if key in flat}
    if not subject.inputs:  # an op's inputs are made up of it; a prompt is named by its own hash
        asked["seed"] = spec.seed
    cases = []
    for case, finding in judged_cases(findings, samples):
        if finding.role is not Role.GATES:
            continue
        counts = sum(samples[case].values(), Counter())
        mode = outcomes[min(counts, key=lambda o: (-counts[o], o))] if counts else None
        cases.append(
            Known(
                case,
                str(finding.verdict),
                finding.missing,
                str(finding.evidence.get("compared", "")),
                unit_of(mode) if mode else "",
                dict(sorted(counts.items())),
                {o: content_hash(repr(token_key(outcomes[o])).encode())[:HEX] for o in sorted(counts)},
                prefixes(mode, bits=False) if mode else "",
                prefixes(mode, bits=True) if mode else "",
                *steady(samples[case]),
            )
        )
    around = dict(subject.digests), of_environment(subject.environment)
    return Baseline(name, spec.probe, asked, *around, tuple(cases), outcomes)


def judged_cases(findings: Sequence[Finding], samples: Mapping[Case, object]) -> Iterator[tuple[Case, Finding]]:
    """Each case with its finding; with that of its whole arm, where cases are judged together."""
    yield from ((finding.case, finding) for finding in findings if finding.case in samples)
    known = {finding.case for finding in findings}
    whole = {finding.case.kernels: finding for finding in findings if finding.case not in samples}
    yield from ((case, whole[case.kernels]) for case in samples if case not in known and case.kernels in whole)


def steady(samples: Mapping[Condition, Counter[str]]) -> tuple[tuple[Settled, ...], int]:
    """(what each condition gave that gave one outcome, how many gave several)."""
    alike: dict[tuple[Condition, str], list[int | None]] = defaultdict(list)
    for condition, counts in samples.items():
        if len(counts) == 1:
            alike[replace(condition, slot=None), next(iter(counts))].append(condition.slot)
    found = tuple(Settled(condition, tuple(slots), outcome) for (condition, outcome), slots in alike.items())
    return found, sum(len(counts) > 1 for counts in samples.values())


def unit_of(outcome: Outcome) -> str:
    if outcome.positions is not None:
        return "position"
    return "spelled token" if outcome.words is not None else outcome.unit


def prefixes(outcome: Outcome, bits: bool) -> str:
    """A hash of every prefix, each made of the one before and the next token (and the bits of its log-probability)."""
    if outcome.unit in NUMBERS:
        return ""
    names = outcome.words if outcome.words is not None else outcome.tokens.tolist()
    numbers = None if outcome.logprobs is None or not bits else as_integers(outcome.logprobs).astype(np.uint64).tolist()
    made, last = [], ""
    for place, name in enumerate(names):
        number = numbers[place] if numbers and place < len(numbers) else ""  # an engine may leave some out
        last = content_hash(f"{last}/{name}/{number}".encode())
        made.append(last[:HEX])
    return "".join(made)


def write(path: Path, baseline: Baseline) -> None:
    write_document(path, document(baseline))


def document(baseline: Baseline) -> dict[str, Any]:
    """As JSON has it."""
    made = {"baseline_version": VERSION} | asdict(replace(baseline, payloads={}))
    del made["payloads"]
    return made


def write_document(path: Path, made: Mapping[str, Any]) -> None:
    write_file(path, (json.dumps(made, indent=1, sort_keys=True) + "\n").encode())


def read(path: Path) -> Baseline:
    """Raises UsageError where it is none."""
    try:
        require(path.is_file() or not path.exists(), "it is no file")
        document = strict_json.loads(path.read_text("utf-8"))
        require(isinstance(document, dict) and "baseline_version" in document, "it has no baseline_version")
        if document["baseline_version"] != VERSION:
            raise UsageError(
                f"{path} is a baseline of version {document['baseline_version']}; this is detcheck for {VERSION}. Create it again"
            )
        for name, kind in (("probe", str), ("asked", dict), ("digests", dict), ("environment", dict), ("cases", list)):
            require(isinstance(document[name], kind), f"{name} is no {kind.__name__}")
        require(all(isinstance(d, str) for d in document["digests"].values()), "a digest is no text")
        known_of = typed.of_fields(Environment)
        for name, value in document["environment"].items():
            require(name not in known_of or known_of[name](value), f"{name} of its environment is none")
        require(bool(document["cases"]), "it has no case")
        cases = tuple(read_case(known) for known in document["cases"])
        fields = (document[name] for name in ("probe", "asked", "digests", "environment"))
        return Baseline(str(path), *fields, cases)
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, strict_json.TwiceError) as error:
        raise UsageError(
            f"{path}: not a baseline ({type(error).__name__}: {error}). Give a run's folder, or the {FILE} in it"
        ) from None


def read_case(known: Mapping[str, Any]) -> Known:
    case, made = known["case"], Known(**known)
    texts = (
        *(case[name] for name in ("probe", "subject", "kernels", "dtype", "input")),
        made.verdict,
        made.compared,
        made.unit,
    )
    require(all(isinstance(text, str) for text in (*texts, made.prefixes, made.prefixes_bits)), "a case's text is none")
    require(type(made.missing) is int and type(case.get("replica", 0)) is int, "a case's number is none")
    require(all(type(n) is int and n > 0 for n in made.outcomes.values()), "a count of outcomes is none")
    made = replace(made, conditions=tuple(read_settled(made.conditions)))
    require(all(s.outcome in made.outcomes for s in made.conditions), "a condition's outcome is none of its outcomes")
    require(type(made.unsteady) is int, "a case's number is none")
    require(set(made.tokens) == set(made.outcomes), "its outcomes and their tokens do not go together")
    return replace(made, case=Case(**case))


def read_settled(found: Any) -> Iterator[Settled]:
    if isinstance(found, dict):  # of an older baseline: "name hash" -> outcome
        for key, outcome in found.items():
            name, _, made_of = key.rpartition(" ")
            yield Settled(Condition(name, None, None, made_of), (), outcome)
        return
    for one in found:
        condition = Condition(**{f.name: one["condition"][f.name] for f in fields(Condition)})
        texts = (condition.name, condition.composition, condition.fed, condition.trace, one["outcome"])
        numbers = (condition.batch_size, *one["slots"])
        require(all(isinstance(text, str) for text in texts), "a condition's text is none")
        require(
            bool(one["slots"]) and all(n is None or type(n) is int for n in numbers), "a condition's number is none"
        )
        yield Settled(condition, tuple(one["slots"]), one["outcome"])


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
