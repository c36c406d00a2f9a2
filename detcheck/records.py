"""The nouns. READ THIS FIRST: everything else makes, judges or shows these records.

A *case* is what must come out the same; a *condition* is all that may legitimately change its bits. A probe runs a schedule
of *steps* and makes *observations*; each names its *outcome* by content hash, so a deterministic run of 100,000 completions
holds one outcome. Judging turns observations into one *finding* per case. How they are stored is in `store.py`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

SCHEMA_VERSION = "1.0"  # of run.json and report.json; additive within a major
INTERRUPTED = 130  # exit code of a run that Ctrl-C ended


class Verdict(StrEnum):
    """What a case was found to be. `exit_code` is what CI acts on."""

    IDENTICAL = "identical"
    RUN_VARIANT = "run-variant"
    BATCH_VARIANT = "batch-variant"
    DIVERGENT = "divergent"
    INACCURATE = "inaccurate"
    INCONCLUSIVE = "inconclusive"
    FAILED = "failed"
    # of a kernel that was read, not run
    CERTIFIED = "certified"
    REFUTED = "refuted"
    UNDECIDED = "undecided"

    @property
    def exit_code(self) -> int:
        return {"identical": 0, "certified": 0, "inconclusive": 3, "undecided": 3, "failed": 4}.get(self.value, 1)


# Over several findings the most telling wins: a divergence beats a failure, a failure beats a doubt, a doubt beats a pass.
SEVERITY = (
    Verdict.RUN_VARIANT,
    Verdict.BATCH_VARIANT,
    Verdict.DIVERGENT,
    Verdict.INACCURATE,
    Verdict.REFUTED,
    Verdict.FAILED,
    Verdict.INCONCLUSIVE,
    Verdict.UNDECIDED,
    Verdict.IDENTICAL,
    Verdict.CERTIFIED,
)


class FailOn(StrEnum):
    """Which divergence exits with 1: any different bit, different tokens only, or none."""

    ANY = "any"
    TOKENS = "tokens"
    NEVER = "never"


class Role(StrEnum):
    """What a case is there for. Only cases that gate decide verdict and exit code; the others are reported apart."""

    GATES = "gates"
    CONTROL = "control"
    """stock beside ours: what ours is compared with"""
    REACTS = "reacts"
    """stock under the same schedule as ours: where it shows no difference, the probe was not sensitive, and ours is no pass"""
    PLANTED = "planted"
    """variant on purpose: where it shows no difference, the probe is blind, and nothing equal is a pass"""


class Kernels(StrEnum):
    """Whose kernels run: the stack's own, detcheck's, both in turn, or the engine's own batch-invariant mode."""

    STOCK = "stock"
    BATCH_INVARIANT = "batch-invariant"
    BOTH = "both"
    ENGINE = "engine"


@dataclass(frozen=True)
class Spec:
    """What was asked, validated once and stored verbatim. A field's name is its option's name, so a spec is a command."""

    probe: str
    """name of the probe, which is its command"""
    options: object
    """the probe's own knobs: the frozen dataclass `Options` in the probe's file. Its `DEFAULTS` are the command's for shared ones"""
    model: str | None = None
    """hub id or folder; None: the embedded amplifier"""
    kernels: Kernels = Kernels.STOCK
    dtype: str | None = None
    """torch's name ("float32"); None: the model's own"""
    device: str = "auto"
    seed: int = 0
    """of everything detcheck makes up: filler tokens, slots"""
    trials: int = 2
    """times each condition is repeated, at least"""
    batch_sizes: tuple[int, ...] | None = None
    """rows; None: as many thresholds as the samples pay for"""
    fail_on: FailOn = FailOn.ANY
    fail_fast: bool = False

    @property
    def subject(self) -> str:
        """What is asked about, as far as it is known before anything is opened: an op, else a model, else a server."""
        servers = getattr(self.options, "base_url", ())
        return getattr(self.options, "op", None) or self.model or (servers[0] if servers else "amplifier")

    def flat(self) -> dict[str, object]:
        """All knobs by name, shared ones and the probe's, as JSON values."""
        shared = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("probe", "options")}
        own = {f.name: getattr(self.options, f.name) for f in fields(self.options)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in (shared | own).items()}

    def command(self) -> str:
        """The command line that asks the same again. Options left at their default are left out."""
        words = ["detcheck", self.probe]
        defaults = Spec(self.probe, type(self.options)(), **getattr(self.options, "DEFAULTS", {})).flat()
        arguments = [f.name for f in fields(self.options) if f.metadata.get("argument")]
        repeated = [f.name for f in fields(self.options) if f.metadata.get("repeated")]
        words += [str(v) for name in arguments if (v := getattr(self.options, name)) is not None]
        taken = getattr(self.options, "FROM_RUN", ()) if getattr(self.options, "run", None) else ()
        for name, value in self.flat().items():
            option = "--" + name.replace("_", "-")
            if value == defaults[name] or name in arguments or name in taken:
                continue
            if value is True:
                words.append(option)
            elif name in repeated:
                words += [word for one in value for word in (option, one)]
            else:
                words += [option, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
        return " ".join(map(quote, words))


def quote(word: str) -> str:
    """The word as a POSIX shell reads it, on one line and without controls: what cannot be printed is in bash's $'...'."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(c if c.isprintable() else shell_escape(ord(c)) for c in escaped) + "'"


def shell_escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # a byte of the command line that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\U{code:08x}"


@dataclass(frozen=True)
class Case:
    """What must come out the same: observations of equal cases must have equal bits."""

    probe: str
    subject: str
    """the model, op or file under test"""
    kernels: str
    """stock, batch-invariant, engine or user"""
    dtype: str
    """torch's name, or "" where it is not known"""
    input: str
    """index and hash of the input: "0:5f1c9a02" """
    replica: int = 0
    """which of several servers, from 1; 0: there is one"""


@dataclass(frozen=True)
class Condition:
    """All that may legitimately change the bits of a case. Only observations under equal conditions are repeats of each other."""

    name: str
    """of the kind of batch: "alone", "batch-8", "ragged-8" """
    batch_size: int | None
    """rows that rode together, or the most of them where the batch grew and shrank; None: not known"""
    slot: int | None
    """row of the sample in the batch, or which of the requests it was; None: not known"""
    composition: str = ""
    """content hash of everybody in the batch, in order, and of when each arrived; "" where it is not known"""
    threads: int | None = None
    fed: str = ""
    """"" for the usual way; else in what it was fed otherwise: "alignment", "strides", "chunk", "cache" """
    trace: str = ""
    """content hash of what each engine step computed, where the engine forms its batches itself"""

    @property
    def complete(self) -> bool:
        """Whether it is known in full. Otherwise two observations under it need not be repeats of each other."""
        return self.batch_size == 1 or (self.slot is not None and bool(self.composition))


@dataclass(frozen=True)
class Traffic:
    """How the rows of a step reach an engine that forms its batches itself."""

    arrivals: tuple[int, ...]
    """engine steps after the first, a row each"""
    new_tokens: tuple[int, ...]
    """tokens that a row makes; 0: as many as a sample does"""
    token_budget: int | None = None
    """tokens that one engine step may compute; None: the engine's own limit"""
    cached: bool = False
    """whether the prompt was computed before and is in the prefix cache"""


@dataclass(frozen=True)
class Load:
    """When the requests of a step are sent to a server, whose batches are its own matter."""

    arrivals_s: tuple[float, ...]
    """seconds after the first, a request each"""
    new_tokens: tuple[int, ...]
    """tokens that a request asks for; 0: as many as a sample does"""


@dataclass(frozen=True)
class Step:
    """One batch of the schedule, to be formed and observed once."""

    index: int
    """place in the schedule; names the batch"""
    input: str
    """`Case.input` of the samples in it"""
    condition: str
    """`Condition.name`"""
    trial: int
    """repetition of this condition, from 0"""
    rows: tuple[int, ...]
    """one entry a row of the batch: 0 is the sample itself, any other number a filler: of that many tokens, or of that kind"""
    case: int | None = None
    """index in `Subject.cases` of the case that it observes; None: the case with that input"""
    traffic: Traffic | None = None
    """None: the rows are one batch from its beginning to its end"""
    load: Load | None = None
    """of a server: the rows are requests, sent at these times"""

    @property
    def samples(self) -> int:
        return self.rows.count(0)


@dataclass(frozen=True)
class Schedule:
    """What is asked of a run: every step, and what the default left out for want of samples or memory."""

    steps: tuple[Step, ...]
    not_tried: tuple[str, ...] = ()
    """names of conditions, with the reason"""
    max_rows: int | None = None
    """rows that memory was estimated to hold when the schedule was made; None: not estimated"""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A distinct payload, stored once. Equal ids are equal tokens, log-probability bits and finish reasons."""

    id: str
    tokens: np.ndarray
    """int64[n]: token ids. Where a file gave text alone: its code points. Where it gave tokens as words: numbers for `words`"""
    logprobs: np.ndarray | None = None
    """float32[n] (float64[n] from a file): log-probability of each token, in nats"""
    finish_reason: str | None = None
    """"stop" or "length" """
    margins: np.ndarray | None = None
    """float32[n]: how far the runner-up was behind, in nats. Not hashed"""
    runners_up: np.ndarray | None = None
    """int64[n]: token id of the runner-up. Not hashed"""
    text: str = ""
    """the tokens, decoded. Not hashed: tokens are compared, never text"""
    words: tuple[str, ...] | None = None
    """the tokens as a file spelled them, where it gave no ids"""
    unit: str = "token"
    """what an index counts: "token", "character" where text is all there is, "element" of a tensor, "word" of a digest"""
    dtype: str = ""
    """of a tensor's elements, torch's name; `tokens` are their bit patterns then"""


@dataclass(frozen=True, slots=True)
class Observation:
    """One sample: what was run, under which condition, and which outcome came."""

    case: Case
    condition: Condition
    trial: int
    batch: int
    """`Step.index`: samples with the same number rode in one batch"""
    sample: int
    """which of the batch's samples, from 0"""
    outcome: str | None
    """`Outcome.id`; None: the sample is missing"""
    batch_sizes: tuple[int, ...] = ()
    """rows the engine was seen to compute together while it made this sample, each size once, sorted; () where it cannot be seen"""
    process: int = 0
    """0, or how many times the run had been resumed"""
    wall_s: float = 0.0
    """seconds its batch took"""
    missing: str = ""
    """why there is no outcome"""
    metrics: tuple[tuple[str, float], ...] = ()
    """(name, value) of what was measured beside it: error, error_share, error_stock, stock_ms, ours_ms, ratio"""
    calls: tuple[tuple[str, int], ...] = ()
    """(op, calls) of its batch, on the first sample of it: "ours aten::mm" ran a kernel of ours, "stock aten::dot" did not"""
    as_asked: bool | None = None
    """whether the condition came about; None: it did where the batch had the condition's size all the way"""
    steps: tuple[tuple[int, int], ...] = ()
    """(requests, tokens) of every engine step of its batch, on the first sample of it, where the engine forms batches itself"""
    preemptions: int = 0
    """how often the engine put it aside to compute it again"""


@dataclass(frozen=True)
class Divergence:
    """Where an outcome parts from the mode, and how far."""

    index: int | None
    """first unequal token; None: tokens are equal"""
    index_bits: int
    """first unequal token or log-probability bits; where only the ends differ, the length"""
    max_ulp: float | None
    """largest distance of two log-probabilities over the tokens both share, or of two elements, in representable numbers"""
    max_abs: float | None
    """the same in nats, or in the elements' own unit"""


@dataclass(frozen=True)
class Branch:
    """One way on from a fork. An end of the completion is a branch with token None."""

    count: int
    token: int | str | None
    text: str
    """how that branch's commonest completion goes on"""
    margin: float | None
    """how far the runner-up was behind there, in nats"""


@dataclass(frozen=True)
class Fork:
    """A node of the prefix tree where completions part."""

    id: int
    parent: int | None
    parent_branch: int | None
    """index of the branch of the parent that leads here"""
    index: int
    """token at which they part, from 0"""
    branches: tuple[Branch, ...]


@dataclass(frozen=True)
class Finding:
    """A case, judged. The field names are those of report.json."""

    case: Case
    verdict: Verdict
    note: str
    samples: int = 0
    """observed"""
    missing: int = 0
    """asked for and not observed"""
    distinct: int = 0
    """token sequences"""
    distinct_bits: int = 0
    """tokens with log-probability bits and finish reason"""
    mode_count: int = 0
    """samples with the commonest token sequence"""
    common_prefix: int = 0
    """leading tokens that all samples share"""
    common_prefix_bits: int = 0
    histogram: tuple[tuple[int, int], ...] = ()
    """(index, samples that leave the mode there)"""
    histogram_bits: tuple[tuple[int, int], ...] = ()
    forks: tuple[Fork, ...] = ()
    interval: tuple[float, float] = (0.0, 1.0)
    """95% interval on the rate of batches in which a sample leaves the mode"""
    interval_bits: tuple[float, float] = (0.0, 1.0)
    evidence: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    mode_text: str = ""
    role: Role = Role.GATES
    detail: object = None
    """what the probe's judge found, for the probe's own description; no part of report.json"""

    @property
    def latent(self) -> bool:
        """Equal tokens with unequal log-probability bits (or ends): a divergence that has not surfaced yet."""
        return self.distinct == 1 and self.distinct_bits > 1

    def exit_code(self, fail_on: FailOn) -> int:
        """The verdict's code; where `fail_on` forgives a divergence 0, or 3 if samples are missing that might tell more.

        A control is 0 whatever it shows. No option forgives a wrong result.
        """
        if self.role is not Role.GATES:
            return 0
        if self.verdict is Verdict.INACCURATE:
            return 1
        code = self.verdict.exit_code
        if code == 1 and (fail_on is FailOn.NEVER or (fail_on is FailOn.TOKENS and self.latent)):
            return 3 if self.missing else 0
        return code


@dataclass(frozen=True)
class Environment:
    """What ran: enough to tell whether two runs may be compared."""

    detcheck: str
    python: str
    platform: str
    processor: str
    cores: int
    threads: int
    """intra-op threads of torch"""
    device: str
    packages: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    """torch's switches that can change bits, as they were in effect"""
    variables: Mapping[str, str] = field(default_factory=dict)
    """environment variables that can change bits, where set"""


@dataclass(frozen=True)
class Prompt:
    """An input of a model under test."""

    name: str
    """`Case.input`"""
    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Subject:
    """What a probe opened: the part of a run that is known once the model is there and before anything is observed."""

    name: str
    """`Case.subject`"""
    dtype: str
    digests: Mapping[str, str]
    """content hashes of weights ("model") and tokenizer"""
    inputs: tuple[Prompt, ...]
    schedule: Schedule
    environment: Environment
    cases: tuple[tuple[Case, Role], ...] = ()
    """what is judged; (): a case an input"""


@dataclass(frozen=True)
class Run:
    """A whole run, judged. What `report` renders."""

    spec: Spec
    command: str
    """as it was typed"""
    started: str
    """UTC, ISO 8601"""
    findings: tuple[Finding, ...]
    subject: Subject | None = None
    """None: it failed before there was one"""
    path: Path | None = None
    """the run's folder"""
    warnings: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def verdict(self) -> Verdict:
        return min((f.verdict for f in self.findings if f.role is Role.GATES), key=SEVERITY.index)

    @property
    def exit_code(self) -> int:
        """130 if interrupted, else by precedence: 1 wins over 4, 4 over 3, 3 over 0."""
        if self.interrupted:
            return INTERRUPTED
        return min((f.exit_code(self.spec.fail_on) for f in self.findings), key=(1, 4, 3, 0).index)
