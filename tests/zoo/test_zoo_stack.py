"""The stack around the kernels: switches that do not switch, updates that leave something behind, certificates, log-probabilities of two sides."""

import contextlib
import json
import warnings

import adapters
import numpy as np
import reacting
import zoo_ops
from models import llama_like
from safetensors.torch import load_file, save_file
from scripted import OTHER, SAME, Scripted
from updated import MIXED, NEW, ScriptedStack, updated
from zoo import broken, sound, visits

from detcheck.engines.transformers.engine import TransformersEngine


class Counting(Scripted):
    """As scripted, with calls that were counted on our kernels."""

    def __init__(self, answer, **calls):
        super().__init__(answer)
        self._counted = [(name.replace("_", " ", 1), n) for name, n in calls.items()]

    @contextlib.contextmanager
    def running(self, kernels):
        yield [] if kernels == "stock" else self._counted


# Switches.


class Compiling(TransformersEngine):
    """Its model brings a layer that is under torch.compile, whose fused kernels call none of ours."""

    def load(self, longest=0):
        super().load(longest)
        self._model.model.layers[1].compile()


@broken("failed", code=4, says="model.layers.1 is compiled by torch.compile")
def undone_by_compile(zoo):
    """A layer of the model is under torch.compile, which calls none of our kernels."""
    asked = ("--kernels", "batch-invariant", "--conditions", "alone,batch-2")
    return zoo.completions(Compiling(None), *asked, samples=4, max_tokens=2)


@broken("inconclusive", code=3, says="stock kernels did not react")
def dull_control(zoo):
    """Stock kernels give the same bits in all batches, so that the probe was not sensitive."""
    return zoo.completions(Scripted(lambda rows, slot, call: SAME), "--kernels", "both")


@broken("inconclusive", code=3, says="gave a row other bits in the batch than alone")
def stock_that_follows(zoo):
    """An op has no kernel of ours, follows the batch, and all samples came out equal by luck."""
    engine = Counting(
        lambda rows, slot, call: SAME, **{"ours_aten::mm": 5, "stock_lib::fused": 5, "unlike_lib::fused": 2}
    )
    return zoo.completions(engine, "--kernels", "batch-invariant")


@broken("failed", code=4, says="no op of this model ran on our kernels")
def switch_that_does_nothing(zoo):
    """The switch replaces nothing, and says nothing of it."""
    zoo.monkeypatch.setattr("detcheck.switch._register", lambda undo, only=None: None)
    return asked_of(zoo, llama_like(zoo.folder / "model"))


@broken("batch-variant")
def undone(zoo):
    """Another library puts a product that follows the batch in the place of ours while the model runs."""
    plain = TransformersEngine.complete

    def complete(*arguments, **options):
        with products(lambda a, b: reacting.product(a, b.t())):
            return plain(*arguments, **options)

    zoo.monkeypatch.setattr(TransformersEngine, "complete", complete)
    return asked_of(zoo, llama_like(zoo.folder / "model"))


def asked_of(zoo, model, *arguments, kernels="batch-invariant"):
    about = ("-n", "8", "--max-tokens", "2", "--prompt", "ask", "--conditions", "alone,batch")
    return zoo.ask("completions", "--model", model, "--kernels", kernels, *about, *arguments)


# Checkpoints.


def changed(zoo, change):
    """A tiny Llama whose tensors are changed."""
    folder = llama_like(zoo.folder / "model")
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return asked_of(zoo, folder)


@broken("usage error", code=2)
def made_up_weights(zoo):
    """The checkpoint lacks a tensor, in the place of which transformers makes up random numbers."""
    return changed(zoo, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))


@broken("usage error", code=2, says="of another shape")
def another_shape(zoo):
    """A tensor of the checkpoint has another shape than the model's."""

    def change(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"][:-1].clone()

    return changed(zoo, change)


@broken("inconclusive", code=3, says="NaN")
def weights_of_nan(zoo):
    """A weight is NaN, so that every answer is the same NaN."""
    return changed(zoo, lambda tensors: tensors["model.norm.weight"].fill_(float("nan")))


@broken("failed", code=4)
def torn_weights(zoo):
    """The file of the weights is half as long as it says."""
    folder = llama_like(zoo.folder / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return asked_of(zoo, folder)


@broken("usage error", code=2)
def no_tokenizer(zoo):
    """The checkpoint has no tokenizer."""
    folder = llama_like(zoo.folder / "model")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    return asked_of(zoo, folder)


@broken("usage error", code=2)
def another_tokenizer(zoo):
    """The tokenizer has ids that the model has no embeddings for."""
    return asked_of(zoo, llama_like(zoo.folder / "model", vocab_size=40))


@broken("usage error", code=2)
def adapter_of_nothing(zoo):
    """An adapter changes layers that the model has not, so that nothing of it would be applied."""
    folder, adapter = llama_like(zoo.folder / "model"), zoo.folder / "adapter"
    adapters.lora(folder, adapter)
    adapters.with_tensors(adapter, lambda found: {n.replace("layers.1.", "layers.9."): t for n, t in found.items()})
    return asked_of(zoo, folder, "--adapter", adapter)


@sound
def a_real_model(zoo):
    """A tiny Llama on our kernels."""
    return asked_of(zoo, llama_like(zoo.folder / "model"))


@broken("batch-variant")
def ours_that_follow(zoo):
    """Our own kernels follow the batch, as stock ones do."""
    return zoo.completions(Scripted(lambda rows, slot, call: OTHER if rows > 2 else SAME), "--kernels", "both")


# Products of torch's.


@contextlib.contextmanager
def products(make):
    """torch's own matrix product on the CPU is `make(a, b)`."""
    import torch

    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.impl("mm", make, "CPU")
    try:
        yield
    finally:
        library._destroy()


def exact(a, b):
    return (a[:, :, None] * b[None]).sum(1)


@broken("run-variant")
def product_in_one_buffer(zoo):
    """Every second product is off, and each is written into the same memory."""
    import torch

    kept, calls = torch.zeros(4, 4), iter(range(10**6))
    with products(lambda a, b: kept.copy_(exact(a, b) * (1 + 2**-20 * (next(calls) % 2)))):
        return zoo.ask("matmul", "--shape", "4,4,8", "--trials", "20")


@broken("run-variant")
def seldom_off(zoo):
    """One product in two hundred is off by an ulp or two."""
    calls = iter(range(10**6))
    with products(lambda a, b: exact(a, b) * (1 + 2**-22 * (next(calls) % 200 == 150))):
        return zoo.ask("matmul", "--shape", "4,4,8", "--trials", "400")


@broken("inconclusive", code=3)
def products_of_nan(zoo):
    """Every product overflows to NaN, always the same."""
    with products(lambda a, b: exact(a, b) * float("nan")):
        return zoo.ask("matmul", "--shape", "4,4,8", "--trials", "20")


@sound
def equal_products(zoo):
    """A product that is always the same."""
    with products(exact):
        return zoo.ask("matmul", "--shape", "4,4,8", "--trials", "20")


# Tests of one's own.


@broken("usage error", code=2)
def one_size(zoo):
    """assert_batch_invariant with sizes=(1,), so that nothing would be compared."""
    return zoo.asserts(zoo_ops.one_row_at_a_time, sizes=(1,))


@broken("batch-variant")
def asserted_buffer(zoo):
    """assert_batch_invariant of a function that returns the same memory in each call."""
    return zoo.asserts(zoo_ops.one_buffer, sizes=(1, 8))


@broken("usage error", code=2)
def nothing_returned(zoo):
    """assert_batch_invariant of a function that returns rows without numbers."""
    return zoo.asserts(lambda x: x[:, :0], sizes=(1, 2))


@broken("run-variant")
def asserted_leftovers(zoo):
    """assert_batch_invariant of a function that shows what an earlier call left."""
    return zoo.asserts(zoo_ops.leftovers, sizes=(1, 2))


@sound
def asserted(zoo):
    """assert_batch_invariant of a function that computes each row by itself."""
    return zoo.asserts(zoo_ops.one_row_at_a_time, sizes=(1, 2, 8))


# Weights that are updated.


def reload(zoo, **stack):
    zoo.monkeypatch.setattr("detcheck.probes.reload.session.stack", lambda spec, resumed: ScriptedStack(**stack))
    return zoo.ask("reload")


@broken("divergent", says="nothing was updated")
def update_of_nothing(zoo):
    """An update says that it is done, and has done nothing."""
    return reload(zoo, how=lambda engine, way: (0, 0.1))


@broken("divergent", says="not brought up to date")
def tensor_left_behind(zoo):
    """An update leaves a tensor as it was."""
    return reload(zoo, how=lambda engine, way: updated(engine, way, MIXED))


@broken("divergent", says="have the new bits")
def packed_copy(zoo):
    """All tensors are new, and a packed copy of the old ones is computed with."""

    def how(engine, way):
        engine.weights = dict(NEW)
        return 1 << 20, 0.5

    return reload(zoo, how=how)


@broken("inconclusive", code=3)
def insensitive(zoo):
    """Old and new weights give the same answers, so that an update which does nothing would pass."""
    return reload(zoo, sensitive=False, readable=False)


@broken("run-variant")
def noisy_load(zoo):
    """A fresh load does not repeat itself, as weights that are made up would not."""
    return reload(zoo, noise=1, cache=False)


@sound
def sound_update(zoo):
    """An update that brings all weights, in an engine that begins with old ones."""
    return reload(zoo)


# Log-probabilities of a sampler and a trainer.

RNG = np.random.default_rng(7)
LENGTHS = (24, 18, 30, 21)
SIDE = [
    {
        "prompt": f"question {n}",
        "tokens": RNG.integers(0, 90, length).tolist(),
        "logprobs": [float(x) for x in -RNG.exponential(1, length).astype(np.float32)],
    }
    for n, length in enumerate(LENGTHS)
]


def logprobs(zoo, change=lambda lines: lines, of=SIDE, changed_first=None):
    for name, lines in (("sampler", (changed_first or (lambda x: x))(copied(of))), ("trainer", change(copied(of)))):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (zoo.folder / f"{name}.jsonl").write_text(text, "utf-8")
    return zoo.ask("logprobs", "sampler.jsonl", "trainer.jsonl")


def copied(lines):
    return json.loads(json.dumps(lines))


def each(change):
    """Of the numbers of every line."""
    return lambda lines: [line | {"logprobs": change(line["logprobs"])} for line in lines]


def one(value, place=2, index=4):
    def change(lines):
        found = lines[place]["logprobs"]
        found[index] = value(found[index])
        return lines

    return change


@broken("divergent")
def one_ulp(zoo):
    """One log-probability of 93 is off by one ulp."""
    return logprobs(zoo, one(lambda v: float(np.nextafter(np.float32(v), np.float32(0)))))


@broken("divergent")
def sign_of_zero(zoo):
    """One side says 0.0, the other -0.0."""
    return logprobs(zoo, one(lambda v: -0.0), changed_first=one(lambda v: 0.0))


@broken("divergent", says="shift")
def shifted(zoo):
    """The trainer's numbers stand one place later."""
    return logprobs(zoo, each(lambda v: [0.0, *v[:-1]]))


@broken("divergent", says="temperature")
def hotter(zoo):
    """The trainer's numbers are of another temperature."""
    return logprobs(zoo, each(lambda v: [float(np.float32(x * 1.25)) for x in v]))


@broken("inconclusive", code=3)
def nan_on_both_sides(zoo):
    """Both sides say NaN at one token."""
    return logprobs(zoo, one(lambda v: float("nan")), changed_first=one(lambda v: float("nan")))


@broken("inconclusive", code=3)
def all_masked(zoo):
    """Every token is masked, so that nothing is compared."""

    def masked(lines):
        return [line | {"completion_mask": [0] * len(line["tokens"])} for line in lines]

    return logprobs(zoo, masked, changed_first=masked)


@broken("inconclusive", code=3)
def dumped_without(zoo):
    """Neither side has log-probabilities: both wrote zeros for them."""
    zeros = each(lambda v: [0.0] * len(v))
    return logprobs(zoo, zeros, changed_first=zeros)


@broken("inconclusive", code=3, says="all 0 in 3 of 4 sequences")
def dumped_without_in_part(zoo):
    """Both sides wrote zeros in place of the log-probabilities of three sequences of four."""

    def zeros(lines):
        return [line | {"logprobs": [0.0] * len(line["tokens"])} for line in lines[:3]] + lines[3:]

    return logprobs(zoo, zeros, changed_first=zeros)


@broken("inconclusive", code=3)
def sequence_missing(zoo):
    """The trainer left one sequence out."""
    return logprobs(zoo, lambda lines: lines[1:])


@broken("inconclusive", code=3)
def cut_short(zoo):
    """The trainer has the first half of each sequence."""
    return logprobs(zoo, lambda lines: [{**line, **{k: line[k][:9] for k in ("tokens", "logprobs")}} for line in lines])


@broken("inconclusive", code=3)
def rounded(zoo):
    """Both sides were rounded to three digits, and are equal then."""
    return logprobs(
        zoo, each(lambda v: [round(x, 3) for x in v]), changed_first=each(lambda v: [round(x, 3) for x in v])
    )


@broken("divergent")
def swapped(zoo):
    """The trainer's numbers of two sequences of one length are swapped."""

    def change(lines):
        lines[0]["logprobs"], lines[1]["logprobs"] = lines[1]["logprobs"], lines[0]["logprobs"]
        return lines

    same_length = [line | {k: line[k][:18] for k in ("tokens", "logprobs")} for line in SIDE]
    return logprobs(zoo, change, of=same_length)


@sound
def another_order(zoo):
    """Two files of the same numbers, their sequences in another order."""
    return logprobs(zoo, lambda lines: lines[::-1])


@sound
def certain_of_a_word(zoo):
    """Both sides are certain of seven tokens in a row, and of a whole answer of three: zeros stand for them."""

    def certain(lines):
        lines[0]["logprobs"][:7] = [0.0] * 7
        return lines[:3] + [line | {"tokens": line["tokens"][:3], "logprobs": [0.0] * 3} for line in lines[3:]]

    return logprobs(zoo, certain, changed_first=certain)


# Triton kernels, compiled for a GPU that is not here.


def certify(zoo, kernel):
    return zoo.ask("certify", "--op", f"certify_kernels:{kernel}", "--target", "sm_90")


@broken("refuted", says="floats are added by an atomic")
def atomic_triton(zoo):
    """A Triton kernel adds floats by an atomic."""
    return certify(zoo, "atomic_sum")


@broken("refuted", says="keyed on M")
def autotuned_triton(zoo):
    """A Triton kernel is tuned for each number of rows."""
    return certify(zoo, "tuned_by_batch")


@broken("refuted", says="SPLITS=1; SPLITS=4")
def split_triton(zoo):
    """The launch splits K in one part or four, by the number of rows."""
    return certify(zoo, "split_k_by_host")


@broken("undecided", code=3, says="2 different binaries")
def specialised_triton(zoo):
    """Triton compiles a Triton kernel once more where the number of rows is one, or divisible by sixteen."""
    return certify(zoo, "specialised")


@sound("certified")
def certified_triton(zoo):
    """A Triton kernel of which each program adds one row."""
    return certify(zoo, "softmax")


test_subject = visits(globals())
