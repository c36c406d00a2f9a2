"""Why an order was not read, or is not sure: the sentences of all codes.

What is raised where an order cannot be read (`UnreadError`) carries one of these codes too. Why no masks can show an op's order is
said in the op's own file, so that of such a reason only the op's name is stored, and whether the op showed that it is so.
"""

from __future__ import annotations

from detcheck import lookup
from detcheck.op import Unreadable
from detcheck.reason import Reason

NO_ROOM = "there is no room for the masks that would show it: "
NO_SUM = "it is no plain sum: "
NO_TREE = "what was read is no order of additions: "
OF_THE_OP = {"shown_by_the_op", "not_shown_by_the_op"}  # {text} and {seen} are from the op's own file

SENTENCES = {
    # Of equal calls, and of the call as a whole.
    "unsteady": "equal calls gave different bits",
    "writes": "it writes over its arguments, so no call is like another: give it copies",
    "more_orders": "more than {most} orders within one call: the others are told apart, not read",
    # Of a tree that was read.
    "at_once": "{summands} summands seem to be added at once, as where an order depends on the data",
    "maybe_one_by_one": "summands seem to be added at once, and one after the other they give the same bits",
    "loses_little": "sums in {accumulator} lose too little on the data that was tried: another order would give the same bits",
    "not_readded": "the order that masks show ({tree}) is not how it adds: re-adding does not give its bits (a compensated sum, "
    "a wider accumulator, or an order that depends on the data)",
    "not_of_ordinary": "it adds ordinary numbers in another way than the numbers that reveal its order ({tree}): the order depends on the data",
    "unproved": "--prove was asked for, and what sums are multiplied by leaves counts too few bits in the result",
    "meets_elsewhere": "of {pairs} pairs of summands {unlike} do not meet where it says",
    # NoRoomError
    "unit_is_nothing": NO_ROOM + "a summand of {unit:.3g} gives 0: it is too small for {out}, or small numbers are flushed",
    "unit_keeps_little": NO_ROOM + "a summand of {unit:.3g} gives {came:.3g}, of which {out} keeps too few bits",
    # NotASumError
    "zeros": NO_SUM + "zeros give {came:.6g}",
    "one_is_nothing": NO_SUM
    + "a single summand of {unit:.3g} gives 0: small numbers are flushed, or not added at all",
    "not_added_up": NO_SUM + "{count} equal summands give {came:.6g} where one gives {one:.6g}: it does not add them up",
    "huge": NO_SUM + "a summand of {huge:.3g} among units gives {came:.6g}",
    "no_squares": NO_SUM
    + "zeros give {zeros:.6g}, a single summand of 1 gives {one:.6g}, of {large:.6g} {huge:.6g}",
    "does_not_square": NO_SUM + "where 1 gives {one:.6g}, -1 gives {minus:.6g} and 2 gives {two:.6g}: it does not square",
    "squares_not_added_up": NO_SUM + "{small:.6g} twice gives {both:.6g}, and beside {large:.6g} it gives {lost:.6g}, "
    "where that alone gives {huge:.6g}: it does not add squares up, or in more bits than {out} has",
    # NotATreeError
    "odd_count": NO_TREE + "with summands {i} and {j} masked the result counts {count:.6g} of the others",
    "vague_count": NO_TREE + "with summands {i} and {j} masked the count cannot be read to the last unit",
    "odd_block": NO_TREE + "units at summands {first} to {last} come out as {count:.6g}",
    "no_last": NO_TREE + "no summand joins summand {pivot} last",
    "contradiction": NO_TREE + "seen from summand {pivot}, {count} summands are in by the time {last} joins, "
    "and {expected} of them join no later",
    "odd_three": NO_TREE + "of summands {i}, {j} and {k}, {pairs} pairs meet before the third joins them",
    # Of a bundled op that no masks can read.
    "shown_by_the_op": "{text} (seen here: {seen})",
    "not_shown_by_the_op": "it was not read: it is held for one of which this is true: {text}; but this was not seen here: {seen}",
    "unknown_op": "{op} was held for an op whose order no masks can show, and this detcheck does not hold it for one",
}  # fmt: skip


def sentence(reason: Reason | None) -> str:
    """In words; "" where there is none."""
    if reason is None:
        return ""
    if reason.code in OF_THE_OP:
        op = str(reason.values["op"])
        told = lookup.find("kernels", op).OP.order if op in lookup.names("kernels") else None
        if isinstance(told, Unreadable):
            reason = Reason(reason.code, {"text": told.text, "seen": told.seen})
        else:
            reason = Reason("unknown_op", {"op": op})
    return reason.sentence(SENTENCES)
