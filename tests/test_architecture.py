"""Who may import whom, read from the source. Imports go downward only, those inside functions too."""

import ast
from pathlib import Path

import pytest

import detcheck

ROOT = Path(detcheck.__file__).parent
HELPERS = {
    "baselines",
    "adders",
    "bits",
    "certificates",
    "comparisons",
    "culprit_words",
    "culprits",
    "differing",
    "errors",
    "figures",
    "files",
    "forks",
    "orders",
    "outcomes",
    "served",
    "tables",
    "tally",
    "tree_fold",
    "tree_words",
    "trees",
    "vllm_calls",
}  # pure: no torch, no engine
ALLOWED = {
    "__init__": {"records", "runner"},  # by name, lazily
    "__main__": {"cli"},
    "cli": {"cli_options", "runner", "report", "records", "lookup", "progress", "errors"},
    "cli_options": {"records", "lookup"},
    "runner": {"probes", "judge", "environment", "records", "store", "readers", "lookup"} | HELPERS,
    "progress": {"runner"},
    "probes": {"probes", "engines", "kernels", "records", "environment", "lookup", "machine"} | HELPERS,
    "engines": {"engines", "kernels", "records", "machine"} | HELPERS,
    "kernels": {"kernels", "lookup"} | HELPERS,
    "integrations": {"integrations", "kernels", "records"} | HELPERS,
    "judge": {"records"} | HELPERS,
    "report": {"report", "records", "lookup"} | HELPERS,
    "store": {"records"} | HELPERS,
    "readers": {"records"} | HELPERS,
    "environment": {"records", "machine"},
    "machine": set(),
    "lookup": {"errors"},
    "records": set(),
    "baselines": {"records", "bits", "errors", "files", "outcomes"},
    "comparisons": {"records", "baselines"},
    "served": {"records", "figures", "tally"},
    "bits": set(),
    "certificates": {"records", "tally"},
    "culprit_words": set(),
    "culprits": {"records", "tally", "culprit_words"},
    "differing": {"records", "bits", "errors"},
    "orders": {"records", "tally"},
    "trees": set(),
    "tree_fold": {"trees"},
    "tree_words": {"tree_fold"},
    "adders": {"trees"},
    "vllm_calls": set(),
    "errors": set(),
    "files": set(),
    "figures": {"records", "bits", "forks", "outcomes"},
    "forks": {"records", "bits"},
    "outcomes": {"records", "bits"},
    "tables": {"records", "outcomes", "bits", "files"},
    "tally": {"records", "outcomes"},
}
HEAVY = {
    "torch",
    "triton",
    "vllm",
    "transformers",
    "matplotlib",
    "scipy",
    "pyarrow",
    "jinja2",
    "psutil",
    "filelock",
    "safetensors",
    "httpx",
    "prometheus_client",
    "certifi",
}
# Loaded by vLLM alone, by name: they are made of its classes, or hook into them, where torch runs already. And for a tensor on a GPU alone: Triton
# kernels are defined at the top.
HOOKS = {
    "vllm_scheduler.py": {"vllm"},
    "vllm_attention.py": {"vllm"},
    "vllm_attention_gpu.py": {"vllm"},
    "vllm_modules.py": {"vllm", "torch"},
    "_vllm_arms.py": {"torch"},
    "_vllm_rows.py": {"torch"},
    "_triton_matmul.py": {"triton"},
    "_triton_attention.py": {"triton"},
    "_triton_rowwise.py": {"triton"},
}
SOURCES = sorted(ROOT.rglob("*.py"))


def part(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(tree):
    """(module, whether at the top of the file) of every import; those for type checkers alone are passed over."""
    for_types = {
        id(n)
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.dump(i.test)
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
    own = ROOT.name
    for module, at_top in imports(ast.parse(path.read_text())):
        first, *rest = module.split(".")
        if first == own and rest and rest[0] != "__version__":
            assert rest[0] in ALLOWED[part(path)], f"{part(path)} may not import {module}"
        if at_top and first not in HOOKS.get(path.name, ()):
            assert first not in HEAVY, f"{path.name} imports {module} when it is imported itself"
        if part(path) in {"judge", "report", "records", "store", "readers", *HELPERS}:
            assert first not in {"torch", "vllm", "transformers", "triton"}, f"{path.name} must work without {first}"


def test_the_rule_is_read_from_real_sources():
    found = {m for path in SOURCES for m, _ in imports(ast.parse(path.read_text()))}
    assert {"torch", "detcheck.judge", "detcheck.records", "transformers"} <= found
