"""JUnit XML: a test case a finding. A divergence is a failure; a doubt, and what could not run, is an error."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from detcheck.blocks import Report, Section, sentences
from detcheck.text import visible

FILE = "junit.xml"  # in the run's folder


def render(report: Report) -> str:
    run = report.run
    codes = [s.finding.exit_code(run.spec.fail_on) for s in report.sections]
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
    for section, code in zip(report.sections, codes, strict=True):
        suite.append(case(section, code))
    ET.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def case(section: Section, code: int) -> ET.Element:
    f = section.finding
    element = ET.Element("testcase", {"classname": f"detcheck.{f.case.probe}", "name": section.subject})
    body = "\n".join(visible(line) for line in (section.note, *sentences(section)))
    if code:
        ET.SubElement(
            element, "failure" if code == 1 else "error", {"type": str(f.verdict), "message": section.note}
        ).text = body
    else:
        ET.SubElement(element, "system-out").text = f"{f.verdict}\n{body}"
    return element
