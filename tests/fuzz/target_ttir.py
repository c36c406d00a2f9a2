"""certify's reader of Triton's intermediate code, and the pass over it. The code in kernels.json is what Triton 3.9 made of tests/doubles/certify_kernels.py.

Three ways to change it. *As before*: names, blanks, comments, places and dead code, after which a kernel that was no pass is none. *Tied to the
batch*: a kernel that was certified, in which the bound of what is added now comes from M by a chain of operations, which must be seen. *Broken*:
anything, which must be read, or refused as unreadable.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

from fuzzing import Files, Target, WrongPassError, torn
from hypothesis import strategies as st

from detcheck.op import Signature
from detcheck.probes.certify.examine import read_code
from detcheck.probes.certify.reasons import sentence
from detcheck.probes.certify.taint.analysis import Pass
from detcheck.probes.certify.ttir import UnreadableError

CERTIFIED = ("causal_attention", "softmax", "layernorm")
LINE = re.compile(r"^\s+(%[\w.$-]+(?::\d+)? = )?[\w.\"]+")


@functools.cache
def kernels() -> dict[str, tuple[Signature, str]]:
    stored = json.loads((Path(__file__).parent / "kernels.json").read_text("utf-8"))
    lists = ("batch", "reduction", "batch_axes", "aligned")
    return {
        name: (Signature(**{k: tuple(v) if k in lists else v for k, v in one["signature"].items()}), "\n".join(one["ttir"]) + "\n")
        for name, one in stored.items()
    }  # fmt: skip


def check(folder: Path) -> None:
    asked = json.loads((folder / "asked.json").read_text())
    signature, _ = kernels()[asked["kernel"]]
    text = (folder / "kernel.ttir").read_bytes().decode("utf-8", "replace")
    try:
        _, judged = read_code(text, signature)
    except UnreadableError as error:
        assert sentence(error.why), "it is unreadable without a reason"
        return
    against = [each for each, excuse in judged if not excuse]
    if asked["how"] != "broken" and not against:
        raise WrongPassError(f"{asked['kernel']}, {asked['how']}: nothing speaks against it")


@st.composite
def code(draw: st.DrawFn) -> Files:
    how = draw(st.sampled_from(("as before", "tied", "broken", "broken")))
    names = {"as before": [n for n in kernels() if n not in CERTIFIED], "tied": ["softmax", "layernorm"]}.get(
        how, list(kernels())
    )
    name = draw(st.sampled_from(names))
    text = kernels()[name][1]
    if how == "tied":
        text = draw(tied(text))
    for _ in range(draw(st.integers(0 if how == "tied" else 1, 4))):
        text = draw(st.sampled_from(KEEPING))(draw, text)
    if how == "broken":
        for _ in range(draw(st.integers(0, 3))):
            text = draw(st.sampled_from(BREAKING))(draw, text)
    raw = draw(torn(text.encode(), 2)) if how == "broken" else text.encode()
    return {"kernel.ttir": raw, "asked.json": json.dumps({"kernel": name, "how": how}).encode()}


def a_line(draw: st.DrawFn, lines: list[str]) -> int:
    """Of the body, one that holds an operation."""
    return draw(st.sampled_from([n for n, line in enumerate(lines) if LINE.match(line) and "tt.func" not in line]))


def renamed(draw: st.DrawFn, text: str) -> str:
    """One value by another name, everywhere. Arguments too: another Triton may number them."""
    names = sorted(set(re.findall(r"%[\w.$-]+", text)))
    old = draw(st.sampled_from(names))
    new = draw(st.sampled_from(("%zz", "%a.b-c", "%arg99", "%$x", "%0x9", "%loc", "%true")))
    return text if new in names else re.sub(re.escape(old) + r"(?![\w.$-])", lambda _: new, text)


def spaced(draw: st.DrawFn, text: str) -> str:
    lines = text.splitlines()
    n = a_line(draw, lines)
    before, behind = draw(
        st.sampled_from(
            (("\t", ""), ("", "   "), ("        ", ""), ("\n", ""), ("", "\n  // a } comment { %x = scf.for"))
        )
    )
    lines[n] = before + lines[n] + behind
    return "\n".join(lines) + "\n"


def commented(draw: st.DrawFn, text: str) -> str:
    """Behind an operation: MLIR allows it."""
    lines = text.splitlines()
    n = a_line(draw, lines)
    lines[n] += draw(st.sampled_from((" // seen", " // {", " // %1", ' // loc("')))
    return "\n".join(lines) + "\n"


def dead(draw: st.DrawFn, text: str) -> str:
    lines = text.splitlines()
    n = a_line(draw, lines)
    made = (
        "    %dead{} = arith.constant 7 : i32",
        "    %dead{} = arith.constant dense<true> : tensor<4xi1>",
        '    %dead{} = arith.constant {{a = "}} {{"}} 7 : i32',
    )
    return "\n".join([*lines[:n], draw(st.sampled_from(made)).format(n), *lines[n:]]) + "\n"


def attributed(draw: st.DrawFn, text: str) -> str:
    """An attribute that nobody knows."""
    lines = text.splitlines()
    n = a_line(draw, lines)
    extra = draw(st.sampled_from(("{x.y = 1 : i32}", '{note = "%M } -> i32 : "}', "{axis_of_nothing = [1, 2]}")))
    lines[n] = (
        re.sub(r" : (?=[^:]*$)", lambda _: f" {extra} : ", lines[n], count=1)
        if " loc(" not in lines[n] and "{" not in lines[n]
        else lines[n]
    )
    return "\n".join(lines) + "\n"


def placed(draw: st.DrawFn, text: str) -> str:
    where = draw(
        st.sampled_from(
            ('"a{b":1:2', "unknown", 'fused["x"("f.py":3:4)]', 'callsite("f":1:1 at "g":2:2)', '"n"(#loc)', "#loc9999")
        )
    )
    return text.replace("loc(#loc)", f"loc({where})", draw(st.integers(1, 30)))


def through(draw: st.DrawFn, text: str) -> str:
    """What an integer's operation gives goes through one more, which leaves it as it is."""
    lines = text.splitlines()
    there = [
        n
        for n, line in enumerate(lines)
        if re.match(r"\s+%\d+ = arith\.(addi|muli|divsi|minsi|cmpi) ?.*: i32( loc.*)?$", line)
    ]
    if not there:
        return text
    n = draw(st.sampled_from(there))
    name = re.match(r"\s+(%\d+)", lines[n]).group(1)
    kind = "i1" if "cmpi" in lines[n] else "i32"
    made = draw(
        st.sampled_from(
            (
                "arith.addi %V, %zero_N : T",
                '"foreign.same"(%V) : (T) -> T',
                "arith.bitcast %V : T to T",
                "arith.xori %V, %zero_N : T",
                "foreign.same %V : T",
            )
        )
    )
    lines[n] = lines[n].replace(name, f"{name}00{n}", 1)
    more = [
        f"    %zero_{n} = arith.constant {'false' if kind == 'i1' else f'0 : {kind}'}",
        f"    {name} = " + made.replace("%V", f"{name}00{n}").replace("_N", f"_{n}").replace("T", kind),
    ]
    return "\n".join([*lines[: n + 1], *more, *lines[n + 1 :]]) + "\n"


KEEPING = (renamed, spaced, commented, dead, attributed, placed, through)


@st.composite
def tied(draw: st.DrawFn, text: str) -> str:
    """N, where it bounds what is added up, comes from M."""
    lines = text.splitlines()
    there = []
    stores = next((n for n, line in enumerate(lines) if " scf.for " in line and "iter_args" not in line), len(lines))
    for n, line in enumerate(lines[:stores]):  # behind that nothing is added up
        found = re.match(r"\s+(%[\w.]+) = tt\.splat %N : i32 -> (tensor<\d+xi32>)", line)
        masks = found and any(
            re.search(rf"arith\.cmpi slt, %\S+, {re.escape(found.group(1))} :", other) for other in lines
        )
        if masks or (" to %N step " in line and "-> (tensor<" in line):
            there.append(n)
    n, last, made = draw(st.sampled_from(there)), "%M", []
    for step in range(draw(st.integers(0, 5))):
        chain = draw(st.sampled_from(CHAIN))
        made += [line.replace("%P", last).replace("%R", f"%t{step}").replace("_S", f"_{step}") for line in chain]
        last = f"%t{step}"
    lines[n] = lines[n].replace("%N", last, 1)
    return "\n".join([*lines[:n], *made, *lines[n:]]) + "\n"


CHAIN = (
    ["    %R = arith.addi %P, %N : i32"],
    ["    %R = arith.muli %P, %P : i32"],
    ["    %R = arith.divsi %N, %P : i32"],
    ["    %R = arith.minsi %P, %N {x = 1 : i32} : i32"],
    ["    %w_S = arith.extsi %P : i32 to i64", "    %R = arith.trunci %w_S : i64 to i32"],
    ["    %b_S = arith.cmpi slt, %P, %N : i32", "    %R = arith.select %b_S, %N, %P : i32"],
    ["    %b_S = arith.cmpi sgt, %P, %N : i32", "    %R = arith.select %b_S, %N, %N : i32", "    %R = arith.addi %R, %P : i32"],
    ["    %b_S = arith.cmpi slt, %P, %N : i32", "    %R = scf.if %b_S -> (i32) {", "      scf.yield %N : i32", "    } else {", "      scf.yield %P : i32", "    }"],
    ["    %R = scf.for %k_S = %N to %N step %N iter_args(%c_S = %P) -> (i32)  : i32 {", "      scf.yield %c_S : i32", "    }"],
    ["    %R = scf.for %k_S = %N to %P step %N iter_args(%c_S = %N) -> (i32)  : i32 {", "      %d_S = arith.addi %c_S, %k_S : i32", "      scf.yield %d_S : i32", "    }"],
    ['    %R = "foreign.op"(%P) {text = "%N"} : (i32) -> i32'],
    ["    %R = foreign.op %P : i32"],
    ["    %R = math.absi %P : i32"],
    ["    %R = arith.xori %P, %N : i32"],
    ["    %f_S = arith.sitofp %P : i32 to f32", "    %R = arith.fptosi %f_S : f32 to i32"],
    ["    %f_S = arith.bitcast %P : i32 to f32", "    %R = arith.bitcast %f_S : f32 to i32"],
    ["    %v_S = tt.splat %P : i32 -> tensor<4xi32>", '    %R = "tt.reduce"(%v_S) <{axis = 0 : i32}> ({', "    ^bb0(%a_S: i32, %e_S: i32):", "      %m_S = arith.maxsi %a_S, %e_S : i32", "      tt.reduce.return %m_S : i32", "    }) : (tensor<4xi32>) -> i32"],
    ["    %R:2 = scf.for %k_S = %N to %N step %N iter_args(%c_S = %P, %g_S = %N) -> (i32, i32)  : i32 {", "      scf.yield %c_S, %g_S : i32, i32", "    }", "    %R = arith.addi %R#0, %R#1 : i32"],
    ["    %R = tt.call @same(%P) : (i32) -> i32"],
    ["    %R = tt.mulhiui %P, %P : i32"],
)  # fmt: skip


def without(draw: st.DrawFn, text: str) -> str:
    lines = text.splitlines()
    del lines[draw(st.sampled_from(range(len(lines))))]
    return "\n".join(lines)


def again(draw: st.DrawFn, text: str) -> str:
    lines = text.splitlines()
    n = draw(st.sampled_from(range(len(lines))))
    return "\n".join([*lines[:n], *[lines[n]] * draw(st.sampled_from((2, 3, 400))), *lines[n:]])


def swapped(draw: st.DrawFn, text: str) -> str:
    words = re.split(r"(\s+)", text)
    a, b = draw(st.tuples(*[st.sampled_from(range(0, len(words), 2))] * 2))
    words[a], words[b] = words[b], words[a]
    return "".join(words)


def word(draw: st.DrawFn, text: str) -> str:
    """A word by one that has a meaning here."""
    words = re.split(r"(\s+)", text)
    nasty = ("scf.for", "scf.if", "scf.while", "{", "}", "({", "})", "} else {", "^bb0(%a: i32):", "tt.reduce", "%0#1", "%0:99999999", "tensor<", "tensor<" + "1x" * 5000 + "f32>", "->", ":", "=", "loc(#loc", "loc(" + "(" * 3000, "<" * 3000, "arith.constant", "dense<>", "0xZZ", "9" * 5000, "tt.func public @x(", "tt.dot", "tt.load", "cf.cond_br", "axis = 7 : i32", "arith.cmpi", "\u2028")  # fmt: skip
    words[draw(st.sampled_from(range(0, len(words), 2)))] = draw(st.sampled_from(nasty))
    return "".join(words)


BREAKING = (without, again, swapped, word, word)


def blind(self: object, *_: object, **__: object) -> None:
    """A planted fault: nothing speaks against any kernel."""


TARGETS = (Target("ttir", code(), check, (Pass, "_add", blind), 250),)
