"""Every example runs, and says what it says it says."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import transformers
import warm

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("op", "code", "says"), [("norm", 0, "identical"), ("split_sum", 1, "batch-variant")])
def test_a_users_own_op_from_the_command_line(op, code, says, tmp_path):
    arguments = ["kernels", "--op", f"my_kernels:{op}", "--batch-sizes", "1,2,8,33", "-q", "--output-dir", tmp_path]
    done = warm.run([sys.executable, "-m", "detcheck", *arguments], cwd=EXAMPLES, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (code, says), done.stdout + done.stderr
    assert f"detcheck kernels --op my_kernels:{op}" in (EXAMPLES / "my_kernels.py").read_text()


@pytest.mark.parametrize(("kernel", "code", "says"), [("before", 1, "refuted"), ("after", 0, "certified")])
def test_a_users_triton_kernel_before_and_after(kernel, code, says, tmp_path):
    arguments = ["certify", "--op", f"triton_sums:{kernel}", "--target", "sm_90", "-q", "--output-dir", tmp_path]
    done = warm.run([sys.executable, "-m", "detcheck", *arguments], cwd=EXAMPLES, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (code, says), done.stdout + done.stderr
    assert f"detcheck certify --op triton_sums:{kernel}" in (EXAMPLES / "triton_sums.py").read_text()


def test_the_pytest_file(tmp_path):
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "test_my_kernels.py"]
    done = warm.run([sys.executable, *arguments], cwd=EXAMPLES, capture_output=True, text=True)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout


@pytest.fixture
def on_policy(monkeypatch):
    """The example's modules, as a script in its folder has them."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import on_policy_check
    import on_policy_rl

    return on_policy_rl, on_policy_check


def learns(tmp_path, steps):
    arguments = ["on_policy_rl.py", "--steps", str(steps), "--output", str(tmp_path / "seen")]
    done = warm.run([sys.executable, *arguments], cwd=EXAMPLES, capture_output=True, text=True)
    return done, json.loads((tmp_path / "seen.json").read_text())


def test_on_policy_rl_has_a_kl_of_zero_at_every_step_with_ours(tmp_path, reacting):
    """Where stock reacts; the reward rises, whatever the setting."""
    done, seen = learns(tmp_path, 6)
    assert done.returncode == 0, done.stdout + done.stderr
    for setting, steps in seen.items():
        assert len(steps) == 6 and steps[-1]["reward"] > steps[0]["reward"] > 0, setting
    assert all(step["kl"] == 0.0 and step["unlike"] == 0 and step["tokens"] == 512 for step in seen["bit-equal"])
    assert all(step["kl"] > 0.0 for setting in ("off-policy", "corrected") for step in seen[setting])
    assert "bit-equal" in done.stdout and "steps with KL 0.0 6 of 6" in done.stdout
    drawn = ElementTree.fromstring((tmp_path / "seen.svg").read_text())
    assert len(drawn.findall(".//{*}polyline")) == 9  # two curves a setting, and the key


def test_on_policy_rl_stops_at_the_first_bit_that_differs(monkeypatch, tmp_path, capsys, on_policy):
    """One log-probability of the trainer's moved to the next number, in the third setting alone."""
    script, _ = on_policy
    real, calls = script.score, []

    def moved(*arguments):
        made = real(*arguments)
        calls.append(1)  # two settings take a step each before it
        return made if len(calls) < 3 else torch.nextafter(made, torch.full_like(made, -9.0))

    monkeypatch.setattr(script, "score", moved)
    monkeypatch.setattr(sys, "argv", ["on_policy_rl.py", "--steps", "1", "--output", str(tmp_path / "seen")])
    assert script.main() == 1
    assert "512 of 512 log-probabilities differ, first that of token 0 of sample 0" in capsys.readouterr().out


def test_on_policy_rl_says_where_stock_does_not_react(monkeypatch, tmp_path, capsys, on_policy):
    script, _ = on_policy
    real = script.train
    monkeypatch.setattr(script, "train", lambda setting, *arguments: real("bit-equal", *arguments))
    monkeypatch.setattr(sys, "argv", ["on_policy_rl.py", "--steps", "1", "--output", str(tmp_path / "seen")])
    assert script.main() == 3 and "inconclusive" in capsys.readouterr().out


def test_log_probabilities_are_compared_by_bits(on_policy):
    _, check = on_policy
    one = torch.tensor([[-1.0, float("nan"), 0.0], [-2.0, -3.0, -0.5]])
    check.same_bits(one, one.clone())
    for other, says in (
        (one.clone().fill_diagonal_(-0.0), r"2 of 6 log-probabilities differ, first that of token 0 of sample 0"),
        (torch.where(one == 0, -0.0, one), r"1 of 6 .* token 2 of sample 0"),
        (one.double(), "same shape and dtype"),
        (one[:1], "same shape and dtype"),
    ):
        with pytest.raises(check.OffPolicyError, match=says):
            check.same_bits(one, other)
    check.same_bits(one, torch.where(one == 0, -0.0, one), mask=one != 0)
    with pytest.raises(check.OffPolicyError, match="hides all of them"):
        check.same_bits(one, one, mask=one > 1)
    with pytest.raises(check.OffPolicyError, match=r"shape of the log-probabilities, \(2, 3\); got \(2, 1\)"):
        check.same_bits(one, one, mask=torch.ones(2, 1))


def test_on_policy_rl_needs_a_step(monkeypatch, capsys, on_policy):
    script, _ = on_policy
    monkeypatch.setattr(sys, "argv", ["on_policy_rl.py", "--steps", "0"])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert "--steps must be at least 1; got 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("logged", "says"),
    [
        ([0.0, 0.0, 0.0], None),
        ([0.0, 1e-7, 0.0], "step 2: sampler and trainer are up to 1e-07"),
        ([0.0, None, 0.0], "step 2: the log has no"),
    ],
)
def test_the_callback_stops_a_trainer(tmp_path, on_policy, logged, says):
    """transformers' own Trainer, which trl's is made of; the metric stands in the log where trl puts it."""
    _, check = on_policy

    class LoggingTrainer(transformers.Trainer):
        def log(self, logs, *arguments):
            if "loss" in logs and (far := logged[self.state.global_step - 1]) is not None:
                logs = logs | {check.StopOffPolicy.LARGEST: far}
            super().log(logs, *arguments)

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.line = torch.nn.Linear(2, 1)

        def forward(self, x):
            return {"loss": self.line(x).square().mean()}

    how = transformers.TrainingArguments(
        str(tmp_path), max_steps=3, logging_steps=1, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True
    )
    data = [{"x": torch.ones(2)}] * 8
    trainer = LoggingTrainer(Line(), how, train_dataset=data, callbacks=[check.StopOffPolicy()])
    if says is None:
        assert trainer.train().global_step == 3
        return
    with pytest.raises(check.OffPolicyError, match=says):
        trainer.train()
    assert trainer.state.global_step == 2
