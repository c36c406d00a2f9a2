"""Orders of addition, and those who would hide them from `detcheck order`."""

from zoo import broken, sound, visits


def order(zoo, op, *arguments, sizes="2,8", shape="32"):
    form = () if "--form" in arguments or ":" not in op else ("--form", "sum")
    return zoo.ask("order", "--op", op, *form, "--shape", shape, "--batch-sizes", sizes, "--threads", "1", *arguments)


@broken("batch-variant")
def by_batch(zoo):
    """A sum is in order up to two rows, and in two lanes from three on."""
    return order(zoo, "zoo_ops:order_by_batch")


@broken("run-variant")
def two_orders_in_turn(zoo):
    """Every second call adds from the end, and each result is written into the same memory."""
    return order(zoo, "zoo_ops:every_second_from_the_end")


@broken("batch-variant", says="unlike bits")
def cheats_on_masks(zoo):
    """In order where it sees masks or ones, in parts by the batch on other numbers."""
    return order(zoo, "zoo_ops:well_behaved_when_masked")


@broken("inconclusive", code=3, says="it adds ordinary numbers in another way")
def cheats_on_extremes(zoo):
    """In order where numbers are large or cancel, in parts by the batch where all are ordinary."""
    return order(zoo, "zoo_ops:well_behaved_when_extreme")


@broken("inconclusive", code=3, says="it adds ordinary numbers in another way")
def adds_as_its_neighbours(zoo):
    """In a batch of ordinary numbers half of the columns add as their neighbours always do."""
    return order(zoo, "zoo_ops:half_fused_when_extreme", "--form", "linear", sizes="1,2,4", shape="24,8")


@broken("inconclusive", code=3)
def no_sum(zoo):
    """It adds nothing: the largest number of a row."""
    return order(zoo, "zoo_ops:only_the_largest")


@broken("run-variant")
def another_order_each_time(zoo):
    """Another order in each call, as atomics add."""
    return order(zoo, "order_kernels:shuffled", sizes="2,4", shape="24")


@broken("inconclusive", code=3)
def one_condition(zoo):
    """Only one batch size is asked about."""
    return order(zoo, "zoo_ops:order_by_batch", sizes="2")


@sound
def one_order(zoo):
    """A sum in order at every batch size."""
    return order(zoo, "zoo_ops:in_order")


@sound
def fused_in_half(zoo):
    """Half of the columns fuse product and addition, at every batch size."""
    return order(zoo, "zoo_ops:half_fused", "--form", "linear", sizes="1,2,4", shape="24,8")


@sound
def lanes_everywhere(zoo):
    """Two lanes at every batch size."""
    return order(zoo, "zoo_ops:in_two")


test_subject = visits(globals())
