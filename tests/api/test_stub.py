"""The type stub that ships with the package says what the declarations say."""

from pathlib import Path

import detcheck
from detcheck.api import ask, keywords, stub

ROOT = Path(detcheck.__file__).parent


def test_the_stub_is_current():
    assert stub.FILE.read_text("utf-8") == stub.stub(), "write it again with `python -m detcheck.api.stub`"
    assert (ROOT / "py.typed").is_file()


def test_another_option_would_be_seen(monkeypatch):
    options = ask.function("matmul").options
    monkeypatch.setattr(keywords, "annotation", lambda one: "bytes")
    ask.function.cache_clear()
    assert options and stub.stub() != stub.FILE.read_text("utf-8")
    monkeypatch.undo()
    ask.function.cache_clear()


def test_every_public_name_is_in_it():
    namespace: dict = {}
    exec(
        compile(stub.FILE.read_text("utf-8"), "detcheck.pyi", "exec", flags=0x1000000), namespace
    )  # annotations stay text
    assert set(detcheck.__all__) <= set(namespace)
