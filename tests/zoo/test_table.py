"""The zoo's own table: it names every subject, and would show a false pass."""

import importlib.util
from pathlib import Path

import table
from zoo import Subject

HERE = Path(__file__).parent


def subjects():
    for path in sorted(HERE.glob("test_zoo_*.py")):
        spec = importlib.util.spec_from_file_location(f"zoo_of_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield from (thing for thing in vars(module).values() if isinstance(thing, Subject))


def test_page_holds_every_subject_with_the_verdict_that_is_right():
    page = table.PAGE.read_text("utf-8")
    all_of_them = list(subjects())
    missing = [s.title for s in all_of_them if f"| {s.title} | {s.verdict} | {s.verdict} | {s.code} |" not in page]
    assert not missing, "`make zoo` writes docs/zoo.md again"
    assert page.count("\n| ") == len(all_of_them) + 2, "subjects that are gone: `make zoo`"
    titles = [s.title for s in all_of_them]
    assert len(set(titles)) == len(titles)


def test_table_shows_a_false_pass_and_a_false_alarm():
    row = ["Noise.", False, "run-variant", 1], ["detcheck matmul", "identical", 0]
    text, right = table.table([row])
    assert "1 broken subjects: 1 false passes" in text and not right
    row = ["Slow.", True, "identical", 0], ["detcheck matmul", "divergent", 1]
    text, right = table.table([row])
    assert "1 sound subjects: 1 false alarms" in text and not right
