"""How fast new weights come into a model that runs, by each way of `detcheck reload`.

A Llama-shaped model of 117M parameters in float32 (468 MB) is made on the spot, and its weights are loaded in place by transformers'
`load_state_dict`, in buckets of 64 MiB. The file is in the page cache after the first update, which is not counted. The median of five
updates by each way, which take turns, and the slowest.

Usage: python benchmarks/reload.py
"""

import tempfile
from pathlib import Path
from statistics import median

from measured import ratios, record
from overhead import make

from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.update import update
from detcheck.models.stream import Way

BUCKET_BYTES, UPDATES = 64 << 20, 5


def main():
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make(folder)
        engine = TransformersEngine(str(folder))
        engine.load()
        update(engine, Way.FILES, folder, BUCKET_BYTES)
        speeds = {way: [] for way in Way}
        for _ in range(UPDATES):
            for way, of in speeds.items():
                moved, seconds = update(engine, way, folder, BUCKET_BYTES)
                of.append(moved / seconds / (1 << 20))
        for way, of in speeds.items():
            print(f"{way:12} {median(of):6.0f} MiB/s, slowest {min(of):6.0f}", flush=True)
            record(
                f"reload-{way}",
                ratios(of, speeds[Way.FILES]),
                f"{median(of):.0f} MiB/s, `files` {median(speeds[Way.FILES]):.0f}",
            )


if __name__ == "__main__":
    main()
