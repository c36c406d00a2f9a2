"""Engines whose weights are updated, with every leak that we could think of; and a server like that."""

import json
import socket
from contextlib import contextmanager

import numpy as np
from misbehaving import Handler, completion, serving

from detcheck.environment import observe_client
from detcheck.errors import FailedError
from detcheck.models.held import HeldTensor
from detcheck.outcomes import outcome
from detcheck.records import Prompt, Schedule, Subject

OLD, NEW, MIXED = {"a": 1, "b": 1}, {"a": 2, "b": 2}, {"a": 2, "b": 1}


def held(weights):
    return {name: HeldTensor((4, 1), "float32", value.to_bytes(8, "big") * 4) for name, value in weights.items()}


class ScriptedEngine:
    """What it gives follows from its weights, and from those that a prompt's prefix was computed with."""

    def __init__(self, weights, stack):
        self.weights, self.serves, self.stack = dict(weights), dict(weights), stack
        self.prefixes, self.dead, self.asked = {}, False, 0

    def complete(self, prompt):
        if self.dead:
            raise FailedError("it does not answer")
        self.asked += 1
        known = self.prefixes.get(prompt) if self.stack.cache else None
        serves = tuple((known or self.serves).values())
        self.prefixes.setdefault(prompt, dict(self.serves))
        tokens = np.asarray(
            [5, 6, (sum(serves) if self.stack.sensitive else 7) + self.stack.noise * self.asked], np.int64
        )
        return outcome(tokens, logprobs=np.full(3, -1.0, np.float32)), 128 if known else 0

    def holds(self):
        return held(self.weights) if self.stack.readable else {}

    def update(self, way):
        return self.stack.how(self, way)

    def empty_cache(self):
        self.prefixes.clear()

    def ignores(self, way):
        return way == "sleep"


class ScriptedStack:
    """`how(engine, way)`: what an update does."""

    def __init__(self, how=None, cache=True, sensitive=True, readable=True, noise=0, alike=()):
        self.noise, self.alike = noise, alike
        self.how, self.cache, self.sensitive, self.readable = how or updated, cache, sensitive, readable
        inputs = (Prompt("0:aaaa", "ask me", (1, 2)), Prompt("1:bbbb", "ask me more", (1, 2, 3)))
        self.subject = Subject("scripted", "float32", {}, inputs, Schedule(()), observe_client("nowhere", {}))
        self.engines = []

    def engine(self, new):
        self.engines.append(ScriptedEngine(NEW if new else OLD, self))
        return self.engines[-1]

    def close(self):
        pass


def updated(engine, way, to=NEW):
    engine.weights, engine.serves = dict(to), dict(to)
    return 1 << 20, 0.5


class UpdatableHandler(Handler):
    """Answers as vLLM does with VLLM_SERVER_DEV_MODE=1, or as SGLang; `server.weights` is what it has."""

    def do_GET(self):
        if self.path == "/metrics":
            lines = [f"{self.server.kind}:num_requests_running 0", f"{self.server.hits_name} {self.server.hits}", ""]
            self.send("\n".join(lines).encode(), content_type="text/plain")
        else:
            super().do_GET()

    def do_POST(self):
        server, path = self.server, self.path.partition("?")[0]
        if path in ("/v1/completions", "/tokenize"):
            super().do_POST()
            return
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.calls.append((self.path, json.loads(raw) if raw else None))
        known = {"/update_weights_from_disk", "/flush_cache"} if server.sglang else {
            "/collective_rpc", "/reset_prefix_cache", "/weight_checker", "/sleep", "/wake_up"
        }  # fmt: skip
        if path not in known or server.refuses == path:
            self.send({"detail": "Not Found"}, 404)
        elif server.breaks == path and any(asked == "/collective_rpc" for asked, _ in server.calls):
            self.send({"detail": "out of memory"}, 500)
        elif server.dies == path:
            server.gone = True
            hang_up(self)
        elif path in ("/reset_prefix_cache", "/flush_cache"):
            server.prefixes.clear()
            self.send(b"Cache flushed.", content_type="text/plain") if server.sglang else self.send({"success": True})
        elif path == "/weight_checker":
            sums = {name: f"{value:064x}"[::-1] for name, value in server.weights.items()}
            self.send({"checksums": sums})
        elif path in ("/collective_rpc", "/update_weights_from_disk"):
            server.weights = dict(server.loads)
            self.send({"success": True, "message": "done"} if server.sglang else {"results": [None]})
        else:
            self.send({"status": "done"})


def hang_up(handler):
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def updatable(weights, *, sglang=False, refuses="", dies="", breaks="", loads=NEW):
    """A server with those weights, and a prefix cache. `breaks`: a path that it answers with an error once it was updated."""

    def answer(handler, body, number, together):
        server = handler.server
        if server.gone:
            hang_up(handler)
            return None
        prompt = json.dumps(body["prompt"])
        server.hits += 128 * (prompt in server.prefixes)
        served = server.prefixes.setdefault(prompt, dict(server.weights))
        return completion(server, body, number, flip=served != NEW)

    with serving(answer, takes_s=0) as server:
        server.RequestHandlerClass = UpdatableHandler
        server.weights, server.prefixes, server.calls, server.gone = dict(weights), {}, [], False
        server.kind = "sglang" if sglang else "vllm"
        server.hits, server.hits_name = 0, "sglang:cached_tokens_total" if sglang else "vllm:prefix_cache_hits_total"
        server.breaks = breaks
        server.sglang, server.refuses, server.dies, server.loads = sglang, refuses, dies, loads
        yield server
