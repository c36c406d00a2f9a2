"""Sampler against trainer, both on our kernels: do vLLM and transformers give the same log-probabilities, to the bit, for families that people train?

    python benchmarks/agreement.py                 a Markdown table: docs/agreement.md has it
    python benchmarks/agreement.py "Llama 3" Cohere

Small random models. The sampler decodes three prompts and scores them again; the trainer decodes them with a cache, and scores them in one pass:
alone, padded on either side, packed, with gradients; and with each form of a log-probability that training code has.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import transformers
from measured import record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "doubles"))
from families import FAMILIES, FORMS, made, one_vllm, scores

from detcheck.errors import FailedError
from detcheck.models import amplifier

DTYPES = ("float32", "bfloat16")
LENGTHS, COUNT = (60, 5, 37), 8  # of prompts; tokens that are made


def line(family: str, folder: Path, dtype: str) -> tuple[str, ...]:
    numbers = np.random.default_rng(0)
    prompts = [tuple(map(int, numbers.integers(400, 1900, n))) for n in LENGTHS]
    try:
        scored = scores(folder, dtype, prompts, COUNT, FORMS)
    except FailedError as error:
        return family, dtype, f"refused: {error}".replace(str(folder), "FOLDER"), "", ""
    sampler, trainer = [], []
    for who, far in scored.apart().items():
        (sampler if who.startswith("vLLM") else trainer).append(far)
    other = any(far is None for far in trainer)
    known = [far for far in trainer if far is not None]
    return (
        family,
        dtype,
        "equal" if not any(far[0] for far in sampler) else said(sampler),
        said(known) + (", other tokens when it decodes" if other else ""),
        ", ".join(name.removeprefix("stock ") for name in scored.stock) or "nothing",
    )


def said(found: list[tuple[int, int, float]]) -> str:
    """Of all ways together."""
    count, numbers, far = (max(column) for column in zip(*found, strict=True))
    return f"{count} of {numbers} differ, by up to {far:.2g}" if count else f"equal, {len(found)} ways"


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(
        "| model | dtype | vLLM: made and scored | trainer against vLLM, nats | stock in vLLM |\n|---|---|---|---|---|"
    )
    found = []
    with tempfile.TemporaryDirectory() as place, one_vllm():
        for family in sys.argv[1:] or ("amplifier", *FAMILIES):
            folder = (
                amplifier.folder() if family == "amplifier" else made(family, Path(place) / family.replace(" ", "-"))
            )
            for dtype in DTYPES:
                found.append(line(family, folder, dtype))
                print(f"| {' | '.join(found[-1])} |", flush=True)
    ran = [row for row in found if not row[2].startswith("refused")]
    equal = [row for row in ran if row[2] == "equal" and row[3].startswith("equal,") and "other tokens" not in row[3]]
    others = "; ".join(f"{row[0]} in {row[1]}: {row[3]}" for row in ran if row not in equal)
    record(
        "agreement", [len(equal) / len(ran)], f"{len(equal)} of {len(ran)} families and dtypes; {others or 'no others'}"
    )


if __name__ == "__main__":
    main()
