"""Visits the zoo and writes what came of it: `python tests/zoo/table.py` prints the table and writes docs/zoo.md (make zoo).

Exits with 1 where a broken subject passed, a sound one did not, or a verdict is another one than the subject's. Where not every subject was
asked it says so, exits with 1 too, and writes no page.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "zoo.md"
BEGIN = "<!-- the table: python tests/zoo/table.py -->\n"


class Collector:
    """Keeps what each subject answered, by the test's name."""

    def __init__(self):
        self.rows = []

    def pytest_runtest_logreport(self, report):
        found = dict(report.user_properties)
        if report.when == "call" and "subject" in found:
            self.rows.append((found["subject"], found["answer"]))
        elif report.failed:
            self.rows.append(([report.nodeid, False, "an answer", 0], ["", "none: the subject could not be asked", -1]))


def table(rows):
    """(markdown, whether every subject got the verdict that is right)."""
    broken = [row for row in rows if not row[0][1]]
    sound = [row for row in rows if row[0][1]]
    passed = sum(code == 0 for _, (_, _, code) in broken)
    alarms = sum(code != 0 for _, (_, _, code) in sound)
    right = sum(tuple(subject[2:]) == tuple(answer[1:]) for subject, answer in rows)
    lines = [
        f"**{len(broken)} broken subjects: {passed} false passes. {len(sound)} sound subjects: {alarms} false alarms.** "
        f"{right} of {len(rows)} have the verdict and the exit code that are right."
    ]
    for title, some in (("Broken subjects", broken), ("Sound subjects", sound)):
        lines += [
            "",
            f"## {title}",
            "",
            "| subject | right | detcheck said | exit code | asked by |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {subject[0]} | {subject[2]} | {answer[1]} | {answer[2]} | `{answer[0].replace('|', chr(92) + '|')}` |"
            for subject, answer in some
        ]
    return "\n".join(lines) + "\n", right == len(rows)


def subjects(folder=HERE):
    """All there are, in the order of the files, whatever pytest makes of them."""
    from zoo import Subject

    for path in sorted(folder.glob("test_zoo_*.py")):
        spec = importlib.util.spec_from_file_location(f"zoo_of_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield from (thing for thing in vars(module).values() if isinstance(thing, Subject))


def visit(folder=HERE):
    """(the rows of all subjects, in the order of the files, pytest's exit code)."""
    collector = Collector()
    files = map(str, sorted(folder.glob("test_zoo_*.py")))
    code = pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", "--no-summary", *files], plugins=[collector])
    return collector.rows, code


def why_not_all(rows, code, folder):
    """Why the rows are not those of all subjects; "" where they are. pytest exits with 0 or 1 where it asked all that it found."""
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return f"pytest ended with exit code {int(code)}"
    count = len(list(subjects(folder)))
    if not count or len(rows) != count:
        return f"{len(rows)} answers came of {count} subjects"
    return ""


def main(folder=HERE, page=PAGE):
    rows, code = visit(folder)
    if why := why_not_all(rows, code, folder):
        sys.exit(f"the zoo was not visited whole, and its page is as it was: {why}")
    text, right = table(rows)
    print(text)
    head, _, _ = page.read_text("utf-8").partition(BEGIN)
    page.write_text(head + BEGIN + text, "utf-8")
    sys.exit(not right)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent / "doubles"))
    main()
