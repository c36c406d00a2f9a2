"""Engines whose answer follows what came before: the first call, parity, a reload, threads.

Another process is played here: by another engine that goes on with a run, and by what stands in for `fresh.complete`.
"""

import dataclasses
import random

from knowing import Forming, Scheduling, moved
from scripted import LATENT, OTHER, SAME
from zoo import broken, sound, visits

from detcheck.engine import Decoded


@broken("run-variant")
def the_first_answer_only(zoo):
    """The first answer ever given is another one than all later ones."""
    return zoo.completions(Forming(lambda asked: OTHER if asked.call == 0 else SAME))


@broken("run-variant")
def the_last_sample_only(zoo):
    """The last sample of the run is another one than all before it."""
    seen = []

    def answer(asked):
        seen.append(asked)
        return OTHER if len(seen) == 24 else SAME

    return zoo.completions(Forming(answer))


@broken("run-variant")
def by_parity_of_the_call(zoo):
    """Two answers in turn, one batch this, the next batch that."""
    return zoo.completions(Forming(lambda asked: OTHER if asked.call % 2 else SAME))


@broken("run-variant")
def between_two_prompts(zoo):
    """After the last answer to the first prompt all answers are others, as where the weights are swapped: no prompt differs by itself."""
    asked_so_far = set()

    def answer(asked):
        asked_so_far.add(asked.text)
        return OTHER if "two" in asked_so_far else SAME

    return zoo.completions(Forming(answer), "--prompt-file", zoo.file("prompts.txt", "one", "two"), samples=16)


@broken("run-variant")
def as_after_a_reload(zoo):
    """From one batch on every answer is another one, as after a reload of the weights."""
    return zoo.completions(Forming(lambda asked: OTHER if asked.call > 20 else SAME), samples=100)


@broken("run-variant")
def what_was_asked_before(zoo):
    """The answer has other bits where the batch before it was larger: a buffer is not cleared."""
    dirty = Forming(lambda asked: LATENT if len(asked.before) > asked.size else SAME)
    return zoo.completions(dirty, "--prompt-file", zoo.file("prompts.txt", "one", "two"), samples=24)


@broken("run-variant")
def drifts(zoo):
    """Log-probabilities move by an ulp with every batch, and tokens never change."""
    return zoo.completions(Forming(lambda asked: moved(SAME, asked.call)))


@broken("run-variant")
def another_engine_goes_on(zoo):
    """The engine that goes on with an interrupted run has other bits, as where a process chooses once when it starts."""
    return resumed(zoo, Forming(lambda asked: moved(SAME)))


def resumed(zoo, engine, at=13):
    """A run that Ctrl-C ended, gone on with in this engine."""

    def until_ctrl_c(asked):
        if asked.call == at:
            raise KeyboardInterrupt
        return SAME

    assert zoo.completions(Forming(until_ctrl_c)).code == 130
    (run,) = (zoo.folder / "runs").iterdir()
    with zoo.engine(engine):
        return zoo.ask("completions", "--resume", run)


def fresh(zoo, *answers):
    """These answers, in turn, stand in for those of fresh processes: none is started."""
    from detcheck.harness import fresh

    left = iter(answers)
    zoo.monkeypatch.setattr(fresh, "complete", lambda asked: (Decoded({0: next(left)}, (1,)), ()))
    return zoo.completions(Forming(lambda asked: SAME), "--conditions", "alone,batch-2,fresh")


@broken("batch-variant", says='"varies_with": ["process"]')
def a_fresh_process(zoo):
    """What comes in the place of a fresh process's answers has other bits than this process's, always the same."""
    return fresh(zoo, LATENT, LATENT)


@broken("run-variant", says="first in fresh")
def every_fresh_process(zoo):
    """What comes in the place of fresh processes' answers has other bits each time."""
    return fresh(zoo, moved(SAME, 1), moved(SAME, 2))


@broken("divergent", says="parts from the one before at token 2")
def another_number_of_threads(zoo):
    """On one thread the bits are others than on two; each run by itself is equal."""
    by_threads = lambda n: Forming(lambda asked: OTHER if n == 1 else SAME, threads=n)  # noqa: E731
    assert zoo.completions(by_threads(2), "--output-dir", "first").code == 0
    (before,) = (zoo.folder / "first").iterdir()
    return zoo.completions(by_threads(1), "--baseline", before)


@broken("divergent")
def a_baseline_that_moved_by_one_bit(zoo):
    """A new version moves one log-probability by one ulp, for every sample alike."""
    assert zoo.completions(Forming(lambda asked: SAME), "--output-dir", "first").code == 0
    (before,) = (zoo.folder / "first").iterdir()
    return zoo.completions(Forming(lambda asked: moved(SAME, 1, 2, only=True)), "--baseline", before / "baseline.json")


@broken("inconclusive", 3, says="not comparable")
def a_baseline_of_another_model(zoo):
    """The baseline is of other weights, so that equal answers prove nothing."""
    assert zoo.completions(Forming(lambda asked: SAME), "--output-dir", "first").code == 0
    (before,) = (zoo.folder / "first").iterdir()
    other = Forming(lambda asked: SAME)
    other.digests = {**other.digests, "model": "f" * 64}
    return zoo.completions(other, "--baseline", before)


@broken("usage error", 2, says="another")
def another_model_goes_on(zoo):
    """A run is gone on with after the weights were changed."""
    other = Forming(lambda asked: SAME)
    other.digests = {**other.digests, "model": "f" * 64}
    return resumed(zoo, other)


@broken("run-variant")
def forgets_in_a_conversation_at_times(zoo):
    """In one run of a conversation the second answer is made without its history."""
    return talk(zoo, Forming(lambda asked: OTHER if asked.call == 21 else SAME))


TALK = {"messages": [{"role": "user", "content": "One."}, {"role": "user", "content": "And two."}]}


def talk(zoo, engine, *arguments, samples=16):
    about = ("--prompt-file", zoo.file("talk.jsonl", TALK), "--turns")
    return zoo.completions(engine, *about, *arguments, samples=samples)


def second(asked):
    """Whether it is the second turn that is asked for."""
    return b"two" in bytes(asked.row.prompt)


@broken("batch-variant", says="answers part first in turn 2, at token 2")
def the_second_turn_parts(zoo):
    """Of a conversation the second answer follows the batch, and the first does not."""
    return talk(zoo, Forming(lambda asked: OTHER if second(asked) and asked.size > 2 else SAME))


@broken("batch-variant", says="part first in turn 1, at token 0")
def a_conversation_that_heals(zoo):
    """In a batch the first answer has other bits, and the second one is equal again."""
    return talk(zoo, Forming(lambda asked: LATENT if not second(asked) and asked.size > 2 else SAME))


@broken("inconclusive", 3, says="turn 2 of 2")
def a_second_turn_that_does_not_come(zoo):
    """One conversation breaks off after its first answer."""
    return talk(zoo, Forming(lambda asked: None if asked.call == 9 and second(asked) else SAME))


@broken("divergent", says="conversations that broke off differ")
def a_conversation_that_breaks_off_and_differs(zoo):
    """A conversation breaks off, and its first answer had already been another one."""

    def answer(asked):
        if asked.call in (8, 9):
            return None if second(asked) else OTHER
        return SAME

    return talk(zoo, Forming(answer))


@broken("batch-variant", says="cold and warm conversations part in turn 2")
def a_cold_second_turn(zoo):
    """Of a conversation the second answer has other bits where its history comes from the prefix cache."""
    engine = Scheduling(lambda asked: LATENT if asked.trace.cached else SAME)
    return talk(zoo, engine, "--conditions", "alone,cold")


@sound
def a_conversation(zoo):
    """Conversations of two turns, cold and warm."""
    return talk(zoo, Scheduling(lambda asked: OTHER if second(asked) else SAME), samples=24)


@sound
def another_engine_goes_on_alike(zoo):
    """A run that was interrupted and goes on with another engine, which has the same bits."""
    return resumed(zoo, Forming(lambda asked: SAME))


@sound
def fresh_processes(zoo):
    """What comes in the place of fresh processes' answers has the bits of this process's."""
    return fresh(zoo, SAME, SAME)


@sound
def draws_margins_at_random(zoo):
    """What is beside the answer, the runner-up, comes and goes; tokens and log-probabilities are equal."""
    rng = random.Random(0)
    unsure = lambda asked: dataclasses.replace(SAME, runners_up=tuple(rng.randrange(9) for _ in range(4)))  # noqa: E731
    return zoo.completions(Forming(unsure))


@sound
def the_same_as_the_baseline(zoo):
    """On one thread as on two, against a baseline."""
    assert zoo.completions(Forming(lambda asked: SAME, threads=2), "--output-dir", "first").code == 0
    (before,) = (zoo.folder / "first").iterdir()
    return zoo.completions(Forming(lambda asked: SAME, threads=1), "--baseline", before)


test_subject = visits(globals())
