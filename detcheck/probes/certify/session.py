"""Can the batch reach the order in which a Triton kernel adds? Compiled for a GPU that need not be there, and read, not run.

Every way in which a launch can specialise the kernel is compiled: one binary for every batch is what is wanted. A pass over
the intermediate code follows what the batch decides (`taint/`); attention's rule is shown by algebra (`masking.py`).
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from detcheck import lookup
from detcheck.environment import observe_client, observe_environment
from detcheck.errors import UsageError
from detcheck.files import from_root
from detcheck.harness import user_op
from detcheck.hashes import content_hash
from detcheck.op import Signature
from detcheck.outcomes import digest_outcome
from detcheck.probes.certify import sources
from detcheck.probes.certify.options import ALL, DTYPES, Options, certifiable, check, dtypes
from detcheck.records import Case, Condition, Environment, Observation, Outcome, Schedule, Step, Subject
from detcheck.spec import Kernels, Spec
from detcheck.verdict import Role

DECLARE = (
    "Declare it there: from detcheck import Signature; "
    'DETCHECK = {"%s": Signature(arguments={"x": "*T", "M": "i32", ...}, constexprs={"BLOCK": 1024}, batch=("M",))}'
)
UNDECLARED = f"it holds @triton.jit and gives {sources.DECLARED} no value, so it was passed over"


@dataclass(frozen=True)
class Kernel:
    """A kernel, found: what certify compiles."""

    path: str
    """package.module:kernel"""
    function: Any
    declared: Any
    """a Signature, or a function of (dtype, target) that makes one"""
    whose: str
    digest: str

    def signature(self, dtype: str, target: str) -> Signature:
        """Raises UsageError where it is none, or does not fit the kernel."""
        made = self.declared(dtype, target) if callable(self.declared) else self.declared
        if not isinstance(made, Signature):
            raise UsageError(f"--op {self.path}: its DETCHECK entry must be a detcheck.Signature; it is {made!r}")
        names = set(self.function.arg_names)
        chosen = {n for config in self.function_configs() for n in config.kwargs}
        declared = set(made.arguments) | set(made.constexprs)
        unknown = sorted(
            (declared | set(made.batch) | set(made.aligned) | set(made.reduction)) - names - set(made.options)
        )
        lacking = sorted(names - declared - chosen - set(self.function_heuristics()))
        if unknown or lacking:
            said = [f"names {', '.join(unknown)}, which the kernel does not have"] * bool(unknown)
            said += [f"does not say what {', '.join(lacking)} {'are' if len(lacking) > 1 else 'is'}"] * bool(lacking)
            raise UsageError(f"--op {self.path}: its Signature {' and '.join(said)}")
        return made

    @functools.cached_property
    def wrapped(self) -> Any:
        from detcheck.probes.certify.compile import unwrap

        return unwrap(self.function)

    def function_configs(self) -> tuple[Any, ...]:
        return self.wrapped.configs

    def function_heuristics(self) -> tuple[str, ...]:
        return tuple(self.wrapped.heuristics)


def find(path: str, whose: str) -> Kernel:
    """Import it. Raises UsageError where it is not there, is no Triton kernel, or declares nothing."""
    module = user_op.module(path) if whose == "user" else importlib.import_module(path.partition(":")[0])
    return within(module, path, whose)


def in_file(path: Path) -> list[Kernel]:
    """All that the file declares. Raises UsageError."""
    name, module = sources.load(path)
    declared = getattr(module, sources.DECLARED)
    if not isinstance(declared, dict) or not declared:
        raise UsageError(
            f"{path}: {sources.DECLARED} must be a dictionary, kernel name -> Signature; it is {declared!r}"
        )
    return [within(module, f"{name}:{kernel}", "user") for kernel in declared]


def told_apart(found: Sequence[tuple[Path, Kernel]]) -> list[Kernel]:
    """Kernels of files, each by a name of its own: where two files are modules of one name, by the files' paths."""
    times = Counter(kernel.path for _, kernel in found)

    def named(path: Path, kernel: Kernel) -> str:
        return kernel.path if times[kernel.path] == 1 else f"{from_root(path)}:{kernel.path.rpartition(':')[2]}"

    return [replace(kernel, path=named(path, kernel)) for path, kernel in found]


def within(module: ModuleType, path: str, whose: str) -> Kernel:
    """The kernel of that name in a module. Raises UsageError."""
    module_name, _, name = path.partition(":")
    function = getattr(module, name, None)
    jitted = function
    while jitted is not None and not hasattr(jitted, "params"):
        jitted = getattr(jitted, "fn", None)
    if jitted is None or not hasattr(function, "arg_names"):
        kernels = [n for n, value in vars(module).items() if hasattr(value, "arg_names") and not n.startswith("_")]
        what = "has no" if function is None else f"is {type(function).__name__}, not a"
        raise UsageError(
            f"--op {path}: {name} {what} Triton kernel (@triton.jit); {module_name} has {', '.join(kernels) or 'none'}"
        )
    declared = getattr(module, "DETCHECK", {}).get(name)
    if declared is None:
        raise UsageError(f"--op {path}: {module_name} does not say how {name} is called. {DECLARE % name}")
    source = Path(getattr(module, "__file__", None) or "")
    return Kernel(path, function, declared, whose, content_hash(source.read_bytes()) if source.is_file() else "")


def reason(error: Exception) -> str:
    """What a compiler's error says: where, on its first line, and why, on its last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"


class Certify:
    """The probe, opened: kernels with their signatures. `observe` compiles and reads one of them for one target."""

    def __init__(self, spec: Spec, planned: Schedule | None = None) -> None:
        """Raises UsageError where a kernel cannot be asked about, FailedError without Triton."""
        check(spec)
        own: Options = spec.options
        self.warnings: Sequence[str] = ()
        if own.files:
            read = sources.read(own.files, own.allow_none)
            kernels = told_apart([(path, k) for path in read.declaring for k in in_file(path)])
            self.warnings = [f"{path}: {UNDECLARED}" for path in read.undeclared]
        elif ":" in own.op:
            kernels = [find(own.op, "user")]
        else:
            ops = certifiable() if own.op == ALL else [own.op]
            paths = dict.fromkeys(path for op in ops for path in lookup.find("kernels", op).OP.triton)
            kernels = [find(path, str(Kernels.BATCH_INVARIANT)) for path in paths]
        self._asked: list[tuple[Kernel, Signature, str, str]] = []
        cases = []
        for kernel in kernels:
            for target in own.target:
                for dtype in dtypes(spec) or kernel.signature("bf16", target).dtypes:
                    self._asked.append((kernel, kernel.signature(dtype, target), dtype, target))
                    full = {short: name for name, short in DTYPES.items()}[dtype]
                    subject = kernel.path if kernel.whose == "user" else kernel.path.partition(":")[2]
                    cases.append((Case("certify", subject, kernel.whose, full, target), Role.GATES))
        steps = tuple(Step(i, case.input, case.input, 0, (0,), i) for i, (case, _) in enumerate(cases))
        environment = replace(compiler(), device="no GPU: compiled, not run")
        digests = {kernel.path: kernel.digest for kernel in kernels}
        name = ", ".join(own.files) or own.op
        begins = {
            k.path: place for k in kernels if k.whose == "user" and (place := user_op.begins(k.wrapped.kernel.fn))
        }
        self.subject = Subject(name, "", digests, (), planned or Schedule(steps), environment, tuple(cases), begins)

    def close(self) -> None:
        """Nothing to close."""

    def observe(self, step: Step) -> tuple[list[Observation], list[Outcome]]:
        """Compile one kernel in all its forms, and read it. What does not compile is missing, with the reason."""
        from detcheck.probes.certify.examine import certify

        kernel, signature, dtype, target = self._asked[step.index]
        case, _ = self.subject.cases[step.index]
        started, why, made = time.perf_counter(), "", []
        try:
            certificate = certify(kernel.wrapped, signature, dtype, target)
            found = (replace(f, file=from_root(f.file) if f.file else "") for f in certificate.found)
            text = json.dumps(replace(certificate, found=tuple(found)).to_json(), sort_keys=True)
            made = [replace(digest_outcome(text.encode()), text=text)]
        except Exception as error:  # noqa: BLE001  Triton and ptxas may raise anything
            why = f"it does not compile for {target}: {type(error).__name__}: {reason(error)}"
        wall_s = time.perf_counter() - started
        condition = Condition(target, 1, 0)
        outcome = made[0].id if made else None
        return [Observation(case, condition, 0, step.index, 0, outcome, (1,), wall_s=wall_s, missing=why)], made


def compiler() -> Environment:
    """What compiles. Triton needs no torch, and a hook's own environment may have none."""
    if importlib.util.find_spec("torch"):
        return observe_environment("cpu")
    return replace(observe_client("", {}), packages={"triton": importlib.metadata.version("triton")})


open_session = Certify
