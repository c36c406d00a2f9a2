"""Servers as an engine. What can be known before any of them is asked: options that fit together, and what it would cost."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detcheck.engine import EngineType, Question
from detcheck.engines.server.credentials import Secrets
from detcheck.errors import UsageError
from detcheck.schedules import load
from detcheck.schedules.wanted import Wanted
from detcheck.spec import Kernels, Spec

if TYPE_CHECKING:
    from detcheck.engine import Sampler

OPENING = 15  # requests that opening a server sends at most to find out what it can do
TOKENS_A_WORD = 1.4  # of English, about: for an estimate


def check(spec: Spec) -> None:
    """Raises UsageError."""
    own = spec.options
    if not own.base_url:
        raise UsageError("--engine server: give the server's address with --base-url")
    if spec.kernels is not Kernels.STOCK:
        raise UsageError(kernels_refused(spec))
    for option, value in (("--dtype", spec.dtype), ("--device", spec.device.removeprefix("auto"))):
        if value:
            raise UsageError(f"{option} is the server's own matter. Leave it out with --base-url")
    if len({url.bare() for url in own.base_url}) < len(own.base_url):
        raise UsageError("--base-url: one of them is given twice. Name each server once")
    if any("***@" in url and url.credentials is None for url in own.base_url):
        raise UsageError(
            "--resume: the URL of this run named a user, who is not stored. Start a new run; a key is better kept in DETCHECK_API_KEY"
        )
    wanted = (
        ("--timeout", own.timeout),
        ("--max-concurrency", own.max_concurrency),
        ("--max-requests", own.max_requests),
        ("--load-rate", own.load_rate),
    )
    for option, value in wanted:
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{option} must be a number above 0; got {value}")
    Secrets.read(own.header, None)
    if own.ca_bundle is not None and not Path(own.ca_bundle).is_file():
        raise UsageError(f"--ca-bundle {own.ca_bundle}: no such file")


def check_schedule(spec: Spec) -> None:
    load.check(spec.options.conditions, spec.options.load_rate)


def kernels_refused(spec: Spec) -> str:
    """What to do instead of asking a foreign server for our kernels."""
    model = shlex.quote(spec.model or "MODEL")
    if spec.kernels is Kernels.ENGINE:
        start = f"VLLM_BATCH_INVARIANT=1 vllm serve {model}"
    else:
        start = f"DETCHECK_KERNELS=batch-invariant vllm serve {model} --enforce-eager"
    return (
        f"--kernels {spec.kernels}: kernels cannot be put into a server from outside. Where detcheck is installed beside vLLM, start the "
        f"server with them: {start}. Then ask it without --kernels: their calls are counted in its /metrics, and reported"
    )


def estimate(spec: Spec, questions: Sequence[Question]) -> str:
    """What a run would send, in words; nothing is sent. Raises UsageError as the run would."""
    own, servers = spec.options, len(spec.options.base_url)
    names = {str(n): max(1, len(q.shown.split())) for n, q in enumerate(questions)}
    opening = OPENING + len(questions)
    most_turns = max(1 + len(q.later) for q in questions)
    left = None if own.max_requests is None else (own.max_requests // servers - opening) // most_turns
    limits = load.ServerLimits(own.max_concurrency, left, own.load_rate, 1.0)
    planned = load.schedule(names, Wanted.of(spec), limits)
    turns = {str(n): 1 + len(q.later) for n, q in enumerate(questions)}
    rows = [
        (TOKENS_A_WORD * (words or names[step.input]) * (turn + 1) / turns[step.input] + turn * own.max_tokens, new)
        for step in planned.steps
        for words, new in zip(step.rows, step.load.new_tokens, strict=True)
        for turn in range(turns[step.input])
    ]
    samples = sum(step.samples * turns[step.input] for step in planned.steps)
    made = sum(new or own.max_tokens for _, new in rows)
    read = round(sum(words for words, _ in rows))
    conditions = ", ".join(dict.fromkeys(step.condition for step in planned.steps))
    each = "" if servers == 1 else f" to each of {servers} servers"
    what = "samples" if most_turns == 1 else "turns of samples"
    return (
        f"would send {len(rows)} requests{each}: {samples} {what} and {len(rows) - samples} fillers beside them, and at most {opening} more "
        f"to find out what the server can do\n"
        f"tokens{each}: about {read} in prompts, at most {made} in completions\n"
        f"at most {max((len(s.rows) for s in planned.steps), default=1)} in flight at once; conditions: {conditions}\n"
        "nothing was sent\n"
    )


def preference(spec: Spec) -> int:
    return 3 if getattr(spec.options, "base_url", ()) else 0


def open_sampler(spec: Spec) -> Sampler:
    from detcheck.engines.server.sampler import ServerSampler

    return ServerSampler(spec)


ENGINE = EngineType(
    "servers",
    "give --base-url and leave --engine out",
    preference,
    check,
    check_schedule,
    sampler=open_sampler,
    estimate=estimate,
    caches=True,
)
