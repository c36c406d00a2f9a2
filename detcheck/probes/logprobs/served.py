"""A server as the sampler: it makes the tokens, and its own log-probabilities of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detcheck import sampling
from detcheck.engine import Question
from detcheck.engines.server.sampler import ServerSampler
from detcheck.errors import UsageError
from detcheck.probes.completions.options import Options as CompletionOptions
from detcheck.probes.logprobs import files
from detcheck.probes.logprobs.options import Options, parameter
from detcheck.probes.logprobs.sampler import AskedSequence, Made
from detcheck.records import Load, Prompt, Step
from detcheck.spec import Spec

BESIDE = (24, 24, 24)  # tokens of the requests that are sent with each: so it is made in a batch

LACKS = "--sampler {url}: the server gives no {what}, and the trainer scores the very tokens that were made. vLLM gives both (return_token_ids, logprobs)"


class ServedTokens:
    """A server that is asked for each prompt once; both arms of kernels, which are the trainer's, score the same tokens."""

    def __init__(self, spec: Spec, questions: Sequence[Question]) -> None:
        """Raises UsageError, FailedError where it cannot be asked."""
        own: Options = spec.options
        drawn = dict(parameter(one) for one in own.sampling)
        how = {"temperature": drawn["temperature"], "seeds": own.samples} if drawn else {}
        about = {"max_tokens": own.max_tokens, "ignore_eos": own.ignore_eos, "chat": own.chat}
        asked = CompletionOptions(own.samples, base_url=(own.sampler,), header=own.header, **about, **how)
        self._server = ServerSampler(Spec("completions", asked))
        self.subject = self._server.open(questions)
        can = self.subject.environment.flags
        lacks = [] if can.get("server.token ids") == "yes" else ["token ids"]
        lacks += [] if can.get("server.log-probabilities") in ("exact", "as printed") else ["log-probabilities"]
        if lacks:
            self.close()
            raise UsageError(LACKS.format(url=own.sampler, what=" and no ".join(lacks)))
        self._known: dict[tuple[str, int], Made | str] = {}

    @property
    def flags(self) -> dict[str, str]:
        return {name.replace("server", "sampler", 1): value for name, value in self.subject.environment.flags.items()}

    @property
    def precision(self) -> str:
        """As `files.precision` says it, of all that came."""
        return files.precision(
            [one.logprobs.astype(np.float64) for one in self._known.values() if isinstance(one, Made)]
        )

    def ids(self, index: int) -> tuple[int, ...]:
        """The prompt's tokens, as the server has them; (): it does not say."""
        return self._inputs()[index].token_ids

    def _inputs(self) -> list[Prompt]:
        """One a question."""
        return list({sampling.parted(p.name)[0]: p for p in self.subject.inputs}.values())

    def make(self, wanted: Sequence[AskedSequence], kernels: str) -> tuple[list[Made | str], Sequence[tuple[str, int]]]:
        return [self._sequence(one) for one in wanted], ()

    def _sequence(self, one: AskedSequence) -> Made | str:
        place = one.prompt.name, one.sample
        if place not in self._known:
            self._known[place] = self._ask(one)
        return self._known[place]

    def _ask(self, one: AskedSequence) -> Made | str:
        theirs = self._inputs()[int(one.prompt.name.partition(":")[0])]
        name = sampling.parted(theirs.name)[0]
        name = sampling.named(name, one.sample) if theirs.seed is not None else name
        case = next(n for n, (case, _) in enumerate(self.subject.cases) if case.input == name)
        load = Load((0.0,) * (1 + len(BESIDE)), (0,) * (1 + len(BESIDE)))
        ran = self._server.run(Step(0, name, f"wave-{1 + len(BESIDE)}", 0, (0, *BESIDE), case=case, load=load))
        found = ran.samples[0].outcome
        if found is None:
            return ran.samples[0].missing
        logprobs = found.logprobs.astype(np.float32)
        return Made(one.prompt.token_ids, found.tokens, logprobs, found.text, ran.samples[0].batch_sizes)

    def close(self) -> None:
        self._server.close()
