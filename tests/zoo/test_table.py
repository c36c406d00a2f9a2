"""The zoo's own table: it names every subject, and would show a false pass."""

import pytest
import table


def test_page_holds_every_subject_with_the_verdict_that_is_right():
    page = table.PAGE.read_text("utf-8")
    all_of_them = list(table.subjects())
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


ONE_OF_TWO = """
from zoo import sound

@sound
def one(zoo):
    "One."

@sound
def two(zoo):
    "Two."

def test_subject(record_property):
    record_property("subject", ["One.", True, "identical", 0])
    record_property("answer", ["", "identical", 0])
"""


@pytest.mark.parametrize(
    ("name", "held", "why"),
    [
        ("unreadable", "import nothing_of_that_name", "exit code 2"),
        ("empty", "", "exit code 5"),
        ("without_subjects", "def test_else(): pass", "0 answers came of 0 subjects"),
        ("not_all_asked", ONE_OF_TWO, "1 answers came of 2 subjects"),
    ],
)
def test_a_zoo_that_is_not_visited_whole_writes_no_page(tmp_path, name, held, why):
    page = tmp_path / "zoo.md"
    page.write_text("as it was")
    (tmp_path / f"test_zoo_{name}.py").write_text(held)
    with pytest.raises(SystemExit, match=why):
        table.main(tmp_path, page)
    assert page.read_text() == "as it was"
