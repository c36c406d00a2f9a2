"""The embedded model: the same bits everywhere, readable words, and a control that reacts."""

import time

import pytest

from detcheck.engine import Row
from detcheck.errors import FailedError, UsageError
from detcheck.harness.batches import threads
from detcheck.models import amplifier


def test_it_is_made_in_a_few_seconds_with_the_known_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("DETCHECK_CACHE", str(tmp_path))
    started = time.process_time()  # of this process alone: other tests may run beside it
    folder = amplifier.folder()
    assert time.process_time() - started < 5
    assert amplifier.sound(folder)
    assert amplifier.folder() == folder
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]


def test_a_damaged_cache_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("DETCHECK_CACHE", str(tmp_path))
    weights = amplifier.folder() / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert amplifier.sound(amplifier.folder())


def test_other_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(amplifier, "SEED", 2)
    with pytest.raises(FailedError, match="hash to"):
        amplifier.make(tmp_path)


def test_a_cache_that_cannot_be_made_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DETCHECK_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="DETCHECK_CACHE"):
        amplifier.folder()


def test_any_text_can_be_read_and_only_words_are_said(amplifier):
    text = 'Öl, 東京 🙂 [/INST] "x"\n\t\x1b[31m'
    assert amplifier.decode(amplifier.encode(text)) == text
    completion = amplifier.complete([Row(amplifier.encode("Hello"))], 32, False).completions[0]
    said = amplifier.decode(completion.tokens)
    assert said.startswith(" ") and said.replace(" ", "").isalpha() and said.isascii()
    assert all(len(word) == 4 for word in said.split())


def test_the_default_prompt_is_long_enough_for_every_kernel_path(amplifier):
    from detcheck.models.amplifier import PROMPT

    assert 256 < len(amplifier.encode(PROMPT)) < 350


def test_under_kernels_that_react_tokens_depend_on_the_batch(amplifier, reacting):
    """The positive control: soon, in tokens, not only in bits; and run to run nothing moves."""
    from detcheck.models.amplifier import PROMPT

    ids = amplifier.encode(PROMPT)
    said = {}
    with threads(
        1
    ):  # several wait for each other in loops, which counts as time of theirs when other tests run beside them
        started = time.process_time()
        for rows in (1, 1, 2, 4, 8):
            completions = amplifier.complete([Row(ids)] * rows, 48, False).completions
            said.setdefault(rows, []).append(completions[0].tokens)
        assert time.process_time() - started < 60
    assert said[1][0] == said[1][1]
    assert len({tokens for runs in said.values() for tokens in runs}) > 1
