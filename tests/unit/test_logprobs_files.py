"""Files of log-probabilities: whose they are, which sequence of one belongs to which of the other, and what is refused."""

import json
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from detcheck import runner
from detcheck.errors import UsageError
from detcheck.probes.logprobs import files
from detcheck.probes.logprobs.facts import SAMPLER, TRAINER
from detcheck.probes.logprobs.options import Options
from detcheck.probes.logprobs.pairing import pair
from detcheck.spec import Spec
from detcheck.verdict import Verdict

RNG = np.random.default_rng(4)
LENGTHS = (6, 3, 9, 5)
SEQUENCES = [
    {"prompt": f"question {n}", "tokens": RNG.integers(0, 90, k).tolist(), "logprobs": [float(x) for x in -RNG.exponential(1, k).astype(np.float32)]}
    for n, k in enumerate(LENGTHS)
]  # fmt: skip


@pytest.fixture
def found(write, tmp_path):
    """(lines of the sampler, lines of the trainer) -> the one finding."""

    def call(a, b=None, **options):
        paths = [write(f"{name}.jsonl", *lines) for name, lines in (("a", a), ("b", b)) if lines is not None]
        own = Options(*(str(path) for path in paths), **options)
        run = runner.run(Spec("logprobs", own), tmp_path / "runs")
        (one,) = run.findings
        stored = runner.load(run.path)
        assert (stored.verdict, stored.findings[0].note, stored.exit_code) == (one.verdict, one.note, run.exit_code)
        return one, run.exit_code

    return call


def changed(place, index, value):
    lines = json.loads(json.dumps(SEQUENCES))
    lines[place]["logprobs"][index] = value
    return lines


def test_the_same_in_another_order_is_identical(found):
    one, code = found(SEQUENCES, SEQUENCES[::-1])
    assert (one.verdict, code) == (Verdict.IDENTICAL, 0)
    assert one.metrics["tokens"] == sum(LENGTHS) and one.samples == 4


def test_one_bit_is_seen_and_where(found):
    other = float(np.nextafter(np.float32(SEQUENCES[2]["logprobs"][4]), np.float32(0)))
    one, code = found(SEQUENCES, changed(2, 4, other))
    assert (one.verdict, code) == (Verdict.DIVERGENT, 1)
    first = one.evidence["first_mismatch"]
    assert (first["sequence"][:2], first["index"], first["token"]) == ("2:", 4, SEQUENCES[2]["tokens"][4])
    assert one.metrics["mismatching"] == 1 and 0 < one.metrics["max_abs"] < 1e-6


def test_limits_accept_a_difference_and_never_call_it_identical(found):
    apart = changed(1, 0, SEQUENCES[1]["logprobs"][0] + 1e-3)
    one, code = found(SEQUENCES, apart, max_diff=2e-3, max_kl=1e-3)
    assert (one.verdict, code) == (Verdict.DIVERGENT, 0) and "within what you accept" in one.note
    one, code = found(SEQUENCES, apart, max_diff=5e-4, max_kl=1e-3)
    assert code == 1 and "beyond what you accept" in one.note
    one, code = found(SEQUENCES, apart, max_kl=1e-12)
    assert code == 1
    one, code = found(SEQUENCES[:3], apart, max_diff=2e-3)  # what is missing might tell more
    assert (one.verdict, code) == (Verdict.DIVERGENT, 3)


def test_a_limit_accepts_no_nan_and_no_other_token(found):
    assert found(SEQUENCES, changed(0, 0, None), max_diff=100.0)[1] == 1
    other = json.loads(json.dumps(SEQUENCES))
    other[0]["tokens"][2] += 1
    one, code = found(SEQUENCES, other, max_diff=100.0)
    assert (one.verdict, code) == (Verdict.DIVERGENT, 1) and one.evidence["causes"][0]["kind"] == "tokenizer"


def test_a_limit_accepts_nothing_that_was_not_compared(found):
    """NaN on both sides, and a sequence that is cut off, beside a difference that would be accepted."""
    near = [-1.0, -1.0000001, -2.0, -2.0]
    for tokens, logprobs in ((4, [None, None]), (2, [])):
        here = {"id": "x", "tokens": [1, 2, 3, 4], "logprobs": [-1.0, -1.0, *(logprobs or near[2:])]}
        there = {"id": "x", "tokens": [1, 2, 3, 4][:tokens], "logprobs": [*near[:2], *logprobs]}
        one, code = found([here], [there], max_diff=1e-3, max_kl=1.0)
        assert (one.verdict, code) == (Verdict.DIVERGENT, 1) and "so it is not accepted" in one.note


@pytest.mark.parametrize("value", [None, "NaN", "-Infinity"])
def test_no_number_on_one_side_is_a_difference(found, value):
    one, code = found(SEQUENCES, changed(0, 3, value))
    assert (one.verdict, code) == (Verdict.DIVERGENT, 1) and one.metrics["not_finite"] == 1


def test_no_number_on_both_sides(found):
    nan = changed(0, 3, None)
    one, code = found(nan, nan[::-1])
    assert (one.verdict, code) == (Verdict.INCONCLUSIVE, 3) and "NaN on both sides" in one.note
    impossible = changed(0, 3, "-inf")
    assert found(impossible, impossible)[0].verdict is Verdict.IDENTICAL


def test_a_sequence_that_one_file_lacks_is_no_pass(found):
    one, code = found(SEQUENCES, SEQUENCES[1:])
    assert (one.verdict, code, one.missing) == (Verdict.INCONCLUSIVE, 3, 1)
    assert "b.jsonl does not have it" in one.note
    one, _ = found(SEQUENCES[1:], SEQUENCES)
    assert one.missing == 1 and "a.jsonl does not have it" in one.note


def test_sequences_that_are_cut_off_are_no_pass(found):
    short = [one | {key: one[key][:5] for key in ("tokens", "logprobs")} for one in SEQUENCES]
    one, code = found(SEQUENCES, short)
    assert (one.verdict, code) == (Verdict.INCONCLUSIVE, 3)
    assert "cut off after 5 tokens" in one.note and one.metrics["tokens"] == 5 + 3 + 5 + 5


@pytest.mark.parametrize("ids_first", [True, False])
def test_token_ids_on_one_side_alone_are_no_other_tokeniser(found, ids_first):
    """Places are no ids. Whether the numbers are of the same tokens is not known, so equal ones are no pass."""
    whole = {"id": "x", "tokens": [11, 12, 13], "logprobs": [-1.0, -2.0, -3.0]}
    bare = {key: whole[key] for key in ("id", "logprobs")}
    one, code = found(*(([whole], [bare]) if ids_first else ([bare], [whole])))
    assert (one.verdict, code) == (Verdict.INCONCLUSIVE, 3), one.note
    assert one.evidence["causes"] == [] and "one side alone gives token ids of 1 sequence," in one.note


def test_nothing_in_common(found):
    one, code = found(SEQUENCES[:1], [{"prompt": "else", "tokens": [1, 2], "logprobs": [-1.0, -2.0]}])
    assert (one.verdict, code) == (Verdict.INCONCLUSIVE, 3) and "nothing could be compared" in one.note


def test_rounded_numbers_are_no_difference_and_no_pass(found):
    lines = [{"tokens": list(range(30)), "logprobs": [float(x) for x in -RNG.exponential(1, 30).astype(np.float32)]}]
    short = [lines[0] | {"logprobs": [float(f"{x:.3g}") for x in lines[0]["logprobs"]]}]
    one, code = found(lines, short)
    assert (one.verdict, code) == (Verdict.INCONCLUSIVE, 3) and "rounded to 3 digits" in one.note
    short[0]["logprobs"][3] -= 0.1
    assert found(lines, short)[0].verdict is Verdict.DIVERGENT


def digits(lines, number):
    return [one | {"logprobs": [float(f"{x:.{number}g}") for x in one["logprobs"]]} for one in lines]


def test_numbers_rounded_alike_on_both_sides_are_no_pass(found):
    """What differs by less than the digits tell would come out equal."""
    numbers = (-np.sqrt(np.arange(2, 62))).tolist()
    lines = [{"tokens": list(range(60)), "logprobs": numbers}]
    other = [{"tokens": list(range(60)), "logprobs": [x + 1e-6 for x in numbers]}]
    assert found(lines, other)[1] == 1
    one, code = found(digits(lines, 3), digits(other, 3))
    assert (one.verdict, code) == (Verdict.INCONCLUSIVE, 3) and "rounded" in one.note


def test_the_coarser_rounding_counts(found):
    lines = [{"tokens": list(range(40)), "logprobs": [float(x) for x in -RNG.exponential(1, 40)]}]
    for a, b in ((6, 3), (3, 6)):
        one, code = found(digits(lines, a), digits(lines, b))
        assert (one.verdict, code) == (Verdict.INCONCLUSIVE, 3)


def test_bfloat16_on_one_side_is_named(found):
    lines = [{"tokens": list(range(30)), "logprobs": [float(x) for x in -RNG.exponential(1, 30).astype(np.float32)]}]
    bits = np.array(lines[0]["logprobs"], np.float32).view(np.uint32) & 0xFFFF0000
    half = [lines[0] | {"logprobs": [float(x) for x in bits.view(np.float32)]}]
    one, code = found(lines, half)
    assert (one.verdict, code) == (Verdict.DIVERGENT, 1) and one.evidence["causes"][0]["kind"] == "precision"


def test_float64_on_both_sides_is_compared_as_that(found):
    lines = [{"tokens": list(range(30)), "logprobs": (-RNG.exponential(1, 30)).tolist()}]
    close = [lines[0] | {"logprobs": [x * (1 + 1e-15) for x in lines[0]["logprobs"]]}]
    one, _ = found(lines, close)
    assert one.case.dtype == "float64" and one.verdict is Verdict.DIVERGENT


def test_float64_on_one_side_loses_no_digit(found):
    wide = [{"tokens": list(range(30)), "logprobs": (-RNG.exponential(1, 30)).tolist()}]
    narrow = [wide[0] | {"logprobs": [float(np.float32(x)) for x in wide[0]["logprobs"]]}]
    for pair_of in ((wide, narrow), (narrow, wide)):
        one, code = found(*pair_of)
        assert (one.case.dtype, one.verdict, code) == ("float64", Verdict.DIVERGENT, 1)
        assert one.metrics["mismatching"] == 30 and one.metrics["max_abs"] < 1e-6
    short = [wide[0] | {"logprobs": [float(f"{x:.9g}") for x in narrow[0]["logprobs"]]}]  # the same float32s
    assert found(narrow, short)[0].verdict is Verdict.IDENTICAL


@pytest.mark.filterwarnings("error")
def test_what_float32_has_no_number_for_is_compared_as_float64(found):
    one, code = found(
        [{"tokens": [1, 2], "logprobs": [-1e39, -1e-50]}], [{"tokens": [1, 2], "logprobs": [-2e40, -5e-60]}]
    )
    assert (one.verdict, code, one.metrics["mismatching"]) == (Verdict.DIVERGENT, 1, 2)


def test_widths_are_told_from_different_numbers_and_from_all_parts():
    assert files.precision([np.array([0.0] * 25 + [-1.0])]) == "float32"
    assert files.precision([np.array([-0.1] * 25)]) == "float32"
    assert files.precision([-np.arange(1.0, 26.0)]) == "bfloat16"
    many = np.round(-RNG.exponential(1, 8000), 3)
    assert files.precision([many]) != "float64" == files.precision([np.append(many, -1 / 3)])


def test_dumps_of_trl_verl_and_nemo_rl_hold_both_sides(write, tmp_path):
    a = -RNG.exponential(1, (2, 4)).astype(np.float32)
    b = a + np.float32(0.25)
    ids, mask = np.array([[5, 6, 7, 0], [8, 9, 0, 0]]), np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
    trl = write("trl.jsonl", *[
        {"prompt_ids": [1, 2], "completion_ids": ids[n].tolist(), "completion_mask": mask[n].tolist(),
         "sampling_per_token_logps": a[n].astype(float).tolist(), "old_per_token_logps": b[n].astype(float).tolist()} for n in range(2)
    ])  # fmt: skip
    verl = tmp_path / "verl.safetensors"
    save(
        verl,
        {
            "responses": ids,
            "response_mask": mask,
            "prompts": np.array([[1, 2]] * 2),
            "rollout_log_probs": a,
            "old_log_probs": b,
        },
    )
    nemo = write("nemo.jsonl", *[
        {"content": ["hello"], "generation_logprobs": [[0.0, 0.0, *(a[n] * mask[n]).astype(float).tolist()]],
         "prev_logprobs": [[-1.0, -2.0, *b[n].astype(float).tolist()]], "input_lengths": [2 + int(mask[n].sum())]} for n in range(2)
    ])  # fmt: skip
    np.savez(tmp_path / "verl.npz", responses=ids, response_mask=mask, rollout_log_probs=a, old_log_probs=b)
    table = pa.table({"completion_ids": [[5, 6, 7], [8, 9]], "sampling_per_token_logps": pa.array([a[0, :3], a[1, :2]], pa.list_(pa.float32())), "old_per_token_logps": pa.array([b[0, :3], b[1, :2]], pa.list_(pa.float32()))})  # fmt: skip
    pa.parquet.write_table(table, tmp_path / "trl.parquet")
    for path in (trl, verl, nemo, tmp_path / "verl.npz", tmp_path / "trl.parquet"):
        one, two = files.read(path, (SAMPLER, TRAINER))
        assert [len(one.logprobs[SAMPLER]), len(two.logprobs[TRAINER])] == [3, 2], path
        np.testing.assert_array_equal(one.logprobs[SAMPLER], a[0, :3].astype(np.float64))
        np.testing.assert_array_equal(two.logprobs[TRAINER], b[1, :2].astype(np.float64))
        if path != nemo:
            assert one.tokens.tolist() == [5, 6, 7] and two.tokens.tolist() == [8, 9]
    assert files.read(verl, (SAMPLER, TRAINER))[0].prompt_ids == (1, 2)


NEMO = {"input_lengths": 6, "generation_logprobs": [0, 0, -1.0, 0.0, -0.5, 0.0, 0.0], "prev_logprobs": [-9, -9, -1.0, -7.0, -0.5, -3.0, -5.0]}  # fmt: skip


def test_a_token_of_which_the_sampler_was_certain_is_compared(found, write):
    one, code = found([NEMO])
    assert (one.verdict, code) == (Verdict.DIVERGENT, 1)
    assert (one.metrics["tokens"], one.metrics["mismatching"]) == (4, 2)
    (trainer,) = files.read(write("b.jsonl", NEMO), (TRAINER,))  # of two files, the same places
    assert trainer.logprobs[TRAINER].tolist() == [-1.0, -7.0, -0.5, -3.0]
    mask = {"token_loss_mask": [0, 1, 1, 0, 0, 1, 0]}
    (masked,) = files.read(write("c.jsonl", NEMO | mask), (SAMPLER, TRAINER))
    assert masked.logprobs[TRAINER].tolist() == [-9.0, -1.0, -3.0]


@pytest.mark.parametrize(
    "row", [{"input_lengths": 2, "logprobs": [-1, -2, -3]}, NEMO | {"generation_logprobs": [0] * 7}]
)
def test_an_answer_that_begins_nowhere_is_refused(write, row):
    with pytest.raises(UsageError, match="where the answer begins"):
        files.read(write("a.jsonl", row), (SAMPLER,))


@pytest.mark.parametrize("value", ["[]", '"abc"', "null", "1e400", "{}", "-1", "[1, 2]", "true"])
def test_a_length_that_is_no_number_is_refused(tmp_path, value):
    (tmp_path / "a.jsonl").write_text(json.dumps(NEMO | {"input_lengths": "HERE"}).replace('"HERE"', value))
    with pytest.raises(UsageError, match="input_lengths wants a whole number"):
        files.read(tmp_path / "a.jsonl", (SAMPLER, TRAINER))


PADDED = {"prompt_ids": [0, 0, 0, 7], "tokens": [1, 2, 3], "rollout_log_probs": [-1, -2, -3], "old_log_probs": [-9, -9, -3]}  # fmt: skip


@pytest.mark.parametrize(
    ("mask", "prompt", "tokens"),
    [([0, 0, 0, 1], (7,), 3), ([1, 1, 0], (0, 0, 0, 7), 2), ([0, 0, 0, 1, 1, 1, 0], (7,), 2), ([1] * 9, (0, 0, 0, 7), 3)],
)  # fmt: skip
def test_an_attention_mask_masks_what_it_has_the_length_of(write, mask, prompt, tokens):
    (one,) = files.read(write("a.jsonl", PADDED | {"attention_mask": mask}), (SAMPLER, TRAINER))
    assert (one.prompt_ids, len(one.logprobs[TRAINER])) == (prompt, tokens)


def test_the_prompts_attention_mask_hides_no_difference(found):
    one, code = found([PADDED | {"attention_mask": [0, 0, 0, 1]}])
    assert (one.verdict, code, one.metrics["tokens"]) == (Verdict.DIVERGENT, 1, 3)


@pytest.mark.parametrize("prompt", [{}, {"prompt_ids": [0, 0, 7]}])
def test_an_attention_mask_of_prompt_or_answer_is_refused(write, prompt):
    lines = {key: value for key, value in PADDED.items() if key != "prompt_ids"} | prompt
    mask = [0, 0, 1] if prompt else [0, 0, 0, 1]
    with pytest.raises(UsageError, match="does not say what it masks"):
        files.read(write("a.jsonl", lines | {"attention_mask": mask}), (SAMPLER, TRAINER))


@pytest.mark.parametrize("mask", [[[1], [0], [1], [1]], [None, "a", 1, 1], [1, 0]])
def test_a_prompt_mask_that_is_none_is_refused(write, mask):
    with pytest.raises(UsageError, match="prompt_mask"):
        files.read(write("a.jsonl", PADDED | {"prompt_mask": mask}), (SAMPLER, TRAINER))


def save(path, arrays):
    header, body = {}, b""
    for name, values in arrays.items():
        raw = np.ascontiguousarray(values).tobytes()
        kind = {"f4": "F32", "i8": "I64"}[values.dtype.str[1:]]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_pairing_goes_by_names_then_by_what_is_held(write):
    lines = [one | {"id": f"s{n}"} for n, one in enumerate(SEQUENCES)]
    twisted = [line | {"tokens": [t + 1 for t in line["tokens"]]} for line in lines[::-1]]
    a, b = (
        files.read(write(name, *ls), (side,))
        for name, ls, side in (("a.jsonl", lines, SAMPLER), ("b.jsonl", twisted, TRAINER))
    )
    assert pair(a, b) == [(0, 3), (1, 2), (2, 1), (3, 0)]
    copies = [SEQUENCES[0], SEQUENCES[0] | {"logprobs": [-1.0] * 6}]
    a, b = (files.read(write(name, *copies), (side,)) for name, side in (("a.jsonl", SAMPLER), ("b.jsonl", TRAINER)))
    assert pair(a, b) == [(0, 0), (1, 1)]


@pytest.mark.parametrize(
    "flat",
    [{"tokens": [5, 6, 8]}, {"completion_mask": [1, 1, 0]}, {"prompt_ids": [1, 2]}, {"prompt_ids": [1]}, {"tokens": [5]},
     {"input_lengths": [3, 3]}],
)  # fmt: skip
def test_what_is_of_one_sequence_beside_a_batch_is_refused(write, flat):
    with pytest.raises(UsageError, match=f"{next(iter(flat))} is one list"):
        files.read(write("a.jsonl", {"logprobs": [[-1, -2, -3]]} | flat), (SAMPLER,))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("key", ["prompt", "prompt_ids"])
def test_the_same_tokens_behind_another_prompt_are_not_paired(found, key, named):
    """By name, by place: nothing makes them one."""
    forms = {"prompt": ("a", "b"), "prompt_ids": ([1, 2], [1, 3])}[key]
    a, b = (
        [{"id": f"s{n}", "tokens": [9], "logprobs": [-1.0], key: forms[0]} for n in range(2)] for _ in range(2)
    )  # fmt: skip
    b[1][key] = forms[1]
    if not named:
        for line in (*a, *b):
            del line["id"]
    one, code = found(a, b)
    assert (one.verdict, code, one.missing) == (Verdict.INCONCLUSIVE, 3, 2)
    assert "b.jsonl does not have it, but the same under another prompt" in one.note


def test_a_prompt_as_text_and_one_as_ids_do_not_contradict(found):
    a, b = (
        {"id": "s", "tokens": [9], "logprobs": [-1.0]} | prompt for prompt in ({"prompt": "a"}, {"prompt_ids": [1]})
    )
    assert found([a], [b])[0].verdict is Verdict.IDENTICAL
    assert found([a], [{"id": "s", "tokens": [9], "logprobs": [-1.0]}])[0].verdict is Verdict.IDENTICAL


REFUSED = {
    "pickled": (b"\x80\x04\x95abcdefgh", "is pickled"),
    "empty": (b"", "holds no sequences"),
    "text": (b"hello\n", "not JSON"),
    "no numbers": (b'{"tokens": [1], "text": "a"}\n', "wants the log-probabilities"),
    "uneven": (b'{"tokens": [1, 2], "logprobs": [-1.0]}\n', "give one each"),
    "words": (b'{"tokens": [1], "logprobs": ["a"]}\n', "wants a list of numbers"),
    "of the other side": (b'{"tokens": [1], "old_log_probs": [-1.0]}\n', "is the trainer's"),
    "torn": (struct.pack("<Q", 30) + b'{"a": {"dtype": "F32", "shape": [9], "data_off', "not a whole safetensors file"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_refused_in_words(tmp_path, kind):
    data, words = REFUSED[kind]
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(UsageError, match=words):
        files.read(tmp_path / "file", (SAMPLER,))


def test_one_file_of_one_side_is_refused(write):
    with pytest.raises(UsageError, match="is of one side"):
        files.read(write("a.jsonl", *SEQUENCES), (SAMPLER, TRAINER))


def archive(path, **options):
    """A sound .npz, and its bytes."""
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, values in {"tokens": np.arange(300), "logprobs": -np.arange(300.0)}.items():
            with file.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, values)
    return path.read_bytes()


def without_end(data):
    return data[: len(data) // 2]


def changed_inside(data):
    return data[:200] + bytes(255 - one for one in data[200:260]) + data[260:]


def unknown_compression(data):
    return data.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x08\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x63\x00")


def encrypted(data):
    return data.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")


HARMED = [(h, zipfile.ZIP_DEFLATED) for h in (without_end, changed_inside, unknown_compression, encrypted)]
HARMED += [(h, zipfile.ZIP_STORED) for h in (without_end, changed_inside, encrypted)]


@pytest.mark.parametrize(("harm", "compression"), HARMED)
def test_a_harmed_archive_is_refused(tmp_path, harm, compression):
    path = tmp_path / "a.npz"
    data = archive(path, compression=compression)
    assert len(files.read(path, (SAMPLER,))[0].tokens) == 300
    path.write_bytes(harm(data))
    assert path.read_bytes() != data
    with pytest.raises(UsageError, match="no archive of numpy's arrays"):
        files.read(path, (SAMPLER,))


@pytest.mark.parametrize(
    "values", [np.array(["-1", "-2"]), np.array([-1j, -2]), np.zeros(2, [("a", "f4")]), np.zeros(2, "M8[s]")]
)
def test_arrays_that_are_no_numbers_are_refused(tmp_path, values):
    np.savez(tmp_path / "a.npz", tokens=np.arange(2), logprobs=values)
    with pytest.raises(UsageError, match="logprobs wants a list of numbers"):
        files.read(tmp_path / "a.npz", (SAMPLER,))


def test_a_column_that_is_not_wanted_is_not_read(tmp_path):
    columns = {"tokens": [[1, 2]], "t": pa.array([2**62 + 1], pa.timestamp("ns"))}
    pa.parquet.write_table(pa.table(columns | {"logprobs": [[-1.0, -2.0]]}), tmp_path / "a.parquet")
    assert files.read(tmp_path / "a.parquet", (SAMPLER,))[0].tokens.tolist() == [1, 2]
    times = pa.array([[1, 2]], pa.list_(pa.timestamp("ns")))
    pa.parquet.write_table(pa.table(columns | {"logprobs": times}), tmp_path / "b.parquet")
    with pytest.raises(UsageError, match=r"logprobs wants a list of numbers; found .*Timestamp"):
        files.read(tmp_path / "b.parquet", (SAMPLER,))
    pa.parquet.write_table(pa.table(columns), tmp_path / "c.parquet")
    with pytest.raises(UsageError, match="has the keys tokens, t"):
        files.read(tmp_path / "c.parquet", (SAMPLER,))


def test_lengths_of_a_batch_of_arrays(tmp_path):
    """And one number, which has no axis."""
    a = np.array([[0, -1.0, -2.0], [0, -3.0, 0]])
    np.savez(tmp_path / "a.npz", generation_logprobs=a, prev_logprobs=a, input_lengths=np.array([3, 2]))
    assert [len(one.logprobs[SAMPLER]) for one in files.read(tmp_path / "a.npz", (SAMPLER, TRAINER))] == [2, 1]
    np.savez(tmp_path / "b.npz", tokens=np.array(7), prompt_ids=np.array(3), logprobs=np.array(-1.0))
    (one,) = files.read(tmp_path / "b.npz", (SAMPLER,))
    assert (one.tokens.tolist(), one.prompt_ids) == ([7], (3,))


def test_a_name_with_half_a_character(found):
    line = {"id": "\ud800", "tokens": [1], "logprobs": [-1.0]}
    assert found([line], [line])[0].verdict is Verdict.IDENTICAL


@pytest.mark.parametrize(
    "header", ["[]", '{"a": {"dtype": "F32", "shape": [9223372036854775808], "data_offsets": [0, 4]}}', '{"a": 1}']
)
def test_a_header_of_tensors_that_says_nothing_is_refused(tmp_path, header):
    data = header.encode()
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(data)) + data + bytes(4))
    with pytest.raises(UsageError):
        files.read(tmp_path / "a", (SAMPLER,))
