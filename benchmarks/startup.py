"""`detcheck --help` against that of a program of one empty typer command: medians of 15 interleaved runs. Goal: at most 2 times."""

import statistics
import subprocess
import sys

from measured import in_turn, ratios, record

BARE = """
import typer
app = typer.Typer()
@app.command()
def nothing() -> None: "Nothing."
app()
"""
COMMANDS = {"detcheck": ["-m", "detcheck", "--help"], "bare typer": ["-c", BARE, "--help"]}


def started(command: list[str]) -> None:
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)


def measure(runs: int = 15) -> dict[str, list[float]]:
    """Seconds, by name of the command."""
    works = {name: lambda command=command: started(command) for name, command in COMMANDS.items()}
    in_turn(works, 1)  # reads the files once
    return in_turn(works, runs)


if __name__ == "__main__":
    found = measure()
    times = ratios(found["detcheck"], found["bare typer"])
    told = f"{statistics.median(found['detcheck']):.2f} s"
    print(f"detcheck --help: {told}, {statistics.median(times):.2f} of a bare typer program's")
    record("help", times, told)
