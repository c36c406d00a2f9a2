"""certify on files given by their paths: which of them declare kernels, and how each is imported."""

import json
import sys

import pytest

from detcheck import runner
from detcheck.errors import NothingToAskError, UsageError
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
    assert sources.read(["plain.py", "kernels.py", "./kernels.py"], False).declaring == [sources.Path("kernels.py")]
    with pytest.raises(NothingToAskError, match=r"no kernel is declared in plain\.py"):
        check(Spec("certify", Options(files=("plain.py",), allow_none=True)))


@pytest.mark.parametrize(
    "text",
    [
        "if HAS_TRITON:\n    DETCHECK = {}",
        "try:\n    DETCHECK = {}\nexcept ImportError:\n    pass",
        "DETCHECK, VERSION = {}, 1",
        "DETCHECK: dict = {}",
        "DETCHECK |= {}",
        "globals()['DETCHECK'] = {}",
        "from pkg.names import DETCHECK",
        "from pkg.names import KERNELS as DETCHECK",
        "with open('x') as DETCHECK:\n    pass",
        "print(DETCHECK := {})",
    ],
)
def test_every_way_to_give_a_value_declares(text):
    assert sources.declares(sources.parsed(text, "a.py"))


@pytest.mark.parametrize("text", ["DETCHECK: dict", "x = 'DETCHECK'", "print(kernels.DETCHECK)", "import pkg.DETCHECK"])
def test_what_only_names_it_declares_nothing(text):
    assert not sources.declares(sources.parsed(text, "a.py"))


def test_a_kernel_that_is_passed_over_is_named(here, detcheck):
    """By a warning of the run, which every report shows, and where nothing is left to ask."""
    put(here / "kernels.py")
    for name, text in (
        ("a", "import triton\n@triton.jit\n"),
        ("b", "from triton import jit as jit\n@jit(debug=True)\n"),
    ):
        put(here / f"{name}.py", f"{text}def k(x):\n    pass\n")
    put(here / "c.py", "import numba\n@numba.jit\ndef k(x):\n    pass\n")
    opened = session.Certify(Spec("certify", Options(files=("c.py", "b.py", "a.py", "kernels.py"), target=("sm_90",))))
    assert [warning.partition(":")[0] for warning in opened.warnings] == ["b.py", "a.py"]
    result = detcheck("certify", "a.py", "c.py", "--allow-none", "-q")
    assert result.code == 0 and "@triton.jit stands in a.py all the same" in result.err


def test_another_file_than_the_one_that_is_named_is_never_certified(here):
    """Two packages of one name: whatever of the first was imported, the second's files are not it."""
    for folder in ("one", "two"):
        put(here / folder / "pkg/__init__.py", "")
        put(here / folder / "pkg/kernels.py")
        put(here / folder / f"pkg/{folder}.py", KERNEL.format(imports="from . import kernels", more=""))
    assert session.in_file(sources.Path("one/pkg/one.py"))
    for name in ("kernels", "two"):
        with pytest.raises(
            UsageError, match=rf"two/pkg/{name}\.py: .* part of pkg, and that is \S*/one/pkg/__init__\.py"
        ):
            session.in_file(sources.Path("two/pkg", f"{name}.py"))
    put(here / "one/pkg/moved.py", KERNEL.format(imports="__file__ = 'elsewhere.py'", more=""))
    with pytest.raises(UsageError, match=r"part of pkg\.moved, and that is elsewhere\.py already"):
        session.in_file(sources.Path("one/pkg/moved.py"))


def test_a_file_takes_the_place_of_no_other_module(here):
    import random

    put(here / "random.py")
    (kernel,) = session.in_file(sources.Path("random.py"))
    assert kernel.path == "random:copy" and sys.modules["random"] is random


def test_a_script_without_an_ending_is_a_file_like_another(here):
    put(here / "kernels")
    put(here / "kernels.py", KERNEL.format(imports="x = 1", more=""))
    opened = session.Certify(
        Spec(
            "certify",
            Options(
                files=("kernels", "kernels.py"),
                target=("sm_90",),
            ),
            dtype="bf16",
        )
    )
    assert [case.subject for case, _ in opened.subject.cases] == ["kernels:copy", "kernels.py:copy"]
    assert not list(here.rglob("*.pyc"))


def test_files_whose_modules_have_one_name_are_told_apart(here, monkeypatch):
    for folder in ("a", "b"):
        put(here / folder / "kernels.py")
    (here / "c").mkdir()
    monkeypatch.chdir(here / "c")
    files = (*(str(here / folder / "kernels.py") for folder in ("a", "b")), "../a/kernels.py")
    opened = session.Certify(Spec("certify", Options(files=files, target=("sm_90",)), dtype="bf16"))
    subjects = [case.subject for case, _ in opened.subject.cases]
    assert len(set(subjects)) == len(subjects) == 2 == len(opened.subject.sources)


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
        ("if 0:\n    DETCHECK = {}", ("a.py",), 2, "a.py: DETCHECK is given a value in it, but has none once"),
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
