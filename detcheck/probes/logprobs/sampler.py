"""Who makes the tokens: an engine that runs here, or a file of what one made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from detcheck.engine import Engine, Row, Sampling
from detcheck.errors import OutOfMemoryError, UsageError
from detcheck.hashes import content_hash
from detcheck.probes.logprobs import files
from detcheck.probes.logprobs.facts import SAMPLER
from detcheck.probes.logprobs.keys import FileSequence
from detcheck.probes.logprobs.options import Options, parameter
from detcheck.records import Prompt

TOGETHER = 32  # sequences that are asked for at once: the sampler's own batch


@dataclass(frozen=True, eq=False)
class Made:
    """A sequence, as the sampler made it."""

    prompt: tuple[int, ...]
    tokens: np.ndarray
    """int64[n]"""
    logprobs: np.ndarray
    """float32[n], or float64[n] of a file that has more digits: nats"""
    text: str = ""
    batch_sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class AskedSequence:
    """A sequence that is asked for."""

    prompt: Prompt
    sample: int
    """which of the prompt's"""


class TokenSampler(Protocol):
    """Makes sequences."""

    flags: Mapping[str, str]
    """what can change bits, for the environment's record"""

    def make(self, wanted: Sequence[AskedSequence], kernels: str) -> tuple[list[Made | str], Sequence[tuple[str, int]]]:
        """(each sequence or why it did not come, calls as counted.py names them)"""


class EngineSampler:
    """An engine that runs here, greedily or at a temperature: decoded token by token on a KV cache, in the batches that it forms."""

    def __init__(self, engine: Engine, own: Options) -> None:
        self._engine, self._own = engine, own
        self._sampling = dict(parameter(one) for one in own.sampling)

    def make(self, wanted: Sequence[AskedSequence], kernels: str) -> tuple[list[Made | str], Sequence[tuple[str, int]]]:
        rows = [Row(one.prompt.token_ids, sampling=self._drawn(n, one)) for n, one in enumerate(wanted)]
        calls: list[tuple[str, int]] = []
        try:
            with self._engine.running(kernels) as calls:
                ran = self._engine.complete(rows, self._own.max_tokens, self._own.ignore_eos)
        except OutOfMemoryError as error:
            return [str(error)] * len(rows), calls
        return [self._sequence(ran, slot, one) for slot, one in enumerate(wanted)], calls

    @property
    def flags(self) -> Mapping[str, str]:
        return {**self._engine.flags, **({"sampling": ", ".join(self._own.sampling)} if self._own.sampling else {})}

    def _drawn(self, place: int, one: AskedSequence) -> Sampling | None:
        """None: the likeliest token is taken."""
        others = dict(self._sampling)
        temperature, seed = others.pop("temperature", 0.0), int(others.pop("seed", 0))
        if not temperature:
            return None
        return Sampling(temperature, seed + 7919 * place + one.sample, tuple(others.items()))

    def _sequence(self, ran: object, slot: int, one: AskedSequence) -> Made | str:
        found = ran.completions.get(slot)
        if found is None:
            return ran.missing.get(slot, "the engine returned no completion")
        sizes = ran.traces[slot].batch_sizes if slot in ran.traces else ran.batch_sizes
        tokens = np.asarray(found.tokens, np.int64)
        return Made(one.prompt.token_ids, tokens, found.logprobs, self._engine.decode(found.tokens), sizes)


class FileSampler:
    """A file of what a sampler made: the trainer scores the same tokens here."""

    def __init__(self, path: Path, engine: Engine) -> None:
        """Raises UsageError where the file lacks what the trainer needs."""
        self.sequences = files.read(path, (SAMPLER,))
        self.precision = files.precision([one.logprobs[SAMPLER] for one in self.sequences])
        self._prompts = [prompt_ids(one, engine) for one in self.sequences]
        self.longest = max(len(ids) + len(one.tokens) for ids, one in zip(self._prompts, self.sequences, strict=True))
        self.flags: Mapping[str, str] = {}

    def prompts(self) -> tuple[Prompt, ...]:
        return tuple(
            Prompt(f"{n}:{content_hash(one.tokens.tobytes())[:8]}", one.prompt, ids)
            for n, (one, ids) in enumerate(zip(self.sequences, self._prompts, strict=True))
        )

    def make(self, wanted: Sequence[AskedSequence], kernels: str) -> tuple[list[Made | str], Sequence[tuple[str, int]]]:
        made: list[Made | str] = []
        for one in wanted:
            found = self.sequences[int(one.prompt.name.partition(":")[0])]
            logprobs = found.logprobs[SAMPLER].astype(np.float64 if self.precision == "float64" else np.float32)
            made.append(Made(one.prompt.token_ids, found.tokens, logprobs, found.text))
        return made, ()


def prompt_ids(one: FileSequence, engine: Engine) -> tuple[int, ...]:
    """Raises UsageError where there are none, or the trainer's model does not know a token."""
    if one.tokens is None:
        raise UsageError(f"{one.where}: has no token ids, so the trainer cannot score it. Give them as `tokens`")
    ids = one.prompt_ids or (engine.encode(one.prompt) if one.prompt else ())
    if not ids:
        raise UsageError(
            f"{one.where}: has no prompt, so the trainer cannot score it. Give `prompt_ids`, or `prompt` as text"
        )
    size = engine.vocabulary
    if beyond := [token for token in (*ids, *one.tokens.tolist()) if not 0 <= token < size]:
        raise UsageError(
            f"{one.where}: has token {beyond[0]}, and the trainer's model knows {size}: it is of another tokeniser"
        )
    if len(ids) + len(one.tokens) > engine.context:
        raise UsageError(
            f"{one.where}: has {len(ids) + len(one.tokens)} tokens, and {engine.name} holds {engine.context}. Leave it out, or give a model with more room"
        )
    return ids
