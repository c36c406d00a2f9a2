"""`detcheck --help`: seconds, median of 15 runs. Goal: at most 0.3 s."""

import statistics
import subprocess
import sys
import time


def main():
    took = []
    for _ in range(15):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "detcheck", "--help"], stdout=subprocess.DEVNULL, check=True)
        took.append(time.perf_counter() - started)
    print(f"detcheck --help: {statistics.median(took):.2f} s")


if __name__ == "__main__":
    main()
