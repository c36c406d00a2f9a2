"""certify on files given by their paths: which of them declare kernels, and how each is imported."""

import json
import sys

import pytest

from detcheck import runner
from detcheck.errors import NothingToAskError
from detcheck.probes.certify import session, sources
from detcheck.probes.certify.options import Options, check
from detcheck.spec import Spec

KERNEL = """
import triton
from detcheck import Signature
{imports}
@triton.jit
def copy(x, y):
    pass

DETCHECK = {{"copy": Signature(arguments={{"x": "*T", "y": "*T"}}){more}}}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("pkg", "one", "two", "beside", "kernels"):
            del sys.modules[name]


def put(path, text=None):
    text = KERNEL.format(imports="", more="") if text is None else text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_file_of_a_package_is_imported_as_its_part(here):
    put(here / "src/pkg/__init__.py", "")
    put(here / "src/pkg/names.py", "NAME = 'here'")
    put(here / "src/pkg/kernels.py", KERNEL.format(imports="from .names import NAME", more=""))
    (kernel,) = session.in_file(sources.Path("src/pkg/kernels.py"))
    assert kernel.path == "pkg.kernels:copy" and kernel.digest


def test_two_files_of_one_name_are_two_modules_and_find_what_lies_beside_them(here):
    for folder in ("one", "two"):
        put(here / folder / "beside.py", f"NAME = {folder!r}")
        put(here / folder / "kernels.py")
    found = [kernel for name in ("one", "two") for kernel in session.in_file(sources.Path(name, "kernels.py"))]
    assert [kernel.path for kernel in found] == ["one.kernels:copy", "two.kernels:copy"]
    put(here / "one/kernels.py", KERNEL.format(imports="from beside import NAME", more=""))
    assert session.in_file(sources.Path("one/kernels.py"))


def test_what_declares_nothing_is_read_and_not_run(here):
    put(here / "plain.py", "raise SystemExit('it was run')")
    put(here / "kernels.py")
    assert sources.declaring(["plain.py", "kernels.py"], False) == [sources.Path("kernels.py")]
    with pytest.raises(NothingToAskError, match=r"no kernel is declared in plain\.py"):
        check(Spec("certify", Options(files=("plain.py",), allow_none=True)))


@pytest.mark.parametrize(
    ("text", "arguments", "code", "said"),
    [
        ("x = 1", ("a.py",), 2, "no kernel is declared in a.py, so there is nothing to certify. A module declares"),
        ("x = 1", ("a.py", "--allow-none"), 0, "no kernel is declared in a.py, so there is nothing to certify"),
        ("def :", ("a.py", "--allow-none"), 2, "a.py: is no Python that can be read"),
        ("x = 1", ("b.py", "--allow-none"), 2, "b.py: cannot be read: No such file"),
        ("x = 1", ("a.py", "--op", "matmul"), 2, "files say what to certify too; give one of the two"),
        ("x = 1", ("--allow-none",), 2, "--allow-none is about files; name some"),
        ("DETCHECK = {}\nraise ValueError('no')", ("a.py",), 2, "a.py: importing it raised ValueError: no"),
        ("DETCHECK = {}", ("a.py",), 2, "a.py: DETCHECK must be a dictionary, kernel name -> Signature; it is {}"),
        ("DETCHECK = {'gone': 1}", ("a.py",), 2, "gone has no Triton kernel (@triton.jit); a has none"),
    ],
)
def test_what_cannot_be_asked_is_said(here, detcheck, text, arguments, code, said):
    put(here / "a.py", text)
    result = detcheck("certify", *arguments, "-q")
    assert result.code == code and said in result.err and not result.out
    assert not list(here.glob("runs/*"))
    sys.modules.pop("a", None)


def test_the_command_that_asks_again_names_the_files():
    spec = Spec("certify", Options(files=("my ops/a.py", "b.py"), target=("sm_90",)), trials=1)
    assert spec.command() == "detcheck certify 'my ops/a.py' b.py --target sm_90"


def test_a_run_of_files_can_be_read_again(here, detcheck):
    text = KERNEL.format(imports="import triton.language as tl", more="").replace("pass", "tl.store(y, tl.load(x))")
    put(here / "kernels.py", text.replace('"y": "*T"}', '"y": "*T"}, aligned=("x", "y")'))
    result = detcheck("certify", "kernels.py", "--target", "sm_90", "--format", "json", "-q")
    assert result.code == 0 and json.loads(result.out)["findings"][0]["case"]["subject"] == "kernels:copy", result.err
    assert json.loads(result.out)["reproduce"] == "detcheck certify kernels.py --target sm_90"
    (folder,) = (here / "runs").iterdir()
    assert runner.load(folder).spec.options.files == ("kernels.py",)
    assert runner.load(folder).subject.sources["kernels:copy"].file == "kernels.py"
