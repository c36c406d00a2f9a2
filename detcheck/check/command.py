"""What a config file can ask: each probe, and `judge` and `compare`, with the options of the command of that name."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from detcheck import lookup, runner
from detcheck.commands import Option, options_of
from detcheck.errors import FailedError, UsageError
from detcheck.probe import Probe
from detcheck.spec import Comparing, Judging, Spec

OF_FILES = {"judge": Judging, "compare": Comparing}  # what is stored already, and not observed
READ = {"judge": ("file", "other"), "compare": ("a", "b")}


def names() -> list[str]:
    return [*lookup.names("probes"), *OF_FILES]


@dataclass(frozen=True)
class Command:
    """One of them, and its options by name."""

    name: str
    own: Mapping[str, Option]
    shared: Mapping[str, Option]

    @classmethod
    def of(cls, name: str) -> Command:
        options = OF_FILES.get(name) or Probe(name).options
        shared = options_of(Spec, getattr(options, "SHARED", {}), getattr(options, "DEFAULTS", {}))
        return cls(name, {o.name: o for o in options_of(options)}, {o.name: o for o in shared})

    @property
    def options(self) -> Mapping[str, Option]:
        return {**self.own, **self.shared}

    def spec(self, given: Mapping[str, object], named: Set[str]) -> Spec:
        """What is asked with these values, checked as far as it can be before anything is loaded. Raises UsageError.

        `named`: those options that are the question's own, and no default of the whole file.
        """
        own, shared = ({n: given.get(n, o.default) for n, o in part.items()} for part in (self.own, self.shared))
        if self.name in OF_FILES:
            spec = Spec(self.name, OF_FILES[self.name](**own), **shared)
            check_files(spec)
            return spec
        probe = Probe(self.name)
        spec = probe.completed(Spec(self.name, probe.options(**own), **shared), named, runner.stored)
        with contextlib.suppress(
            FailedError
        ):  # asked rightly, but it cannot run here: its run says so, beside the others
            probe.check(spec)
        return spec


def check_files(spec: Spec) -> None:
    for name in READ[spec.probe]:
        path = getattr(spec.options, name)
        if path == "":
            raise UsageError(f'{name} is missing. Say what {spec.probe} reads: {name} = "..."')
        if path is not None and not Path(path).exists():
            raise UsageError(f"{name} {path}: no such file")
