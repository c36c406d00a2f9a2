"""What the zoo's servers have in common: few requests, a prompt that counts, and faults that come seldom."""

import itertools
import json

from misbehaving import completion, ids_of, serving

PROMPT = "ask me"
FEW = ("-n", 9, "--max-tokens", 8, "--conditions", "alone,wave-4", "--prompt", PROMPT)


def ask(zoo, answer=None, *arguments, metrics=True, few=FEW, **how):
    """`detcheck completions` of one server that answers so."""
    how = {"takes_s": 0.01, "metrics": metrics, **how}
    with serving(answer, **how) as server:
        return ask_url(zoo, server.url, *few, *arguments)


def ask_url(zoo, url, *arguments):
    return zoo.ask("completions", "--base-url", url, *arguments)


def counts_come_soon(zoo):
    """A server's counts are not waited for as long as they are for people."""
    from detcheck.engines.server import send

    zoo.monkeypatch.setattr(send, "SETTLE_S", 0.2)
    zoo.monkeypatch.setattr(send, "LATE_S", 0.4)


def counts(body):
    """Whether it is the prompt that counts, and no neighbour's."""
    asked = body.get("prompt") or body["messages"][0]["content"]
    return asked in (PROMPT, ids_of(PROMPT))


def one_in(every, fault):
    """An answer: of those to the prompt that counts, one in `every` is what `fault(handler, body, number)` makes of it, the others are good."""
    asked = itertools.count(1)

    def answer(handler, body, number, together):
        if counts(body) and next(asked) % every == 0:
            return fault(handler, body, number)
        return completion(handler.server, body, number)

    return answer


def always(**changes):
    """An answer: a good one, with these changes of its choice."""
    return lambda handler, body, number, together: completion(handler.server, body, number, choice=dict(changes))


def changed(**changes):
    """A fault: a good answer with these changes of its choice."""
    return lambda handler, body, number: completion(handler.server, body, number, choice=dict(changes))


def around(**changes):
    """A fault: a good answer with these changes beside its choice."""
    return lambda handler, body, number: completion(handler.server, body, number, **changes)


def other(handler, body, number):
    """A fault: another model's answer, without a word of it."""
    return completion(handler.server, body, number, flip=True)


def raw(text, **headers):
    """A fault: this body, with status 200."""
    return lambda handler, body, number: handler.send(text, **headers)


def edited(edit):
    """A fault: a good answer after `edit` changed its choice in place."""

    def fault(handler, body, number):
        whole = completion(handler.server, body, number)
        edit(whole["choices"][0])
        return whole

    return fault


def as_if(handler, body, number, prompt):
    """An answer to another prompt, which says that it is to this one."""
    right = completion(handler.server, body, number)["choices"][0]
    made = completion(handler.server, body | {"prompt": prompt}, number)
    made["choices"][0] |= {k: v for k, v in right.items() if k == "prompt_token_ids"}
    return made


def as_json(handler, body, number):
    return json.dumps(completion(handler.server, body, number)).encode()
