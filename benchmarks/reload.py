"""How fast new weights come into a model that runs, by each way of `detcheck reload`.

A Llama-shaped model of 117M parameters in float32 (468 MB) is made on the spot, and its weights are loaded in place by transformers'
`load_state_dict`, in buckets of 64 MiB. The file is in the page cache after the first update, which is not counted. The median of five
updates by each way, and the slowest.

Usage: python benchmarks/reload.py
"""

import tempfile
from pathlib import Path
from statistics import median

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
        for way in Way:
            took = [update(engine, way, folder, BUCKET_BYTES) for _ in range(UPDATES)]
            speeds = [moved / seconds / (1 << 20) for moved, seconds in took]
            print(f"{way:12} {median(speeds):6.0f} MiB/s, slowest {min(speeds):6.0f}", flush=True)


if __name__ == "__main__":
    main()
