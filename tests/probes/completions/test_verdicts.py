"""The guilty and the innocent: for each scripted engine the verdict that it must get."""

import pytest
from scripted import LATENT, OTHER, SAME, SHORT, Scripted, completion, observe

from detcheck.samples import figures
from detcheck.verdict import FailOn, Verdict


def big(rows, slot, call):
    return OTHER if rows >= 7 else SAME


TABLE = {
    "identical": (Scripted(lambda rows, slot, call: SAME), Verdict.IDENTICAL, 0),
    "identical, ended early": (Scripted(lambda rows, slot, call: SHORT), Verdict.IDENTICAL, 0),
    "run-variant": (Scripted(lambda rows, slot, call: OTHER if call == 1 else SAME), Verdict.RUN_VARIANT, 1),
    "run-variant in the last repeat of the largest batch": (
        Scripted(lambda rows, slot, call: OTHER if call == 17 else SAME),
        Verdict.RUN_VARIANT,
        1,
    ),
    "batch-variant": (Scripted(big), Verdict.BATCH_VARIANT, 1),
    "batch-variant by slot alone": (
        Scripted(lambda rows, slot, call: OTHER if slot == 2 else SAME),
        Verdict.BATCH_VARIANT,
        1,
    ),
    "batch-variant, early stop": (
        Scripted(lambda rows, slot, call: SHORT if rows > 2 else SAME),
        Verdict.BATCH_VARIANT,
        1,
    ),
    "latent": (Scripted(lambda rows, slot, call: LATENT if rows > 2 else SAME), Verdict.BATCH_VARIANT, 1),
    "both": (Scripted(lambda rows, slot, call: LATENT if call == 1 else big(rows, slot, call)), Verdict.RUN_VARIANT, 1),
    "silent batch, all equal": (Scripted(lambda rows, slot, call: SAME, seen=False), Verdict.INCONCLUSIVE, 3),
    "silent batch, unequal": (Scripted(big, seen=False), Verdict.DIVERGENT, 1),
    "another batch than asked": (
        Scripted(lambda rows, slot, call: SAME, formed=lambda n: min(n, 2)),
        Verdict.INCONCLUSIVE,
        3,
    ),
    "dropped samples": (Scripted(lambda rows, slot, call: None if call == 3 else SAME), Verdict.INCONCLUSIVE, 3),
    "dropped and unequal": (
        Scripted(lambda rows, slot, call: None if call == 3 else big(rows, slot, call)),
        Verdict.BATCH_VARIANT,
        1,
    ),
    "out of memory": (
        Scripted(lambda rows, slot, call: "out of memory" if rows > 8 else SAME),
        Verdict.INCONCLUSIVE,
        3,
    ),
    "nothing came": (Scripted(lambda rows, slot, call: None), Verdict.FAILED, 4),
}


@pytest.mark.parametrize("name", TABLE)
def test_verdict_of_scripted_engine(name):
    engine, verdict, code = TABLE[name]
    finding, observations = observe(engine)
    assert (finding.verdict, finding.exit_code(FailOn.ANY)) == (verdict, code), finding.note
    assert finding.samples + finding.missing == 24 == len(observations)


def test_both_arms_are_in_the_evidence():
    finding, _ = observe(TABLE["both"][0])
    assert finding.evidence["arms"] == {"repeat": True, "batch": True}


def test_what_it_varies_with():
    by_slot, _ = observe(Scripted(lambda rows, slot, call: OTHER if slot == 2 else SAME), samples=100)
    assert by_slot.evidence["varies_with"] == ["slot"]
    by_batch, _ = observe(Scripted(big), samples=100)
    assert by_batch.evidence["varies_with"] == ["batch"]
    assert by_batch.evidence["first_variant_condition"] == "batch-7"


def test_a_forgiven_divergence_is_no_pass_while_samples_are_missing():
    finding, _ = observe(Scripted(lambda rows, slot, call: None if rows > 7 else LATENT if rows > 2 else SAME))
    assert finding.latent and finding.missing
    assert [finding.exit_code(f) for f in (FailOn.ANY, FailOn.TOKENS, FailOn.NEVER)] == [1, 3, 3]


def test_ends_alone_may_differ():
    ended = completion([5, 6, 7, 8], finish_reason="stop")
    finding, _ = observe(Scripted(lambda rows, slot, call: ended if rows > 2 else SAME))
    assert (finding.verdict, finding.distinct, finding.distinct_bits) == (Verdict.BATCH_VARIANT, 1, 2)
    assert any("reasons to finish are not: length 10, stop 14" in line for line in figures(finding))


def test_dropped_samples_are_counted_and_named():
    finding, _ = observe(TABLE["out of memory"][0])
    assert finding.missing == 2
    assert finding.evidence["missing"] == {"out of memory with 9 rows": 2}
    assert "2 of 24 samples are missing" in finding.note


def test_latent_divergence_fails_unless_only_tokens_count():
    finding, _ = observe(TABLE["latent"][0])
    assert (finding.distinct, finding.distinct_bits, finding.latent) == (1, 2, True)
    assert [finding.exit_code(f) for f in (FailOn.ANY, FailOn.TOKENS, FailOn.NEVER)] == [1, 0, 0]
    surfaced, _ = observe(TABLE["batch-variant"][0])
    assert [surfaced.exit_code(f) for f in (FailOn.ANY, FailOn.TOKENS, FailOn.NEVER)] == [1, 1, 0]


@pytest.mark.parametrize(
    ("samples", "verdict"), [(1, Verdict.INCONCLUSIVE), (2, Verdict.INCONCLUSIVE), (4, Verdict.IDENTICAL)]
)
def test_too_few_samples_to_compare_are_no_pass(samples, verdict):
    finding, _ = observe(Scripted(lambda rows, slot, call: SAME), samples=samples)
    assert finding.verdict is verdict, finding.note


def test_only_what_was_asked_for_explicitly_may_be_one_kind_of_batch():
    finding, _ = observe(Scripted(lambda rows, slot, call: SAME), samples=4, batch_sizes=(1,))
    assert finding.verdict is Verdict.IDENTICAL


def test_without_repeats_run_and_batch_cannot_be_told_apart():
    finding, _ = observe(Scripted(big), trials=1)
    assert finding.verdict is Verdict.DIVERGENT
    assert "not repeated" in finding.note


class Padded(Scripted):
    """Other bits by rows, pad tokens in front of the sample, and the width of the batch."""

    def __init__(self, strikes):
        super().__init__(None)
        self._strikes = strikes

    def complete(self, rows, max_tokens, ignore_eos, padding=0):
        lengths = [len(row.prompt) for row in rows]
        width = max(lengths) + padding
        self._answer = lambda n, slot, call: OTHER if self._strikes(n, width - lengths[slot], width) else SAME
        return super().complete(rows, max_tokens, ignore_eos, padding)


ALONE_TOO = "the prompt alone, padded as in the batch, has other bits already, and batches without padding have those"


@pytest.mark.parametrize(
    ("strikes", "varies_with", "said"),
    [
        (lambda rows, pads, width: pads, ["padding"], ALONE_TOO),
        (lambda rows, pads, width: width % 32 == 1, ["padding"], ALONE_TOO),
        (lambda rows, pads, width: width == 128, ["padding"], ALONE_TOO),
        (lambda rows, pads, width: pads and rows > 1, ["batch"], "so rows and padding do it together"),
        (lambda rows, pads, width: pads or rows > 1, ["batch", "padding"], "padded as in the batch, has other bits"),
        (lambda rows, pads, width: rows > 1, ["batch"], "the bits depend on batch"),
    ],
)
def test_padding_is_told_from_the_batch(strikes, varies_with, said):
    finding, observations = observe(Padded(strikes), samples=100)
    assert len(observations) == 100 and {o.condition.name for o in observations} >= {
        "ragged-4",
        "padded-33",
        "padded-128",
    }
    assert finding.verdict is Verdict.BATCH_VARIANT
    assert finding.evidence["varies_with"] == varies_with and said in finding.note, finding.note


def test_widths_are_asked_for_by_name_where_sizes_are():
    def fault(rows, pads, width):
        return width == 33

    finding, _ = observe(Padded(fault), samples=16, batch_sizes=(1, 2, 3))
    assert finding.evidence["first_variant_condition"] == "ragged-2"  # as wide
    finding, _ = observe(Padded(fault), samples=16, batch_sizes=(1,))
    assert finding.verdict is Verdict.IDENTICAL and set(finding.evidence["conditions"]) == {"alone"}
    finding, _ = observe(Padded(fault), samples=16, batch_sizes=(1,), conditions=("alone", "padded"))
    assert finding.evidence["first_variant_condition"] == "padded-33" and finding.evidence["varies_with"] == ["padding"]
