"""The words of what is read of a kernel: code -> a sentence with {names} of values.

Of the values, `batch` and `sums` are lists of names ("M, program_id(0)"), which are put in words here; all others are filled in as
they are. A code that a stored run may hold keeps its meaning for good.
"""

from __future__ import annotations

from detcheck.probes.certify.facts import Found
from detcheck.probes.certify.taint.lattice import ATOMIC, INLINE
from detcheck.reason import Reason

NAMED = 4  # sources in a sentence
SOURCES = {ATOMIC: "an atomic counter", INLINE: "inline assembly"}  # others are named as in the kernel's source

SENTENCES = {
    # loops
    "loop_follows": "how often, or from where, the loop that adds {sums} runs follows {batch}",
    "loop_may_follow": "how often, or from where, the loop that adds {sums} runs may follow {batch}",
    "while_follows": "how often the loop that adds runs follows {batch}",
    "bits_loop_follows": "how often the loop that adds up bits of floats runs follows {batch}",
    "loop_by_data": "how often a loop that adds runs depends on floats that were loaded",
    "loop_in_memory": "a loop that follows {batch} reads and writes {pointers}: it may add up there",
    # branches and switches
    "branch_follows": "a branch chooses how it adds by {batch}",
    "branch_by_data": "a branch that adds depends on floats that were loaded, of other rows too perhaps",
    "run_switched": "what runs is switched by {batch}, whatever the row",
    "load_switched": "what is loaded is switched by {batch}, whatever the row",
    "store_switched": "what is stored, or whether, is switched by {batch}, whatever the row",
    "number_switched": "a choice between numbers is switched by {batch}, whatever the row",
    # what is added
    "address_follows": "the address of what is added from one iteration to the next follows {batch}",
    "mask_follows": "the mask of what is added from one iteration to the next follows {batch}",
    "dot_left_follows": "what the dot adds up (its left side) follows {batch}",
    "dot_right_follows": "what the dot adds up (its right side) follows {batch}",
    "reduced_follows": "what is reduced along axis {axis} follows {batch}",
    "scanned_follows": "what is scanned along axis {axis} follows {batch}",
    "rows_together": "rows of one tile are taken together, so that a row may depend on those beside it",
    # what is stored
    "numbers_depend": "the numbers that are stored depend on {batch}",
    "numbers_by_place": "the numbers that are stored depend on {batch}, so on where a row stands",
    "integers_depend": "the integers that are stored depend on {batch}",
    "stored_cut": "what is stored is cut by {batch} along axis {axis}, and the store is not",
    "written_twice": "{pointer} is written in {places} places, and which of them runs follows {batch}",
    # atomics
    "atomic_add": "floats are added by an atomic, in the order in which programs happen to arrive",
    "lock": "a lock: in which order programs get it is not known",
    "atomic_memory": "{pointer} is both read and changed by atomics: what a program finds there is not known",
    # what is not followed
    "call": "a function that is not inlined is not followed",
    "assembly": "inline assembly is not read",
    "library": "{symbol} of a library of its own is not followed",
    "jump_inside": "a jump that is no early return is not followed",
    "jump": "a jump is not followed",
    "unknown_op": "{op} is not known to this version of detcheck",
    # code that cannot be read
    "unreadable": "Triton {triton}'s intermediate code is not as this version of detcheck knows it",
    "no_kernel": "no kernel in Triton's intermediate code",
    "open_region": "a region that does not end",
    "unknown_name": "{name} is used before it is known",
    "unknown_form": "a line has another form: {line}",
    "unknown_argument": "its argument {name} is none that the signature names",
    # attention's rule
    "no_loop_over_keys": "it is not in a loop over keys",
    "keys_step": "the step of the loop over keys is not constant",
    "keys_from_elsewhere": "the loop over keys does not start at a place of its own",
    "keys_start": "where the loop over keys starts follows the batch alone, not the tile of queries",
    "keys_end": "where the loop over keys ends follows the batch alone, not the tile of queries",
    "keys_write": "it writes to memory between its iterations",
    "keys_unmasked": "no mask in it looks at a row's own keys",
    "keys_order": "the order of its keys follows the batch",
    "keys_leave": "it is not shown that an iteration in which a row sees no key leaves its {carried} as it was",
    "keys_crooked": "which keys a row sees follows {batch} in a way that is not a plain offset",
    # what is chosen at launch
    "one_value": "{name} follows the batch and is a constexpr, and the signature gives only one of its values",
    "heuristic_looks": "the heuristic for {name} looks at {batch}, and gave the same at every size that was tried",
    "heuristic_unasked": "the heuristic for {name} cannot be asked with numbers alone ({error}: {text})",
    "keyed_by_batch": "autotune, keyed on {keys}, chooses by the batch among orders of adding: {chosen}",
    "tuned_by_batch": "autotune chooses by the batch among orders of adding: {chosen}",
    "launched_by_batch": "the launch chooses by the batch among orders of adding: {chosen}",
    "tuned_by_time": "autotune chooses by how long each took, which another process may measure otherwise: {chosen}",
    "launched": "the launch chooses among orders of adding: {chosen}",
    "too_much_shared": "it needs {needed} bytes of shared memory, and {target} has {has}",
    # what is trusted
    "aligned": "{pointers}: only passed aligned to 16 bytes",
    "own_keys": "which keys a row sees is its own matter, and the loop over keys leaves none of them out; what is masked adds nothing "
    "as long as all numbers are finite",
    "declared": "{text}",
}


def sentence(reason: Reason) -> str:
    lists = {name: words(str(reason.values[name])) for name, words in LISTS.items() if name in reason.values}
    return Reason(reason.code, {**reason.values, **lists}).sentence(SENTENCES)


def what(found: Found) -> str:
    """What was found, in a sentence."""
    if found.more is None:
        return sentence(found.why)
    joint = ": " if found.why.code == "unreadable" else ", and "
    return f"{sentence(found.why)}{joint}{sentence(found.more)}"


def sources(listed: str) -> str:
    """ "M, N" as "M and N"; the first of them alone where they are many."""
    names = sorted(SOURCES.get(name, name) for name in listed.split(", ") if name)
    if len(names) > NAMED:
        names = [*names[: NAMED - 1], f"{len(names) - NAMED + 1} more"]
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part) or "the batch"


def sums(listed: str) -> str:
    return listed or "up"


LISTS = {"batch": sources, "sums": sums}
