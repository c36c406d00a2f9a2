"""The command line with a scripted engine in the place of the embedded model: a real process to kill, whose every answer we know.

    python tests/doubles/scripted_process.py completions -n 10000 --max-tokens 4

What comes out is a function of the batch and the slot, so that the batch reaches it, and there are many distinct outcomes. SCRIPTED_S: seconds that a
batch takes. SCRIPTED_SAME: all samples are the same.
"""

import os
import sys
import time
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from scripted import Scripted, completion

from detcheck.engine import Decoded


class OfTheBatch(Scripted):
    def complete(self, rows, max_tokens, ignore_eos, padding=0):
        time.sleep(float(os.environ.get("SCRIPTED_S", "0")))
        batch = 0 if "SCRIPTED_SAME" in os.environ else zlib.crc32(repr([row.prompt for row in rows]).encode())
        samples = [slot for slot, row in enumerate(rows) if row.continuation is None]
        return Decoded({slot: self._of(batch, slot) for slot in samples}, (len(rows),))

    def _of(self, batch, slot):
        return completion([5, 6, (batch + slot) % 199 if batch else 7, 8], bits=batch and slot % 3)


if __name__ == "__main__":
    from dataclasses import replace

    from detcheck.cli import main
    from detcheck.environment import observe_client
    from detcheck.harness import model
    from detcheck.probes.completions import session

    # Nothing computes here, so torch, two thirds of the time and memory of a small run, stays away.
    model.observe_environment = lambda device, flags, threads: replace(observe_client(device, flags), threads=threads)

    session.open_session = lambda spec, planned=None: session.Completions(spec, OfTheBatch(None), planned)
    sys.argv[2:2] = ["--device", "cpu"]  # else it is asked whether there is a GPU, of torch
    main()
