"""JUnit XML: a test case a finding. A divergence is a failure; a doubt, and what could not run, is an error."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from detcheck.records import Finding, Run
from detcheck.text import visible
from detcheck.words import advice, figures, likely_cause, subject_line, totals

FILE = "junit.xml"  # in the run's folder


def render(run: Run) -> str:
    codes = [f.exit_code(run.spec.fail_on) for f in run.findings]
    counts = {"tests": len(codes), "failures": codes.count(1), "errors": codes.count(3) + codes.count(4), "skipped": 0}
    suite = ET.Element(
        "testsuite",
        {"name": f"detcheck {run.spec.probe}", "timestamp": run.started.rstrip("Z")}
        | {k: str(v) for k, v in counts.items()},
    )
    properties = ET.SubElement(suite, "properties")
    facts = {"verdict": str(run.verdict), "exit_code": str(run.exit_code), "reproduce": run.spec.command()}
    facts |= {f"digest.{name}": digest for name, digest in (run.subject.digests if run.subject else {}).items()}
    facts |= {f"warning.{n}": warning for n, warning in enumerate(run.warnings)}
    for name, value in facts.items():
        ET.SubElement(properties, "property", {"name": name, "value": visible(value)})
    for f, code in zip(run.findings, codes, strict=True):
        suite.append(case(f, code))
    ET.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def case(f: Finding, code: int) -> ET.Element:
    element = ET.Element("testcase", {"classname": f"detcheck.{f.case.probe}", "name": visible(subject_line(f))})
    body = "\n".join(visible(line) for line in (f.note, totals(f), *figures(f), likely_cause(f), advice(f)) if line)
    if code:
        ET.SubElement(
            element, "failure" if code == 1 else "error", {"type": str(f.verdict), "message": visible(f.note)}
        ).text = body
    else:
        ET.SubElement(element, "system-out").text = f"{f.verdict}\n{body}"
    return element
