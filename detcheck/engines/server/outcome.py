"""A server's answer -> an outcome, at the level that the server allows; or the reason why the sample is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np

from detcheck.engines.server.answer import ServerAnswer
from detcheck.engines.server.engine import Capability, PromptInput
from detcheck.hashes import content_hash
from detcheck.judge import answers
from detcheck.outcomes import outcome
from detcheck.records import Outcome

# A model that is certain gives the same few log-probabilities next to 0 to many prompts; four others by chance are of no two. Of
# those that were rounded more are asked for, and digits: a long prompt that begins otherwise moves them little.
CERTAIN, TELLING, TELLING_ROUNDED, TELLING_DIGITS = -1e-3, 4, 6, 3
# Short answers to many prompts are equal ("Yes."), and so are long ones to two that are alike.
LONG, PROMPTS = 48, 3  # characters, and prompts that were all given them

LACKING = "its token ids are {n} fewer than its usage counts, and those of earlier answers were {others} fewer: tokens are missing here or there"
SPELLED_OTHERWISE = "its tokens do not spell its text as those of an earlier answer with this text did"


@dataclass
class EarlierAnswers:
    """What one server has said so far. What holds of equal answers to one prompt (`PromptInput.key`) need not hold of those to two."""

    ids: set[str] = field(default_factory=set)
    """of its answers"""
    texts: dict[tuple[str, tuple[int, ...]], str] = field(default_factory=dict)
    """of every run of tokens, by prompt"""
    spelled: dict[tuple[str, str], bool] = field(default_factory=dict)
    """prompt, text -> whether its tokens spelled it"""
    made: dict[tuple[str, str], int] = field(default_factory=dict)
    """prompt, text -> how many tokens it was made of, where they are not given"""
    lacking: int | None = None
    """of answers that ended by themselves: tokens that were counted and not given, as of the first one, since an end token is always left out or never"""
    asked: dict[bytes, str] = field(default_factory=dict)
    """log-probabilities, as bytes -> the prompt that they were an answer to"""

    one_text: OneText = field(default_factory=lambda: OneText())

    def canned(self, said: ServerAnswer, asked: PromptInput) -> bool:
        """Whether its log-probabilities are those of an answer to another prompt, to the bit or the last digit, which no model that reads its
        prompt computes."""
        telling = [v for v in said.logprobs or () if v < CERTAIN and (said.exact or digits(v) >= TELLING_DIGITS)]
        if len(telling) < (TELLING if said.exact else TELLING_ROUNDED):
            return False
        return self.asked.setdefault(np.asarray(said.logprobs).tobytes(), words_of(asked)) != words_of(asked)


@dataclass
class OneText:
    """Whether all that a server says is one long text, whatever it is asked."""

    longest: ServerAnswer | None = None
    prompts: set[str] = field(default_factory=set)
    """that were given it, or a long beginning of it"""
    doubted: bool = False
    varied: bool = False

    def take(self, said: ServerAnswer, asked: PromptInput) -> str:
        """What to think of an answer, as `answers` names it; ""."""
        self.varied = self.varied or (self.longest is not None and not begins_alike(said, self.longest))
        if self.varied:
            return answers.VARIED if self.doubted else ""
        if self.longest is None or len(said.whole) > len(self.longest.whole):
            self.longest = said
        if len(said.whole) < LONG:
            return ""
        self.prompts.add(words_of(asked))
        self.doubted = self.doubted or len(self.prompts) >= PROMPTS
        return answers.ALIKE if self.doubted else ""


def begins_alike(one: ServerAnswer, other: ServerAnswer) -> bool:
    """Whether the shorter is the beginning of the longer: a request may be for fewer tokens."""
    short, long = sorted((one.whole, other.whole), key=len)
    numbers = zip(one.logprobs or (), other.logprobs or (), strict=False)
    return long.startswith(short) and all(a == b for a, b in numbers)


def words_of(asked: PromptInput) -> str:
    """A prompt, or how a conversation begins, without spaces: what a template may leave out tells no prompts apart."""
    begun = takewhile(lambda message: message.get("role") != "assistant", asked.messages)
    return "".join(str(asked.tokens or [m.get("content") for m in begun] or asked.text).split())


def digits(value: float) -> int:
    return len(repr(value).lstrip("-0.").replace(".", ""))


def outcome_of(
    said: ServerAnswer, way: Capability, before: EarlierAnswers, asked: PromptInput
) -> tuple[Outcome | None, str]:
    """(what came, "") or (None, the reason why it cannot be counted)."""
    prompt = asked.key
    if said.id and said.id in before.ids:
        return None, "its id is that of an earlier answer: it comes from a cache, or the server names all alike"
    before.ids.add(said.id)
    logprobs = None if said.logprobs is None else np.asarray(said.logprobs, np.float32 if said.exact else np.float64)
    if logprobs is None and way.can["log-probabilities"] in ("exact", "as printed"):
        return None, "it has no log-probabilities, which earlier answers had"
    shared = {"logprobs": logprobs, "finish_reason": said.finish_reason, "text": said.text}
    if said.margins is not None and said.runners_up is not None:
        shared["margins"] = np.asarray(said.margins, np.float32)
        shared["runners_up"] = np.asarray(said.runners_up, np.int64)
    if way.can["token ids"] == "yes":
        if said.tokens is None:
            return None, "it has no token ids, which earlier answers had"
        if said.made is not None and said.finish_reason != "length":
            before.lacking = said.lacking if before.lacking is None else before.lacking
            if before.lacking != said.lacking:
                return None, LACKING.format(n=said.lacking, others=before.lacking)
        if before.texts.setdefault((prompt, said.tokens), said.text) != said.text:
            return None, "its text is not that of an earlier answer with the same tokens"
        return outcome(np.asarray(said.tokens, np.int64), **shared), ""
    if way.can["token ids"] == "spelled":
        if said.words is None:
            return None, "it has no tokens, which earlier answers had"
        if "".join(said.words) == said.text:  # else (half a letter, say) the text is all that can be relied on
            if not before.spelled.setdefault((prompt, said.text), True):
                return None, SPELLED_OTHERWISE
            words = said.words
            if said.beside:  # none of its tokens are given: it is compared behind them
                words, shared = (
                    (*words, said.beside),
                    {**shared, "text": said.whole, "margins": None, "runners_up": None},
                )
                shared["logprobs"] = None if logprobs is None else np.append(logprobs, logprobs.dtype.type(np.nan))
            return outcome(np.asarray([number(word) for word in words], np.int64), words=words, **shared), ""
        if before.spelled.setdefault((prompt, said.text), False):
            return None, SPELLED_OTHERWISE
    made = said.made if said.made is None else before.made.setdefault((prompt, said.whole), said.made)
    if made != said.made:
        return (
            None,
            f"its text is that of an earlier answer of {made} tokens, and its usage counts {said.made}: it is made of others",
        )
    points = np.asarray([ord(c) for c in said.whole], np.int64)
    return outcome(points, finish_reason=said.finish_reason, text=said.whole, unit="character"), ""


def doubts(
    said: ServerAnswer, asked: PromptInput, before: EarlierAnswers, max_tokens: int | None, ignore_eos: bool
) -> Iterator[str]:
    """What an answer says of itself that makes it no evidence, as `answers` names it. `max_tokens`: None of a filler's."""
    if before.canned(said, asked):
        yield answers.CANNED
    if doubt := before.one_text.take(said, asked):
        yield doubt
    if max_tokens is None or said.length is None or said.length >= max_tokens:
        return
    if said.finish_reason == "length":
        yield answers.CUT_SHORT
    elif ignore_eos:
        yield answers.STOPPED


def number(word: str) -> int:
    """The same for equal words, in every process."""
    return int(content_hash(word.encode("utf-8", "surrogatepass"))[:15], 16)
