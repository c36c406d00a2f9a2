"""Engines that form their batches themselves, with answers and steps that we wrote: what the judge makes of them."""

from scripted import OTHER, SAME, Scripted

from detcheck.engine import Decoded, RequestTrace
from detcheck.judge.conditions import judge
from detcheck.probes.completions.options import Options
from detcheck.probes.completions.session import Completions
from detcheck.spec import Spec
from detcheck.verdict import Verdict


class Served(Scripted):
    """Every request rides with all others from the first step to the last, unless `steps` says otherwise."""

    schedules_itself, token_budget, cache_block, uncut = True, 8192, 2, ""

    def __init__(self, answer, trace=lambda call: "t", met=lambda rows: rows, traced=True, preemptions=0):
        super().__init__(lambda rows, slot, call: SAME)
        self._by, self._trace, self._met, self._traced, self._preemptions = answer, trace, met, traced, preemptions
        self._served = -1

    def complete(self, rows, max_tokens, ignore_eos, token_budget=None, cached=False):
        self._served += 1
        samples = [slot for slot, row in enumerate(rows) if row.continuation is None]
        met = self._met(len(rows))
        sizes = (1, met) if any(row.arrival for row in rows) and met > 1 else (met,)
        trace_of = RequestTrace(
            sizes, self._trace(self._served), 3 if token_budget else 1, 8 if cached else 0, self._preemptions
        )
        way = "chunked" if token_budget else "cached" if cached else "staggered" if any(r.arrival for r in rows) else ""
        found = {slot: self._by(way, len(rows), self._served) for slot in samples}
        steps = tuple((size, 9) for size in sizes)
        return Decoded(
            found, sizes, dict.fromkeys(samples, trace_of) if self._traced else {}, steps if self._traced else ()
        )


def judged(engine, conditions=("alone", "wave-4", "staggered-4", "chunked-1", "cached-1"), samples=10):
    spec = Spec(
        "completions", Options(samples=samples, prompt="ask me", max_tokens=4, engine="vllm", conditions=conditions)
    )
    probe = Completions(spec, engine)
    observations, outcomes = [], {}
    for step in probe.subject.schedule.steps:
        seen, found = probe.observe(step)
        observations += seen
        outcomes |= {o.id: o for o in found}
    (finding,) = judge([case for case, _ in probe.subject.cases], probe.subject.schedule, observations, outcomes)
    return finding


def test_equal_answers_under_every_condition_are_identical_and_what_was_met_is_told():
    finding = judged(Served(lambda way, rows, call: SAME))
    assert finding.verdict is Verdict.IDENTICAL
    assert finding.evidence["conditions"]["wave-4"] | {"samples": 0} == {
        "asked": 2, "formed": 2, "samples": 0, "distinct": 1, "distinct_bits": 1, "steps": 2, "requests": 4, "tokens": 9,
    }  # fmt: skip


def test_the_first_condition_that_breaks_the_bits_is_named_and_what_they_go_with():
    finding = judged(Served(lambda way, rows, call: OTHER if way == "chunked" else SAME))
    assert finding.verdict is Verdict.BATCH_VARIANT
    assert finding.evidence["first_variant_condition"] == "chunked-1" and finding.evidence["varies_with"] == ["chunk"]
    finding = judged(Served(lambda way, rows, call: OTHER if way == "cached" else SAME))
    assert finding.evidence["varies_with"] == ["cache"]
    finding = judged(Served(lambda way, rows, call: OTHER if rows > 1 else SAME))
    assert finding.evidence["first_variant_condition"] == "staggered-4" and finding.evidence["varies_with"]


def test_batches_that_did_not_form_are_no_pass():
    finding = judged(Served(lambda way, rows, call: SAME, met=lambda rows: min(rows, 2)))
    assert finding.verdict is Verdict.INCONCLUSIVE and "not formed as asked in wave-4" in finding.note
    assert finding.evidence["conditions"]["wave-4"]["formed"] == 0


def test_without_evidence_of_the_steps_nothing_is_a_pass():
    finding = judged(Served(lambda way, rows, call: SAME, traced=False))
    assert finding.verdict is Verdict.INCONCLUSIVE and "could not be seen" in finding.note


def test_a_repeat_is_an_equal_trace_of_steps():
    def noisy(way, rows, call):
        return OTHER if call % 2 else SAME

    assert judged(Served(noisy)).verdict is Verdict.RUN_VARIANT
    # The same bits under traces that differ from trial to trial: nothing was repeated, so the run is not to blame.
    assert judged(Served(noisy, trace=lambda call: f"t{call}")).verdict is Verdict.DIVERGENT


def test_preemptions_are_counted():
    finding = judged(Served(lambda way, rows, call: SAME, preemptions=2))
    assert finding.evidence["preemptions"] == 2 * finding.samples and finding.verdict is Verdict.IDENTICAL
