"""A baseline: what a run gave, as a small file that can be kept in git. Hashes, not payloads.

Of each case it holds the hashes of its outcomes with their counts, and of the commonest one a hash of every prefix, so that a later
run can be told where it parts without the text being there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detcheck.bits import as_integers, content_hash
from detcheck.errors import UsageError
from detcheck.files import write_file
from detcheck.outcomes import token_key
from detcheck.records import Case, Finding, Outcome, Role, Spec, Subject

FILE = "baseline.json"  # in a run's folder
VERSION = 1
ASKED = (
    "max_tokens",
    "ignore_eos",
    "chat",
    "prompt",
    "shape",
    "shapes",
)  # knobs that must be equal where both have them
HEX = 8  # characters of a prefix's hash


@dataclass(frozen=True)
class Known:
    """A case, as far as a baseline holds it."""

    case: Case
    verdict: str
    missing: int
    compared: str
    """the level at which outcomes were compared: bits, digits, tokens or text"""
    outcomes: Mapping[str, int]
    """hash of an outcome -> samples"""
    tokens: Mapping[str, str]
    """hash of an outcome -> hash of its tokens alone"""
    prefixes: tuple[str, ...]
    """of the commonest outcome: a hash of its first token, of its first two ..."""
    prefixes_bits: tuple[str, ...]
    """the same with the bits of log-probabilities"""


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
    samples: Mapping[Case, Counter[str]],
    outcomes: Mapping[str, Outcome],
) -> Baseline:
    """`samples`: case -> outcome -> how often it came."""
    flat = spec.flat()
    asked = {key: flat[key] for key in ASKED if key in flat}
    asked.pop("prompt", None)  # a case's input names it, by its tokens
    cases = []
    for finding in findings:
        if finding.role is not Role.GATES or finding.case not in samples:
            continue
        counts = samples[finding.case]
        mode = outcomes[min(counts, key=lambda o: (-counts[o], o))] if counts else None
        cases.append(
            Known(
                finding.case,
                str(finding.verdict),
                finding.missing,
                str(finding.evidence.get("compared", "")),
                dict(sorted(counts.items())),
                {o: content_hash(repr(token_key(outcomes[o])).encode())[:HEX] for o in sorted(counts)},
                prefixes(mode, bits=False) if mode else (),
                prefixes(mode, bits=True) if mode else (),
            )
        )
    return Baseline(name, spec.probe, asked, dict(subject.digests), asdict(subject.environment), tuple(cases))


def prefixes(outcome: Outcome, bits: bool) -> tuple[str, ...]:
    """A hash of every prefix, each made of the one before and the next token (and the bits of its log-probability)."""
    names = outcome.words if outcome.words is not None else outcome.tokens.tolist()
    numbers = None if outcome.logprobs is None or not bits else as_integers(outcome.logprobs).astype(np.uint64).tolist()
    made, last = [], ""
    for place, name in enumerate(names):
        last = content_hash(f"{last}/{name}/{numbers[place] if numbers else ''}".encode())
        made.append(last[:HEX])
    return tuple(made)


def write(path: Path, baseline: Baseline) -> None:
    document = {"baseline_version": VERSION} | asdict(baseline)
    write_file(path, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


def read(path: Path) -> Baseline:
    """Raises UsageError where it is none."""
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["baseline_version"] != VERSION:
            raise UsageError(
                f"{path} is a baseline of version {document['baseline_version']}; this is detcheck for {VERSION}. Make it anew"
            )
        cases = tuple(
            Known(
                **{
                    **known,
                    "case": Case(**known["case"]),
                    "prefixes": tuple(known["prefixes"]),
                    "prefixes_bits": tuple(known["prefixes_bits"]),
                }
            )
            for known in document["cases"]
        )
        fields = (document[name] for name in ("probe", "asked", "digests", "environment"))
        return Baseline(str(path), *fields, cases)
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path}: not a baseline ({type(error).__name__}: {error}). Give a run's folder, or the {FILE} in it"
        ) from None
