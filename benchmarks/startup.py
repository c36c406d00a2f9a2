"""`detcheck --help` against that of a program of one empty typer command: medians of 15 interleaved runs. Goal: at most 2 times."""

import statistics
import subprocess
import sys
import time

BARE = """
import typer
app = typer.Typer()
@app.command()
def nothing() -> None: "Nothing."
app()
"""
COMMANDS = {"detcheck": ["-m", "detcheck", "--help"], "bare typer": ["-c", BARE, "--help"]}


def measure(runs: int = 15) -> dict[str, float]:
    """Seconds, by name of the command."""
    took = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
            took[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in took.items()}


if __name__ == "__main__":
    found = measure()
    print(
        f"detcheck --help: {found['detcheck']:.2f} s, {found['detcheck'] / found['bare typer']:.2f} of a bare typer program's"
    )
