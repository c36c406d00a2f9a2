"""Kernels of a user's own, through `detcheck kernels`: what they keep between calls, what they look at, and sound ones."""

import os

from zoo import broken, sound, visits


def kernels(zoo, op, *arguments, sizes="1,2,8"):
    return zoo.ask("kernels", "--op", f"zoo_ops:{op}", "--batch-sizes", sizes, *arguments)


@broken("batch-variant")
def buffer(zoo):
    """An op returns the same memory in each call, and follows the batch."""
    return kernels(zoo, "one_buffer")


@broken("run-variant")
def first_call(zoo):
    """The first call that is ever made of an op is off."""
    return kernels(zoo, "first_call")


@broken("run-variant")
def second_call(zoo):
    """Every second call is off, as of two buffers that are used in turn."""
    return kernels(zoo, "every_second_call")


@broken("run-variant")
def first_of_a_shape(zoo):
    """The first call of each shape is off, while an autotuner tries its kernels."""
    return kernels(zoo, "first_of_a_shape")


@broken("run-variant")
def after_a_larger_batch(zoo):
    """Batches are added in another way once there was a larger one."""
    return kernels(zoo, "after_a_larger_batch")


@broken("run-variant")
def after_many_calls(zoo):
    """From the three hundredth call on another kernel is taken."""
    return kernels(zoo, "after_three_hundred_calls")


@broken("batch-variant")
def remembers(zoo):
    """Noise hidden by a cache: equal inputs get the answer that they got before."""
    return kernels(zoo, "remembers_its_noise")


@broken("run-variant")
def leftovers(zoo):
    """A column is never written, and shows what an earlier call left in the workspace."""
    return kernels(zoo, "leftovers")


@broken("batch-variant")
def signs_of_zero(zoo):
    """Zeros are -0.0 from three rows on: the same number, other bits."""
    return kernels(zoo, "zeros_change_sign")


@broken("batch-variant")
def payloads(zoo):
    """A NaN has another payload from three rows on."""
    return kernels(zoo, "payloads")


@broken("run-variant")
def draws(zoo):
    """Noise from torch's own random numbers."""
    return kernels(zoo, "draws")


@broken("batch-variant")
def seeded(zoo):
    """Noise from a fixed seed, a number for each place in the batch."""
    return kernels(zoo, "draws_the_same_by_place")


@broken("run-variant")
def atomics(zoo):
    """Sums in another order each time, as atomics add."""
    return kernels(zoo, "shuffled_sums", sizes="1,8")


@broken("run-variant")
def flag(zoo):
    """A large batch sets an environment variable that changes every later call."""
    try:
        return kernels(zoo, "sets_a_flag")
    finally:
        os.environ.pop("ZOO_FAST", None)


@broken("batch-variant")
def reads_beyond_its_row(zoo):
    """A row reads a number of the row before it."""
    return kernels(zoo, "neighbour_is_added")


@broken("batch-variant")
def compensation(zoo):
    """A Kahan sum that is compensated from three rows on."""
    return kernels(zoo, "compensated_by_the_batch", sizes="1,8")


@broken("batch-variant")
def tuned(zoo):
    """The block size is chosen once for each number of rows."""
    return kernels(zoo, "tuned_by_the_batch")


@broken("batch-variant")
def backward(zoo):
    """The forward pass does not follow the batch, the backward pass does."""
    return kernels(zoo, "gradient")


@broken("batch-variant")
def another_dtype(zoo):
    """Batches of four and more come back in half precision."""
    return kernels(zoo, "half_in_a_batch")


@broken("batch-variant")
def sorted_rows(zoo):
    """The rows of a batch come back in another order."""
    return kernels(zoo, "sorted_rows")


@broken("batch-variant")
def one_scale(zoo):
    """Quantised with one scale for the whole batch."""
    return kernels(zoo, "largest_of_all")


@broken("batch-variant")
def masked_by_zero(zoo):
    """A neighbour is masked by multiplying it with zero: only one of NaN or infinity shows it."""
    return kernels(zoo, "only_one_row_of_nan")


@broken("batch-variant")
def padding_leaks(zoo):
    """Scaled by the largest number of the padded tile, a neighbour's included."""
    return zoo.ask("kernels", "--op", "guilty:padding_leaks", "--batch-sizes", "1,2")


@broken("batch-variant")
def one_row_of_257(zoo):
    """One number of one row of 257 is off by one ulp."""
    return zoo.ask("kernels", "--op", "guilty:one_row_of_257", "--batch-sizes", "1,257", "--trials", "2")


@broken("batch-variant")
def third_slot(zoo):
    """The row in slot 3 is added in two parts."""
    return zoo.ask("kernels", "--op", "guilty:third_slot", "--batch-sizes", "1,8")


@broken("batch-variant", says="alignment")
def unaligned(zoo):
    """The order follows the address of the input."""
    return zoo.ask("kernels", "--op", "guilty:unaligned", "--batch-sizes", "1,2")


@broken("batch-variant", says="strides")
def strides(zoo):
    """Inputs with room between their rows are multiplied by another number."""
    return zoo.ask("kernels", "--op", "guilty:room_between_rows", "--batch-sizes", "1,2")


@broken("batch-variant", says="threads")
def threads(zoo):
    """The number of parts of a sum is the number of threads."""
    return zoo.ask("kernels", "--op", "guilty:split_follows_threads", "--batch-sizes", "1,2")


@broken("run-variant")
def one_call_in_fifty(zoo):
    """One call in fifty is off."""
    return zoo.ask("kernels", "--op", "guilty:noise", "--batch-sizes", "1,2")


@broken("inaccurate")
def wrong_and_equal(zoo):
    """Summed in bfloat16: always the same bits, and wrong."""
    return zoo.ask("kernels", "--op", "guilty:half_accumulator", "--batch-sizes", "1,2")


@broken("inconclusive", code=3)
def fails_when_large(zoo):
    """Batches of more than eight rows raise."""
    return zoo.ask("kernels", "--op", "guilty:raises_when_large", "--batch-sizes", "1,2,16")


@broken("inconclusive", code=3)
def exits_with_zero(zoo):
    """Batches of more than eight rows leave the process with exit code 0."""
    return zoo.ask("kernels", "--op", "guilty:leaves", "--batch-sizes", "1,2,16")


@sound
def row_by_row(zoo):
    """One row at a time, whatever the batch is."""
    return kernels(zoo, "one_row_at_a_time")


@sound
def tiles(zoo):
    """Always whole tiles of sixteen rows, filled up."""
    return kernels(zoo, "padded_to_a_tile")


@sound
def whole_numbers(zoo):
    """The number of parts follows the batch, and the summands are integers."""
    return kernels(zoo, "in_whole_numbers")


@sound
def bfloat16(zoo):
    """The output is bfloat16."""
    return kernels(zoo, "in_bfloat16")


@sound
def rightly_nan(zoo):
    """Logarithms, which are NaN of negative numbers, with equal bits everywhere."""
    return kernels(zoo, "logarithms")


@sound
def own_generator(zoo):
    """The same noise for every row, from a generator and a seed of its own."""
    return kernels(zoo, "its_own_generator")


@sound
def own_buffer(zoo):
    """An op returns the same memory in each call, and is batch-invariant."""
    return kernels(zoo, "buffer_of_its_own")


@sound
def into_its_input(zoo):
    """An op writes into its input, and is batch-invariant."""
    return kernels(zoo, "into_its_input")


@sound
def inputs_without_a_seed(zoo):
    """An op whose make_inputs does not read its seed, and draws other inputs each time."""
    zoo.file(
        "zoo_unseeded.py",
        "import torch",
        "make_inputs = lambda rows, dtype, seed: (torch.randn(rows, 32).to(dtype), torch.randn(32).to(dtype))",
        "scaled = lambda x, w: x * w",
    )
    return zoo.ask("kernels", "--op", "zoo_unseeded:scaled", "--batch-sizes", "1,2")


test_subject = visits(globals())
