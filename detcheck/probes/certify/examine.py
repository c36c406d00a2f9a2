"""Everything that is known of a kernel on a target without running it, as facts. `judge.py` judges them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from detcheck.op import Signature
from detcheck.probes.certify.binary import read
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
from detcheck.probes.certify.facts import Certificate, Found
from detcheck.probes.certify.masking import Objection, crooked, objection, outermost
from detcheck.probes.certify.structure import skeleton
from detcheck.probes.certify.taint.analysis import Against, Pass
from detcheck.probes.certify.taint.lattice import listed
from detcheck.probes.certify.ttir import BROKEN, MOST_SHOWN, Function, UnreadableError, parse
from detcheck.reason import Reason


def certify(wrapped: Wrapped, signature: Signature, dtype: str, target: str) -> Certificate:
    """The facts of one kernel on one target. Raises whatever Triton dies of where it cannot be compiled."""
    import triton

    found: list[Found] = []
    try:
        asked = list(forms(wrapped, signature, dtype))
    except CannotAskError as error:
        asked = []
        found.append(Found(False, error.why))
    built = build(wrapped, asked, target)
    trusted = [Reason("aligned", {"pointers": ", ".join(signature.aligned)})] if signature.aligned else []
    trusted += [Reason("declared", {"text": text}) for text in signature.trusted]
    skeletons: dict[str, set[object]] = {}
    for _, same in itertools.groupby(sorted(built, key=lambda b: b.ttir), key=lambda b: b.ttir):
        forms_of = list(same)
        try:
            added, judged = read_code(forms_of[0].ttir, signature)
            if any(not excuse for _, excuse in judged):  # once more, for the lines
                _, judged = read_code(build(wrapped, [forms_of[0].form], target, lines=True)[0].ttir, signature)
        except UnreadableError as error:
            found.append(Found(False, Reason("unreadable", {"triton": triton.__version__}), more=error.why))
            continue
        for variant in {b.form.variant for b in forms_of}:
            skeletons.setdefault(variant, set()).add(added)
        for each, excuse in judged:
            if excuse:
                trusted.append(excuse)
            else:
                found.append(each)
    found += choices(wrapped, signature, built, skeletons) if built else ()
    largest = max((b.shared_bytes for b in built), default=0)
    if largest > SHARED[target]:
        why = Reason("too_much_shared", {"needed": largest, "target": target, "has": SHARED[target]})
        found.append(Found(False, why))
    registers, spills, instructions = read(built)
    return Certificate(
        target,
        len(built),
        digests(built),
        tuple(sorted(dict.fromkeys(found), key=lambda f: (not f.refutes, f.file, f.line))),
        tuple(dict.fromkeys(trusted)),
        {**{k: str(v) for k, v in FLAGS.items()}, "triton": triton.__version__} | options(built),
        registers,
        spills,
        instructions,
        largest,
    )


def read_code(text: str, signature: Signature) -> tuple[object, list[tuple[Found, Reason | None]]]:
    """(how it adds, what speaks against it, each with what excuses it) of a kernel's intermediate code. Raises UnreadableError."""
    function = parse(text)
    for argument in function.arguments:
        if (name := argument.name.removeprefix("%")) not in signature.arguments and argument.type:
            raise UnreadableError(Reason("unknown_argument", {"name": name}))
    try:
        return skeleton(function), list(examined(function, signature))
    except BROKEN as error:
        raise UnreadableError(
            Reason("unknown_form", {"line": f"{type(error).__name__}: {error}"[:MOST_SHOWN]})
        ) from None


def examined(function: Function, signature: Signature) -> Iterable[tuple[Found, Reason | None]]:
    """What speaks against it, each with what excuses it: attention's rule, where it was declared and holds."""
    walker, everything = Pass(signature), list(function.walk())
    for each in walker.run(function):
        if not signature.masked_tail or each.rule is None:
            yield stands(each), None
            continue
        loop = outermost(each.rule, everything)
        if loop.name != "scf.for":
            yield stands(each, Objection(True, Reason("no_loop_over_keys"))), None
        elif against := objection(loop, walker.marks, everything):
            yield stands(each, against), None
        elif names := crooked(loop, walker.marks):
            why = Reason("keys_crooked", {"batch": names})
            yield Found(False, why, loop.place.file, loop.place.line), None
        else:
            yield stands(each), Reason("own_keys")


def stands(against: Against, rule: Objection | None = None) -> Found:
    """As it is stored. `rule`: what is against attention's rule, which was declared."""
    refutes = against.refutes and (rule is None or rule.refutes)
    return Found(refutes, against.why, against.place.file, against.place.line, rule.why if rule else None)


def choices(
    wrapped: Wrapped, signature: Signature, built: Sequence[Built], skeletons: dict[str, set[object]]
) -> Iterable[Found]:
    """What the launcher, an autotuner or a heuristic chooses among, where that changes the order or may."""
    code = wrapped.kernel.fn.__code__
    place = code.co_filename, code.co_firstlineno
    for name in sorted(set(signature.constexprs) & set(signature.batch)):
        if not isinstance(signature.constexprs[name], tuple):
            yield Found(False, Reason("one_value", {"name": name}), *place)
    fixed = {n: v[0] if isinstance(v, tuple) else v for n, v in signature.constexprs.items()}
    tuned = wrapped.configs[0].kwargs if wrapped.configs else {}
    rules, looked = heuristic_values(wrapped, signature, fixed | tuned)
    for name, asked in looked.items():
        if len(rules) == 1 and asked:
            yield Found(False, Reason("heuristic_looks", {"name": name, "batch": listed(asked)}), *place)
    chosen = list(dict.fromkeys(b.form.chosen for b in built if b.form.chosen))
    if not chosen:
        return
    orders = "; ".join(chosen)
    keyed = sorted(set(wrapped.keys) & set(signature.batch))
    by_batch = bool(keyed or (set(signature.constexprs) & set(signature.batch)) or varying_heuristics(wrapped, chosen))
    if not any(len(found) > 1 for found in skeletons.values()):
        return
    if keyed:
        why = Reason("keyed_by_batch", {"keys": ", ".join(keyed), "chosen": orders})
    elif wrapped.configs:
        why = Reason("tuned_by_batch", {"chosen": orders}) if by_batch else Reason("tuned_by_time", {"chosen": orders})
    else:
        why = Reason("launched_by_batch", {"chosen": orders}) if by_batch else Reason("launched", {"chosen": orders})
    yield Found(by_batch, why, *place)


def varying_heuristics(wrapped: Wrapped, chosen: Sequence[str]) -> bool:
    return any(f"{name}=" in each for name in wrapped.heuristics for each in chosen)


def options(built: Sequence[Built]) -> dict[str, str]:
    """Compile options of every form, the several values of one together."""
    values: dict[str, list[str]] = {}
    for each in built:
        for name, value in each.form.options.items():
            values.setdefault(name, [])
            if str(value) not in values[name]:
                values[name].append(str(value))
    return {name: " or ".join(several) for name, several in values.items()}
