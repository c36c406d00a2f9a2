"""The machine's report: strict JSON, sorted keys, described by `report.schema.json` beside this file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

from detcheck import __version__
from detcheck.blocks import Report
from detcheck.finding import Finding
from detcheck.records import SCHEMA_VERSION, NotTried
from detcheck.suite import Member, Suite
from detcheck.verdict import Verdict

FILE = SUITE_FILE = "report.json"  # in the folder of a run, and of several together
APART = ("detail", "accepted", "variants")  # of a finding: what only pages draw, or the evidence has


def render(report: Report) -> str:
    return json.dumps(document(report), indent=1, sort_keys=True, allow_nan=False) + "\n"


def render_suite(suite: Suite) -> str:
    """Described by `check.schema.json`."""
    record = {
        "schema_version": SCHEMA_VERSION,
        "detcheck_version": __version__,
        "command": suite.command,
        "config": str(suite.config),
        "started": suite.started,
        "verdict": suite.verdict,
        "exit_code": suite.exit_code,
        "summary": {
            "probes": len(suite.members),
            "verdicts": {v: n for v in Verdict if (n := sum(m.verdict is v for m in suite.members if m.report))},
            "not_asked": [m.name for m in suite.members if m.report is None],
            "interrupted": suite.interrupted,
            "warnings": list(suite.warnings),
        },
        "probes": [member(m) for m in suite.members],
    }
    return json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n"


def member(m: Member) -> dict[str, object]:
    return {
        "name": m.name,
        "probe": m.spec.probe,
        "reproduce": m.spec.command(),
        "verdict": m.verdict if m.report else None,
        "exit_code": m.exit_code if m.report else None,
        "note": m.note,
        "seconds": round(m.seconds, 3),
        "folder": m.folder or None,
        "report": document(m.report) if m.report else None,
    }


def document(report: Report) -> dict[str, object]:
    run = report.run
    subject = run.subject
    return {
        "schema_version": SCHEMA_VERSION,
        "detcheck_version": __version__,
        "command": run.command,
        "reproduce": run.spec.command(),
        "started": run.started,
        "verdict": run.verdict,
        "exit_code": run.exit_code,
        "spec": {"probe": run.spec.probe, **run.spec.flat()},
        "environment": asdict(subject.environment) if subject else None,
        "digests": dict(subject.digests) if subject else {},
        "inputs": [{"name": p.name, "text": p.text, "tokens": len(p.token_ids)} for p in subject.inputs]
        if subject
        else [],
        "summary": {
            "findings": len(run.findings),
            "samples": sum(f.samples for f in run.findings),
            "missing": sum(f.missing for f in run.findings),
            "verdicts": {v: sum(f.verdict is v for f in run.findings) for v in {f.verdict for f in run.findings}},
            "worst_first": [s.finding.case.input for s in report.sections],
            "interrupted": run.interrupted,
            "warnings": list(run.warnings),
        },
        "findings": [finding(f) for f in run.findings],
    }


def finding(f: Finding) -> dict[str, object]:
    record = {name: getattr(f, name) for name in f.__dataclass_fields__ if name not in APART}
    forks = [asdict(fork) for fork in f.forks]
    for fork in forks:
        if fork["place"] is None:  # only of conversations
            del fork["place"]
    return strict(record | {"case": asdict(f.case), "forks": forks, "latent": f.latent})


def strict(value: object) -> object:
    """Plain JSON: a number that JSON has no word for (NaN, infinity) becomes its name."""
    if isinstance(value, dict):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, NotTried) else value
