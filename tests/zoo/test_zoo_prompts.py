"""Several prompts, seeds, adapters: one of them is wrong, or the wrong one is answered."""

import random

from knowing import Forming
from scripted import LATENT, OTHER, SAME, completion
from zoo import broken, sound, visits


def prompts(zoo, engine, *lines, samples=16, more=()):
    return zoo.completions(engine, "--prompt-file", zoo.file("prompts.txt", *lines), *more, samples=samples)


def own(asked):
    """An answer of the prompt's own."""
    return completion([10 + byte % 100 for byte in asked.row.prompt[:4]])


@broken("batch-variant")
def one_prompt_of_five(zoo):
    """One prompt of five follows the batch."""
    engine = Forming(lambda asked: OTHER if asked.text == "three" and asked.size > 2 else own(asked))
    return prompts(zoo, engine, "one", "two", "three", "four", "five")


@broken("run-variant")
def one_answer_to_one_prompt(zoo):
    """One sample of one prompt of five is another one."""
    engine = Forming(lambda asked: OTHER if asked.call == 40 else own(asked))
    return prompts(zoo, engine, "one", "two", "three", "four", "five")


@broken("inconclusive", 3, says="samples are missing")
def one_prompt_is_not_answered_whole(zoo):
    """One prompt of three loses a sample."""
    return prompts(zoo, Forming(lambda asked: None if asked.call == 20 else own(asked)), "one", "two", "three")


@broken("failed", 4, says="nothing was observed")
def one_prompt_is_never_answered(zoo):
    """One prompt of three never gets an answer."""
    return prompts(zoo, Forming(lambda asked: None if asked.text == "two" else own(asked)), "one", "two", "three")


@broken("batch-variant")
def a_failure_beside_a_divergence(zoo):
    """One prompt never gets an answer, and another one follows the batch."""
    reacts = lambda a: None if a.text == "one" else OTHER if a.size > 2 else SAME  # noqa: E731
    return prompts(zoo, Forming(reacts), "one", "two")


@broken("batch-variant")
def the_other_prompts_answer(zoo):
    """In a batch of four the second prompt is given the answer to the first, which was asked before it."""
    first = []

    def answer(asked):
        first[:] = first or [asked]
        return own(first[0] if asked.size == 4 else asked)

    return prompts(zoo, Forming(answer), "one", "two")


@broken("run-variant", says="prompts 0, 2 are the same prompt, and equal conditions gave it different bits")
def the_same_prompt_twice(zoo):
    """A prompt that stands in the file twice gets one answer the first time and another the second, each always the same."""
    engine = Forming(lambda asked: OTHER if asked.call >= 32 else own(asked))
    return prompts(zoo, engine, "one", "two", "one")


SEEDS = ("--temperature", "0.8", "--seeds", "2")


def drawn(asked, *also):
    rng = random.Random(repr((asked.row.sampling.seed, asked.row.prompt, also)))
    return completion([rng.randrange(5, 250) for _ in range(4)])


@broken("inconclusive", 3, says="nothing shows that any were drawn")
def seeds_that_are_not_read(zoo):
    """Draws with a seed of its own, whatever it is told: all seeds give the same tokens."""
    return zoo.completions(Forming(lambda asked: SAME), *SEEDS, samples=16)


@broken("batch-variant")
def one_generator_for_a_batch(zoo):
    """Rows draw one after the other from one generator, so that a row's tokens follow its place."""
    return zoo.completions(Forming(lambda asked: drawn(asked, asked.slot)), *SEEDS, samples=16)


@broken("run-variant")
def a_seed_and_the_clock(zoo):
    """The seed is mixed with something that grows from call to call."""
    return zoo.completions(Forming(lambda asked: drawn(asked, asked.call)), *SEEDS, samples=16)


@broken("batch-variant")
def a_neighbours_seed(zoo):
    """A row beside one that is drawn is drawn with that one's seed."""
    beside = lambda asked: max((r.sampling.seed for r in asked.rows if r.continuation and r.sampling), default=0)  # noqa: E731
    return zoo.completions(Forming(lambda asked: drawn(asked, beside(asked))), *SEEDS, samples=24)


def adapted(zoo, engine):
    folder = zoo.folder / "other"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    (folder / "adapter_model.safetensors").write_bytes(b"made up: the engine's answers are ours")
    return zoo.completions(engine, "--other-adapter", "other", samples=16)


@broken("batch-variant", says="neighbours have another adapter than the prompt")
def a_neighbours_adapter(zoo):
    """A row beside one with another adapter has other bits: the adapters' product is taken for all rows."""
    return adapted(zoo, Forming(lambda asked: LATENT if any(row.adapter for row in asked.rows) else SAME))


@sound
def neighbours_with_other_adapters(zoo):
    """Rows beside others with another adapter keep their bits."""
    return adapted(zoo, Forming(lambda asked: SAME))


@sound
def many_prompts(zoo):
    """Thirty prompts, each with an answer of its own."""
    return prompts(zoo, Forming(own), *(f"prompt {n}" for n in range(30)), samples=4)


@sound
def prompts_that_repeat(zoo):
    """The same prompt three times in the file, always with the same answer."""
    return prompts(zoo, Forming(own), "again", "again", "other", "again")


@sound
def prompts_of_very_different_length(zoo):
    """A prompt of one letter, one of 2000, and one in scripts from right to left and with emoji."""
    return prompts(zoo, Forming(own), "a", "word " * 400, "שלום 👩‍👩‍👧 日本 ẛ̣")


@sound
def prompts_that_share_an_answer(zoo):
    """Two prompts that get the same answer."""
    return prompts(zoo, Forming(lambda asked: SAME), "one", "two")


@sound
def seeds_that_are_read(zoo):
    """Tokens are drawn by prompt and seed, and nothing else."""
    return zoo.completions(Forming(drawn), *SEEDS, samples=16)


test_subject = visits(globals())
