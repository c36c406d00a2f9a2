"""Engines that form their batches themselves, as vLLM does: budget, prefix cache, preemption, drafts, order."""

import random
from types import SimpleNamespace

from knowing import Scheduling, noise
from scripted import LATENT, OTHER, SAME, completion
from zoo import broken, sound, visits

from detcheck.engine import Decoded
from detcheck.engines.vllm.arguments import Settings
from detcheck.engines.vllm.host import Host, WrongKernelsError
from detcheck.engines.vllm.worker.plugin import WorkerExtension
from detcheck.errors import FailedError


def by(strikes, **how):
    """Other bits where the way of a request strikes."""
    return Scheduling(lambda asked: LATENT if strikes(asked.trace) else SAME, **how)


@broken("batch-variant", says='"first_variant_condition": "edges-8"')
def splits_that_follow_the_requests(zoo):
    """Attention is split by how many requests a step has, from five on."""
    return zoo.completions(by(lambda trace: max(trace.batch_sizes) > 4), samples=40)


@broken("batch-variant")
def who_stays_behind(zoo):
    """Other bits where a neighbour leaves while a request is decoded."""
    return zoo.completions(by(lambda trace: len(trace.batch_sizes) > 1), samples=40)


@broken("batch-variant", says='"varies_with": ["chunk"]')
def prompts_that_are_cut(zoo):
    """A prompt that is computed in several steps has other bits."""
    return zoo.completions(by(lambda trace: trace.chunks > 1), "--conditions", "alone,wave-2,chunked-1")


@broken("batch-variant")
def prompts_cut_in_three(zoo):
    """A prompt has other bits where it is cut in exactly three chunks."""
    names = "alone,chunked-1-tokens-2,chunked-1-tokens-3"
    return zoo.completions(by(lambda trace: trace.chunks == 3), "--conditions", names)


@broken("batch-variant", says='"varies_with": ["cache"]')
def a_prefix_from_the_cache(zoo):
    """A prompt whose beginning comes from the prefix cache has other bits."""
    return zoo.completions(by(lambda trace: trace.cached), "--conditions", "alone,wave-2,cached-1")


@broken("batch-variant")
def who_was_put_aside(zoo):
    """A request that was put aside and computed again has other bits."""
    return zoo.completions(by(lambda trace: trace.preemptions, puts_aside=3), samples=40)


@broken("run-variant")
def noise_under_equal_traces(zoo):
    """Equal steps give other bits in one request of ten."""
    strikes = noise(1 / 10, seed=1)
    return zoo.completions(by(lambda trace: strikes()), samples=40)


@broken("divergent")
def a_scheduler_that_draws(zoo):
    """Who is computed first is drawn, and bits follow the order: no trace comes twice."""
    drawn = Scheduling(lambda asked: OTHER if int(asked.trace.trace or "0", 16) % 2 else SAME, order=random.Random(0))
    return zoo.completions(drawn, "--conditions", "wave-8,wave-16", samples=16)


@broken("inconclusive", 3, says="batches were not formed as asked in")
def one_request_at_a_time(zoo):
    """Computes one request after the other: waves are never together."""
    return zoo.completions(by(lambda trace: False, at_once=1), samples=40)


@broken("inconclusive", 3, says="batches were not formed as asked in cached-1")
def a_cache_that_is_never_read(zoo):
    """Says that it keeps prefixes, and never finds one."""
    return zoo.completions(by(lambda trace: False, reads_cache=False), "--conditions", "alone,wave-2,cached-1")


@broken("inconclusive", 3, says="batches were not formed as asked in chunked-1")
def prompts_that_are_never_cut(zoo):
    """Says that it cuts prompts, and computes each in one step."""
    return zoo.completions(by(lambda trace: False, cuts=False), "--conditions", "alone,wave-2,chunked-1")


@broken("inconclusive", 3, says="could not be seen")
def tells_no_steps(zoo):
    """Does not tell what its steps computed."""
    return zoo.completions(by(lambda trace: False, tells=False), samples=24)


@broken("inconclusive", 3, says="no drafted token was accepted in")
def drafts_that_fail_in_waves(zoo):
    """Drafts tokens, and in waves none is taken, so that these are plain decoding."""
    return zoo.completions(by(lambda trace: False, drafts=lambda n: (4, 0 if n > 1 else 3)), samples=24)


@broken("inconclusive", 3, says="no token was drafted")
def drafts_nothing(zoo):
    """Was asked to draft tokens, and drafts none."""
    return zoo.completions(by(lambda trace: False, drafts=lambda n: (0, 0)), samples=24)


@broken("batch-variant")
def drafts_that_are_taken_without_a_look(zoo):
    """Where requests are together, drafted tokens are taken that the model would not have made."""
    taken = lambda asked: OTHER if asked.trace.accepted > 3 else SAME  # noqa: E731
    return zoo.completions(Scheduling(taken, drafts=lambda n: (4, 4 if n > 1 else 3)), samples=24)


@broken("batch-variant", says='"varies_with": ["prefill"]')
def decodes_otherwise(zoo):
    """Tokens that were made one by one have other bits when they are computed in one pass."""

    class Decoding(Scheduling):
        def prefill(self, row, made):
            self._of, plain = (lambda asked: LATENT), self._of
            found = super().prefill(row, made)
            self._of = plain
            return found

    return zoo.completions(Decoding(lambda asked: SAME), "--conditions", "alone,wave-2,prefill")


@broken("inconclusive", 3, says="aborted")
def aborts_under_load(zoo):
    """Ends one request of a wave of eight with an error."""

    class Aborting(Scheduling):
        def complete(self, rows, *arguments, **how):
            found = super().complete(rows, *arguments, **how)
            if len(rows) != 8:
                return found
            made = {slot: one for slot, one in found.completions.items() if slot}
            return Decoded(made, found.batch_sizes, found.traces, found.steps, {0: "the engine aborted it"})

    return zoo.completions(Aborting(lambda asked: SAME), "--conditions", "alone,wave-8", samples=24)


@broken("batch-variant")
def at_one_length_of_the_cache(zoo):
    """Other bits beside a neighbour whose prompt fills a split of the KV cache exactly."""
    split = Scheduling(lambda asked: LATENT if any(len(row.prompt) == 255 for row in asked.rows) else SAME)
    return zoo.completions(split, "--conditions", "alone,edges-8", samples=16)


@broken("batch-variant", says="neighbours have another adapter than the prompt")
def a_neighbours_adapter_in_the_same_step(zoo):
    """A request has other bits where another adapter is in its step."""
    return adapted(zoo, by(lambda trace: trace.adapters > 1))


@broken("inconclusive", 3, says="adapters-")
def adapters_that_never_meet(zoo):
    """Requests with different adapters are never put in one step."""

    class Apart(Scheduling):
        def complete(self, rows, *arguments, **how):
            from dataclasses import replace

            return super().complete([replace(row, adapter=0) for row in rows], *arguments, **how)

    return adapted(zoo, Apart(lambda asked: SAME))


def adapted(zoo, engine):
    folder = zoo.folder / "other"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    (folder / "adapter_model.safetensors").write_bytes(b"made up: the engine's answers are ours")
    return zoo.completions(engine, "--other-adapter", "other", samples=16)


class AsVllm(Scheduling):
    """Forms batches as vLLM does, and is asked which kernels it has as vLLM's processes are: by the real `Host`, of real or written reports."""

    def __init__(self, reports):
        super().__init__(lambda asked: SAME)
        self._host = Host.__new__(Host)
        self._host._settings = Settings("written", "batch-invariant", {}, ())
        self._host._calls, self._host._engine = {}, SimpleNamespace(collective_rpc=lambda name: [reports()])

    def load(self, longest=0):
        self.verify(ran=False)

    def complete(self, rows, *arguments, **how):
        found = super().complete(rows, *arguments, **how)
        self._calls = self.verify(ran=True)
        return found

    def verify(self, ran):
        try:
            return self._host._verify(ran)
        except WrongKernelsError as error:
            raise FailedError(str(error)) from None


def ours(zoo, reports):
    return zoo.completions(AsVllm(reports), "--kernels", "batch-invariant")


@broken("failed", 4, says="the plugin detcheck did not load there")
def a_plugin_that_is_not_loaded(zoo):
    """Under vLLM our kernels were asked for, and a worker process did not load the plugin that puts them in."""
    return ours(zoo, lambda: WorkerExtension().detcheck_report())


@broken("failed", 4, says="no call of our")
def a_plugin_that_nothing_calls(zoo):
    """Under vLLM the plugin is loaded, and the model's layers are of a kind that never calls our kernels."""
    return ours(zoo, lambda: {"process": 7, "kernels": "batch-invariant", "calls": {}})


@sound
def a_scheduler_that_draws_and_is_right(zoo):
    """Who is computed first is drawn, and bits do not follow."""
    return zoo.completions(Scheduling(lambda asked: SAME, order=random.Random(0)), samples=40)


@sound
def who_was_put_aside_and_is_right(zoo):
    """Requests are put aside and computed again with the same bits."""
    return zoo.completions(by(lambda trace: False, puts_aside=3), samples=40)


@sound
def drafts_that_are_right(zoo):
    """Drafts tokens, and takes those that the model makes."""
    return zoo.completions(by(lambda trace: False, drafts=lambda n: (4, 3)), samples=24)


@sound
def no_cache_and_no_cuts(zoo):
    """Keeps no prefixes and cuts no prompts, and says so: both are listed as not tried."""
    plain = by(lambda trace: False, block=0, cuts=False)
    plain.uncut = "the engine cuts no prompt"
    return zoo.completions(plain, samples=40)


@sound
def neighbours_in_the_same_step(zoo):
    """Requests with different adapters in one step keep their bits."""
    return adapted(zoo, by(lambda trace: False))


@sound
def long_prompts_in_a_small_budget(zoo):
    """Steps of 32 tokens: every prompt is cut, and bits stay."""
    prompt = ("--prompt", "a long prompt, so long that a step does not hold it, and one more word, and one more")
    answer = completion([5, 6, 7, 8, 9, 10, 11, 12] * 4)
    return zoo.completions(Scheduling(lambda asked: answer, budget=32), *prompt, samples=24, max_tokens=32)


@sound
def prompts_longer_than_many_steps(zoo):
    """Steps of 48 tokens and a prompt of 300, so that few requests ever meet: larger waves are listed as not tried."""
    answer = completion([5, 6, 7, 8, 9, 10, 11, 12])
    return zoo.completions(Scheduling(lambda asked: answer, budget=48), "--prompt", "y" * 300, max_tokens=8)


test_subject = visits(globals())
