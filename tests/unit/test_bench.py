"""`make bench`: every figure on the pages has its row, the page is what its JSON renders, and what failed or missed its goal is shown as that."""

import io
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import bench
import bench_page
import claims
import measured as measured_module
import pytest
from claims import Claim, Job, Row

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = {"reference", "bench.md", "zoo.md", "faults.md"}
OWN_SCRIPT = {
    "fleet.md",
    "fuzz.md",
}  # their tables are of scripts that take longer than `make bench` may, named on the page
FIGURE = re.compile(
    r"(?<![\w./-])\d[\d.,]*(?: (?:to|and|or|of) \d[\d.,]*)? ?"
    r"(?:%|times\b|s\b|ms\b|us\b|seconds?\b|minutes? on\b|MiB/s|[KMG]i?B\b)"
)
ROWS = [row for job in claims.JOBS for row in job.rows]
QUOTED = [(claim, f"the row {row.name}") for row in ROWS for claim in row.claims]
QUOTED += [(claim, why) for why, several in claims.OTHER_FIGURES.items() for claim in several]


def plain(text):
    """Without code, each word apart by one space."""
    return " ".join(re.sub(r"```.*?```", " ", text, flags=re.S).split())


def part(claim, text):
    """(begin, end) of what the claim quotes in the plain text; None: it does not stand there."""
    if not claim.words.startswith("#"):
        begin = plain(text).find(" ".join(claim.words.split()))
        return None if begin < 0 else (begin, begin + len(" ".join(claim.words.split())))
    level = claim.words.split()[0]
    lines = text.splitlines()
    if claim.words not in lines:
        return None
    first = lines.index(claim.words)
    rest = [n for n, line in enumerate(lines) if n > first and re.match(rf"#{{1,{len(level)}}} ", line)]
    before, within = plain("\n".join(lines[:first])), plain("\n".join(lines[first : rest[0] if rest else None]))
    return len(before), len(before) + len(within) + 1


def figures_without_a_row(page, text, quoted):
    """Words around each figure that no claim of that page covers."""
    covered = [found for claim, _ in quoted if claim.page == page and (found := part(claim, text))]
    words = plain(text)
    return [
        words[max(0, m.start() - 50) : m.end() + 20]
        for m in FIGURE.finditer(words)
        if not any(begin <= m.start() and m.end() <= end for begin, end in covered)
    ]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if not (GENERATED | OWN_SCRIPT) & set(p.parts)], ids=lambda p: p.name
)
def test_every_figure_has_its_row(page):
    name = page.relative_to(ROOT).as_posix()
    left = figures_without_a_row(name, page.read_text("utf-8"), QUOTED)
    assert not left, (
        f"{name} has figures that no row of benchmarks/claims.py quotes: give each a row and a script, or a line in OTHER_FIGURES that says "
        f"why it has none:\n" + "\n".join(left)
    )


def test_what_is_quoted_stands_there():
    lost = [
        f"{claim.page}: {claim.words!r}, of {whose}"
        for claim, whose in QUOTED
        if part(claim, (ROOT / claim.page).read_text("utf-8")) is None
    ]
    assert not lost, "benchmarks/claims.py quotes what is not there any more:\n" + "\n".join(lost)


def test_a_figure_without_a_row_is_found():
    text = "# Page\n\nIt takes 3.5 s, and 1.8 times\na bare program; 100 completions.\n\n## Other\n\n`--limit` 5 s, 40%\n```\n9 s\n```\n"
    quoted = [(Claim("p", "1.8 times a bare program"), "")]
    assert len(figures_without_a_row("p", text, [])) == 4
    assert len(figures_without_a_row("p", text, quoted)) == 3
    assert len(figures_without_a_row("p", text, [*quoted, (Claim("p", "## Other"), "")])) == 1
    assert figures_without_a_row("p", text, [(Claim("p", "# Page"), "")]) == []
    assert len(figures_without_a_row("q", text, quoted)) == 4  # a claim is of its page alone


def test_the_page_is_what_the_json_renders():
    known = json.loads((ROOT / "docs" / "bench.json").read_text("utf-8"))
    assert (ROOT / "docs" / "bench.md").read_text("utf-8") == bench_page.render(known), (
        "docs/bench.md is not what docs/bench.json and benchmarks/claims.py give: python benchmarks/bench.py --render"
    )
    assert set(known["rows"]) <= {row.name for row in ROWS}


def test_names_and_scripts():
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    assert all((ROOT / "benchmarks" / job.script).is_file() and job.group in claims.GROUPS for job in claims.JOBS)
    quick = [job.limit_s for job in claims.JOBS if not job.slow and job.needs != "gpu"]
    assert sum(quick) < 3600  # a limit is no estimate: several times what a quiet machine takes


def test_a_script_tells_each_of_its_rows():
    """Those whose names stand in it; others make them of parts."""
    for job in claims.JOBS:
        text = (ROOT / "benchmarks" / job.script).read_text("utf-8")
        assert "record(" in text, job.script
        made_of_parts = re.search(r"record\(\s*(f\"|row,|arm,)", text)
        assert all(row.name in text or made_of_parts for row in job.rows), job.script


SPEED = Row("speed", "ours", "stock", goal=1.0)
COUNT = Row("count", "right", unit="share", goal=1.0, at_least=True, counted=True)
FREE = Row("free", "no goal")


@pytest.fixture
def subjects(tmp_path, monkeypatch):
    """A folder with scripts, and jobs that run them."""
    scripts = {
        "sound": "from measured import record\nrecord('speed', [0.9, 0.8, 1.3], 'by the way')\nrecord('count', [1.0])\n",
        "slow": "from measured import record\nrecord('speed', [2.0])\nimport time\ntime.sleep(60)\n",
        "broken": "from measured import record\nrecord('count', [0.5])\nraise SystemExit('no memory | left')\n",
        "crashed": "from measured import record\nrecord('speed', [0.9])\nrecord('count', [1.0])\nraise SystemExit(1)\n",
        "stopped": "from measured import record\nrecord('speed', [0.9])\nrecord('count', [1.0])\nimport time\ntime.sleep(60)\n",
        "silent": "print('nothing')\n",
    }
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "measured.py").write_text((ROOT / "benchmarks" / "measured.py").read_text())
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "JSON", tmp_path / "bench.json")
    monkeypatch.setattr(bench, "PAGE", tmp_path / "bench.md")

    def jobs(script, *rows, limit_s=20, needs=""):
        made = (Job(f"{script}.py", rows, claims.SPEED, limit_s, needs=needs),)
        monkeypatch.setattr(claims, "JOBS", made)
        return made

    return jobs


def measured(jobs, place="two cores"):
    for job in jobs:
        bench.write(bench.merge(bench.read(), bench.measure(job), place, 0.0, "0.1.0 (abc)"))
    return bench.read(), bench.PAGE.read_text()


def test_a_goal_that_is_met(subjects):
    known, page = measured(subjects("sound", SPEED, COUNT))
    assert known["rows"]["speed"]["figures"] == [0.9, 0.8, 1.3]
    assert known["rows"]["speed"]["detcheck"] == "0.1.0 (abc)"
    of = f"{known['rows']['speed']['date'][:10]}, 0.1.0 (abc)"
    assert (
        f"| `speed` | ours, against stock | 0.90 times | 0.80 to 1.30 | 3 | at most 1.00 times | met | {of} |" in page
    )
    assert f"| `count` | right | 1 |  | counted | at least 1 | met | {of} |" in page and "by the way." in page


def test_a_script_that_fails_or_hangs_loses_nothing_that_it_told(subjects):
    _, page = measured(subjects("broken", SPEED, COUNT))
    assert "| `speed` | ours, against stock | **failed** | broken.py ended with exit code 1: no memory / left |" in page
    assert "0.5 |  | counted | at least 1 | **missed** by 50.0%, **partial** |" in page
    assert "- `count`: " in page and "what was told until broken.py ended with exit code 1" in page
    _, page = measured(subjects("slow", SPEED, FREE, limit_s=2))
    assert "2.00 times |  | 1 | at most 1.00 times | **missed** by 100.0%, **partial** |" in page
    assert "| `free` | no goal | **failed** | slow.py took more than 2 s |" in page


@pytest.mark.parametrize("script, limit_s", [("crashed", 20), ("stopped", 2)])
def test_what_a_script_told_before_it_ended_badly_is_never_met(subjects, script, limit_s, monkeypatch, capsys):
    jobs = subjects(script, SPEED, COUNT, limit_s=limit_s)
    monkeypatch.setattr(bench, "ROOT", bench.HERE)
    monkeypatch.setattr(bench, "machine", lambda: "two cores")
    monkeypatch.setattr(bench, "gpu_name", lambda: "")
    monkeypatch.setattr(bench, "detcheck", lambda: "")
    monkeypatch.setattr(bench.signal, "signal", lambda *_: None)  # this process keeps its own
    monkeypatch.setattr(sys, "argv", ["bench.py", "speed"])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    known, page = bench.read(), bench.PAGE.read_text()
    assert ended.value.code == 1 and "2 rows failed or are partial" in capsys.readouterr().out
    assert all(script in known["rows"][row.name]["partial"] for row in jobs[0].rows)
    assert "| **partial** |" in page and "| met |" not in page


def test_a_row_that_is_not_told_has_failed(subjects):
    assert "the script did not measure it" in measured(subjects("silent", SPEED))[1]


def test_rows_of_other_machines_stay_with_their_machine(subjects):
    measured(subjects("sound", SPEED, COUNT), "a GPU")
    jobs = subjects("sound", SPEED, COUNT)
    bench.write(bench.merge(bench.read(), {"count": {"figures": [1.0], "beside": ""}}, "two cores", None))
    known, page = bench.read(), bench.PAGE.read_text()
    assert known["machines"] == ["a GPU", "two cores"]
    assert "- **A**: a GPU" in page and "- **B**: two cores" in page
    assert re.search(r"`speed`.* met, A \|", page) and re.search(r"`count`.* met, B \|", page)
    measured(jobs, "two cores")
    assert bench.read()["machines"] == ["two cores"]


def test_what_was_never_measured_says_so(subjects):
    subjects("sound", SPEED)
    assert "| `speed` | ours, against stock | not measured here | | | at most 1.00 times |" in bench_page.render(
        {"machines": [], "rows": {}}
    )
    assert bench.lacks(Job("x.py", (), claims.GPU, 1, needs="gpu"), "") == "no GPU here"
    assert (
        bench.lacks(Job("x.py", (), claims.GPU, 1, needs="no_such_module"), "")
        == "no_such_module is not installed here"
    )
    assert not bench.lacks(Job("x.py", (), claims.GPU, 1, needs="gpu"), "a GPU")


def test_rows_by_name(monkeypatch):
    assert [job.script for job in bench.chosen(["help", "judge"], False)] == ["startup.py", "judge.py"]
    assert [job.script for job in bench.chosen(["overhead-vllm"], False)] == ["overhead.py"]
    assert all(not job.slow for job in bench.chosen([], False)) and bench.chosen([], True) == list(claims.JOBS)
    assert (
        [job.arguments for job in bench.chosen(["tracing"], False)]
        == [("amplifier",)]
        == [job.arguments for job in bench.chosen(["bisect"], False)]
    )
    assert [job.arguments for job in bench.chosen(["bisect-billion"], False)] == [("billion",)]
    assert [job.script for job in bench.chosen(["planted"], False)] == ["culprits.py"]
    with pytest.raises(SystemExit, match="no row and no script is called nonsense"):
        bench.chosen(["nonsense"], False)


def test_a_busy_machine_is_said(subjects):
    (job,) = subjects("sound", SPEED, COUNT)
    bench.write(bench.merge(bench.read(), bench.measure(job), "two cores", 1.4))
    page = bench.PAGE.read_text()
    assert (
        "other programs kept up to 1.4 cores busy on average, so their times say little: `speed`." in page
    )  # and no count


def test_its_own_work_is_not_that_of_others(monkeypatch):
    """The clock of the machine goes on by what a child of ours works, and by two seconds of somebody else's."""
    tick, worked = os.sysconf("SC_CLK_TCK"), [0.0]
    real = open

    def stat(path, *rest):
        numbers = f"cpu {round(worked[0] * tick)} 0 0 77 77 0 0 0 0 0"
        return io.StringIO(numbers) if path == "/proc/stat" else real(path, *rest)

    monkeypatch.setattr("builtins.open", stat)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    before = bench.others()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    assert own > 0.29
    worked[0] = own
    assert bench.busy(before, bench.others(), 1.0) == pytest.approx(0.0, abs=0.05)
    worked[0] += 2
    assert bench.busy(before, bench.others(), 4.0) == pytest.approx(0.5, abs=0.05)
    assert bench.busy(None, 1.0, 1.0) is None


def test_the_head_says_how_much_is_measured_and_where_a_page_disagrees(subjects):
    claimed = Row("speed", "ours", "stock", goal=1.0, claims=(Claim("README.md", "geometric mean 0.50", (0.50,)),))
    agreed = Row("count", "right", unit="share", claims=(Claim("README.md", "10 of 10", (1.0,), 0),))
    _, page = measured(subjects("sound", claimed, agreed, FREE))
    assert "**2 of 3 rows are measured**; 1 failed or are partial, 0 were not measured. Of 1 goals 1 are met" in page
    assert "Of 2 figures that a page claims and that are measured here, 1 is not what the page says" in page
    assert "- README says 0.50, `speed` measured here 0.90 times: “geometric mean 0.50”." in page
    assert "`count` measured here" not in page
    ranged = Claim("README.md", "7 to 13 us", (7, 13))
    assert [ranged.agrees(figure) for figure in (6.2, 6.4, 14, 15, float("nan"))] == [False, True, True, False, False]


def test_what_a_claim_says_stands_in_its_words():
    for claim, whose in QUOTED:
        numbers = [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", claim.words)]
        shares = [float(a) / float(b) for a, b in re.findall(r"(\d+) of (\d+)", claim.words)]
        percents = [1 + float(number) / 100 for number in re.findall(r"([\d.]+)%", claim.words)]
        assert all(any(abs(said - n) < 1e-9 for n in numbers + shares + percents) for said in claim.says), whose


def test_spread_is_the_middle_half():
    assert SPEED.spread([5, 1, 2, 3, 4]) == "2.00 to 4.00" and SPEED.spread([3, 1]) == "1.00 to 3.00"
    assert SPEED.spread([1]) == "" and SPEED.figure([1.2345, 9, 1]) == "1.23 times"
    assert not SPEED.meets([0.9, 1.1, 1.2]) and SPEED.meets([0.9, 1.0, 5.0])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_meets_no_goal_and_is_not_taken(wrong, tmp_path, monkeypatch):
    for place in range(3):
        figures = [0.5, 0.9]
        figures.insert(place, wrong)
        assert not SPEED.meets(figures) and not COUNT.meets(figures) and "MISSED" in SPEED.said(figures)
        monkeypatch.setenv(measured_module.FILE, str(tmp_path / "rows"))
        with pytest.raises(ValueError, match="speed: 1 of 3 figures are not finite"):
            measured_module.record("speed", figures)
    assert not (tmp_path / "rows").exists()


def test_no_name_of_the_machine():
    import platform

    assert platform.node() not in bench.machine()
