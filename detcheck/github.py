"""In GitHub Actions: the Markdown goes to the step's summary, and a finding that fails the job becomes one annotation."""

from __future__ import annotations

import os
import sys

from detcheck.finding import Run
from detcheck.report import render, worst_first
from detcheck.text import visible


def publish(run: Run) -> None:
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with open(summary, "a", encoding="utf-8") as file:
                file.write(render(run, "md") + "\n")
        except OSError as error:
            print(f"detcheck: cannot append to GITHUB_STEP_SUMMARY: {error.strerror}", file=sys.stderr)
    if os.environ.get("GITHUB_ACTIONS") == "true" and run.exit_code:
        worst = min(worst_first(run), key=lambda f: f.exit_code(run.spec.fail_on) != run.exit_code)
        text = visible(f"{worst.verdict}: {worst.note}").replace("%", "%25")
        print(f"::error title=detcheck {run.spec.probe}::{text}", file=sys.stderr)
