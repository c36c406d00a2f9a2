"""`detcheck bisect` on faults that we planted, on stock kernels, and on what it must withstand."""

import json

import jsonschema
import numpy as np
import order_kernels
import pytest
import torch
from conftest import only_run
from models import llama_like
from planted import ATTENTION, PROMPT, ROWS, Fault, Place, Planted, bisected, engine, places, verdict_on

from detcheck import runner
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.logits import forward
from detcheck.probes.bisect import describe as culprit_words
from detcheck.probes.bisect import facts
from detcheck.probes.bisect import orders as culprit_order
from detcheck.probes.bisect import session as bisect
from detcheck.probes.bisect.causes import causes
from detcheck.probes.bisect.collect import pattern
from detcheck.probes.bisect.judge import in_words
from detcheck.probes.bisect.options import Options
from detcheck.probes.bisect.rows import Dim, Layout, Part, explanations, like_the_others, matching, part
from detcheck.probes.bisect.session import Bisect
from detcheck.replay import first_size
from detcheck.spec import Kernels, Spec
from detcheck.verdict import Verdict

MLP = "model.layers.1.mlp"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return engine("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def planted_in(tmp_path_factory, llama):
    """Model by name, loaded once, with the places where faults can be."""
    made = {"llama": llama}

    def get(name):
        if name not in made:
            made[name] = engine(name, tmp_path_factory.mktemp(name))
        return made[name], {(p.op, p.path): p for p in places(made[name])}

    return get


def at(there, op, path):
    return there[op, path]


@pytest.mark.parametrize(
    ("alone", "batch", "found"),
    [
        ([0, 0], [0, 0], (False, False)),
        ([0, 0], [1, 1], (False, True)),
        ([0, 1], [0, 0], (True, False)),
        ([0, 0, 1], [2, 2, 3], (True, True)),
        ([0, 1, 2], [3, 4, 5], (True, False)),  # chance explains it
        ([0, 1], [], (True, False)),
        ([], [1, 1], (False, False)),
    ],
)
def test_arms(alone, batch, found):
    assert facts.arms(alone, batch) == found


def test_what_explains_a_dimension():
    layout = Layout(rows=8, slot=3, padding=5, tokens=20)
    assert explanations(64, 64, layout) == [Dim()]
    assert explanations(1, 8, layout) == [Dim(1)]
    assert explanations(20, 25, layout) == [Dim(0, 5)]
    assert explanations(20, 200, layout) == [Dim(25, 5)]
    assert explanations(19, 24, layout) == [] == explanations(7, 9, layout) and part((2, 3), (2, 3, 1), layout) is None
    tensor = torch.arange(8 * 25 * 2).view(8 * 25, 2)
    own = part((20, 2), (200, 2), layout)
    assert torch.equal(own.take(tensor), tensor.view(8, 25, 2)[3, 5:])
    assert torch.equal(own.within(2).take(own.window(tensor, 2, 6)), own.take(tensor))
    mask = like_the_others((8, 1, 25, 25), [((8, 4, 25, 16), part((1, 4, 20, 16), (8, 4, 25, 16), layout))])
    assert mask.take(torch.zeros(8, 1, 25, 25)).shape == (1, 1, 20, 20)
    lone = part((1, 20, 2), (1, 25, 2), Layout(rows=1, slot=0, padding=5, tokens=20))  # the prompt alone, padded
    assert lone.by_slot and torch.equal(lone.take(tensor[:25][None]), tensor[5:25][None])
    assert matching([5, 6, 6], [1, 5, 2, 6, 6]) == (1, 3, 4) and matching([6, 5], [5, 6]) is None
    assert torch.equal(Part((), 0, (1, 3)).take(tensor), tensor[[1, 3]])


def test_what_may_be_the_batch_or_padding_is_told_by_the_rest_or_not_compared():
    """Two tokens in two rows are as many as two tokens behind two of padding."""
    layout = Layout(rows=2, slot=1, padding=2, tokens=2)
    assert part((1, 2, 64), (2, 4, 64), layout).dims == (Dim(1), Dim(0, 2), Dim())
    assert part((2, 64), (4, 64), layout) is None
    assert part((2, 64), (8, 64), layout).dims == (Dim(4, 2), Dim())
    one = Layout(rows=2, slot=0, padding=1, tokens=1)
    assert part((1, 4, 1, 16), (2, 4, 2, 16), one).dims == (Dim(1), Dim(), Dim(0, 1), Dim())  # the batch comes first
    assert part((1, 64), (2, 64), one) is None
    chunks = Layout(rows=2, slot=0, padding=1, tokens=12)
    assert part((1, 1, 12, 8), (2, 2, 12, 8), chunks) is None  # one of the two is a chunk more
    assert part((1, 12, 8), (2, 13, 8), chunks).dims == (Dim(1), Dim(0, 1), Dim())


PLANTS = [
    ("llama", [("aten::mm", "model.layers.0.self_attn.v_proj", "batch", 5)]),
    ("llama", [(ATTENTION, "model.layers.1.self_attn", "run", 2)]),
    ("llama", [("aten::silu", "model.layers.0.mlp.act_fn", "run", 2), ("aten::mm", "lm_head", "batch", 3)]),
    ("gpt2", [("aten::native_layer_norm", "transformer.h.1.ln_1", "batch", 8)]),
    ("experts", [("aten::_grouped_mm", "model.layers.1.mlp.experts", "batch", 2)]),
    ("amplifier", [("aten::mm", "model.layers.4.mlp.down_proj", "batch", 4)]),
]


@pytest.mark.parametrize(("model", "asked"), PLANTS)
def test_planted(planted_in, model, asked):
    loaded, there = planted_in(model)
    faults = [Fault(at(there, op, path), kind, size) for op, path, kind, size in asked]
    noisy = any(f.kind == "run" for f in faults)
    found = bisected(loaded, faults, trials=8 if noisy else 2)
    assert verdict_on(found, faults) == (True, []), [(f.case, f.note) for f in found]
    for fault in faults:
        (finding,) = (f for f in found if (f.case.subject, f.case.input) == (fault.place.op, fault.place.path))
        told = finding.evidence["culprit"]
        assert told["differing"] > 0 and told["remedy"] and told["inputs"]["batch"]
        if fault.kind == "batch" and "experts" not in fault.place.path:
            assert told["starts_at"] == fault.size


def test_nothing_guilty_says_how_sensitive_it_was(llama):
    (found,) = bisected(llama, [], trials=2)
    assert found.verdict is Verdict.IDENTICAL and found.case.input.startswith("0:"), found.note
    control = found.evidence["bisection"]["control"]
    assert control["named"] and control["changed"] > 0 and "moved by one ulp changes" in found.note
    assert not any(line["guilty_in"] for line in found.evidence["calls"])


def test_noise_and_the_batch_at_once(planted_in):
    loaded, there = planted_in("llama")
    place = at(there, "aten::mm", f"{MLP}.up_proj")
    (found,) = bisected(loaded, [Fault(place, "run"), Fault(place, "batch", 2)])
    told = found.evidence["culprit"]
    assert found.verdict is Verdict.RUN_VARIANT and told["run"] and told["batch"], found.note


def test_ops_that_write_into_their_input(llama, monkeypatch):
    """An in-place residual: the op is asked again on what was there before it."""
    mlp = llama._model.model.layers[1].mlp
    plain = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: x.clone().add_(plain(x)).mul_(0.5))
    (innocent,) = bisected(llama, [], trials=2)
    assert innocent.verdict is Verdict.IDENTICAL, innocent.note
    (found,) = bisected(llama, [Fault(Place("aten::add_", MLP, 1), "batch", 3)], trials=2)
    assert (found.case.subject, found.case.input, found.verdict) == ("aten::add_", MLP, Verdict.BATCH_VARIANT)


def test_tied_weights_and_numbers_that_are_not_finite(tmp_path):
    tied = TransformersEngine(str(llama_like(tmp_path, tie_word_embeddings=True)))
    tied.load()
    with torch.no_grad():
        tied._model.model.layers[0].mlp.up_proj.weight[3, 5] = float("inf")
        tied._model.model.layers[0].mlp.down_proj.weight[7, 3] = float("nan")
    (innocent,) = bisected(tied, [], trials=2)
    assert innocent.verdict in (Verdict.IDENTICAL, Verdict.INCONCLUSIVE), innocent.note
    assert not any(line["guilty_in"] for line in innocent.evidence["calls"])
    fault = Fault(Place("aten::mm", "model.layers.0.self_attn.k_proj", len(tied.encode(PROMPT)) - 1), "batch", 2)
    found = bisected(tied, [fault], trials=2)
    assert verdict_on(found, [fault]) == (True, [])


def expanded(x):
    """A sum over a number that stands for 64."""
    return x.mean(-1, keepdim=True).expand(*x.shape[:-1], 64).sum(-1, keepdim=True)


def rescued(x):
    try:
        torch.linalg.cholesky(-torch.eye(4))
    except RuntimeError:
        return x


class Fused_attention_free_mlp(torch.nn.Module):
    def forward(self, x):
        return x * 2


INNOCENT = {
    "cat": lambda x, plain: plain(torch.cat([x, x * 0.5], 0))[: x.shape[0]],
    "repeat": lambda x, plain: plain(x.repeat(2, 1, 1)).view(2, *x.shape).sum(0),
    "flip": lambda x, plain: plain(x.flip(0)).flip(0),
    "one number for many": lambda x, plain: plain(x) + expanded(x),
    "complex": lambda x, plain: plain(x) + torch.view_as_complex(torch.stack([x, x], -1)).conj().clone().real,
    "odd strides": lambda x, plain: (
        plain(x) * x[:1, :1, :1].as_strided((1,), (4,)).abs().clamp(1, 1).as_strided((1, 1), (1, 3))
    ),
    "an exception of its own": lambda x, plain: plain(rescued(x)),
    "a name": lambda x, plain: plain(x),
}


@pytest.mark.parametrize("name", INNOCENT)
def test_nobody_is_accused_of_what_a_model_may_do(llama, monkeypatch, name):
    mlp = llama._model.get_submodule(MLP)
    plain = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: INNOCENT[name](x, plain))
    if name == "a name":
        monkeypatch.setitem(mlp._modules, "act_fn", Fused_attention_free_mlp())
    (found,) = bisected(llama, [], trials=2, sizes=(2, 8))
    assert found.verdict is Verdict.IDENTICAL, found.note


@pytest.mark.parametrize("seed", range(6))
def test_nobody_is_accused_where_sizes_are_alike(llama, seed):
    """A prompt so short that padding, rows and tokens are the same numbers."""
    probe = Bisect(
        Spec("bisect", Options(prompt="Tell", decode=2), kernels=Kernels.BATCH_INVARIANT, seed=seed, batch_sizes=(2,)),
        llama,
    )
    _, (outcome,) = probe.observe(probe.subject.schedule.steps[0])
    assert not causes(facts.from_json(outcome.text))


def test_an_op_that_refuses_sizes_between_is_guilty_all_the_same(llama, monkeypatch):
    @torch.library.custom_op("planted::captured", mutates_args=())
    def captured(x: torch.Tensor) -> torch.Tensor:
        if len(x) not in (1, 2, 8):
            raise RuntimeError(f"batch size {len(x)} was not captured")
        return x.nextafter(x + 1) if len(x) == 8 else x * 1

    mlp = llama._model.get_submodule(MLP)
    plain = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: captured(plain(x)))
    (found,) = bisected(llama, [], trials=2, sizes=(2, 8))
    assert (found.case.subject, found.evidence["culprit"]["starts_at"]) == ("planted::captured", None)


def test_a_size_that_is_refused_leaves_it_open_where_the_difference_starts():
    def picky(rows):
        if rows not in (1, 8):
            raise RuntimeError("not that size")
        return rows

    assert first_size(1, 8, picky, 1) is None


def test_an_exception_names_the_op(llama, monkeypatch):
    monkeypatch.setattr(llama._model.model.layers[0].mlp.act_fn, "forward", lambda x: torch.mm(x[0], x[0]))
    (found,) = bisected(llama, [], trials=2)
    assert found.verdict is Verdict.FAILED
    assert "aten::mm in model.layers.0.mlp.act_fn (bisect/test_bisect.py:" in found.note and "raised" in found.note


def test_an_op_that_cannot_be_asked_of_fewer_rows_is_not_judged(llama, monkeypatch):
    known = [0]

    @torch.library.custom_op("planted::picky", mutates_args=())
    def picky(x: torch.Tensor) -> torch.Tensor:
        if x.data_ptr() != known[0] and x.shape[0] == 1:  # none of the model's own
            raise RuntimeError("wants more rows")
        return x * 2

    activation = llama._model.model.layers[0].mlp.act_fn
    plain = activation.forward

    def forward(x):
        made = plain(x)
        known[0] = made.data_ptr()
        return picky(made)

    monkeypatch.setattr(activation, "forward", forward)
    (found,) = bisected(llama, [], trials=2)
    untested = found.evidence["bisection"]["untested"]
    assert any("raises RuntimeError when it is asked with the prompt's rows alone" in why for why in untested), (
        found.note
    )


@pytest.mark.parametrize("part", ["model.layers.1", "the model"])
def test_a_model_under_torch_compile_is_refused(llama, monkeypatch, tmp_path, part):
    if part == "the model":
        monkeypatch.setattr(llama, "_model", torch.compile(llama._model))
    else:
        layer = llama._model.get_submodule(part)
        monkeypatch.setattr(layer, "_compiled_call_impl", None)  # as it is; undone afterwards
        layer.compile()
    monkeypatch.setattr(bisect, "open_session", lambda spec, planned=None: Bisect(spec, llama, planned))
    ran = runner.run(Spec("bisect", Options(prompt=PROMPT)), tmp_path)
    assert (ran.verdict, ran.exit_code) == (Verdict.FAILED, 4)
    assert f"{part} is compiled by torch.compile" in ran.findings[0].note


def test_another_way_when_the_prompt_is_alone(llama, monkeypatch):
    mlp = llama._model.model.layers[0].mlp
    plain = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: plain(x) * 0.3 if len(x) == 1 else plain(x) * 0.1 + plain(x) * 0.2)
    (found,) = bisected(llama, [], trials=2)
    assert (found.case.subject, found.case.input) == ("module LlamaMLP", "model.layers.0.mlp"), found.note
    assert found.verdict is Verdict.BATCH_VARIANT and "it takes another way" in found.note


def test_a_kernel_that_no_dispatcher_sees(llama, monkeypatch):
    """Computed outside torch: the module is named."""
    mlp = llama._model.model.layers[1].mlp
    plain = mlp.forward

    def forward(x):
        out = plain(x)
        if len(x) > 2:
            numbers = out.numpy()
            numbers[...] = np.nextafter(numbers, np.float32(np.inf))
        return out

    monkeypatch.setattr(mlp, "forward", forward)
    (found,) = bisected(llama, [], trials=2)
    assert (found.case.subject, found.case.input) == ("module LlamaMLP", MLP), found.note


def test_stock_is_what_tests_of_every_leaf_find(llama):
    """Each module that has none inside, called again by itself on what it takes in a batch: all rows, and one of them."""
    found = bisected(llama, [], trials=2, kernels=Kernels.STOCK)
    named = {(f.case.subject, f.evidence["culprit"]["pattern"]) for f in found if "culprit" in f.evidence}
    taken, leaves = [], {name: m for name, m in llama._model.named_modules() if not list(m.children())}
    hooks = [
        m.register_forward_pre_hook(lambda _, args, kw, name=name: taken.append((name, args, kw)), with_kwargs=True)
        for name, m in leaves.items()
    ]
    with torch.no_grad():
        forward(llama, [llama.encode(PROMPT)] * ROWS, 1)
        for hook in hooks:
            hook.remove()

        def row(value):
            mine = isinstance(value, torch.Tensor) and value.ndim and len(value) == ROWS
            return value[3:4].clone() if mine else value

        guilty = set()
        for name, args, kw in taken:
            together = leaves[name](*args, **kw)
            alone = leaves[name](*map(row, args), **{k: row(v) for k, v in kw.items()})
            pairs = zip(together, alone, strict=True) if isinstance(alone, tuple) else [(together, alone)]
            if not all(torch.equal(row(a), b) for a, b in pairs):
                guilty.add(pattern(name))
        q, k, v = torch.randn(3, ROWS, 4, 24, 16, generator=torch.Generator().manual_seed(0))
        attend = torch.nn.functional.scaled_dot_product_attention
        attention = not torch.equal(attend(q[:, :, -1:], k, v)[3:4], attend(q[3:4, :, -1:], k[3:4], v[3:4]))
    assert len({name for name, *_ in taken}) == len(leaves) > 15
    assert (
        guilty
        == {where for op, where in named if "attention" not in op}
        == {where for op, where in named if op == "aten::mm"}
    )
    assert attention <= any("attention" in op for op, _ in named)
    for f in found:  # and why: the products' trees at both sizes
        if f.case.subject == "aten::mm":
            trees = f.evidence["culprit"]["order_of_additions"]
            assert set(trees) == {"alone", "batch"} and all(tree.endswith(")") for tree in trees.values())


def test_the_order_of_additions_is_asked_where_it_can_be(llama, monkeypatch):
    asked = []

    def ask(sums, place):
        asked.append((sums.rows, sums.length, place.rows))
        sums.terms.zero_()  # as masks are: the model's own weight must not see it
        assert sums.result().shape == (sums.rows, sums.columns)
        return f"a tree of {sums.rows} rows"

    monkeypatch.setattr(culprit_order, "ask", ask)
    found = bisected(llama, [], trials=2, kernels=Kernels.STOCK)
    (told,) = (f.evidence["culprit"] for f in found if f.case.input == "lm_head")
    assert told["order_of_additions"] == {"alone": "a tree of 1 rows", "batch": f"a tree of {ROWS} rows"}
    slot = found[0].evidence["bisection"]["batches"][0]["slot"]
    assert (1, 64, (0,)) in asked and (ROWS, 64, (slot,)) in asked
    assert "order of additions alone: a tree of 1 rows" in culprit_words.lines({"culprit": told})


def test_an_order_is_said_of_sums_and_of_products_in_groups():
    """Alone they add from the first to the last, in a batch from the last to the first; what is no plain sum is not said."""
    own = [range(2, 3), range(2, 7)]
    x, in_batch = torch.ones(1, 5, 24), torch.ones(4, 7, 24)

    def total(x):
        return order_kernels.chain(list(x.unbind(-1))[:: 1 if x.shape[0] == 1 else -1])

    def products(bias, a, b):
        terms = [a[..., k : k + 1] * b[..., k : k + 1, :] for k in range(a.shape[2])]
        return bias + order_kernels.chain(terms[:: 1 if a.shape[0] == 1 else -1])

    trees = culprit_order.orders("aten::sum", total, [x], [in_batch], own)
    said = {arm: in_words(tree) for arm, tree in trees.items()}
    assert said["alone"].startswith("sequential (") and said["batch"].startswith("reversed: ")
    groups = [[torch.ones(1), torch.ones(n, 5, 24), torch.ones(n, 24, 16)] for n in (1, 4)]
    assert culprit_order.orders("aten::baddbmm", products, *groups, own) == trees
    assert culprit_order.orders("aten::mean", lambda x: x.amax(-1), [x], [in_batch], own) == {}
    over_rows = lambda x: x.sum(1)  # noqa: E731
    assert culprit_order.orders("aten::sum", over_rows, [x], [in_batch], [range(2, 3), range(24)]) == {}
    square = torch.ones(1, 24, 24), torch.ones(4, 24, 24)
    assert culprit_order.orders("aten::sum", over_rows, [square[0]], [square[1]], [range(2, 3), range(24)]) == {}
    assert culprit_order.orders("aten::exp", total, [x], [in_batch], own) == {}


def test_applied_until_the_logits_are_equal_and_shown_in_every_format(
    detcheck, tmp_path, monkeypatch, amplifier, reacting
):
    monkeypatch.setattr(bisect, "open_session", lambda spec, planned=None: Bisect(spec, amplifier, planned))
    asked = "--prompt", PROMPT, "--batch-sizes", "4", "--decode", "1"
    result = detcheck("bisect", *asked, "--apply", "--format", "json", "-q")
    report = json.loads(result.out)
    assert result.code == 1 and report["verdict"] == "batch-variant", result.err
    first = report["findings"][0]
    assert first["case"]["subject"].startswith("aten::") and first["case"]["input"].startswith("model.layers.0.")
    stages = first["evidence"]["stages"]
    assert len(stages) > 1 and not stages[0]["logits_equal"] and stages[-1]["logits_equal"] and not stages[-1]["guilty"]
    with open(runner.__file__.replace("runner.py", "formats/report.schema.json")) as schema:
        jsonschema.validate(report, json.load(schema))
    folder = only_run(tmp_path / "runs")
    for form in ("terminal", "md", "html", "junit"):
        shown = detcheck("report", folder, "--format", form)
        assert (
            shown.code == 1
            and "lm_head" in shown.out.replace("&#95;", "_")
            and "detcheck.batch_invariant()" in " ".join(shown.out.split())
        )


def test_a_run_that_found_a_difference_is_followed(detcheck, tmp_path, monkeypatch, amplifier, reacting):
    from detcheck.probes.completions import session as completions

    monkeypatch.setattr(
        completions, "open_session", lambda spec, planned=None: completions.Completions(spec, amplifier, planned)
    )
    monkeypatch.setattr(bisect, "open_session", lambda spec, planned=None: Bisect(spec, amplifier, planned))
    detcheck("completions", "-n", "6", "--max-tokens", "4", "--batch-sizes", "1,4", "--prompt", PROMPT, "-q")
    folder = only_run(tmp_path / "runs")
    result = detcheck("bisect", folder, "--format", "json", "-q", "--output-dir", "found")
    report = json.loads(result.out)
    assert result.code == 1 and report["findings"][0]["case"]["subject"].startswith("aten::"), result.err
    assert report["reproduce"] == f"detcheck bisect {folder}"
    assert [b["name"] for b in report["findings"][0]["evidence"]["bisection"]["batches"]] == ["batch-4"]
    refused = detcheck("bisect", folder, "--model", "x")
    assert refused.code == 2 and "--model is the run's own" in refused.err
    calm = detcheck("bisect", only_run(tmp_path / "found"))
    assert calm.code == 2 and "bisect takes one of completions or batch" in " ".join(calm.err.split())


def test_of_a_run_the_prompt_that_differed_is_followed_as_it_was(detcheck, tmp_path, monkeypatch, llama):
    from detcheck.probes.completions import session as completions

    asked = []

    class Seen(Bisect):
        def observe(self, step):
            asked.append(step.input)
            return super().observe(step)

    monkeypatch.setattr(
        completions, "open_session", lambda spec, planned=None: completions.Completions(spec, llama, planned)
    )
    monkeypatch.setattr(bisect, "open_session", lambda spec, planned=None: Seen(spec, llama, planned))
    mlp = llama._model.get_submodule(MLP)
    plain = mlp.forward

    def forward(x):
        out = plain(x)
        return out * 1.01 if len(x) > 1 and x.shape[1] == len(llama.encode("Another thing that one asks")) else out

    monkeypatch.setattr(mlp, "forward", forward)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{PROMPT}\nAnother thing that one asks\n")
    run = "completions", "--prompt-file", prompts, "-n", 8, "--max-tokens", 3, "--batch-sizes", "1,2"
    assert detcheck(*run, "--kernels", "batch-invariant", "-q").code == 1
    folder = only_run(tmp_path / "runs")
    result = detcheck("bisect", folder, "--format", "json", "-q", "--output-dir", "found")
    report = json.loads(result.out)
    assert len(asked) == 1 and asked[0].partition(":")[2] in str(sorted((folder / "run.json").read_text().split('"')))
    assert (
        report["findings"][0]["case"]["input"] == MLP
        and report["findings"][0]["evidence"]["culprit"]["prompt"] == asked[0]
    )
    prompts.unlink()  # what the run asked is asked again all the same
    again = detcheck("bisect", folder, "--format", "json", "-q", "--output-dir", "other")
    assert json.loads(again.out)["findings"][0]["case"]["input"] == MLP, again.err
    monkeypatch.setattr(llama, "digests", {"model": "other weights"})
    result = detcheck("bisect", folder, "-q", "--output-dir", "third")
    assert (
        result.code == 2
        and "the weights that" in result.err
        and "are not there any more" in " ".join(result.err.split())
    )


@pytest.mark.parametrize("probe", ["completions", "batch"])
def test_a_fault_at_one_width_alone_is_followed(detcheck, tmp_path, monkeypatch, llama, probe):
    """Of a run whose batches are all equal: only the prompt alone differs, where it is padded to that width."""
    from detcheck.probes.batch import session as batch
    from detcheck.probes.completions import session as completions

    monkeypatch.setattr(
        completions, "open_session", lambda spec, planned=None: completions.Completions(spec, llama, planned)
    )
    monkeypatch.setattr(batch, "open_session", lambda spec, planned=None: batch.Batch(spec, llama, planned))
    monkeypatch.setattr(bisect, "open_session", lambda spec, planned=None: Bisect(spec, llama, planned))
    mlp = llama._model.get_submodule(MLP)
    plain = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: plain(x) * (1.01 if len(x) == 1 and x.shape[1] == 65 else 1.0))
    width = len(llama.encode(PROMPT))
    how = (
        ["-n", 8, "--max-tokens", 3, "--conditions", "alone,padded"] if probe == "completions" else ["--batch-sizes", 2]
    )
    result = detcheck(probe, "--prompt", f"{PROMPT} " * (40 // width), *how, "--kernels", "batch-invariant", "-q")
    folder = only_run(tmp_path / "runs")
    assert result.code == 1 and "padded-65" in detcheck("report", folder).out, result.err
    found = json.loads(detcheck("bisect", folder, "--format", "json", "-q", "--output-dir", "found").out)["findings"][0]
    assert found["case"]["input"] == MLP
    assert [(b["name"], b["rows"], b["padding"] > 0) for b in found["evidence"]["bisection"]["batches"]] == [
        ("padded-65", 1, True)
    ]


@pytest.mark.parametrize("prompt", ["jeda", "jeda tona", "jeda tona jiko"])
@pytest.mark.parametrize("op", [ATTENTION, "aten::silu"])
def test_the_guilty_are_named_in_prompts_of_few_tokens(llama, prompt, op):
    place = next(p for p in places(llama) if p.op == op)
    probe = Bisect(
        Spec("bisect", Options(prompt=prompt, decode=1), kernels=Kernels.BATCH_INVARIANT, batch_sizes=(2,)), llama
    )
    with Planted(llama._model, [Fault(place, "batch", 2)]).planted():
        _, (outcome,) = probe.observe(probe.subject.schedule.steps[0])
    assert causes(facts.from_json(outcome.text))[0].kind.op == op


def test_an_op_of_another_library_is_judged_whatever_its_name(llama, monkeypatch):
    @torch.library.custom_op("planted::repeat", mutates_args=())
    def repeat(x: torch.Tensor) -> torch.Tensor:
        return x.nextafter(x + 1) if len(x) > 2 else x * 1

    mlp = llama._model.get_submodule(MLP)
    plain = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: repeat(plain(x)))
    (found,) = bisected(llama, [], trials=2)
    assert found.case.subject == "planted::repeat", found.note


def test_a_guilty_product_of_numbers_that_stand_for_many_is_named(llama, monkeypatch):
    """Weights of each head, and one x for all: masks cannot be written there, and no order is said."""
    weights = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0)) / 64

    mlp = llama._model.get_submodule(MLP)
    plain = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: plain(x) + (x[:, None] @ weights).sum(1))
    found = bisected(llama, [Fault(Place("aten::bmm", MLP, 3), "batch", 2)], trials=2)
    assert "aten::bmm" in {f.case.subject for f in found}, [f.note for f in found]


def test_more_rows_than_memory_holds_are_refused(detcheck):
    result = detcheck("bisect", "--batch-sizes", 30_000_000, "-q")
    assert result.code == 2 and "memory is estimated to hold" in result.err


def test_a_run_whose_files_are_gone_is_not_called_equal(detcheck, tmp_path):
    detcheck("completions", "-n", 4, "--max-tokens", 2, "--prompt", PROMPT, "-q")
    folder = only_run(tmp_path / "runs")
    for part_of in (folder / "outcomes").iterdir():
        part_of.unlink()
    result = detcheck("bisect", folder)
    assert result.code == 2 and "holds no sample that can be read" in " ".join(result.err.split())


def test_a_difference_in_decoding_alone_is_followed_or_said_not_to_come_again(detcheck, tmp_path, monkeypatch, llama):
    """A `batch` run whose prefills agree: alone too its last tokens are fed one by one."""
    from detcheck.probes.batch import session as batch

    monkeypatch.setattr(batch, "open_session", lambda spec, planned=None: batch.Batch(spec, llama, planned))
    monkeypatch.setattr(bisect, "open_session", lambda spec, planned=None: Bisect(spec, llama, planned))
    mlp = llama._model.get_submodule(MLP)
    plain = mlp.forward

    def forward(x):
        out = plain(x)
        return out.nextafter(out + 1) if len(x) > 1 and x.shape[1] == 1 else out

    asked = "batch", "--batch-sizes", "1,2", "--prompt", PROMPT, "--kernels", "batch-invariant", "-q"
    with monkeypatch.context() as planted:
        planted.setattr(mlp, "forward", forward)
        assert detcheck(*asked).code == 1
        run = only_run(tmp_path / "runs")
        result = detcheck("bisect", run, "--format", "json", "-q", "--output-dir", "found")
    report = json.loads(result.out)
    (found,) = report["findings"]
    assert (result.code, found["case"]["subject"], found["case"]["input"]) == (1, "module LlamaMLP", MLP), found
    about = found["evidence"]["bisection"]
    assert (about["batches"][0]["name"], about["decoded"]) == ("decode-2", 4)
    assert "in decode step 1" in found["note"]
    calm = detcheck("bisect", run, "--output-dir", "calm", "-q")
    assert calm.code == 3 and "what the run saw differ in decode-2 did not come again" in " ".join(calm.out.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--decode", "-1"], "--decode must be at least 0"),
        (["--apply", "--kernels", "batch-invariant"], "leave out --kernels"),
        (["--batch-sizes", "1"], "name a size of 2 or more"),
        (["--kernels", "engine"], "transformers has no batch-invariant mode"),
        (["nowhere"], "no such run"),
    ],
)
def test_usage_errors(detcheck, arguments, says):
    result = detcheck("bisect", *arguments)
    assert result.code == 2 and says in " ".join(result.err.split()) and "Traceback" not in result.err
