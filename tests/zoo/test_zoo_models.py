"""The real engine on a real, tiny model and our kernels: with a fault planted in one module or op, and as it is."""

import contextlib
import functools
import tempfile

import torch
from knowing import noise
from models import llama_like
from planted import Fault, Planted, computed
from zoo import broken, sound, visits

from detcheck.engine import Decoded
from detcheck.engines.transformers.engine import TransformersEngine

ASK = ("--prompt", "Tell me", "--kernels", "batch-invariant")
COMPLETIONS = ("completions", *ASK, "--batch-sizes", "1,3", "-n", 8, "--max-tokens", 4)
LOGITS = ("batch", *ASK, "--batch-sizes", "1,3")
SCORE = ("score", *ASK, "--batch-sizes", "1,3", "-n", 8, "--continuation", " about him")
NORM, PRODUCT = "model.layers.0.input_layernorm", "model.layers.0.mlp.down_proj"


@functools.cache
def loaded():
    with tempfile.TemporaryDirectory() as folder:
        engine = TransformersEngine(str(llama_like(folder, num_hidden_layers=1)))
        engine.load()
    return engine


def ask(zoo, *arguments):
    with zoo.engine(loaded()):
        return zoo.ask(*arguments)


def off(numbers):
    return numbers.nextafter(numbers.new_tensor(float("inf")))


@contextlib.contextmanager
def off_where(name, strikes, change=off):
    """What the module gives is changed, by an ulp, where `strikes(what it gives)`."""
    module = loaded().model.get_submodule(name)
    hook = module.register_forward_hook(lambda _, __, out: change(out) if strikes(out) else out)
    try:
        yield
    finally:
        hook.remove()


def forwards(zoo, change):
    """The engine's forward pass gives `change(logits, tokens that were fed to it)`."""
    plain = TransformersEngine.forward

    def forward(self, ids, *given, **how):
        logits, cache = plain(self, ids, *given, **how)
        return change(logits, ids.shape[1]), cache

    zoo.monkeypatch.setattr(TransformersEngine, "forward", forward)


@broken("batch-variant", says='"varies_with": ["batch"')
def one_product_in_completions(zoo):
    """One product of one layer is an ulp off from three rows on; asked by completions."""
    with off_where(PRODUCT, lambda out: len(out) > 2):
        return ask(zoo, *COMPLETIONS)


@broken("batch-variant", says="logits differ at")
def one_product_in_logits(zoo):
    """One product of one layer is an ulp off from three rows on; asked by batch."""
    with off_where(PRODUCT, lambda out: len(out) > 2):
        return ask(zoo, *LOGITS)


@broken("run-variant")
def one_norm_is_noisy(zoo):
    """One norm is off in one call of twenty; asked by batch."""
    strikes = noise(1 / 20)
    with off_where(NORM, lambda out: strikes()):
        return ask(zoo, *LOGITS)


@broken("batch-variant", says="those behind the last token are equal")
def all_positions_but_the_last(zoo):
    """In batches the logits before the prompt's last position are off, and those that the next token follows from are equal."""
    earlier = lambda logits: torch.cat([off(logits[:, :-1]), logits[:, -1:]], 1)  # noqa: E731
    forwards(zoo, lambda logits, fed: earlier(logits) if len(logits) > 2 else logits)
    return ask(zoo, *LOGITS)


@broken("batch-variant", says='"varies_with": ["batch"')
def all_logits_but_the_largest(zoo):
    """In batches every logit is off but the one of the next token."""

    def change(logits, fed):
        largest = logits.argmax(-1, keepdim=True)
        return off(logits).scatter(-1, largest, logits.gather(-1, largest)) if len(logits) > 2 else logits

    forwards(zoo, change)
    return ask(zoo, *LOGITS)


@broken("run-variant")
def the_first_pass_of_all(zoo):
    """The very first forward pass over the prompt is off, as where a kernel is chosen by trying; asked by batch."""
    struck = []

    def change(logits, fed):
        if fed > 2 and not struck:
            struck.append(fed)
            return off(logits)
        return logits

    forwards(zoo, change)
    return ask(zoo, *LOGITS)


@broken("batch-variant", says='"varies_with": ["chunk"]')
def decoding_in_logits(zoo):
    """Logits of tokens that are fed one by one are off; asked by batch."""
    forwards(zoo, lambda logits, fed: off(logits) if fed == 1 else logits)
    return ask(zoo, *LOGITS)


@broken("inconclusive", 3, says="batches were not formed as asked")
def rows_one_after_the_other(zoo):
    """Is asked for a batch and computes its rows one after the other, which its forward passes show."""
    plain = TransformersEngine.complete

    def complete(self, rows, *given, **how):
        parts = [plain(self, [row], *given, **how) for row in rows]
        made = {slot: part.completions[0] for slot, part in enumerate(parts) if part.completions}
        return Decoded(made, parts[0].batch_sizes)

    zoo.monkeypatch.setattr(TransformersEngine, "complete", complete)
    return ask(zoo, *COMPLETIONS)


@broken("batch-variant", says='"distinct": 1')
def given_tokens_in_a_batch(zoo):
    """The log-probabilities of given tokens are off in batches; asked by score."""
    with off_where(PRODUCT, lambda out: len(out) > 2):
        return ask(zoo, *SCORE)


@broken("batch-variant", says='"varies_with": ["padding"]')
def given_tokens_at_one_width(zoo):
    """The log-probabilities of given tokens are off where rows are 33 tokens wide, the first of another tile; asked by score."""
    with off_where("lm_head", lambda out: out.shape[1] == 33, lambda out: out * 1.5):
        return ask(zoo, *SCORE)


@broken("run-variant")
def given_tokens_that_are_noisy(zoo):
    """One forward pass in four gives other log-probabilities of given tokens; asked by score."""
    strikes = noise(1 / 4, seed=1)
    with off_where("lm_head", lambda out: strikes(), lambda out: out * 1.5):
        return ask(zoo, *SCORE)


@broken("batch-variant", says="gradients differ")
def one_gradient(zoo):
    """The gradient of one parameter follows the batch, and all others are equal; asked by batch --backward."""
    rows, parameter = [], dict(loaded().model.named_parameters())[f"{PRODUCT}.weight"]
    hook = parameter.register_hook(lambda gradient: off(gradient) if rows[-1] > 2 else gradient)
    try:
        with off_where(PRODUCT, lambda out: rows.append(len(out))):
            return ask(zoo, *LOGITS, "--backward")
    finally:
        hook.remove()


@broken("batch-variant", says=PRODUCT)
def one_product_is_named(zoo):
    """One product is an ulp off from two rows on, and bisect names it, in its module."""
    place = next(p for p in computed(loaded(), 1) if p.path == PRODUCT and p.op.startswith("aten::mm"))
    with Planted(loaded().model, [Fault(place, "batch", 2)]).planted():
        return ask(zoo, "bisect", *ASK, "--batch-sizes", 3, "--decode", 1)


@sound
def ours_completes(zoo):
    """A Llama on our kernels, by completions."""
    return ask(zoo, *COMPLETIONS)


@sound
def ours_gives_logits(zoo):
    """A Llama on our kernels, by batch."""
    return ask(zoo, *LOGITS)


@sound
def ours_scores(zoo):
    """A Llama on our kernels, by score."""
    return ask(zoo, *SCORE)


@sound
def ours_learns(zoo):
    """Gradients of a Llama on our kernels, by batch --backward."""
    return ask(zoo, *LOGITS, "--backward")


test_subject = visits(globals())
