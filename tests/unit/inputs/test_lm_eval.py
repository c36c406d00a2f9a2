"""lm-evaluation-harness: text and log-likelihoods, in the older and the newer form."""

from pathlib import Path

import pytest

from detcheck import runner
from detcheck.errors import UsageError
from detcheck.verdict import Verdict

STORED = Path(__file__).parents[2] / "stored" / "judge"


def generated(text, doc=0, **more):
    asked = {"gen_args_0": {"arg_0": f"Q: {doc}", "arg_1": {"until": ["\n"]}}}
    return {"doc_id": doc, "arguments": asked, "resps": [[text]]} | more


def scored(first, second, doc=0, greedy=("True", "False")):
    """A question with two choices, as it is written since 2024: numbers are strings."""
    asked = {f"gen_args_{n}": {"arg_0": "Q:", "arg_1": choice} for n, choice in enumerate((" yes", " no"))}
    return {"doc_id": doc, "arguments": asked, "resps": [[[first, greedy[0]]], [[second, greedy[1]]]]}


def test_the_case_of_a_real_report():
    (finding,) = runner.judge_file(STORED / "lm_eval.jsonl").findings
    assert (finding.verdict, finding.samples, finding.distinct, finding.common_prefix) == (Verdict.DIVERGENT, 2, 2, 9)


def test_documents_are_judged_apart_and_repeats_together(judged):
    found = judged(
        generated("a") | {"resps": [["a", "a", "b"]]},
        generated("c", doc=1),
        generated("c", doc=1),
        allow_unseen_batch=True,
    )
    assert [(f.samples, f.distinct, f.verdict) for f in found.values()] == [
        (3, 2, Verdict.DIVERGENT),
        (2, 1, Verdict.IDENTICAL),
    ]
    assert [name.split(":")[0] for name in found] == ["doc-0", "doc-1"]


def test_another_prompt_of_the_same_document_is_another_request(judged):
    other = generated("b")
    other["arguments"]["gen_args_0"]["arg_0"] = "Question: 0"
    assert len(judged(generated("a"), other)) == 2


def test_a_document_that_is_written_once_a_filter_is_one_sample(judged):
    rows = [generated("a", filter=name) for name in ("strict-match", "flexible-extract")]
    (finding,) = judged(*rows).values()
    assert finding.samples == 1
    (finding,) = judged(*rows, *rows).values()
    assert finding.samples == 2


def test_another_answer_with_another_filter_is_another_sample(judged):
    (finding,) = judged(generated("a", filter="strict-match"), generated("b", filter="flexible-extract")).values()
    assert finding.distinct == 2


def test_log_likelihoods_of_choices_are_compared_as_they_are_printed(judged):
    (finding,) = judged(scored("-1.25", "-2.5"), scored("-1.25", "-2.0")).values()
    assert (finding.distinct, finding.distinct_bits, finding.common_prefix_bits) == (1, 2, 1)
    assert finding.evidence["compared"] == "digits" and finding.evidence["unit"] == "choice"
    assert finding.metrics == {"max_abs": 0.5}
    (finding,) = judged(*[scored("-1.25", "-2.5")] * 2, allow_unseen_batch=True).values()
    assert (
        finding.verdict is Verdict.IDENTICAL and "choices, and log-probabilities as they were printed" in finding.note
    )


def test_the_last_digit_counts(judged):
    (finding,) = judged(scored("-0.1", "-2.5"), scored("-0.10000000000000002", "-2.5")).values()
    assert (finding.verdict, finding.distinct_bits) == (Verdict.DIVERGENT, 2)


def test_a_choice_that_is_greedy_no_more_is_another_outcome(judged):
    (finding,) = judged(scored("-1.0", "-2.0"), scored("-1.0", "-2.0", greedy=("False", "False"))).values()
    assert finding.distinct == 2


def test_older_and_newer_forms_are_the_same_request_and_the_same_numbers(judged):
    old = {"doc_id": 0, "arguments": [["Q:", " yes"], ["Q:", " no"]], "resps": [[[-1.25, True]], [[-2.5, False]]]}
    (finding,) = judged(old, scored("-1.25", "-2.5"), allow_unseen_batch=True).values()
    assert (finding.samples, finding.verdict) == (2, Verdict.IDENTICAL)
    text = {"doc_id": 0, "arguments": [["Q: 0", {"until": ["\n"]}]], "resps": [["a"]]}
    (finding,) = judged(text, generated("b")).values()
    assert finding.distinct == 2


def test_the_oldest_form_is_one_list(judged):
    lines = [
        "[",
        '{"doc_id": 0, "arguments": [["Q", {}]],',
        '"resps": [["a"]]}, {"doc_id": 0, "arguments": [["Q", {}]],',
    ]
    (finding,) = judged(*lines, '"resps": [["b"]]}', "]").values()
    assert finding.distinct == 2


@pytest.mark.parametrize("answer", ["-7.5", -7.5, ["-7.5"], [-7.5]])
def test_a_whole_text_that_is_scored(judged, answer):
    row = {"doc_id": 3, "arguments": {"gen_args_0": {"arg_0": "a text"}}, "resps": [[answer]]}
    (finding,) = judged(row, row | {"resps": [["-7.75"]]}).values()
    assert (finding.distinct, finding.distinct_bits, finding.metrics["max_abs"]) == (1, 2, 0.25)


def test_text_that_looks_like_a_number_stays_text(judged):
    (finding,) = judged(generated("-7.5"), generated("-7.50")).values()
    assert (finding.distinct, finding.evidence["compared"]) == (2, "text")


def test_an_empty_answer_is_an_answer(judged):
    (finding,) = judged(generated(""), generated("a")).values()
    assert (finding.verdict, finding.missing) == (Verdict.DIVERGENT, 0)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (generated("a") | {"resps": []}, "line 2: `resps` has 0 answers to 1 requests"),
        (generated("a") | {"resps": "a"}, "line 2: `resps` wants a list; found 'a' (str)"),
        (generated("a") | {"resps": [[7]]}, "line 2: generated text in `resps` wants a string; found '7' (int)"),
        (generated("a") | {"arguments": 3}, "line 2: `arguments` wants a list"),
        (scored("-1", "much"), "line 2: `resps` wants log-likelihoods, like [-1.5, true]; found"),
        (scored("-1", "-2", greedy=("True", "perhaps")), "line 2: `resps` wants log-likelihoods"),
        ({"tokens": [1]}, "line 2: is not lm-eval, as the lines before it are; found the keys tokens"),
        ('{"doc_id": 0, "argum', "line 2 is not JSON: Unterminated string"),
        (scored("-1", "-2", doc=1), "line 2 has strings, logprobs, no finish_reason, but"),
    ],
)
def test_what_cannot_be_understood_is_refused_in_words(judged, row, says):
    with pytest.raises(UsageError) as refused:
        judged(generated("a"), row)
    assert says in str(refused.value)
