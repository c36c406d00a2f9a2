"""`make audit`: a known vulnerability fails, and what was not audited is not called clean. The service is one that we wrote."""

import datetime
import importlib.util
import json
import re
import time
from pathlib import Path

import pytest
from misbehaving import serving

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

VULNERABLE = {
    "name": "jinja2", "version": "2.0",
    "vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"], "aliases": ["CVE-2019-10906"], "description": "a sandbox\nescape"}],
}  # fmt: skip
CLEAN = {"name": "rich", "version": "15.0.0", "vulns": []}
SKIPPED = {"name": "detcheck", "skip_reason": "Dependency not found on PyPI and could not be audited: detcheck (0.1.0)"}
TODAY = datetime.date(2026, 12, 1)


def judged(*packages, **ignored):
    lines, code = audit.judge({"dependencies": list(packages), "fixes": []}, ignored)
    return code, "\n".join(lines)


def test_a_known_vulnerability_fails_and_says_what_mends_it():
    code, said = judged(CLEAN, VULNERABLE, SKIPPED)
    assert code == 1 and "jinja2 2.0: PYSEC-2019-217: fixed in 2.10.1. a sandbox escape" in said
    assert "2 packages were audited; 1 could not be (detcheck)" in said
    no_fix = {**VULNERABLE, "vulns": [VULNERABLE["vulns"][0] | {"fix_versions": []}]}
    assert judged(no_fix)[0] == 1 and "no version is said to mend it" in judged(no_fix)[1]


def test_what_is_clean_passes_and_says_how_much_of_it_was_audited():
    assert judged(CLEAN) == (0, "1 packages were audited")
    assert judged(CLEAN, SKIPPED)[0] == 0


def test_a_package_that_the_project_names_and_that_was_not_audited_is_no_pass():
    document = {"dependencies": [CLEAN, {"name": "Torch_X", "skip_reason": "not found"}, SKIPPED]}
    lines, code = audit.judge(document, {}, {"torch-x", "rich"})
    assert code == 3 and "does not know this version of torch-x, which pyproject.toml names" in lines[0]
    assert audit.judge(document, {}, {"rich"})[1] == 0
    assert audit.judge({"dependencies": [VULNERABLE, *document["dependencies"]]}, {}, {"torch-x"})[1] == 1
    named = audit.direct(audit.tomllib.loads(audit.PROJECT.read_text()))
    assert {"torch", "rich", "ray", "pip-audit"} <= named and "detcheck" not in named


def test_a_service_that_answers_and_knows_no_such_package_is_not_called_silent(monkeypatch, capsys):
    with serving() as server:
        monkeypatch.setattr(audit, "SERVICE", f"{server.url}/pypi/certifi/json")
        assert audit.main([]) == 3
    said = capsys.readouterr().err
    assert "answers, and does not know certifi (status 404)" in said and "does not answer" not in said


def test_nothing_audited_is_no_pass():
    """As pip-audit says of every package behind a mirror without advisories, with "No known vulnerabilities found" and exit code 0."""
    code, said = judged(SKIPPED, SKIPPED)
    assert code == 3 and said.startswith(
        "nothing was audited: none of 2 packages is known to the service. Where pypi.org can be reached"
    )
    assert judged()[0] == 3


@pytest.mark.parametrize("name", ["PYSEC-2019-217", "CVE-2019-10906"])
def test_what_is_passed_over_has_its_reason_said(name):
    code, said = judged(VULNERABLE, **{name: "no template of a stranger"})
    assert code == 0 and "PYSEC-2019-217 is passed over: no template of a stranger" in said
    code, said = judged(CLEAN, **{name: "no template of a stranger"})
    assert code == 0 and f"{name} is in audit.toml and was found nowhere: take it out" in said
    assert judged(VULNERABLE, **{"CVE-1": "x"})[0] == 1


def test_an_entry_needs_a_reason_and_a_last_day():
    entry = {"id": "CVE-1", "reason": "it is not reached", "until": TODAY}
    assert audit.ignored({"ignored": [entry]}, TODAY) == {"CVE-1": "it is not reached"}
    assert audit.ignored({"ignored": [entry]}, TODAY + datetime.timedelta(days=1)) == {}
    for change in ({"reason": "x"}, {"until": "2026-12-01"}, {"id": 1}):
        with pytest.raises(ValueError, match="a reason in words and a date"):
            audit.ignored({"ignored": [entry | change]}, TODAY)
    assert (
        audit.ignored(audit.tomllib.loads(audit.IGNORED.read_text()), datetime.date.today()) == {}
    )  # none is passed over now


@pytest.fixture
def files(tmp_path):
    def written(document):
        (tmp_path / "audit.json").write_text(json.dumps(document) if isinstance(document, dict) else document)
        return ["--json", str(tmp_path / "audit.json")]

    return written


def test_the_command_line(files, capsys):
    assert audit.main(files({"dependencies": [VULNERABLE]})) == 1
    assert "audit: jinja2 2.0: PYSEC-2019-217" in capsys.readouterr().err
    assert audit.main([*files({"dependencies": [VULNERABLE]}), "--where-it-can"]) == 1
    assert (
        audit.main(files({"dependencies": [SKIPPED]})) == 3
        and audit.main([*files({"dependencies": [SKIPPED]}), "--where-it-can"]) == 0
    )
    for broken in ("no JSON", "{}", {"dependencies": [{"name": "x", "vulns": [{}]}]}, {"dependencies": 3}):
        assert audit.main([*files(broken), "--where-it-can"]) == 4, broken


def test_without_a_network_it_says_so_at_once(monkeypatch, capsys):
    """An address that nobody answers at, one that answers without advisories, and one that says nothing."""
    monkeypatch.setattr(audit, "REACHED_S", 0.3)
    with serving(version="0.0") as server:
        for address in (
            "http://127.0.0.1:9/pypi/pip/json",
            f"{server.url}/version",
            f"{server.url}/nothing",
            "https://nowhere.invalid/",
        ):
            monkeypatch.setattr(audit, "SERVICE", address)
            began = time.monotonic()
            assert audit.main(["--where-it-can"]) == 0 and audit.main([]) == 3
            assert time.monotonic() - began < 10 and "nothing was audited" in capsys.readouterr().err


def test_what_pip_audit_says_is_judged(monkeypatch, capsys):
    """The real program is asked, where it is installed; the rest is what it prints."""
    asked, answers = [], []

    def run(command, **how):
        asked.append(command)
        return audit.subprocess.CompletedProcess(command, *answers.pop(0))

    monkeypatch.setattr(audit.subprocess, "run", run)
    monkeypatch.setattr(audit.urllib.request, "urlopen", lambda *_, **__: Advisories())
    found, clean = (json.dumps({"dependencies": [one]}) for one in (VULNERABLE, CLEAN))
    for answer, code in (((1, found, ""), 1), ((0, clean, ""), 0), ((1, "", "broken"), 4), ((2, "", "usage"), 4)):
        answers.append(answer)
        assert audit.main(["--where-it-can"]) == code, capsys.readouterr()
    assert asked[0][:3] == [audit.sys.executable, "-m", "pip_audit"]


class Advisories:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read(self, *_):
        return b'{"vulnerabilities": []}'


def test_make_test_asks_it():
    """`.ci/run` runs `make test` alone."""
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^test: .*\n(\t.*\n)*?\t.*\.ci/audit\.py --where-it-can$", makefile, re.M)
    assert re.search(r"^audit: .*\n\t.*\.ci/audit\.py$", makefile, re.M)
