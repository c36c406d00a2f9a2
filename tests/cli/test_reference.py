"""docs/reference/ is what the program declares: pages are current, and leave out no command, option, condition or name."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[2]
HERE = ROOT / "docs" / "reference"


def writer():
    spec = importlib.util.spec_from_file_location("write_reference", HERE / "write.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def old(folder, pages):
    """Names of pages in that folder that say something else than they would now, are missing, or are too many."""
    there = {path.name: path.read_text("utf-8") for path in folder.glob("*.md")}
    return sorted(name for name in there.keys() | pages.keys() if there.get(name) != pages.get(name))


def test_the_pages_are_current():
    assert old(HERE, writer().pages()) == [], "run: python docs/reference/write.py"


def test_an_old_page_is_seen(tmp_path):
    pages = writer().pages()
    for name, text in pages.items():
        (tmp_path / name).write_text(text.replace("`--fail-fast`", "`--fail-quick`"), "utf-8")
    (tmp_path / "order.md").unlink()
    (tmp_path / "gone.md").write_text("# gone\n")
    assert {"batch.md", "completions.md", "order.md", "gone.md"} <= set(old(tmp_path, pages))


def test_every_flag_of_every_command_is_there():
    """Those that typer takes, however they were declared."""
    from detcheck.cli import app

    for name, command in typer.main.get_command(app).commands.items():
        text = (HERE / f"{name}.md").read_text("utf-8")
        for one in command.params:
            flags = one.opts if one.param_type_name == "option" else [one.name.upper()]
            for flag in flags if "--help" not in one.opts else ():
                assert f"`{flag}`" in text, f"{name}: {flag}"


def test_options_of_one_engine_name_it():
    text = (HERE / "completions.md").read_text("utf-8")
    assert re.search(r"^\| `--engine-arg` .*\| vllm \|$", text, re.M)
    assert re.search(r"^\| `--base-url` .*\| server \|$", text, re.M)
    assert re.search(r"^\| `--model` .*\|  \|$", text, re.M)


def test_every_kind_of_condition_is_described():
    from detcheck.condition_name import ConditionKind, kind_of

    named = re.findall(r"^\| `([\w-]+)` \|", (HERE / "conditions.md").read_text("utf-8"), re.M)
    kinds = {kind_of(re.sub(r"[NWT]\b", "8", name)) for name in named}
    assert kinds == {*ConditionKind, "packed"}


def test_every_name_of_the_report_is_described():
    for line in (HERE / "json.md").read_text("utf-8").splitlines():
        if line.startswith("| ") and "`" in line:
            assert line.count(" | ") == 2 and not line.endswith("|  |"), line


def unknown(report):
    """Names of a report, with its evidence, that the schema does not have."""
    schema = json.loads((ROOT / "detcheck/formats/report.schema.json").read_text("utf-8"))
    finding = schema["$defs"]["finding"]["properties"]
    levels = [(report, schema["properties"]), (report["summary"], schema["properties"]["summary"]["properties"])]
    levels.append((report["environment"] or {}, schema["properties"]["environment"]["anyOf"][1]["properties"]))
    for found in report["findings"]:
        levels += [(found, finding), (found["evidence"], finding["evidence"]["properties"])]
    return sorted({name for there, known in levels for name in there.keys() - known.keys()})


@pytest.mark.parametrize("path", sorted((ROOT / "tests/stored").rglob("report.json")), ids=lambda p: p.parent.name)
def test_every_name_of_a_report_is_in_the_schema(path):
    from jsonschema import validate

    report = json.loads(path.read_text("utf-8"))
    assert unknown(report) == []
    validate(report, json.loads((ROOT / "detcheck/formats/report.schema.json").read_text("utf-8")))


def test_a_name_that_the_schema_lacks_is_seen():
    report = json.loads((ROOT / "tests/stored/completions-both/report.json").read_text("utf-8"))
    report["findings"][0]["evidence"]["novel"] = 1
    assert unknown(report) == ["novel"]
