"""What stderr shows while a run goes on: a bar in a terminal, lines in a log, and the first divergence in both. The runs are real."""

import os
import pty
import re
import select
import subprocess
import sys

import pytest

from detcheck import colours, progress
from detcheck.progress import Log, Pace, clock
from detcheck.verdict import Role
from detcheck.watch import Progress, WatchedArm

ASKED = ["completions", "-n", "4", "--max-tokens", "8", "--batch-sizes", "1,4", "--conditions", "alone,batch"]
DIVERGES = re.compile(
    r"first divergence in stock: sample (\d+), token (\d+): ' \w+' against ' \w+', margin [\d.e-]+ \(batch-4, row \d; against sample 1\)"
)


def in_terminal(arguments, folder, **environment):
    """Runs it with stderr in a terminal of 80 columns: exit code, stdout, what the terminal got."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "detcheck", *arguments],
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=folder,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", **environment},
    )
    os.close(theirs)
    got = b""
    while select.select([ours], [], [], 300)[0]:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the last writer has closed it
            break
        got += part
        if not part:
            break
    os.close(ours)
    out = process.stdout.read().decode()
    return process.wait(), out, got.decode()


def plain(text):
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", text)


def test_a_terminal_has_a_bar_by_condition_and_the_first_divergence_above_it(reacting, tmp_path):
    code, out, got = in_terminal(ASKED, tmp_path)
    assert code == 1 and out.startswith("batch-variant") and "divergence in" not in out
    said = plain(got)
    assert "loading the model" in said and "stock, alone 0/" in said and re.search(r"stock, batch-4 \d/\d", said), said
    assert re.search(r"[\d.]+ (samples/s|s/sample)", said) and re.search(r"\d:\d\d left", said)
    lines = " ".join(said.split())
    assert len(DIVERGES.findall(lines)) == 1, said  # once, though more samples differ
    assert said.index("first divergence") > said.index("alone 0/")
    assert "\x1b[1;31mfirst divergence" in got  # it decides the verdict
    drawn = re.split(r"[\r\n]+", said)
    assert all(len(line) <= 80 for line in drawn), max(drawn, key=len)


def test_a_log_has_lines_and_no_escapes(reacting, detcheck, monkeypatch):
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
    result = detcheck(*ASKED, "--kernels", "both")
    assert result.code == 0 and "\x1b" not in result.err and "\r" not in result.err
    control = DIVERGES.pattern.replace("in stock", r"in stock \(control\)")
    assert len(re.findall(f"detcheck: {control}\n", result.err)) == 1 == result.err.count("first divergence"), (
        result.err
    )
    arms = re.findall(r"^detcheck: (\S.*): 4 samples$", result.err, re.M)
    assert arms == ["stock (control)", "batch-invariant"]
    assert "detcheck: 0/8 samples (stock (control), alone 0/" in result.err
    assert re.search(r"detcheck: \d/8 samples, .* about \d+:\d\d left \(batch-invariant, batch-4 \d/\d\)", result.err)


def test_a_run_that_does_not_diverge_prints_none_and_quiet_prints_nothing(reacting, detcheck):
    sound = detcheck(*ASKED, "--kernels", "batch-invariant")
    assert sound.code == 0 and "divergence" not in sound.err
    quiet = detcheck(*ASKED, "--quiet")
    assert (quiet.code, quiet.err) == (1, "")


def test_of_an_op_the_element_and_its_distance_are_told(detcheck, monkeypatch, tmp_path):
    (tmp_path / "halves.py").write_text(
        "import torch\n\n\ndef make_inputs(rows, dtype, seed):\n    return (torch.ones(rows, 4, dtype=dtype),)\n\n\n"
        "def moved(x):\n    x = x.clone()\n    x[:, 2] += 2.0**-22 * (len(x) > 1)\n    return x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    result = detcheck("kernels", "--op", "halves:moved", "--batch-sizes", "1,2", "--trials", "1")
    assert result.code == 1
    (line,) = [line for line in result.err.splitlines() if "first divergence" in line]
    assert re.search(
        r"in user: sample \d+, element 2 of \d+, up to 2.4e-07 \(2 ulp\) apart \(rows-2, row 0; against", line
    ), line


def test_a_log_is_told_at_most_every_ten_seconds(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    arm, log = WatchedArm("stock", Role.GATES), Log()
    for second in range(31):
        now[0] = float(second)
        log(Progress(second, 40, "batch-2", arm, "", (second, 40), (second, 40)))
    assert capsys.readouterr().err.splitlines() == [
        "detcheck: 10/40 samples, 1.0 samples/s, about 0:30 left (stock, batch-2 10/40)",
        "detcheck: 20/40 samples, 1.0 samples/s, about 0:20 left (stock, batch-2 20/40)",
        "detcheck: 30/40 samples, 1.0 samples/s, about 0:10 left (stock, batch-2 30/40)",
    ]


def test_a_pace_counts_what_this_process_did_alone(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pace = Pace()
    pace.see(Progress(90, 100))
    assert (pace.left_s, str(pace)) == (None, "")
    now[0] = 104.0
    pace.see(Progress(91, 100))
    assert (str(pace), pace.left_s) == ("4.0 s/sample", 36.0)
    now[0] = 110.0
    assert pace.left_s == 30.0  # it goes on counting down
    assert [clock(s) for s in (None, 5.4, 65, 7384)] == ["-:--", "0:05", "1:05", "2:03:04"]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, None),
        ({"NO_COLOR": ""}, None),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "0"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "0"}, None),
        ({"CLICOLOR_FORCE": "1", "TERM": "dumb"}, True),
        ({"CLICOLOR": "0"}, False),
        ({"CLICOLOR": "1"}, None),
        ({"TERM": "dumb"}, False),
        ({"TERM": "xterm"}, None),
    ],
)
def test_who_says_whether_there_are_colours(variables, said):
    assert colours.asked(variables) is said


@pytest.mark.parametrize(("name", "value", "coloured"), [("NO_COLOR", "1", False), ("TERM", "xterm", True)])
def test_help_and_errors_obey_in_a_terminal(name, value, coloured, tmp_path):
    for arguments in (["matmul", "--help"], ["matmul", "--nonsense"]):
        master, slave = pty.openpty()
        environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "GITHUB_ACTIONS")}
        subprocess.run(
            [sys.executable, "-m", "detcheck", *arguments],
            stdout=slave,
            stderr=slave,
            cwd=tmp_path,
            env={**environment, "TERM": "xterm", "COLUMNS": "80", name: value},
            timeout=60,
        )
        os.close(slave)
        got = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:
                break
            got += part
        os.close(master)
        assert (b"\x1b[" in got) is coloured, got


def test_forced_colours_reach_a_pipe(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "detcheck", "--help"],
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "CLICOLOR_FORCE": "1"},
    )
    assert b"\x1b[" in done.stdout
