"""By which names training frameworks write down log-probabilities, and what stands beside them. Pure.

trl's GRPO batches have `sampling_per_token_logps` and `old_per_token_logps`, verl's `rollout_log_probs` and `old_log_probs`, NeMo-RL's
`train_data_step*.jsonl` `generation_logprobs` and `prev_logprobs`: both sides in one file. `logprobs` alone is of the side whose file it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detcheck.errors import UsageError
from detcheck.probes.logprobs.facts import SAMPLER, TRAINER
from detcheck.storage.input import listed, shown

TOKENS = (
    "tokens", "token_ids", "completion_ids", "completion_token_ids", "responses", "response_ids", "output_ids", "output_token_ids",
)  # fmt: skip
PROMPTS = ("prompt_ids", "prompt_token_ids", "prompts", "prompt", "input", "content")
OF_SIDE = {
    SAMPLER: (
        "sampling_per_token_logps", "rollout_log_probs", "generation_logprobs", "rollout_logprobs", "inference_logprobs", "sampler_logprobs",
    ),
    TRAINER: (
        "old_per_token_logps", "per_token_logps", "old_log_probs", "actor_log_probs", "log_probs", "prev_logprobs", "trainer_logprobs",
    ),
}  # fmt: skip
EITHER = ("logprobs", "token_logprobs")
MASKS = ("completion_mask", "response_mask", "token_loss_mask", "token_mask", "loss_mask")
NAMES = ("id", "request_id", "sample_id", "index", "uid")
TEXTS = ("text", "completion", "output", "response")
LENGTHS = "input_lengths"  # NeMo-RL's: tokens of a row before its padding
KNOWN = frozenset(
    (*TOKENS, *PROMPTS, *OF_SIDE[SAMPLER], *OF_SIDE[TRAINER], *EITHER, *MASKS, *NAMES, *TEXTS, LENGTHS, "attention_mask", "prompt_mask")
)  # fmt: skip
WANTED = (
    f"wants the log-probabilities of the tokens that were made, as {', '.join(EITHER)}, or by the names of trl, verl or NeMo-RL "
    "(docs/probes/logprobs.md lists them)"
)


@dataclass(frozen=True, eq=False)
class FileSequence:
    """One sequence as a file has it."""

    where: str
    """for errors: "a.jsonl, line 3" """
    name: str
    """what the file calls it; "": nothing"""
    prompt: str
    """a text, or the ids with blanks between; "": not given"""
    prompt_ids: tuple[int, ...]
    tokens: np.ndarray | None
    """int64[n]; None: no ids are given"""
    logprobs: Mapping[str, np.ndarray]
    """side -> float64[n], nats"""
    text: str = ""


def sequences(rows: Iterable[tuple[str, Mapping[str, Any]]], sides: Sequence[str], file: str) -> list[FileSequence]:
    """(where, row or batch of rows) -> sequences, with the log-probabilities of each of `sides`. Raises UsageError."""
    found = []
    for where, values in rows:
        keys = {side: key_of(values, side, file, where, len(sides)) for side in sides}
        batch = max(depth(values[key]) for key in keys.values()) > 1
        for number, row in enumerate(unstacked(values, where, keys.values()) if batch else [values]):
            found.append(sequence(f"{where}, sequence {number + 1}" if batch else where, row, keys))
    if not found:
        raise UsageError(f"{file} holds no sequences; it {WANTED}")
    return found


def key_of(values: Mapping[str, Any], side: str, file: str, where: str, wanted: int) -> str:
    """The key of that side's log-probabilities. Raises UsageError with what is there."""
    names = OF_SIDE[side] + (EITHER if wanted == 1 else ())
    if key := next((name for name in names if name in values), ""):
        return key
    other = TRAINER if side == SAMPLER else SAMPLER
    if there := next((name for name in OF_SIDE[other] if name in values), ""):
        remedy = (
            f"Give the {side}'s file too" if wanted > 1
            else f"Name it {EITHER[0]} if it is the {side}'s all the same, or give the files in their order: the sampler's first"
        )  # fmt: skip
        raise UsageError(f"{where}: {there} is the {other}'s, and there is nothing of the {side}'s. {remedy}")
    if wanted > 1 and (plain := next((name for name in EITHER if name in values), "")):
        raise UsageError(
            f"{where}: {plain} is of one side. Give the trainer's file as well, or --trainer transformers with --model, which scores the same tokens"
        )
    raise UsageError(f"{file} {WANTED}; {where} has the keys {listed(values)}")


def depth(value: Any) -> int:
    """How deep lists or arrays are in each other: 1 of a row, 2 of a batch of rows."""
    if isinstance(value, np.ndarray):
        return value.ndim
    found, inside = 0, [value]
    while lists := [one for one in inside if isinstance(one, list)]:
        found, inside = found + 1, list(itertools.chain.from_iterable(lists))
    return found


def unstacked(values: Mapping[str, Any], where: str, needed: Iterable[str]) -> list[dict[str, Any]]:
    """A batch as rows: each key that has an entry a row is cut; `needed` are keys that must have. Raises UsageError."""
    lists = {key: v for key, v in values.items() if isinstance(v, list | np.ndarray) and depth(v) > 0}
    deep = [len(v) for v in lists.values() if depth(v) > 1]
    size = max(set(deep), key=deep.count)
    if uneven := next((key for key, v in lists.items() if depth(v) > 1 and len(v) != size), ""):
        raise UsageError(f"{where}: {uneven} has {len(lists[uneven])} rows and others have {size}; give one a sequence")
    for key in needed:
        if key not in lists or depth(lists[key]) < 2:
            raise UsageError(f"{where}: {key} wants a list for each of {size} sequences; found {shown(values[key])}")
    for key in (*TOKENS, *MASKS, *PROMPTS, "attention_mask", "prompt_mask", LENGTHS):
        if key in lists and (len(lists[key]) != size or (depth(lists[key]) == 1 and not of_a_row(key, lists[key]))):
            raise UsageError(
                f"{where}: {key} is one list, and the log-probabilities are lists in a list, of {size} sequences; give {key} a list or an entry for each of them"
            )
    rest = {key: v for key, v in values.items() if key not in lists}
    cut = {key: v for key, v in lists.items() if len(v) == size}
    return [rest | {key: v[row] for key, v in cut.items()} for row in range(size)]


def of_a_row(key: str, entries: Any) -> bool:
    """Whether a list's entries can each be all that one sequence has of a key: a text, or one length."""
    return key == LENGTHS or (key in PROMPTS and not is_ids(entries))


def sequence(where: str, row: Mapping[str, Any], keys: Mapping[str, str]) -> FileSequence:
    numbers = {side: floats(row[key], key, where) for side, key in keys.items()}
    length = len(next(iter(numbers.values())))
    if uneven := next((keys[side] for side, one in numbers.items() if len(one) != length), ""):
        raise UsageError(f"{where}: {uneven} has other than the {length} entries of {next(iter(keys.values()))}")
    token_key = next((key for key in TOKENS if is_list(row.get(key))), "")
    tokens = whole_numbers(row[token_key], token_key, where) if token_key else None
    if tokens is not None and len(tokens) != length:
        raise UsageError(
            f"{where}: {token_key} has {len(tokens)} entries, and there are {length} log-probabilities; give one each"
        )
    kept = mask(row, tokens, length, where)
    ids, prompt = prompt_of(row, length, where)
    return FileSequence(
        where,
        next((str(row[key]) for key in NAMES if isinstance(row.get(key), str | int)), ""),
        prompt,
        ids,
        None if tokens is None else tokens[kept],
        {side: one[kept] for side, one in numbers.items()},
        next((row[key] for key in TEXTS if isinstance(row.get(key), str)), ""),
    )


def is_list(value: Any) -> bool:
    return isinstance(value, list | np.ndarray)


def is_ids(value: Any) -> bool:
    return is_list(value) and all(isinstance(one, int | np.integer) for one in value)


def mask(row: Mapping[str, Any], tokens: np.ndarray | None, length: int, where: str) -> np.ndarray:
    """bool[length]: the tokens that count. Raises UsageError."""
    key = next((name for name in MASKS if is_list(row.get(name))), "")
    if key:
        kept = floats(row[key], key, where) != 0
        if len(kept) != length:
            raise UsageError(f"{where}: {key} has {len(kept)} entries for {length} log-probabilities; give one each")
        return kept
    if tokens is not None and (whole := attention(row, length, where)[1]) is not None:
        return whole
    if LENGTHS in row and tokens is None:
        return answer_of(row, length, where)
    return np.ones(length, bool)


def attention(row: Mapping[str, Any], length: int, where: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What `attention_mask` leaves of the prompt and of the answer, as bools; None: it is not of that one. Raises UsageError.

    verl's is of both, a tokeniser's of the prompt alone. It goes by its length, since nothing else tells them apart.
    """
    if not is_list(row.get("attention_mask")):
        return None, None
    whole = floats(row["attention_mask"], "attention_mask", where) != 0
    prompt = next((len(row[key]) for key in PROMPTS if is_ids(row.get(key))), None)
    if whole.all():
        return None, None
    if prompt is not None and len(whole) == prompt + length:
        return whole[:prompt], whole[prompt:]
    if len(whole) == prompt and prompt != length:
        return whole, None
    if len(whole) == length and prompt != length:
        return None, whole
    known = "of a prompt that is not given" if prompt is None else f"{prompt} of the prompt"
    raise UsageError(
        f"{where}: attention_mask has {len(whole)} entries, and with {known} and {length} of the answer that does not say what it masks. "
        f"Give the answer's as {MASKS[0]}, and the prompt's as prompt_mask"
    )


def answer_of(row: Mapping[str, Any], length: int, where: str) -> np.ndarray:
    """bool[length] of NeMo-RL's rows, which hold prompt, answer and padding: the answer.

    The sampler's numbers are 0 in all of the prompt, so the zeros that a row begins with are its prompt; a 0 behind them is a token of which
    the sampler was certain. Raises UsageError.
    """
    key = next((name for name in OF_SIDE[SAMPLER] if is_list(row.get(name))), "")
    remedy = f"Give {MASKS[2]}, 1 at each token that was made"
    if not key:
        raise UsageError(
            f"{where}: {LENGTHS} is of prompt and answer together, and without the sampler's numbers beside it nothing says where the answer begins. {remedy}"
        )
    there = np.arange(length) < whole_number(row[LENGTHS], LENGTHS, where)
    made = floats(row[key], key, where)
    if len(made) != length:
        raise UsageError(f"{where}: {key} has {len(made)} entries for {length} log-probabilities; give one each")
    answer = there & np.logical_or.accumulate(made != 0)
    if there.any() and not answer.any():
        raise UsageError(f"{where}: {key} is 0 everywhere, so nothing says where the answer begins. {remedy}")
    return answer


def prompt_of(row: Mapping[str, Any], length: int, where: str) -> tuple[tuple[int, ...], str]:
    """(ids, what it is known by)"""
    for key in PROMPTS:
        value = row.get(key)
        if isinstance(value, str):
            return (), value
        if is_ids(value):
            ids = whole_numbers(value, key, where)
            if is_list(masked := row.get("prompt_mask")):
                kept = floats(masked, "prompt_mask", where) != 0
                if len(kept) != len(ids):
                    raise UsageError(
                        f"{where}: prompt_mask has {len(kept)} entries for {len(ids)} of {key}; give one each"
                    )
                ids = ids[kept]
            elif (whole := attention(row, length, where)[0]) is not None:
                ids = ids[whole]
            return tuple(ids.tolist()), " ".join(map(str, ids.tolist()))
    return (), ""


def floats(value: Any, key: str, where: str) -> np.ndarray:
    """float64[n]. A null is NaN, and so is the word; infinity has its names. Raises UsageError."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return value.astype(np.float64).reshape(-1)
    if not isinstance(value, list):
        raise UsageError(f"{where}: {key} wants a list of numbers; found {shown(value)}")
    if len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    try:
        return np.asarray([np.nan if one is None else number(one) for one in value], np.float64)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{where}: {key} wants a list of numbers; found {shown(value)}") from None


def number(value: Any) -> float:
    """Raises TypeError, ValueError for what is none. Strict JSON has no infinity: it is written as a word."""
    if type(value) in (int, float, bool) or isinstance(value, str):
        return float(value)
    raise TypeError(value)


def whole_numbers(value: Any, key: str, where: str) -> np.ndarray:
    """int64[n]. Raises UsageError."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        return value.astype(np.int64).reshape(-1)
    if isinstance(value, list) and all(type(one) is int and abs(one) < 2**62 for one in value):
        return np.asarray(value, np.int64)
    raise UsageError(f"{where}: {key} wants a list of token ids; found {shown(value)}")


def whole_number(value: Any, key: str, where: str) -> int:
    """One count, alone or as an array or a list of one. Raises UsageError."""
    one = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    while isinstance(one, list) and len(one) == 1:
        one = one[0]
    if type(one) is not int or one < 0:
        raise UsageError(f"{where}: {key} wants a whole number; found {shown(value)}")
    return one
