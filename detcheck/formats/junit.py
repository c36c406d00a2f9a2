"""JUnit XML: a test case a finding. A divergence is a failure; a doubt, and what could not run, is an error."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from detcheck.blocks import Report, Section, sentences
from detcheck.suite import STOPPED, Member, Suite
from detcheck.text import visible

FILE = SUITE_FILE = "junit.xml"  # in the folder of a run, and of several together


def render(report: Report) -> str:
    return written(suite_of(report, f"detcheck {report.run.spec.probe}"))


def render_suite(suite: Suite) -> str:
    """One file: a test suite each. What was not asked is an error, as a doubt is."""
    parts = [suite_of(m.report, m.name, m) if m.report else not_asked(m) for m in suite.members]
    parts = [of_all(suite)] * bool(suite.notes) + parts
    root = ET.Element("testsuites", {"name": "detcheck check"})
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(part.get(name)) for part in parts)))
    root.set("time", f"{sum(m.seconds for m in suite.members):.3f}")
    root.extend(parts)
    return written(root)


def of_all(suite: Suite) -> ET.Element:
    """What was said of all together. To be interrupted is an error: a reader that counts those alone must not see a pass."""
    n = str(int(suite.interrupted))
    counts = {"tests": n, "failures": "0", "errors": n, "skipped": "0"}
    part = ET.Element("testsuite", {"name": "detcheck check", "timestamp": suite.started.rstrip("Z")} | counts)
    told = ET.SubElement(part, "properties")
    for n, warning in enumerate(suite.warnings):
        ET.SubElement(told, "property", {"name": f"warning.{n}", "value": visible(warning)})
    if suite.interrupted:
        element = ET.SubElement(part, "testcase", {"classname": "detcheck.check", "name": "interrupted"})
        ET.SubElement(element, "error", {"type": "interrupted", "message": STOPPED})
    return part


def written(root: ET.Element) -> str:
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def suite_of(report: Report, name: str, member: Member | None = None) -> ET.Element:
    """member: of several; its cases are told from others' by its name."""
    run = report.run
    codes = [s.finding.exit_code(run.spec.fail_on) for s in report.sections]
    counts = {"tests": len(codes), "failures": codes.count(1), "errors": codes.count(3) + codes.count(4), "skipped": 0}
    suite = ET.Element(
        "testsuite", {"name": name, "timestamp": run.started.rstrip("Z")} | {k: str(v) for k, v in counts.items()}
    )
    if member:
        suite.set("time", f"{member.seconds:.3f}")
    properties = ET.SubElement(suite, "properties")
    facts = {"verdict": str(run.verdict), "exit_code": str(run.exit_code), "reproduce": run.spec.command()}
    facts |= {f"digest.{name}": digest for name, digest in (run.subject.digests if run.subject else {}).items()}
    facts |= {f"warning.{n}": warning for n, warning in enumerate(run.warnings)}
    for key, value in facts.items():
        ET.SubElement(properties, "property", {"name": visible(key), "value": visible(value)})
    for section, code in zip(report.sections, codes, strict=True):
        suite.append(case(section, code, member.name if member else section.finding.case.probe))
    return suite


def not_asked(member: Member) -> ET.Element:
    suite = ET.Element("testsuite", {"name": member.name, "tests": "1", "failures": "0", "errors": "1", "skipped": "0"})
    element = ET.SubElement(suite, "testcase", {"classname": f"detcheck.{member.name}", "name": member.spec.probe})
    ET.SubElement(element, "error", {"type": str(member.verdict), "message": member.note})
    return suite


def case(section: Section, code: int, group: str) -> ET.Element:
    f = section.finding
    element = ET.Element("testcase", {"classname": f"detcheck.{group}", "name": section.subject})
    body = "\n".join(visible(line) for line in (section.note, *sentences(section)))
    if code:
        ET.SubElement(
            element, "failure" if code == 1 else "error", {"type": str(f.verdict), "message": section.note}
        ).text = body
    else:
        ET.SubElement(element, "system-out").text = f"{f.verdict}\n{body}"
    return element
