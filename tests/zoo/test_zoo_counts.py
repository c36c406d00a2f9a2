"""Servers whose own counts in /metrics and whose answers do not belong together, and sound ones whose counts are unusual."""

import itertools
import json
import re
import threading
import time

from misbehaving import completion
from zoo import broken, sound, visits
from zoo_servers import ask as ask_at_once
from zoo_servers import counts, counts_come_soon

LACKED = "grew by less than the answers of its step"


def ask(zoo, *arguments, **how):
    counts_come_soon(zoo)
    return ask_at_once(zoo, *arguments, **how)


def caching(caches=lambda body: True, **changes):
    """A cache in front of the server: what it `caches` it gives again under a new id, and the server knows nothing of it."""
    lock, kept = threading.Lock(), set()

    def answer(handler, body, number, together):
        key = json.dumps(body["prompt"]), body["max_tokens"]
        with lock:
            again = key in kept and caches(body)
            kept.add(key)
        if again:
            uncounted(handler.server, body)
        return completion(handler.server, body, number, **changes)

    return answer


def uncounted(server, body):
    """What the server is about to count it does not."""
    with server.lock:
        server.finished -= 1
        server.made -= body["max_tokens"]


@broken("inconclusive", 3, LACKED)
def a_cache_beside_counts(zoo):
    """A cache in front of a server answers all but the first request, and the server's counts lack them."""
    return ask(zoo, caching(), "--allow-unseen-batch")


@broken("inconclusive", 3, "could not be seen")
def a_cache_without_counts(zoo):
    """A cache in front of a server that shows no counts."""
    return ask(zoo, caching(), metrics=False)


@broken("inconclusive", 3, "its id is that of an earlier answer")
def a_cache_that_repeats_ids(zoo):
    """A cache without counts gives answers again as they were, with their ids."""
    return ask(zoo, caching(id="cmpl-1"), "--allow-unseen-batch", metrics=False)


@broken("inconclusive", 3, LACKED)
def a_cache_of_long_prompts(zoo):
    """A cache keeps the answers to long prompts alone, and shorter neighbours are computed."""
    few = ("-n", 9, "--max-tokens", 8, "--conditions", "alone,ragged-4", "--prompt", "ask me")
    return ask(zoo, caching(lambda body: len(body["prompt"]) > 5), few=few)


def shown(**numbers):
    """A page in which metrics have these numbers, or what is made of theirs."""

    def page(page):
        found = {name.decode(): value for name, value in re.findall(rb"^vllm:(\w+)\S* (\S+)$", page, re.MULTILINE)}
        found = {name: float(value) for name, value in found.items()}
        found |= {name: value(found) if callable(value) else value for name, value in numbers.items()}
        return "".join(f'vllm:{name}{{engine="0"}} {value}\n' for name, value in found.items()).encode()

    return page


@broken("failed", 4, LACKED)
def a_cache_that_counts(zoo):
    """A cache inside a server counts requests and tokens as if they were made, without an engine step."""
    page = shown(num_requests_running=0, iteration_tokens_total_count=10)
    return ask(zoo, page=page)


@broken("inconclusive", 3, "batches were not formed as asked in wave-4")
def batches_nothing(zoo):
    """A server computes one request after the other, however many come at once."""
    one_by_one = threading.Lock()

    def answer(handler, body, number, together):
        with one_by_one:
            time.sleep(0.01)
        return completion(handler.server, body, number)

    steps = shown(iteration_tokens_total_count=lambda found: found["generation_tokens_total"])
    return ask(zoo, answer, gauge=lambda running: min(running, 1), page=steps)


@broken("failed", 4, LACKED)
def counts_that_stand_still(zoo):
    """A server's counts never move."""
    pages = []

    def page(page):
        pages.append(page)
        return pages[0]

    return ask(zoo, page=page)


@broken("inconclusive", 3, "batches were not formed as asked in alone")
def a_gauge_that_stands_still(zoo):
    """A server says that three requests run, whatever runs, and counts the rest rightly."""
    return ask(zoo, gauge=lambda running: 3)


@broken("inconclusive", 3, "batches were not formed as asked in alone")
def counts_of_another_server(zoo):
    """The counts are those of another server, which is busy."""
    begun = time.monotonic()
    busy = lambda found: round((time.monotonic() - begun) * 5000)  # noqa: E731
    page = shown(num_requests_running=9, request_success_total=busy, generation_tokens_total=busy)
    return ask(zoo, page=page)


@broken("inconclusive", 3, "could not be seen")
def counts_begin_again(zoo):
    """A server is started again in the middle of the run, and its counts begin at 0: of that step nothing is known."""
    asked = itertools.count(1)

    def answer(handler, body, number, together):
        if counts(body) and next(asked) == 5:
            with handler.server.lock:
                handler.server.finished = handler.server.made = handler.server.steps = 0
        return completion(handler.server, body, number)

    return ask(zoo, answer, gauge=lambda running: 0)  # a look at a slow machine could see them run together


@broken("inconclusive", 3, "could not be seen")
def counts_go_away(zoo):
    """A server shows no counts any more after a while."""
    asked = itertools.count(1)

    def answer(handler, body, number, together):
        handler.server.metrics = handler.server.metrics and next(asked) < 6
        return completion(handler.server, body, number)

    return ask(zoo, answer)


def of_two_models(page):
    """Ours, with its name, and another one's, which is busy."""
    ours = page.replace(b'{engine="0"}', b'{engine="0",model_name="m"}')
    return ours + page_of_another()


def page_of_another():
    done = round(time.monotonic() * 5000)
    names = ("request_success_total", "generation_tokens_total", "iteration_tokens_total_count")
    lines = [f'vllm:{name}{{engine="0",model_name="n"}} {done}\n' for name in names]
    return "".join((*lines, 'vllm:num_requests_running{engine="0",model_name="n"} 5\n')).encode()


@broken("inconclusive", 3, LACKED)
def counts_of_two_models(zoo):
    """A cache in front of a server that serves two models: the other one's requests stand in for those that were not computed."""
    return ask(zoo, caching(), page=of_two_models)


@sound
def another_model_is_busy(zoo):
    """A server that serves two models: others ask the other one all the time, and its counts move."""
    return ask(zoo, page=of_two_models)


@sound
def counts_without_labels(zoo):
    """A server whose counts name no engine."""
    return ask(zoo, page=lambda page: page.replace(b'{engine="0"}', b""))


@sound
def others_ask_too(zoo):
    """A server that somebody else asks once in a while."""
    asked = itertools.count(1)

    def answer(handler, body, number, together):
        if counts(body) and next(asked) == 3:  # beside a wave
            with handler.server.lock:
                handler.server.finished += 1
                handler.server.made += 50
                handler.server.steps += 50
        return completion(handler.server, body, number)

    return ask(zoo, answer)


@sound
def counts_of_several_engines(zoo):
    """A server of two engines, which share the requests and have counts of their own."""

    def page(page):
        halves = lambda rest: re.sub(  # noqa: E731
            rb"^(vllm:\w+)\S* (\S+)$",
            lambda m: b'%s{engine="%d"} %d' % (m[1], rest, (int(float(m[2])) + rest) // 2),
            page,
            flags=re.MULTILINE,
        )
        return halves(0) + halves(1)

    return ask(zoo, page=page, gauge=lambda running: 2 * running if running > 1 else running)


test_subject = visits(globals())
