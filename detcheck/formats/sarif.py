"""SARIF 2.1.0, for code scanning: what `certify` and `kernels` say against a user's op, on the lines of its source.

A finding that no line of the repository can be named for is a notification of the run, not a result: GitHub refuses a whole file for one result
without a place in the repository. What passed is a notification too, since every result becomes an alert. Fingerprints
are made of what is said and of whom, not of where, so that an alert survives lines that move.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from urllib.parse import quote

from detcheck import __version__
from detcheck.advice import ADVICE, advice
from detcheck.blocks import LineNote, Report, Section, Text
from detcheck.files import in_repository
from detcheck.hashes import json_hash
from detcheck.records import SourceLine
from detcheck.suite import Suite
from detcheck.text import visible
from detcheck.verdict import MEANING, FailOn, Role, Verdict

FILE = SUITE_FILE = "report.sarif"  # in the folder of a run, and of several together

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {0: "note", 1: "error", 3: "warning", 4: "error"}  # by exit code
LINK = re.compile(r"\[(?=[^\[\]]*\]\()")
ORDER = ("error", "warning", "note", "none")
MOST_RESULTS = 5000  # GitHub shows so many of a run, the worst first


def render(report: Report) -> str:
    run = report.run
    return log([analysis(report, f"{run.spec.probe}/{visible(run.spec.subject)}")])


def render_suite(suite: Suite) -> str:
    """A run of each that was asked, which GitHub keeps apart by their names, and one of all where there is something to say of all.

    What was not asked is said there: a run of its own without a result would close all its alerts.
    """
    left = [f"{m.name}: {m.note}" for m in suite.members if not m.report]
    of_all = [together(suite, [*suite.notes, *left])] if suite.notes or left else []
    return log([*of_all, *(analysis(m.report, f"check/{m.name}") for m in suite.members if m.report)])


def together(suite: Suite, said: Iterable[str]) -> dict[str, object]:
    """What is said of several runs together, as a run without results."""
    asked = all(m.report for m in suite.members) and not suite.interrupted
    invocation = {
        "commandLine": visible(suite.command),
        "executionSuccessful": asked,
        "exitCode": suite.exit_code,
        "exitCodeDescription": "interrupted" if suite.interrupted else str(suite.verdict),
        "startTimeUtc": suite.started,
        "toolExecutionNotifications": [{"level": "warning", "message": {"text": visible(one)}} for one in said],
    }
    return {
        "tool": {"driver": {"name": "detcheck", "semanticVersion": __version__, "rules": []}},
        "automationDetails": {"id": "detcheck/check/"},
        "invocations": [invocation],
        "results": [],
        "columnKind": "unicodeCodePoints",
    }


def log(runs: list[dict[str, object]]) -> str:
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": runs}
    return json.dumps(without_links(document), indent=1, ensure_ascii=False) + "\n"


def without_links(value: object) -> object:
    """In a message [words](address) is a link (§3.11.6): none of ours has one, so a backslash takes that from whatever a text quotes."""
    if isinstance(value, dict):
        made = {name: without_links(one) for name, one in value.items()}
        return made | {"text": LINK.sub(r"\\[", made["text"])} if isinstance(made.get("text"), str) else made
    return [without_links(one) for one in value] if isinstance(value, list) else value


def analysis(report: Report, category: str) -> dict[str, object]:
    """A run, as SARIF has it."""
    run = report.run
    found = results(report.gating, run.spec.fail_on)[:MOST_RESULTS]
    told = [notification(s, run.spec.fail_on) for s in report.sections if not places(s) or passed(s)]
    told += [{"level": "warning", "message": {"text": visible(warning)}} for warning in run.warnings]
    driver = {"name": "detcheck", "semanticVersion": __version__, "rules": rules(report.gating)}
    invocation = {
        "commandLine": visible(run.command),
        "executionSuccessful": run.exit_code in (0, 1, 3),
        "exitCode": run.exit_code,
        "exitCodeDescription": str(run.verdict),
        "startTimeUtc": run.started,
        "toolExecutionNotifications": told,
    }
    index = {rule["id"]: n for n, rule in enumerate(driver["rules"])}
    return {
        "tool": {"driver": driver},
        "automationDetails": {"id": f"detcheck/{category}/"},
        "invocations": [invocation],
        "results": [result | {"ruleIndex": index[result["ruleId"]]} for result in found],
        "columnKind": "unicodeCodePoints",
    }


def places(section: Section) -> tuple[LineNote, ...]:
    """Lines that can be named for a repository: those of files that lie in it. Of a control none."""
    if section.finding.role is not Role.GATES:
        return ()
    return tuple(note for note in section.lines if in_repository(note.place.file))


def passed(section: Section) -> bool:
    return section.finding.verdict.exit_code == 0


def rule_id(section: Section, note: LineNote) -> str:
    """By the probe and the verdict; what is only not clear of a kernel that is refuted is `undecided`."""
    verdict = section.finding.verdict
    unclear = verdict is Verdict.REFUTED and not note.certain
    return f"{section.finding.case.probe}/{Verdict.UNDECIDED if unclear else verdict}"


def level(section: Section, note: LineNote, fail_on: FailOn) -> str:
    """What the job's exit code makes of it."""
    code = section.finding.exit_code(fail_on)
    return "warning" if code == 1 and section.finding.verdict is Verdict.REFUTED and not note.certain else LEVELS[code]


def results(sections: Iterable[Section], fail_on: FailOn) -> list[dict[str, object]]:
    """A result for all findings that say the same of one line, of other targets, dtypes or shapes."""
    same: dict[tuple[str, str, SourceLine, str], list[tuple[Section, LineNote]]] = {}
    for section in sections:
        for note in () if passed(section) else places(section):
            about = "" if note.place == section.source else note.text  # of the whole op there is one result
            key = rule_id(section, note), section.finding.case.subject, note.place, about
            same.setdefault(key, []).append((section, note))
    seen: Counter[str] = Counter()
    made = []
    for (rule, subject, place, about), group in same.items():
        section, note = group[0]
        cases = [s.finding.case for s, _ in group]
        inputs, dtypes = (
            ", ".join(filter(None, dict.fromkeys(each)))
            for each in zip(*((c.input, c.dtype) for c in cases), strict=True)
        )
        where = visible("; ".join(filter(None, (inputs, dtypes))))
        said = f"{visible(subject)}{f' ({where})' if where else ''}: {rule.partition('/')[2]}: {note.text}"
        todo = what_to_do(section)
        fingerprint = json_hash([rule, subject, place.file, about])[:32]
        seen[fingerprint] += 1
        uri = {"uri": quote(place.file), "uriBaseId": "%SRCROOT%"}
        region = {"startLine": max(1, place.line)}
        made.append(
            {
                "ruleId": rule,
                "level": min((level(s, n, fail_on) for s, n in group), key=ORDER.index),
                "message": {"text": f"{said}{'.' if todo else ''} {todo}".rstrip()},
                "locations": [{"physicalLocation": {"artifactLocation": uri, "region": region}}],
                "partialFingerprints": {"primaryLocationLineHash": f"{fingerprint}:{seen[fingerprint]}"},
            }
        )
    return sorted(made, key=lambda result: ORDER.index(result["level"]))


def what_to_do(section: Section) -> str:
    """The probe's own advice where it has some, which stands last of what it says; else that for the verdict."""
    if said := advice(section.finding):
        return said
    own = [block for block in section.blocks if isinstance(block, Text)]
    return own[-1].lines[-1] if own and section.finding.verdict not in ADVICE else ""


def rules(sections: Iterable[Section]) -> list[dict[str, object]]:
    """What each kind of result means, and what to do about it."""
    made: dict[str, dict[str, object]] = {}
    for section in sections:
        for note in () if passed(section) else places(section):
            name = rule_id(section, note)
            probe, _, verdict = name.partition("/")
            meaning = MEANING[Verdict(verdict)]
            text = f"{meaning[0].upper()}{meaning[1:]}."
            todo = what_to_do(section)
            code = Verdict(verdict).exit_code
            made.setdefault(
                name,
                {
                    "id": name,
                    "name": "".join(word.capitalize() for word in f"{probe}-{verdict}".split("-")),
                    "shortDescription": {"text": f"detcheck {probe}: {verdict}"},
                    "fullDescription": {"text": text},
                    "help": {"text": " ".join(filter(None, (text, todo)))},
                    "defaultConfiguration": {"level": LEVELS[code]},
                    "properties": {"tags": ["determinism", "batch-invariance"]},
                },
            )
    return list(made.values())


def notification(section: Section, fail_on: FailOn) -> dict[str, object]:
    """A finding that no line stands for. A control only says what it shows."""
    f = section.finding
    gates = f.role is Role.GATES
    return {
        "level": LEVELS[f.exit_code(fail_on)] if gates else "none",
        "message": {"text": f"{f.verdict}: {section.subject}: {section.note}"},
    }
