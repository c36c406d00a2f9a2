"""What the facts about a compiled kernel amount to. Pure; `examine.py` made them, `reasons.py` has their words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from detcheck.finding import Finding
from detcheck.judge.tally import Tally
from detcheck.probes.certify.facts import Certificate, Found
from detcheck.probes.certify.reasons import sentence, what
from detcheck.records import Case, Outcome, Step
from detcheck.verdict import Verdict

SHOWN = 2  # of what speaks against a kernel, in its note: the rest mostly follows from it


def verdict(certificate: Certificate) -> tuple[Verdict, str]:
    """The verdict on one kernel for one target, and why, in words."""
    found, variants = certificate.found, certificate.binaries
    against = [f for f in found if f.refutes]
    if against:
        more = f"; and {len(against) - SHOWN} more" if len(against) > SHOWN else ""
        return Verdict.REFUTED, "; ".join(map(in_words, against[:SHOWN])) + more
    doubts = [in_words(f) for f in found]
    doubts += [several(variant, binaries) for variant, binaries in variants.items() if len(binaries) > 1]
    if doubts:
        return Verdict.UNDECIDED, "; ".join(doubts)
    each = f", of each of {len(variants)} variants," if len(variants) > 1 else ""
    how = f"one binary{each} serves every batch"
    trusted = "; ".join(map(sentence, certificate.trusted))
    trust = f"; taken on trust: {trusted}" if trusted else ""
    return Verdict.CERTIFIED, f"nothing of the batch reaches the order in which it adds, and {how}{trust}"


def several(variant: str, binaries: Mapping[str, Sequence[str]]) -> str:
    """More than one binary, and what tells them apart."""
    first, *others = binaries.values()
    rest = "; ".join(", ".join(forms[:3]) for forms in others)
    return (
        f"{len(binaries)} different binaries{f' of {variant}' if variant else ''}: one for {', '.join(first[:3])}, another for {rest}. Whether they add in the same order is not "
        "shown: name the batch's integers in do_not_specialize, and copy unaligned inputs (Signature.aligned) or name their pointers in "
        "do_not_specialize_on_alignment"
    )


def in_words(found: Found) -> str:
    return f"{what(found)} ({place(found)})" if found.file else what(found)


def place(found: Found) -> str:
    """File and line, with no more of the path than says which file."""
    return f"{'/'.join(PurePath(found.file).parts[-2:])}:{found.line}"


def evidence(certificate: Certificate) -> dict[str, object]:
    """As report.json has it: what was found and what is trusted in sentences."""
    found = [{"refutes": f.refutes, "what": what(f), "file": f.file, "line": f.line} for f in certificate.found]
    return certificate.plain() | {"found": found, "trusted": list(map(sentence, certificate.trusted))}


def findings(case: Case, steps: Sequence[Step] | None, tally: Tally, outcomes: Mapping[str, Outcome]) -> list[Finding]:
    """A kernel on a target, judged by what was read of it."""
    found = [outcomes[name] for counts in tally.conditions.values() for name in counts]
    if not found:
        why = "; ".join(tally.missing) or "the run stopped before it"
        failed = Verdict.FAILED if tally.missing else Verdict.UNDECIDED
        return [Finding(case, failed, why, missing=1, evidence={"missing": dict(tally.missing) or {why: 1}})]
    certificate = Certificate.from_json(json.loads(found[0].text))
    said, note = verdict(certificate)
    judged_as = Finding(
        case,
        said,
        note,
        samples=1,
        distinct=1,
        distinct_bits=1,
        mode_count=1,
        evidence={"certificate": evidence(certificate), "compared": "code"},
        detail=certificate,
    )
    return [judged_as]
