"""Everything that is known of a kernel on a target without running it, as plain facts. `judge.py` judges them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from detcheck.op import Signature
from detcheck.probes.certify.binary import facts
from detcheck.probes.certify.compile import (
    FLAGS,
    SHARED,
    Built,
    CannotAskError,
    Wrapped,
    build,
    digests,
    forms,
    heuristic_values,
)
from detcheck.probes.certify.masking import crooked, objection, outermost
from detcheck.probes.certify.structure import skeleton
from detcheck.probes.certify.taint.analysis import Found, Pass
from detcheck.probes.certify.ttir import Function, UnreadableError, parse

OWN_KEYS = (
    "which keys a row sees is its own matter, and the loop over keys leaves none of them out; what is masked adds nothing as long as all "
    "numbers are finite"
)


def certify(wrapped: Wrapped, signature: Signature, dtype: str, target: str) -> dict[str, object]:
    """The facts of one kernel on one target. Raises whatever Triton dies of where it cannot be compiled."""
    import triton

    try:
        asked = list(forms(wrapped, signature, dtype))
    except CannotAskError as error:
        asked, cannot = [], str(error)
    built = build(wrapped, asked, target)
    found: dict[tuple[str, str, int], dict[str, object]] = {}
    trusted = [f"{', '.join(signature.aligned)}: only passed aligned to 16 bytes"] if signature.aligned else []
    trusted += signature.trusted
    skeletons: dict[str, set[object]] = {}
    for _, same in itertools.groupby(sorted(built, key=lambda b: b.ttir), key=lambda b: b.ttir):
        forms_of = list(same)
        try:
            function = parse(forms_of[0].ttir)
        except UnreadableError as error:
            what = (
                f"Triton {triton.__version__}'s intermediate code is not as this version of detcheck knows it: {error}"
            )
            found[what, "", 0] = {"refutes": False, "what": what, "file": "", "line": 0}
            continue
        for variant in {b.form.variant for b in forms_of}:
            skeletons.setdefault(variant, set()).add(skeleton(function))
        judged = list(examined(function, signature))
        if any(not excuse for _, excuse in judged):  # once more, for the lines
            function = parse(build(wrapped, [forms_of[0].form], target, lines=True)[0].ttir)
            judged = list(examined(function, signature))
        for each, excuse in judged:
            if excuse:
                trusted.append(excuse)
            else:
                found[each.what, each.place.file, each.place.line] = said(each)
    if built:
        found |= {(f["what"], "", 0): f for f in choices(wrapped, signature, built, skeletons)}
    else:
        found[cannot, "", 0] = {"refutes": False, "what": cannot, "file": "", "line": 0}
    largest = max((b.shared_bytes for b in built), default=0)
    if largest > SHARED[target]:
        what = f"it needs {largest} bytes of shared memory, and {target} has {SHARED[target]}"
        found[what, "", 0] = {"refutes": False, "what": what, "file": "", "line": 0}
    return {
        "target": target,
        "forms": len(built),
        "binaries": digests(built),
        "found": sorted(found.values(), key=lambda f: (not f["refutes"], f["file"], f["line"])),
        "trusted": list(dict.fromkeys(trusted)),
        "flags": {**{k: str(v) for k, v in FLAGS.items()}, "triton": triton.__version__} | options(built),
        "shared_bytes": largest,
        **facts(built),
    }


def examined(function: Function, signature: Signature) -> Iterable[tuple[Found, str]]:
    """What speaks against it, each with what excuses it: attention's rule, where it was declared and holds."""
    walker, everything = Pass(signature), list(function.walk())
    for each in walker.run(function):
        if not signature.masked_tail or each.rule is None:
            yield each, ""
            continue
        loop = outermost(each.rule, everything)
        if loop.name != "scf.for":
            yield Found(each.refutes, f"{each.what}, and it is not in a loop over keys", each.place), ""
        elif against := objection(loop, walker.marks, everything):
            yield Found(each.refutes and against.refutes, f"{each.what}, and {against.why}", each.place), ""
        elif names := crooked(loop, walker.marks):
            yield (
                Found(False, f"which keys a row sees follows {names} in a way that is not a plain offset", loop.place),
                "",
            )
        else:
            yield each, OWN_KEYS


def choices(
    wrapped: Wrapped, signature: Signature, built: Sequence[Built], skeletons: dict[str, set[object]]
) -> Iterable[dict[str, object]]:
    """What the launcher, an autotuner or a heuristic chooses among, where that changes the order or may."""
    place = where(wrapped)
    for name in sorted(set(signature.constexprs) & set(signature.batch)):
        if not isinstance(signature.constexprs[name], tuple):
            what = f"{name} follows the batch and is a constexpr, and the signature gives only one of its values"
            yield {"refutes": False, "what": what, **place}
    fixed = {n: v[0] if isinstance(v, tuple) else v for n, v in signature.constexprs.items()}
    tuned = wrapped.configs[0].kwargs if wrapped.configs else {}
    rules, looked = heuristic_values(wrapped, signature, fixed | tuned)
    for name, asked in looked.items():
        if len(rules) == 1 and asked:
            what = f"the heuristic for {name} looks at {' and '.join(sorted(asked))}, and gave the same at every size that was tried"
            yield {"refutes": False, "what": what, **place}
    chosen = list(dict.fromkeys(b.form.chosen for b in built if b.form.chosen))
    if not chosen:
        return
    keyed = sorted(set(wrapped.keys) & set(signature.batch))
    by_batch = bool(keyed or (set(signature.constexprs) & set(signature.batch)) or varying_heuristics(wrapped, chosen))
    who = f"autotune, keyed on {', '.join(keyed)}," if keyed else "autotune" if wrapped.configs else "the launch"
    unlike = any(len(found) > 1 for found in skeletons.values())
    if unlike and by_batch:
        yield {
            "refutes": True,
            "what": f"{who} chooses by the batch among orders of adding: {'; '.join(chosen)}",
            **place,
        }
    elif unlike:
        why = (
            "by how long each took, which another process may measure otherwise"
            if wrapped.configs
            else "among orders of adding"
        )
        yield {"refutes": False, "what": f"{who} chooses {why}: {'; '.join(chosen)}", **place}


def varying_heuristics(wrapped: Wrapped, chosen: Sequence[str]) -> bool:
    return any(f"{name}=" in each for name in wrapped.heuristics for each in chosen)


def where(wrapped: Wrapped) -> dict[str, object]:
    code = wrapped.kernel.fn.__code__
    return {"file": code.co_filename, "line": code.co_firstlineno}


def said(found: Found) -> dict[str, object]:
    return {"refutes": found.refutes, "what": found.what, "file": found.place.file, "line": found.place.line}


def options(built: Sequence[Built]) -> dict[str, str]:
    """Compile options of every form, the several values of one together."""
    values: dict[str, list[str]] = {}
    for each in built:
        for name, value in each.form.options.items():
            values.setdefault(name, [])
            if str(value) not in values[name]:
                values[name].append(str(value))
    return {name: " or ".join(several) for name, several in values.items()}
