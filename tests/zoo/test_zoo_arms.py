"""`--kernels both`: stock is the control, ours is what the verdict is about."""

from knowing import Forming, Scheduling, noise
from scripted import LATENT, OTHER, SAME, completion
from zoo import broken, sound, visits

from detcheck.errors import FailedError

BOTH = ("--kernels", "both")
OURS = {"batch-invariant": [("ours aten::mm", 7)]}
STOCK = "stock"


def both(zoo, stock, ours, *arguments, calls=OURS, of=Forming, **how):
    """Each arm's answer, by what is asked."""
    engine = of(lambda asked: (stock if asked.kernels == STOCK else ours)(asked), calls=calls)
    return zoo.completions(engine, *BOTH, *arguments, **how)


def same(asked):
    return SAME


def reacts(asked):
    return OTHER if asked.size > 2 else SAME


@broken("batch-variant")
def ours_follows_the_batch(zoo):
    """Ours follows the batch, while stock reacts as it should."""
    return both(zoo, reacts, reacts)


@broken("batch-variant")
def ours_follows_the_batch_in_the_last_bit(zoo):
    """Ours follows the batch in one bit of log-probabilities, while stock flips tokens."""
    return both(zoo, reacts, lambda asked: LATENT if asked.size > 8 else SAME)


@broken("run-variant")
def ours_is_noisy(zoo):
    """Ours is noisy where stock is batch-variant, which must not be taken for the worse of the two."""
    strikes = noise(1 / 4, seed=1)
    return both(zoo, reacts, lambda asked: OTHER if strikes() else SAME)


@broken("inconclusive", 3, says="stock kernels did not react either")
def stock_does_not_react(zoo):
    """Both arms are equal everywhere: the probe was not sensitive here."""
    return both(zoo, same, same)


@broken("inconclusive", 3, says="stock kernels did not react either")
def stock_does_not_react_to_one_prompt(zoo):
    """Stock reacts for the first prompt, and not for the second."""
    file = zoo.file("prompts.txt", "one", "two")
    return both(zoo, lambda a: reacts(a) if a.text == "one" else SAME, same, "--prompt-file", file)


@broken("inconclusive", 3, says="samples are missing")
def ours_drops_a_sample(zoo):
    """Stock reacts, ours is equal, and one of its samples is dropped."""
    dropped = []

    def ours(asked):
        dropped.append(asked)
        return None if len(dropped) == 7 else SAME

    return both(zoo, reacts, ours)


@broken("inconclusive", 3)
def stock_is_dropped_whole(zoo):
    """No sample of stock comes, so that nothing shows that the probe is sensitive."""
    return both(zoo, lambda asked: None, same)


@broken("inconclusive", 3, says="gave a row other bits in the batch than alone")
def a_stock_op_among_ours(zoo):
    """Ours is equal, but an op that has no kernel of ours gives a row other bits in the batch than alone."""
    calls = {"batch-invariant": [("ours aten::mm", 7), ("stock aten::scatter_add", 3), ("unlike aten::scatter_add", 1)]}
    return both(zoo, reacts, same, calls=calls)


@broken("failed", 4, says="no op of this model ran on our kernels")
def ours_does_not_run(zoo):
    """No op of the model runs on our kernels, so that ours would be stock again."""

    class Stock(Forming):
        def running(self, kernels):
            if kernels != STOCK:
                raise FailedError("--kernels batch-invariant: no op of this model ran on our kernels")
            return super().running(kernels)

    return zoo.completions(Stock(same), "--kernels", "batch-invariant")


@broken("inconclusive", 3, says="no op of this model ran on our kernels")
def ours_does_not_run_beside_stock(zoo):
    """Stock reacts, and then no op of the model runs on our kernels."""

    class Stock(Forming):
        def running(self, kernels):
            if kernels != STOCK:
                raise FailedError("--kernels batch-invariant: no op of this model ran on our kernels")
            return super().running(kernels)

    return zoo.completions(Stock(reacts), *BOTH)


@broken("batch-variant")
def ours_in_waves(zoo):
    """Under an engine that schedules itself ours follows the number of requests, as stock does."""
    waves = lambda asked: OTHER if max(asked.trace.batch_sizes) > 2 else SAME  # noqa: E731
    return both(zoo, waves, waves, of=Scheduling, samples=16)


@sound
def ours_where_stock_reacts(zoo):
    """Stock follows the batch, and ours does not."""
    return both(zoo, reacts, same)


@sound
def ours_where_stock_is_noisy(zoo):
    """Stock is run-variant, which shows that differences are seen, and ours is equal."""
    strikes = noise(1 / 4, seed=1)
    return both(zoo, lambda asked: OTHER if strikes() else SAME, same)


@sound
def ours_where_stock_reacts_in_bits(zoo):
    """Stock reacts in log-probability bits alone, and ours does not."""
    return both(zoo, lambda asked: LATENT if asked.size > 2 else SAME, same)


@sound
def ours_has_other_bits_than_stock(zoo):
    """Ours has its own bits, equal everywhere: other kernels, other sums."""
    return both(zoo, reacts, lambda asked: completion([1, 2, 3, 4]))


@sound
def ours_beside_a_harmless_stock_op(zoo):
    """An op that has no kernel of ours was asked, and gave rows the bits that they have alone."""
    calls = {"batch-invariant": [("ours aten::mm", 7), ("stock aten::scatter_add", 3), ("alike aten::scatter_add", 3)]}
    return both(zoo, reacts, same, calls=calls)


@sound
def stock_runs_out_of_memory(zoo):
    """Stock reacts and then runs out of memory with large batches, which ours holds."""
    return both(zoo, lambda asked: "out of memory" if asked.size > 8 else reacts(asked), same)


test_subject = visits(globals())
