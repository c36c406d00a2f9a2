"""What reports say of a cause: where it is, how it differs, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from detcheck import samples
from detcheck.advice import advice as what_to_do
from detcheck.blocks import Block, DrawnTree, Facts, Table, Text, Totals, Trees
from detcheck.finding import Finding
from detcheck.op import replaceable
from detcheck.text import visible

OURS = "detcheck.batch_invariant() runs ours in its place (--kernels batch-invariant; in vLLM DETCHECK_KERNELS=batch-invariant)"
# Modules of vLLM's that run on ours when DETCHECK_KERNELS says so, by the end of their names.
REPLACED_MODULES = ("Linear", "Attention", "RMSNorm", "SiluAndMul", "GeluAndMul", "LogitsProcessor", "Sampler")


ARMS = {"alone": "the row alone", "batch": "in the batch"}
SHOWN_OPS = 24  # of the table; report.json has all


def describe(finding: Finding) -> tuple[Block, ...]:
    evidence = finding.evidence
    if "culprit" not in evidence and "bisection" not in evidence:  # it could not be asked
        return samples.describe(finding)
    blocks: list[Block] = []
    if finding.samples:
        blocks.append(Totals(visible(headline(evidence))))
        if said := tuple(visible(line) for line in lines(evidence)):
            blocks.append(Facts(said))
    if finding.detail:
        blocks.append(Trees(tuple(DrawnTree(ARMS[arm], "", "", tree) for arm, tree in finding.detail.items()), True))
    if "calls" in evidence:
        cells = (tuple(map(visible, line)) for line in rows(evidence, SHOWN_OPS))
        blocks.append(Table("Ops", tuple(cells)))
    advice = "" if evidence.get("culprit") else what_to_do(finding)
    said = tuple(line for line in (*samples.coverage_lines(finding), advice) if line)
    return (*blocks, Text(said)) if said else tuple(blocks)


def bare(op: str) -> str:
    """aten::mm -> mm"""
    return op.split("::")[-1]


def remedy(op: str, run: bool) -> str:
    """What to do: the flag, the kernel, the override."""
    name, said = bare(op), []
    if run and op.startswith("vllm::"):
        said.append("the kernel itself is noisy, by atomics or a race: another backend may not be")
    elif run:
        said.append(
            "torch.use_deterministic_algorithms(True)"
            + (" with CUBLAS_WORKSPACE_CONFIG=:4096:8" if replaceable(op) == "matmul" or name == "dot" else "")
        )
    if op.startswith("vllm::") and name.endswith(REPLACED_MODULES):
        said.append(
            f"serve with ours in the place of {name}: DETCHECK_KERNELS=batch-invariant (--kernels batch-invariant)"
        )
    elif op.startswith("vllm::"):
        said.append(f"the plugin has no kernel for {name}: write one whose order follows the row alone")
    elif replaceable(op):
        said.append(f"override {op}: {OURS}")
    elif op.startswith("module "):
        said.append(
            f"replace the kernel that {op.removeprefix('module ')} runs by one that adds in one order for every batch"
        )
    else:
        said.append(
            f"there is no kernel of ours for {op}: write one whose order follows the row alone, and test it with detcheck kernels --op"
        )
    return "; ".join(said)


def headline(evidence: Mapping[str, Any]) -> str:
    """Where it is, in a line; or how much was looked at."""
    if found := evidence.get("culprit"):
        line = f" ({found['source']})" if found.get("source") else ""
        return f"{found['op']} in {found['path'] or 'the model'}{line}, prompt {found['prompt']}"
    about = evidence["bisection"]
    return f"{about['trials']} runs of each condition, {about['repeats']} calls of each arm"


def lines(evidence: Mapping[str, Any]) -> list[str]:
    """What was found of a cause, a fact a line; in short where the same op was described before."""
    said = []
    if found := evidence.get("culprit"):
        said.append(f"like it: {found['pattern'] or 'the model'}; a cause in {', '.join(found['conditions'])}")
        for arm in () if found["like"] else ("alone", "batch"):
            said.append(
                f"takes {'in the batch' if arm == 'batch' else arm}: {'; '.join(map(form, found['inputs'][arm]))}"
            )
        if "differing" in found:
            ulp = (
                f", up to {found['max_ulp']:.0f} ulp ({found['max_abs']:.3g}) apart"
                if found["max_ulp"] is not None
                else ""
            )
            said.append(f"{found['differing']} of {found['elements']} elements differ{ulp}")
        if found.get("starts_at") == 1:
            as_there = "padded" if found.get("starts_by", "padding") == "padding" else "laid out in memory"
            said.append(f"it starts with one row: the prompt's own, {as_there} as in the batch, has other bits already")
        elif found.get("starts_at"):
            said.append(
                f"it starts at {found['starts_at']} rows; with {found['starts_at'] - 1} the bits are those of the row alone"
            )
        trees = {} if found["like"] else found.get("order_of_additions") or {}
        said += [f"order of additions {where}: {tree}" for where, tree in trees.items()]
        if len(trees) == 2 and len(set(trees.values())) == 1:
            said.append("it is the same order: what differs is how an addition rounds (fused with the product or not)")
        said.append(f"what to do: {'as for ' + found['like'] if found['like'] else found['remedy']}")
    for n, stage in enumerate(evidence.get("stages") or ()):
        what = f"with {', '.join(stage['replaced'])} replaced" if n else "with nothing replaced"
        first = stage["first"]
        where = (
            f"the first difference is {first['op']} in {first['path']}, pass {first['step']}"
            if first
            else "no cause was found"
        )
        said.append(f"{what}: {where}; the logits are {'equal' if stage['logits_equal'] else 'not equal'}")
    stages = evidence.get("stages") or ()
    if stages and stages[-1]["guilty"]:
        said.append(f"no kernel of ours replaces: {', '.join(stages[-1]['guilty'])}")
    about = evidence.get("bisection") or {}
    if not found and (control := about.get("control")):
        said.append(
            f"gain: a row of {control['op']} in {control['path']} moved by one ulp moves the logits by up to {control['max_ulp']:.3g} ulp"
        )
    ways = Counter(about.get("only_alone") or {}) + Counter(about.get("only_in_batches") or {})
    if ways:
        said.append(
            f"not compared, since they have no counterpart: {', '.join(f'{op} {n}' for op, n in sorted(ways.items()))}"
        )
    if about.get("untested"):
        said.append("not asked again: " + "; ".join(f"{n} calls, {why}" for why, n in about["untested"].items()))
    return said


def form(given: Mapping[str, Any]) -> str:
    shape = "x".join(map(str, given["shape"])) or "a number"
    return f"{shape} {given['dtype']}, strides {','.join(map(str, given['strides'])) or 'none'}" + (
        f" ({given['weight']})" if given["weight"] else ""
    )


COLUMNS = {"calls": "calls", "tested": "tested", "guilty_calls": "that differ"}


def rows(evidence: Mapping[str, Any], most: int) -> list[list[str]]:
    """The table of ops, after a heading: the causes, then as many others as there is room for."""
    calls = evidence["calls"]
    shown = [["op", "module", *COLUMNS.values(), "cause in", "by", "from rows"]]
    for line in [*(c for c in calls if c["guilty_in"]), *(c for c in calls if not c["guilty_in"])][:most]:
        verdict = ", ".join(line["guilty_in"]) or ("equal" if line["innocent"] else "not compared")
        numbers = [str(line[name]) for name in COLUMNS]
        shown.append([line["op"], line["pattern"], *numbers, verdict, line["kind"], str(line["starts_at"] or "")])
    return shown
