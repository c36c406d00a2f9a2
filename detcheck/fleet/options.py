"""The knobs of `detcheck fleet PROBE`: the probe's own options, and behind them those of the fleet."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields, replace
from enum import StrEnum

from detcheck.errors import UsageError
from detcheck.options import FLEET, knob
from detcheck.probe import Probe
from detcheck.spec import Spec

COMMAND = "fleet"
# The probes that a fleet can be asked: those whose samples are compared. Each with two examples for its --help.
EXAMPLES = {
    "batch": (
        "detcheck fleet batch --address auto  # the embedded model's logits, on every device of the cluster",
        "detcheck fleet batch --model ./model --address auto --per node  # your model, once on every node",
    ),
    "completions": (
        "detcheck fleet completions --model ./model --address auto  # your model, on every device of the cluster",
        "detcheck fleet completions --base-url http://a:8000 --base-url http://b:8000  # replicas, without Ray",
    ),
    "kernels": (
        "detcheck fleet kernels --op rmsnorm --address auto  # one op, on every device of the cluster",
        "detcheck fleet kernels --op my_kernels:norm --workers 2  # your own op, twice on this machine",
    ),
    "matmul": (
        "detcheck fleet matmul --address auto --trials 100  # one product, on every device of the cluster",
        "detcheck fleet matmul --dtype bf16 --device cuda --per device  # on each GPU of this machine",
    ),
    "score": (
        "detcheck fleet score --address auto  # the embedded model's scores of a text, on every device",
        "detcheck fleet score --model ./model --address auto --per node  # your model's, on every node",
    ),
}
WHOLE = (
    "detcheck fleet kernels --op rmsnorm --address auto  # one op, on every device of the cluster",
    "detcheck fleet completions --base-url http://a:8000 --base-url http://b:8000  # two replicas, without Ray",
)  # under `detcheck fleet --help`
ABOUT = "All members of a fleet, each asked the same: "


class Per(StrEnum):
    """Where workers are put."""

    DEVICE = "device"
    NODE = "node"


@dataclass(frozen=True)
class Fleet:
    """Who is asked, and for how long."""

    address: str | None = knob(
        None, help="The Ray cluster: auto or HOST:PORT. Default: one of this machine, ended afterwards.", panel=FLEET
    )
    per: Per = knob(
        Per.DEVICE, help="A worker on each device (each GPU; each node, where none has one), or on each node.",
        panel=FLEET, metavar="device|node",
    )  # fmt: skip
    workers: int | None = knob(None, help="So many, spread evenly. Default: one on each.", panel=FLEET)
    worker_timeout: float = knob(3600.0, help="Seconds that a worker may take; then it is missing.", panel=FLEET)


@functools.cache
def asking(probe: str) -> type:
    """The options of `detcheck fleet PROBE`: a frozen dataclass with the fields of both."""
    own = Probe(probe).options
    return dataclass(frozen=True)(type("Options", (Fleet, own), {"__doc__": own.__doc__, "__annotations__": {}}))


def fleet_spec(probe: str, own: dict[str, object], shared: dict[str, object]) -> Spec:
    unless_told = getattr(Probe(probe).options, "DEFAULTS", {})
    return Spec(f"{COMMAND} {probe}", asking(probe)(**own), **(unless_told | shared))


def probe_spec(spec: Spec) -> Spec:
    """What each worker is asked."""
    probe = spec.probe.partition(" ")[2]
    kind = Probe(probe).options
    own = {one.name: getattr(spec.options, one.name) for one in fields(kind)}
    return replace(spec, probe=probe, options=kind(**own))


def check(spec: Spec) -> None:
    """What can be known before Ray is there. Raises UsageError."""
    own = spec.options
    if own.per not in tuple(Per):
        raise UsageError(f"--per {own.per}: use {' or '.join(Per)}")
    if own.workers is not None and own.workers < 1:
        raise UsageError(f"--workers must be at least 1; got {own.workers}")
    if not 0 < own.worker_timeout < math.inf:
        raise UsageError(f"--worker-timeout must be a number above 0; got {own.worker_timeout}")
    if getattr(own, "baseline", None):
        raise UsageError(
            "--baseline is for one run. Leave it out; `detcheck compare` takes the tables in the folder of a fleet's run"
        )
    if replicas(spec) and own.address:
        raise UsageError(
            "--address asks workers of a Ray cluster, and --base-url asks servers: the two are not compared with each other. Ask each with a "
            "command of its own, and put a table of the one beside a table of the other: `detcheck compare RUN/tables/A.json RUN/tables/B.json`"
        )
    if own.workers and replicas(spec):
        raise UsageError("--workers is for a Ray cluster, and --base-url asks servers. Leave it out")
    Probe(spec.probe.partition(" ")[2]).check(probe_spec(spec))


def replicas(spec: Spec) -> tuple[str, ...]:
    """Servers that are members of the fleet."""
    return getattr(spec.options, "base_url", ())
