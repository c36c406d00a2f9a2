"""What is stored of a compiled kernel: it comes back from JSON, holds no sentence, and every code of a reason has its words."""

import ast
import json
import string
from pathlib import Path

import pytest

from detcheck.probes import certify
from detcheck.probes.certify.facts import Certificate, Found
from detcheck.probes.certify.judge import evidence, verdict
from detcheck.probes.certify.reasons import SENTENCES, sentence, what
from detcheck.reason import Reason
from detcheck.verdict import Verdict

SOURCE = Path(certify.__file__).parent
LOOP = Reason("loop_follows", {"sums": "acc", "batch": "M, program_id(0)"})
CERTIFICATE = Certificate(
    target="sm_90",
    forms=2,
    binaries={"": {"9f" * 32: ("any values", "16 divides M")}},
    found=(Found(True, LOOP, "/a/b/kernels.py", 12, Reason("keys_unmasked")), Found(False, Reason("lock"))),
    trusted=(Reason("aligned", {"pointers": "x, y"}), Reason("declared", {"text": "{M} is padded by the launcher"})),
    flags={"triton": "3.9.0"},
    registers=32,
    spills=0,
    instructions={"HMMA": 4},
    shared_bytes=8192,
)
# As version 0.1.0 stored it: sentences.
OLD = (
    '{"binaries": {"": {"8786c2ed": ["any values"]}}, "flags": {"triton": "3.9.0"}, "forms": 1, "found": [{"file": "/srv/example/kernels.py", '
    '"line": 336, "refutes": true, "what": "how often, or from where, the loop that adds acc runs follows M and {N}"}], "instructions": '
    '{"HMMA": 4}, "registers": 56, "shared_bytes": 8192, "spills": 0, "target": "sm_80", "trusted": ["x, y: only passed aligned to 16 bytes"]}'
)


def test_a_certificate_comes_back_from_json():
    assert Certificate.from_json(json.loads(json.dumps(CERTIFICATE.to_json()))) == CERTIFICATE


def test_what_is_stored_holds_codes_and_values():
    """What the author of the kernel says is a value, and the only text among them."""
    stored = json.loads(json.dumps(CERTIFICATE.to_json()))
    first, second = stored["found"]
    assert first["why"] == {"code": "loop_follows", "sums": "acc", "batch": "M, program_id(0)"}
    assert first["more"] == {"code": "keys_unmasked"}
    assert second == {"refutes": False, "why": {"code": "lock"}, "file": "", "line": 0}
    aligned, declared = stored["trusted"]
    assert aligned == {"code": "aligned", "pointers": "x, y"}
    assert declared == {"code": "declared", "text": "{M} is padded by the launcher"}


def test_a_certificate_is_judged_and_reported_in_sentences():
    found, note = verdict(CERTIFICATE)
    assert found is Verdict.REFUTED
    words = "how often, or from where, the loop that adds acc runs follows M and program_id(0), and no mask in it looks at a row's own keys"
    assert note == f"{words} (b/kernels.py:12)"
    made = evidence(CERTIFICATE)
    assert made["found"][0] == {"refutes": True, "what": words, "file": "/a/b/kernels.py", "line": 12}
    assert made["trusted"] == ["x, y: only passed aligned to 16 bytes", "{M} is padded by the launcher"]
    assert made.keys() == CERTIFICATE.to_json().keys()


def test_what_version_0_1_0_stored_is_said_as_it_was():
    old = Certificate.from_json(json.loads(OLD))
    assert evidence(old) == json.loads(OLD)
    assert verdict(old) == (
        Verdict.REFUTED,
        "how often, or from where, the loop that adds acc runs follows M and {N} (example/kernels.py:336)",
    )


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ("", "the batch"),
        ("M", "M"),
        ("M, N", "M and N"),
        ("A, B, C, D", "A, B, C and D"),
        ("A, B, C, D, E", "A, B, C and 2 more"),
        ("atomic_counter(), program_id(0)", "an atomic counter and program_id(0)"),
        ("M, inline_assembly()", "M and inline assembly"),
    ],
)
def test_names_of_the_batch_are_said_in_words(batch, words):
    assert sentence(Reason("numbers_depend", {"batch": batch})) == f"the numbers that are stored depend on {words}"


def test_sums_without_a_name_are_said():
    said = sentence(Reason("loop_follows", {"sums": "", "batch": "M"}))
    assert said == "how often, or from where, the loop that adds up runs follows M"


def test_code_that_cannot_be_read_says_where():
    unread = Found(False, Reason("unreadable", {"triton": "9.0"}), more=Reason("unknown_name", {"name": "%x"}))
    assert what(unread) == (
        "Triton 9.0's intermediate code is not as this version of detcheck knows it: %x is used before it is known"
    )


def made(path):
    """(line, code, names of values) of every reason that a file makes: its code and the names stand in the call."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Reason":
            code, *values = node.args
            keys = values[0].keys if values else []
            yield f"{path.name}:{node.lineno}", ast.literal_eval(code), set(map(ast.literal_eval, keys))


def test_every_reason_has_a_sentence_and_gives_its_names():
    found = [each for path in SOURCE.rglob("*.py") if path.name != "reasons.py" for each in made(path)]
    assert len(found) > 50
    for place, code, names in found:
        wanted = {name for _, name, _, _ in string.Formatter().parse(SENTENCES[code]) if name}
        assert names == wanted, place
    assert {code for _, code, _ in found} == SENTENCES.keys()  # and no sentence is left over
