"""The rules of the house, read from the source: imports go downward, heavy ones wait, pure files stay pure, modules stay small."""

import ast
import functools
from pathlib import Path

import pytest

import detcheck

ROOT = Path(detcheck.__file__).parent

# From the ground up. A module may import from its own floor's part (a folder, or itself) and from every floor below; parts of one
# floor do not know each other, unless they are named in one string.
FLOORS = [
    "ending errors bits colours redacted fitting hashes lookup called files text reason strict_json condition_name machine coverage counted aten stock_ops options verdict signals",
    "dtypes stderr",
    "spec output",
    "records",
    "finding",
    "outcomes engine tensors op settings problems",
    "summation schedules models environment replay row_alone sampling turns",
    "storage kernels blocks",
    "judge advice",
    "pictures meaning page",
    "samples parting suite",
    "switch formats probe watch resumed",
    "engines",
    "harness",
    "probes",
    "report runner env",
    "github",
    "progress commands",
    "check fleet",
    "cli api pytest_plugin",
    "__init__ __main__",
]
SAME_FLOOR = {("lookup", "errors")}  # beside each other, in one direction
HEAVY = {
    "torch", "triton", "vllm", "transformers", "matplotlib", "scipy", "pyarrow", "jinja2", "psutil", "filelock", "safetensors",
    "httpx", "prometheus_client", "certifi", "pandas", "ray",
}  # fmt: skip
# Loaded only where their library runs already: what vLLM loads by name in its own processes, and Triton kernels, for a tensor on a GPU.
HOOKS = {"engines/vllm/worker": {"vllm", "torch"}, "kernels/_triton": {"triton"}}
WITHOUT_TORCH = {
    "judge",
    "formats",
    "report",
    "records",
    "storage",
    "summation",
    "schedules",
    "outcomes",
    "bits",
    "words",
    "text",
}
PURE = {"facts.py", "reasons.py", "causes.py", "judge.py", "describe.py"}  # of a probe's slice
RUN_MODELS = {"torch", "vllm", "transformers", "triton"}
MOST_LINES = 320
UPWARD: set[tuple[str, str]] = set()
SOURCES = sorted(ROOT.rglob("*.py"))


def part(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def floor(name):
    found = [n for n, names in enumerate(FLOORS) if name in names.split()]
    assert found, f"{name} stands on no floor: add it to FLOORS"
    return found[0]


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


@functools.cache
def imports_of(path):
    return list(imports(parsed(path)))


def imports(tree):
    """(module, whether at the top of the file) of every import; those for type checkers alone are passed over."""
    for_types = {
        id(n)
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and isinstance(i.test, ast.Name) and i.test.id == "TYPE_CHECKING"
        for n in ast.walk(i)
    }
    inside = {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for n in ast.walk(f)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "detcheck":
                for alias in node.names:
                    yield f"detcheck.{alias.name}", id(node) not in inside
            else:
                yield node.module, id(node) not in inside


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downward_and_heavy_ones_wait(path):
    who, where = part(path), str(path.relative_to(ROOT).parent)
    for module, at_top in imports_of(path):
        first, *rest = module.split(".")
        if first == "detcheck" and rest and rest[0] not in ("__version__", who):
            below = floor(rest[0]) < floor(who) or (who, rest[0]) in SAME_FLOOR
            assert below or (str(path.relative_to(ROOT)), rest[0]) in UPWARD, (
                f"{path.relative_to(ROOT)} may not import {module}: it stands on the same floor or above"
            )
        if at_top and first not in HOOKS.get(where, ()):
            assert first not in HEAVY, f"{path.relative_to(ROOT)} imports {module} when it is imported itself"
        if who in WITHOUT_TORCH or (who == "probes" and path.name in PURE):
            assert first not in RUN_MODELS, f"{path.relative_to(ROOT)} must work without {first}"


def test_modules_are_small_and_have_public_names():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    long = {name: n for name, n in lines.items() if n > MOST_LINES}
    assert not long, "cut them where a second idea begins"
    private = [p for p in SOURCES if p.name.startswith("_") and p.name not in ("__init__.py", "__main__.py")]
    assert not private, "only folders are private"


def test_the_rules_are_read_from_real_sources():
    found = {m for path in SOURCES for m, _ in imports_of(path)}
    assert {"torch", "detcheck.judge.conditions", "detcheck.records", "transformers"} <= found
    assert {part(path) for path in SOURCES} == {name for names in FLOORS for name in names.split()}


def test_no_class_name_has_two_meanings():
    """`Options` is the same part of every probe's slice, and `Run` a run: the record, and what Python users hold of it. A class inside
    a function is nobody else's."""
    found = {}
    for path in SOURCES:
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and node.name not in ("Options", "Run"):
                found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert not {name: places for name, places in found.items() if len(places) > 1}
