"""A baseline: what a run gave, as a small file that can be kept in git. Hashes, not payloads.

Of each case it holds the hashes of its outcomes with their counts, and of the commonest one a hash of every prefix, so that a later
run can be told where it parts without the text being there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from detcheck.bits import as_integers
from detcheck.errors import UsageError
from detcheck.files import write_file
from detcheck.finding import Finding
from detcheck.hashes import content_hash
from detcheck.outcomes import token_key
from detcheck.records import Case, Condition, Outcome, Subject
from detcheck.spec import Spec
from detcheck.verdict import Role

FILE = "baseline.json"  # in a run's folder
VERSION = 1
ASKED = ("max_tokens", "ignore_eos", "chat")  # knobs that must be equal where both have them
NUMBERS = ("element", "word", "position")  # units without an order that a prefix would follow
HEX = 8  # characters of a prefix's hash


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
    conditions: Mapping[str, str] = field(default_factory=dict)
    """condition that is known in full and always gave one outcome -> hash of that; {} where all samples are equal, and in older baselines"""
    unsteady: int = 0
    """conditions that are not known in full, or gave several outcomes"""

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
    for finding in findings:
        if finding.role is not Role.GATES or finding.case not in samples:
            continue
        counts = sum(samples[finding.case].values(), Counter())
        mode = outcomes[min(counts, key=lambda o: (-counts[o], o))] if counts else None
        cases.append(
            Known(
                finding.case,
                str(finding.verdict),
                finding.missing,
                str(finding.evidence.get("compared", "")),
                unit_of(mode) if mode else "",
                dict(sorted(counts.items())),
                {o: content_hash(repr(token_key(outcomes[o])).encode())[:HEX] for o in sorted(counts)},
                prefixes(mode, bits=False) if mode else "",
                prefixes(mode, bits=True) if mode else "",
                *steady(samples[finding.case]),
            )
        )
    return Baseline(name, spec.probe, asked, dict(subject.digests), asdict(subject.environment), tuple(cases))


def steady(samples: Mapping[Condition, Counter[str]]) -> tuple[dict[str, str], int]:
    """(condition -> its one outcome, how many conditions have none). Nothing where all samples are equal: the file is to be small."""
    if len({outcome for counts in samples.values() for outcome in counts}) < 2:
        return {}, 0
    found = {named(c): next(iter(counts)) for c, counts in samples.items() if c.complete and len(counts) == 1}
    return found, len(samples) - len(found)


def named(condition: Condition) -> str:
    """Its name, and a hash of all that makes it."""
    return f"{condition.name} {content_hash(repr(astuple(condition)).encode())[:12]}"


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
        last = content_hash(f"{last}/{name}/{numbers[place] if numbers else ''}".encode())
        made.append(last[:HEX])
    return "".join(made)


def write(path: Path, baseline: Baseline) -> None:
    document = {"baseline_version": VERSION} | asdict(baseline)
    write_file(path, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


def read(path: Path) -> Baseline:
    """Raises UsageError where it is none."""
    try:
        document = json.loads(path.read_text("utf-8"))
        require(isinstance(document, dict) and "baseline_version" in document, "it has no baseline_version")
        if document["baseline_version"] != VERSION:
            raise UsageError(
                f"{path} is a baseline of version {document['baseline_version']}; this is detcheck for {VERSION}. Create it again"
            )
        for name, kind in (("probe", str), ("asked", dict), ("digests", dict), ("environment", dict), ("cases", list)):
            require(isinstance(document[name], kind), f"{name} is no {kind.__name__}")
        require(all(isinstance(d, str) for d in document["digests"].values()), "a digest is no text")
        cases = tuple(read_case(known) for known in document["cases"])
        fields = (document[name] for name in ("probe", "asked", "digests", "environment"))
        return Baseline(str(path), *fields, cases)
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
    require(all(o in made.outcomes for o in made.conditions.values()), "a condition's outcome is none of its outcomes")
    require(type(made.unsteady) is int, "a case's number is none")
    require(set(made.tokens) == set(made.outcomes), "its outcomes and their tokens do not go together")
    return replace(made, case=Case(**case))


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
