"""The real vLLM on the CPU: what it computes, what is seen of it, and that stock schedules differ where ours do not."""

import json
import os

import numpy as np
import pytest
import warm
from conftest import only_run
from models import gemma_like, llama_like, mixture, save_large_tokenizer
from reacting import stock as stock_that_reacts

from detcheck import runner
from detcheck.engine import Row
from detcheck.judge.conditions import judge
from detcheck.models import amplifier
from detcheck.outcomes import outcome
from detcheck.probes.completions.options import Options
from detcheck.probes.completions.session import Completions
from detcheck.spec import Kernels, Spec

pytestmark = pytest.mark.usefixtures("needs_vllm")
TOKENS = 24


@pytest.fixture(scope="module")
def stock(needs_vllm, tmp_path_factory):
    """The amplifier in vLLM, started once, on stock that reacts to the batch on any machine."""
    from detcheck.engines.vllm.engine import VllmEngine

    with stock_that_reacts(tmp_path_factory.mktemp("reacting")):
        engine = VllmEngine(None)
        engine.load(1024)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def prompt(stock):
    return stock.encode(amplifier.PROMPT)


def serve(engine, rows, max_tokens=TOKENS, **way):
    with engine.running("stock"):
        return engine.complete(rows, max_tokens, ignore_eos=True, **way)


def bits(completion):
    return outcome(np.asarray(completion.tokens), logprobs=completion.logprobs, finish_reason="length").id


def test_it_says_what_it_is(stock):
    assert (stock.dtype, stock.device, stock.context) == ("float32", "cpu", amplifier.CONTEXT)
    assert stock.flags["engine"].startswith("vllm 0.") and stock.flags["vllm.enforce_eager"] == "True"
    assert stock.cache_block == 128 and stock.max_rows(512) == 256
    assert stock.threads == int(os.environ.get("OMP_NUM_THREADS", stock.threads))


def test_arrivals_are_counted_in_engine_steps(stock, prompt):
    decoded = serve(stock, [Row(prompt, None, arrival) for arrival in (0, 3, 5)])
    requests = [requests for requests, _ in decoded.steps]
    assert requests == [1] * 3 + [2] * 2 + [3] * (TOKENS - 5) + [2] * 3 + [1] * 2
    length = len(prompt)
    assert [tokens for _, tokens in decoded.steps][:7] == [length, 1, 1, length + 1, 2, length + 2, 3]
    assert [decoded.traces[slot].batch_sizes for slot in range(3)] == [(1, 2, 3), (2, 3), (1, 2, 3)]


def test_a_late_arrival_need_not_be_waited_for_where_nothing_is_left_to_compute(stock, prompt):
    decoded = serve(stock, [Row(prompt), Row(prompt, None, 500)], max_tokens=4)
    assert [requests for requests, _ in decoded.steps] == [1] * 8
    assert len(decoded.completions) == 2


def test_a_token_budget_cuts_prompts_in_chunks_and_is_gone_afterwards(stock, prompt):
    decoded = serve(stock, [Row(prompt)], token_budget=64)
    assert decoded.traces[0].chunks == -(-len(prompt) // 64)
    assert max(tokens for _, tokens in decoded.steps) == 64
    assert serve(stock, [Row(prompt)]).traces[0].chunks == 1


def test_the_steps_account_for_every_token(stock, prompt):
    decoded = serve(stock, [Row(prompt)] * 4, max_tokens=6, token_budget=40)
    computed = 4 * (len(prompt) + 5)  # the last token of each is not computed
    assert sum(tokens for _, tokens in decoded.steps) == computed
    assert max(tokens for _, tokens in decoded.steps) <= 40


def test_the_prefix_cache_is_cold_unless_it_was_asked_for(stock, prompt):
    assert serve(stock, [Row(prompt), Row(prompt)]).traces[1].cached == 0
    warm = serve(stock, [Row(prompt)], cached=True)
    assert warm.traces[0].cached == len(prompt) // 128 * 128 and warm.steps[0] == (1, len(prompt) % 128)
    assert serve(stock, [Row(prompt)]).traces[0].cached == 0


def test_fillers_end_when_they_were_told_to_and_are_no_samples(stock, prompt):
    decoded = serve(stock, [Row(prompt), Row(prompt[:50], prompt[:5]), Row(prompt[:50], prompt[:9])])
    assert list(decoded.completions) == [0]
    assert [requests for requests, _ in decoded.steps] == [3] * 5 + [2] * 4 + [1] * (TOKENS - 9)


def test_the_same_traffic_is_the_same_trace_and_the_same_bits_and_other_traffic_is_not(stock, prompt):
    staggered = [Row(prompt, None, 3 * n) for n in range(16)]
    first, again, alone = serve(stock, staggered), serve(stock, staggered), serve(stock, [Row(prompt)])
    assert [r.trace for r in first.traces.values()] == [r.trace for r in again.traces.values()]
    assert [bits(c) for c in first.completions.values()] == [bits(c) for c in again.completions.values()]
    assert len({r.trace for r in first.traces.values()}) == 16 and alone.traces[0].trace not in first.traces[0].trace
    # The fault that all of this is for: stock kernels let the schedule reach the bits.
    assert len({bits(c) for c in first.completions.values()}) > 4


def test_copies_that_are_sent_at_once_prove_nothing(stock, prompt):
    together = serve(stock, [Row(prompt)] * 8)
    assert {bits(c) for c in together.completions.values()} != {bits(serve(stock, [Row(prompt)]).completions[0])}
    assert len({bits(c) for c in together.completions.values()}) <= 2


def test_an_end_token_ends_a_sample_and_is_its_last(stock, prompt, monkeypatch):
    whole = serve(stock, [Row(prompt)]).completions[0]
    end = whole.tokens[5]
    monkeypatch.setattr(stock, "ends", frozenset({end}))
    with stock.running("stock"):
        cut = stock.complete([Row(prompt)], TOKENS, ignore_eos=False).completions[0]
    where = whole.tokens.index(end)
    assert (cut.tokens, cut.finish_reason) == (whole.tokens[: where + 1], "stop")
    assert cut.logprobs.tobytes() == whole.logprobs[: where + 1].tobytes()
    assert (len(whole.tokens), whole.finish_reason) == (TOKENS, "length")


TALK = {
    "messages": [
        {"role": "user", "content": amplifier.PROMPT},
        {"role": "tool", "content": "Born in 1918."},
        {"role": "user", "content": "And where?"},
    ]
}


def test_a_conversations_history_is_warm_but_under_cold_and_a_cache_that_leaks_is_named(stock, write, monkeypatch):
    """The fault: a turn that reads its history from the cache has other bits, from its first token on."""
    complete = stock.complete

    def leaking(*arguments, goes_on=False, **how):
        decoded = complete(*arguments, goes_on=goes_on, **how)
        if goes_on:
            for one in decoded.completions.values():
                one.logprobs[0] = np.nextafter(one.logprobs[0], np.float32(0))
        return decoded

    monkeypatch.setattr(stock, "complete", leaking)
    file, conditions = str(write("talk.jsonl", TALK)), ("alone", "cold", "wave-2")
    how = {"samples": 6, "max_tokens": 4, "ignore_eos": True, "engine": "vllm"}
    own = Options(**how, prompt_file=file, turns=True, conditions=conditions)
    probe = Completions(Spec("completions", own), stock)
    observations, outcomes = [], {}
    for step in probe.subject.schedule.steps:
        seen, found = probe.observe(step)
        observations += seen
        outcomes |= {o.id: o for o in found}
    (case, _), schedule = probe.subject.cases[0], probe.subject.schedule
    (finding,) = judge([case], schedule, observations, outcomes)
    assert "cold and warm conversations part in turn 2, at token 0" in finding.note
    assert finding.verdict == "batch-variant" and "cache" in finding.evidence["varies_with"]
    sizes = finding.evidence["turns"]["prompts"]
    lengths = [turn[0][0] for turn in sizes["alone"]]
    assert [cached for _, cached in sizes["cold"]] == [(0, 0)] * 3
    # Of the turn before all but its last token is in the cache, in whole blocks.
    warm = [0, *((before + 4 - 1) // 128 * 128 for before in lengths[:-1])]
    assert [cached for _, cached in sizes["alone"]] == [(n, n) for n in warm] and warm[1] > 0
    assert all(c["formed"] == c["asked"] for c in finding.evidence["conditions"].values())


def test_conversations_on_our_kernels_are_the_same_warm_and_cold(detcheck, write):
    asked = ("--conditions", "alone,cold,wave-2", "-n", 6, "--max-tokens", 4, "--ignore-eos", "--turns")
    how = ("--kernels", "batch-invariant", "--prompt-file", write("talk.jsonl", TALK), "--format", "json", "-q")
    result = detcheck("completions", "--engine", "vllm", *asked, *how)
    _, found = findings(result)
    ours = found["batch-invariant"]
    assert (result.code, ours["verdict"], ours["distinct_bits"]) == (0, "identical", 1), ours["note"]
    assert "cold" not in ours["evidence"]["turns"] and ours["evidence"]["turns"]["same_bits"] == [6, 6, 6]


def test_log_probabilities_are_those_of_the_model(stock, tmp_path):
    """Against transformers, on a model that does not amplify."""
    from detcheck.engines.transformers.engine import TransformersEngine
    from detcheck.engines.vllm.engine import VllmEngine

    folder = str(llama_like(tmp_path / "model", hidden_size=128))
    theirs, own = VllmEngine(folder), TransformersEngine(folder)
    try:
        theirs.load(256), own.load()
        rows = [Row(tuple(range(300, 340)))]
        seen = serve(theirs, rows, 2).completions[0]
        expected = own.complete(rows, 2, ignore_eos=True).completions[0]
    finally:
        theirs.close()
    assert seen.tokens == expected.tokens and seen.runners_up == expected.runners_up
    np.testing.assert_allclose(seen.logprobs, expected.logprobs, atol=1e-4)
    np.testing.assert_allclose(seen.margins, expected.margins, atol=1e-4)


def findings(result):
    report = json.loads(result.out)
    return report, {f["case"]["kernels"]: f for f in report["findings"]}


def both(detcheck, *arguments):
    return detcheck(
        "completions", "--engine", "vllm", "--kernels", "both", "--format", "json", "-q", *map(str, arguments)
    )


def test_stock_is_batch_variant_and_ours_is_identical_under_all_default_conditions(detcheck, tmp_path, reacting):
    result = both(detcheck, "-n", 40, "--max-tokens", 8)
    _, found = findings(result)
    assert result.code == 0, result.err
    ours, control = found["batch-invariant"], found["stock"]
    assert control["verdict"] == "batch-variant" and control["distinct"] > 2
    assert (ours["verdict"], ours["distinct"], ours["distinct_bits"], ours["samples"]) == ("identical", 1, 1, 40)
    conditions = ours["evidence"]["conditions"]
    kinds = {name.split("-")[0] for name in conditions}
    assert kinds == {"alone", "wave", "staggered", "ragged", "chunked", "cached", "edges"}
    assert all(c["formed"] == c["asked"] for c in conditions.values())
    assert conditions["chunked-1"]["tokens"] == 64 and conditions["wave-16"]["requests"] == 16
    assert control["evidence"]["first_variant_condition"] in conditions
    assert {"batch"} <= set(control["evidence"]["varies_with"])
    calls = ours["evidence"]["coverage"]["overridden"]
    assert {"vllm::attention", "vllm::linear", "vllm::rms_norm", "vllm::silu_and_mul", "aten::_log_softmax"} <= set(
        calls
    )
    assert not ours["evidence"]["coverage"]["uncovered"]
    run = runner.load(only_run(tmp_path / "runs"))  # and again from what was stored
    assert [f.verdict for f in run.findings] == ["batch-variant", "identical"]


LONG = "Tell me about Richard Feynman, who liked to take things apart. " * 16


def test_another_architecture_with_a_tokenizer_of_a_real_size(detcheck, tmp_path, reacting):
    shape = {"hidden_size": 128, "vocab_size": 128_000, "max_position_embeddings": 2048}
    folder = llama_like(tmp_path / "model", **shape)
    save_large_tokenizer(folder, 128_000)
    result = both(detcheck, "--model", folder, "--prompt", LONG, "-n", 16, "--max-tokens", 12)
    _, found = findings(result)
    ours, control = found["batch-invariant"], found["stock"]
    assert (ours["distinct"], ours["distinct_bits"], ours["missing"]) == (1, 1, 0), result.err
    assert control["verdict"] == "batch-variant" and control["distinct_bits"] > 1
    assert (ours["verdict"], result.code) == ("identical", 0)


def test_windows_and_soft_caps_in_half_precision(detcheck, tmp_path):
    """A Gemma 2 on ours alone: its stock attention does not react to so small a batch on every machine."""
    folder = gemma_like(tmp_path / "model")
    arguments = ("--model", folder, "--dtype", "bf16", "--prompt", LONG, "-n", 16, "--max-tokens", 8)
    result = detcheck(
        "completions", "--engine", "vllm", "--kernels", "batch-invariant", "--format", "json", "-q", *arguments
    )
    _, found = findings(result)
    ours = found["batch-invariant"]
    assert (ours["verdict"], ours["distinct_bits"], result.code) == ("identical", 1, 0), result.err
    assert {"alone", "chunked-1", "cached-1", "ragged-4"} <= set(ours["evidence"]["conditions"])
    assert {"vllm::gelu_and_mul", "vllm::rms_norm", "vllm::attention"} <= set(
        ours["evidence"]["coverage"]["overridden"]
    )


def test_experts_are_named_as_not_ours(detcheck, tmp_path):
    folder = mixture(tmp_path / "model")
    arguments = (
        "--model",
        folder,
        "--kernels",
        "batch-invariant",
        "-n",
        4,
        "--max-tokens",
        4,
        "--conditions",
        "alone,wave-2",
    )
    result = detcheck("completions", "--engine", "vllm", "--format", "json", "-q", *arguments)
    _, found = findings(result)
    coverage = found["batch-invariant"]["evidence"]["coverage"]
    assert "vllm::fused_moe" in coverage["uncovered"] and "vllm::other_attention" not in coverage["uncovered"], coverage
    assert "vllm::attention" in coverage["overridden"], result.err


def test_the_same_across_processes(detcheck, monkeypatch):
    """vLLM's own multiprocessing: the scheduler and the worker each in a process of its own. That stock reacts is shown above."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    asked = "--engine", "vllm", "--kernels", "batch-invariant", "-n", 14, "--max-tokens", 24
    result = detcheck("completions", *asked, "--format", "json", "-q")
    report, found = findings(result)
    assert result.code == 0, result.err
    assert (found["batch-invariant"]["verdict"], found["batch-invariant"]["distinct_bits"]) == ("identical", 1)
    assert report["environment"]["flags"]["vllm.executor"] == "mp"
    assert report["environment"]["variables"]["VLLM_ENABLE_V1_MULTIPROCESSING"] == "1"


def test_requests_that_are_put_aside_are_counted_and_give_the_same_bits(prompt):
    """A cache that holds two of three requests: one is put aside and computed again from the start."""
    from detcheck.engines.vllm.engine import VllmEngine

    arguments = ["num_gpu_blocks_override=8", "max_model_len=512"]
    engine = VllmEngine(None, arguments=arguments, kernels=Kernels.BATCH_INVARIANT)
    engine.load(512)
    assert engine.context == 512, "which is what a conversation may grow to"
    try:
        with engine.running("batch-invariant"):
            size = engine._facts["block_size"]
            rows = [
                Row(tuple(prompt * 20)[: 2 * size - 8])
            ] * 3  # three blocks each, of the seven that are not vLLM's own
            alone = engine.complete(rows[:1], 16, ignore_eos=True)
            decoded = engine.complete(rows, 16, ignore_eos=True)
    finally:
        engine.close()
    times = [decoded.traces[slot].preemptions for slot in range(3)]
    assert sum(times) > 0 and alone.traces[0].preemptions == 0
    assert {bits(c) for c in decoded.completions.values()} == {bits(alone.completions[0])}
    assert decoded.completions.keys() == {0, 1, 2}


def test_what_is_for_gpus_fits_this_vllm(tmp_path):
    """It cannot run here; but every name that it needs is there, and its attention gives the bits of ours over vLLM's cache."""
    code = """
from collections import Counter
from types import SimpleNamespace

import torch
from vllm.model_executor.layers import linear
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from detcheck.engines.vllm.worker import attention_gpu, layers
from detcheck.op import NotInvariantError
from detcheck.kernels.attention import attention

calls = Counter()
for part in layers.PARTS_GPU:
    part(calls, "cuda")
for name in layers.BACKENDS_GPU:
    assert AttentionBackendEnum[name].get_class() is attention_gpu.GpuBackend, name
x, w = torch.randn(3, 8), torch.randn(5, 8)
assert torch.allclose(linear.dispatch_unquantized_gemm("auto")(None, x, w, None), x @ w.t(), atol=1e-5)
assert RMSNorm.forward_cuda is RMSNorm.forward_native

for options in ({"alibi_slopes": [1.0] * 8}, {"kv_cache_dtype": "fp8"}, {"chunk_lookback": 2}):
    try:
        attention_gpu.GpuAttention(8, 64, 0.125, 4, **({"alibi_slopes": None, "sliding_window": None, "kv_cache_dtype": "auto"} | options))
        raise SystemExit(f"not refused: {options}")
    except NotInvariantError:
        pass
q, cache, out = torch.randn(5, 8, 64), torch.randn(6, 4, 16, 128), torch.zeros(5, 8, 64)
integers = lambda *n: torch.tensor(n, dtype=torch.int32)
batch = SimpleNamespace(
    num_actual_tokens=4, block_table=torch.tensor([[1, 2], [3, 4]], dtype=torch.int32), query_start_loc=integers(0, 1, 4),
    seq_lens=integers(20, 18), max_query_len=3, max_seq_len=20,
)
for window in (None, 7):
    impl = attention_gpu.GpuAttention(8, 64, 0.125, 4, None, window, "auto")
    impl.forward(None, q, None, None, cache, batch, out)
    keys, values = (t.transpose(0, 1).flatten(1, 2)[None, :, :18] for t in cache[[3, 4]].split(64, dim=-1))
    high = integers(16, 17, 18)[None]
    low = torch.zeros_like(high) if window is None else high - window
    whole = attention(q[1:4].transpose(0, 1)[None], keys, values, low, high, 0.125)[0].transpose(0, 1)
    assert torch.equal(out[1:4], whole) and not out[4].any()
assert calls["ours vllm::attention"] == 2 and calls["ours vllm::linear"] == 1
assert not [name for name in calls if name.startswith("stock")], calls

# What is not ours is counted, layer by layer: a backend that was not replaced, and sums over devices.
from vllm.distributed.parallel_state import GroupCoordinator
from vllm.model_executor.layers.attention.attention import Attention
from vllm.model_executor.layers.attention.mla_attention import MLAAttention

for layer in (Attention, MLAAttention):
    for own in (impl, object()):
        try:
            layer.forward(SimpleNamespace(impl=own), q, q, q)
        except (AttributeError, TypeError):  # there is no such layer; it was counted
            pass
for size in (1, 2):
    GroupCoordinator.all_reduce(SimpleNamespace(world_size=size, use_custom_op_call=False, _all_reduce_out_place=lambda t: t), x)
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

products, one = PunicaWrapperCPU(8, 8, "cpu"), torch.zeros(1, 1, 4, 4)
products.is_prefill = products.no_lora = True  # there is no request
products.add_lora_linear(torch.zeros(2, 4), torch.zeros(2, 4), (one,), (one,), 1.0, (4,))
stock = {name: n for name, n in calls.items() if name.startswith("stock")}
assert stock == {f"stock vllm::{name}": 1 for name in ("other_attention", "mla_attention", "all_reduce", "add_lora_linear")}, stock
"""
    done = warm.run_vllm("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
