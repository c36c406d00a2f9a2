"""Several servers: replicas, balancers in front of them, conversations and scores, and sound ones of each."""

import contextlib
import itertools
import json

from misbehaving import completion, serving
from zoo import broken, sound, visits
from zoo_servers import FEW, ask, counts_come_soon, one_in, other

LACKED = "grew by less than the answers of its step"


def ask_all(zoo, *answers, few=FEW, **how):
    """Replicas that answer so."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving(answer, metrics=True, takes_s=0.01, **how)) for answer in answers]
        urls = [word for server in servers for word in ("--base-url", server.url)]
        return zoo.ask("completions", *urls, *few)


@broken("run-variant")
def one_replica_differs_once(zoo):
    """One of three replicas gives another answer, once."""
    return ask_all(zoo, None, one_in(9, other), None)


@broken("divergent", 1, "replica 2 differs from 1 and 3")
def one_replica_is_another_model(zoo):
    """One of three replicas has other weights under the same name."""
    return ask_all(zoo, None, lambda h, b, n, t: other(h, b, n), None)


@broken("failed", 4, "cannot be asked")
def one_replica_is_down(zoo):
    """One of two replicas is down."""
    with serving(metrics=True, takes_s=0.01) as up, serving() as down:
        down.socket.close()
        return zoo.ask("completions", "--base-url", up.url, "--base-url", down.url, *FEW)


@broken("divergent", 1, "replica 2 differs from 1")
def one_replica_has_another_tokenizer(zoo):
    """One of two replicas cuts the same text into other tokens."""

    def others(handler, body, number, together):
        made = completion(handler.server, body, number)
        choice = made["choices"][0]
        choice["token_ids"] = [t + 8 for t in choice["token_ids"]]
        if choice.get("logprobs"):
            choice["logprobs"]["tokens"] = [f"token_id:{t}" for t in choice["token_ids"]]
        return made

    return ask_all(zoo, None, others, opens_well=False)


@broken("inconclusive", 3, "cannot be compared")
def one_replica_gives_less(zoo):
    """One of two replicas gives no log-probabilities."""
    with serving(metrics=True, takes_s=0.01) as all_of_it, serving(metrics=True, takes_s=0.01, logprobs=False) as less:
        return zoo.ask("completions", "--base-url", all_of_it.url, "--base-url", less.url, *FEW)


@broken("usage error", 2, "one of them is given twice")
def one_replica_is_two(zoo):
    """One server is given as two replicas, once with /v1 behind it."""
    with serving(metrics=True, takes_s=0.01) as server:
        return zoo.ask("completions", "--base-url", server.url, "--base-url", f"{server.url}/v1", *FEW)


@broken("run-variant")
def a_balancer_takes_turns(zoo):
    """A load balancer sends every other request to another model of the same name."""
    turn = itertools.count()
    return ask(zoo, lambda h, b, n, t: completion(h.server, b, n, flip=next(turn) % 2 == 1))


@broken("run-variant")
def a_balancer_by_connection(zoo):
    """A load balancer sends every other connection to another model of the same name, and stays there."""
    places = {}

    def answer(handler, body, number, together):
        with handler.server.lock:
            place = places.setdefault(handler.client_address, len(places))
        return completion(handler.server, body, number, flip=place % 2 == 1)

    return ask(zoo, answer, opens_well=False)


@broken("inconclusive", 3, LACKED)
def counts_of_one_of_two(zoo):
    """A load balancer in front of two servers that say the same, and /metrics is that of one."""
    turn = itertools.count()

    def answer(handler, body, number, together):
        if next(turn) % 2:
            with handler.server.lock:
                handler.server.finished -= 1
                handler.server.made -= body["max_tokens"]
        return completion(handler.server, body, number)

    counts_come_soon(zoo)
    return ask(zoo, answer)


SCORE = ("--samples", 9, "--prompt", "Tell me about", "--continuation", " copper")


def score(zoo, answer):
    with serving(answer, metrics=True, takes_s=0.6, scores=True) as server:
        return zoo.ask("score", "--base-url", server.url, *SCORE)


@broken("batch-variant")
def scores_follow_the_load(zoo):
    """A server's echo has log-probabilities that are one ulp off where requests run together."""
    return score(zoo, lambda h, b, n, together: completion(h.server, b, n, ulp=int(together > 1)))


@broken("failed", 4, "the echo is not the prompt that was sent")
def scores_of_another_prompt(zoo):
    """A server that is asked to echo a prompt with log-probabilities echoes another one of that length, always the same."""

    def answer(handler, body, number, together):
        return completion(handler.server, body | {"prompt": [101] * len(body["prompt"])}, number)

    return score(zoo, answer)


@sound
def scores(zoo):
    """A server that echoes prompts with their log-probabilities."""
    return score(zoo, None)


TALK = {"messages": [{"role": "user", "content": "Say a number."}, {"role": "assistant", "content": "7"}, {"role": "user", "content": "And another."}]}  # fmt: skip


def talk(zoo, forgets):
    """A conversation with a server that reads the last message alone where `forgets(number of the answer)` says so."""
    asked = itertools.count(1)

    def answer(handler, body, number, together):
        if len(body["messages"]) > 1 and forgets(next(asked)):
            body = body | {"messages": body["messages"][-1:]}
        return completion(handler.server, body, number)

    (zoo.folder / "talk.jsonl").write_text(json.dumps(TALK) + "\n")
    few = ("-n", 9, "--max-tokens", 8, "--conditions", "alone,wave-4", "--turns", "--prompt-file", "talk.jsonl")
    return ask(zoo, answer, few=few)


@broken("inconclusive", 3, "does not read what came before it")
def forgets_the_first_turn(zoo):
    """A chat server reads the last message alone, so that each turn of a conversation is a first one."""
    return talk(zoo, lambda number: True)


@broken("run-variant")
def forgets_the_first_turn_now_and_then(zoo):
    """A chat server forgets now and then what was said in the first turn."""
    return talk(zoo, lambda number: number % 3 == 0)


@sound
def a_conversation(zoo):
    """A conversation with a chat server that reads all of it."""
    return talk(zoo, lambda number: False)


@sound
def two_equal_replicas(zoo):
    """Two replicas that say the same."""
    return ask_all(zoo, None, None)


test_subject = visits(globals())
