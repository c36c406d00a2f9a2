"""Engines whose answer follows the batch around a row, and engines that do not form the batch that was asked for."""

from knowing import Forming, moved, noise
from scripted import LATENT, OTHER, SAME, Scripted
from zoo import broken, sound, visits

from detcheck.errors import FailedError


def otherwise(strikes, **how):
    """Another answer where it strikes."""
    return Forming(lambda asked: OTHER if strikes(asked) else SAME, **how)


@broken("batch-variant")
def at_one_size_that_is_asked_for(zoo):
    """A batch of 129 rows has other bits, the first with one row in a second tile."""
    return zoo.completions(otherwise(lambda a: a.size == 129), "--batch-sizes", "1,128,129")


@broken("batch-variant", says='"varies_with": ["batch", "slot"]')
def the_last_row_of_eight(zoo):
    """The last row of a batch of eight has other bits than its first."""
    return zoo.completions(otherwise(lambda a: a.size == 8 and a.slot == 7), samples=60)


@broken("batch-variant")
def beside_a_longer_neighbour(zoo):
    """A row has other bits where the row before it is longer."""
    longer = otherwise(lambda a: a.slot and len(a.rows[a.slot - 1].prompt) > len(a.row.prompt))
    return zoo.completions(longer, samples=60)


@broken("batch-variant")
def what_neighbours_hold(zoo):
    """Other bits where any neighbour's first token is even: it is the contents of the others, not their number."""
    return zoo.completions(otherwise(lambda a: any(r.prompt[0] % 2 == 0 for r in a.rows if r.continuation)), samples=60)


@broken("batch-variant", says='"varies_with": ["padding"]')
def at_one_width(zoo):
    """Other bits where the batch is exactly 128 tokens wide, full tiles and no more."""
    return zoo.completions(otherwise(lambda a: a.width == 128), samples=60)


@broken("batch-variant", says='"varies_with": ["padding"]')
def padding_alone(zoo):
    """Pad tokens in front of a prompt change its bits, even where it is alone."""
    return zoo.completions(otherwise(lambda a: a.pads), samples=60)


@broken("batch-variant", says="rows and padding do it together")
def padding_in_a_batch(zoo):
    """Pad tokens change bits in a batch, and not where the prompt is alone."""
    return zoo.completions(otherwise(lambda a: a.pads and a.size > 1), samples=60)


@broken("batch-variant", says='"varies_with": ["chunk"]')
def a_prompt_in_chunks(zoo):
    """A prompt that is fed in chunks of three tokens has other bits."""

    class Chunked(Forming):
        def complete(self, rows, max_tokens, ignore_eos, padding=0, token_budget=None):
            self._of = lambda asked: LATENT if token_budget == 3 else SAME
            return super().complete(rows, max_tokens, ignore_eos, padding)

    names = "alone,batch-2,chunked-1-tokens-2,chunked-1-tokens-3"
    return zoo.completions(Chunked(None), "--conditions", names)


@broken("batch-variant", says='"varies_with": ["prefill"]')
def decoding_otherwise_than_a_prefill(zoo):
    """What was made token by token has other bits when it is computed again in one pass."""
    calls = []

    class Prefilling(Forming):
        def prefill(self, row, made):
            calls.append(made)
            self._of = lambda asked: LATENT
            decoded = super().prefill(row, made)
            self._of = lambda asked: SAME
            return decoded

    return zoo.completions(Prefilling(lambda asked: SAME), "--conditions", "alone,batch-2,prefill")


@broken("inconclusive", 3, says="batches were not formed as asked")
def two_rows_at_most(zoo):
    """Never computes more than two rows together, and says so: larger batches were not tried."""
    return zoo.completions(Scripted(lambda rows, slot, call: SAME, formed=lambda rows: min(rows, 2)))


@broken("inconclusive", 3, says="could not be seen")
def says_nothing_of_its_batches(zoo):
    """Does not tell which batches it formed."""
    return zoo.completions(Scripted(lambda rows, slot, call: SAME, seen=False))


@broken("divergent")
def says_nothing_and_differs(zoo):
    """Does not tell which batches it formed, and its answers differ."""
    return zoo.completions(Scripted(lambda rows, slot, call: OTHER if rows > 2 else SAME, seen=False))


@broken("divergent")
def other_batches_that_differ(zoo):
    """Pads every batch to eight rows but the lone one, and answers differ there."""
    engine = Scripted(lambda rows, slot, call: SAME if rows < 3 else OTHER, formed=lambda n: n if n == 1 else n + 1)
    return zoo.completions(engine)


@broken("inconclusive", 3, says="1 of 24 samples are missing")
def drops_one_sample(zoo):
    """One sample of 24 is dropped."""
    return zoo.completions(Forming(lambda asked: None if asked.call == 11 else SAME))


@broken("batch-variant")
def drops_where_it_differs(zoo):
    """Drops samples of some batches, and differs in others."""
    return zoo.completions(Forming(lambda a: None if a.size == 4 else OTHER if a.size == 7 else SAME))


@broken("inconclusive", 3, says="out of memory with 9 rows")
def out_of_memory_in_a_large_batch(zoo):
    """Runs out of memory beyond eight rows, which it did not expect."""
    return zoo.completions(Scripted(lambda rows, slot, call: "out of memory" if rows > 8 else SAME))


@broken("failed", 4, says="out of memory with 1 rows")
def out_of_memory_alone(zoo):
    """Runs out of memory with every batch."""
    return zoo.completions(Scripted(lambda rows, slot, call: "out of memory"))


@broken("usage error", 2, says="memory is estimated to hold 8 rows")
def no_memory_for_what_is_asked_for(zoo):
    """A batch size that was asked for by name does not fit into memory."""
    return zoo.completions(Scripted(lambda rows, slot, call: SAME, memory=8), "--batch-sizes", "1,64")


@broken("failed", 4, says="no kernel image")
def does_not_load(zoo):
    """Cannot be brought up."""

    class Absent(Forming):
        def load(self, longest=0):
            raise FailedError("CUDA error: no kernel image is available")

    return zoo.completions(Absent(lambda asked: SAME))


def dying(answer, at=12, error=None):
    def or_dead(asked):
        if asked.call >= at:
            raise error or FailedError("the engine ended by signal 9")
        return answer(asked)

    return Forming(or_dead)


@broken("inconclusive", 3, says="signal 9")
def dies_halfway(zoo):
    """Ends halfway through the run, with equal answers until then."""
    return zoo.completions(dying(lambda asked: SAME))


@broken("batch-variant", says="signal 9")
def dies_halfway_after_it_differed(zoo):
    """Ends halfway through the run, after answers had differed."""
    return zoo.completions(dying(lambda asked: OTHER if asked.size > 2 else SAME))


@broken("inconclusive", 3, says="IndexError")
def raises_what_nobody_expects(zoo):
    """Raises an error of its own halfway through."""
    return zoo.completions(dying(lambda asked: SAME, error=IndexError("list index out of range")))


@broken("inconclusive", 130)
def stopped_by_ctrl_c(zoo):
    """Hangs until somebody presses Ctrl-C."""
    return zoo.completions(dying(lambda asked: SAME, error=KeyboardInterrupt()))


@broken("divergent", says="not repeated")
def differs_where_nothing_is_repeated(zoo):
    """Differs in a run that repeats nothing, so that nobody knows whether run or batch did it."""
    return zoo.completions(otherwise(lambda a: a.size > 2), "--trials", "1")


@broken("inconclusive", 3, says="nothing to compare")
def a_single_sample(zoo):
    """Answers once, and nothing can be compared with it."""
    return zoo.completions(otherwise(lambda a: False), samples=1)


@broken("run-variant")
def noise_that_only_large_batches_have(zoo):
    """Answers of batches of eight and more are another one, one time in three."""
    strikes = noise(1 / 3)
    return zoo.completions(otherwise(lambda a: a.size >= 8 and strikes()), samples=60)


class Reordering(Forming):
    """Gives back the last row first, and what nobody asked for too."""

    def complete(self, rows, max_tokens, ignore_eos, padding=0, token_budget=None):
        import dataclasses

        decoded = super().complete(rows, max_tokens, ignore_eos, padding)
        others = {slot: OTHER for slot, row in enumerate(rows) if row.continuation is not None}
        return dataclasses.replace(decoded, completions=dict(reversed((others | decoded.completions).items())))


@broken("batch-variant", says='"common_prefix_bits": 2')
def at_one_length_of_its_own_cache(zoo):
    """In a batch the token has other bits that is made while the row's own KV cache is 40 tokens long."""

    def answer(asked):
        at = 40 - len(asked.row.prompt)
        return moved(SAME, 1, at, only=True) if asked.size > 1 and 0 <= at < len(SAME.tokens) else SAME

    return zoo.completions(Forming(answer), "--prompt", "thirty-eight bytes, and two that follow"[:38])


@sound
def reordered(zoo):
    """Gives answers back in reverse order, those of fillers among them."""
    return zoo.completions(Reordering(lambda asked: SAME), samples=60)


@sound
def slow(zoo):
    """Takes its time."""
    import time

    def answer(asked):
        time.sleep(0.002)
        return SAME

    return zoo.completions(Forming(answer), samples=60)


@sound
def one_thread(zoo):
    """Runs on one thread."""
    return zoo.completions(Forming(lambda asked: SAME, threads=1))


@sound
def little_memory(zoo):
    """Memory holds four rows: larger batches are listed as not tried."""
    return zoo.completions(Forming(lambda asked: SAME, memory=4), samples=60)


@sound
def conditions_chosen_by_hand(zoo):
    """Asked for two conditions by name."""
    return zoo.completions(Forming(lambda asked: SAME), "--conditions", "alone,ragged-4")


@sound
def sizes_chosen_by_hand(zoo):
    """Asked alone only, and answers alone as it should; nothing else was the question."""
    return zoo.completions(otherwise(lambda a: a.size > 1), "--batch-sizes", "1")


@sound
def what_differs_is_never_asked_for(zoo):
    """Would run out of memory beyond 64 rows, knows it, and is not asked."""
    engine = Scripted(lambda rows, slot, call: "out of memory" if rows > 64 else SAME, memory=64)
    return zoo.completions(engine, samples=400)


test_subject = visits(globals())
