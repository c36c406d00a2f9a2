"""Servers on loopback with one planted fault each, for `side_by_side.py`. They speak OpenAI's API and export vLLM's metrics.

A server answers by arithmetic on a hash of the prompt, so everything about it is known: which request gets which tokens and
log-probabilities, and why. Where a fault strikes, all log-probabilities are off by a few units in the last place from the first
token on, and from the sixth token on there are other tokens. That is how rounding shows in real engines: bits first, words later. It
also gives tools that look at the first token alone their chance.
"""

import contextlib
import hashlib
import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

MODEL = "planted"
WORDS = [f"{a}{b} " for a in ("ka", "lo", "mi", "nu", "pe", "ro", "si", "tu") for b in ("ba", "de", "fi", "go")]
ALPHABETS = {
    False: WORDS,
    True: [chr(0x1F600 + n) + ("é", "\u0301", "ß", "漢", "\u200d")[n % 5] for n in range(len(WORDS))],
}
FORK = 5  # the index of the first token that is another one where a fault strikes
TOP = 20  # log-probabilities that are told for each place, the most that a client may ask for


@dataclass(frozen=True)
class Fault:
    """What a server does wrong, if anything."""

    name: str
    what: str
    """in words, for the table"""
    right: tuple[str, ...]
    """answers of a tool that are right: "equal", "different" or "unsure" """
    verdicts: tuple[str, ...]
    """detcheck's that are right: the exit code alone would hide a wrong reason"""
    takes_s: float = 0.02
    """how long an answer takes"""


SOUND = ("equal",), ("identical",)
BATCH = ("different",), ("batch-variant",)
ANY = ("different",), ("run-variant", "divergent")  # it has nothing to do with the batch
DOUBT = ("unsure",), ("inconclusive",)
SERVERS = [
    Fault("sound", "nothing: sound", *SOUND),
    Fault("slow", "nothing: sound, and slow", *SOUND, takes_s=0.25),
    Fault("unicode", "nothing: sound, and its tokens are emoji, accents and joiners", *SOUND),
    Fault("batch", "other bits and words when requests are computed together, else always the same", *BATCH),
    Fault("rare", "1 answer in 50 is another one", *ANY),
    Fault("bits", "1 answer in 3 has log-probabilities that are 3 ulp off; the tokens are equal", *ANY),
    Fault("cold", "the first answer to a prompt is another one", *BATCH),  # a warm prompt is computed in another way
    Fault("heals", "1 token is another one when requests are computed together; all others are equal", *BATCH),
    Fault("swap", "halfway through, another model answers under the same name", *ANY),
    Fault("cache", "as batch, but a cache gives the first answer again, so that repeats prove nothing", *DOUBT),
    Fault("ones", "as batch, but requests are computed one at a time, so that no batch is ever tried", *DOUBT),
    Fault(
        "drops", "1 answer in 20 is an error (HTTP 500, or the connection closes)", ("unsure", "different"), DOUBT[1]
    ),
]


def ids_of(prompt):
    """Token ids of a prompt: of letters."""
    return prompt if isinstance(prompt, list) else [ord(c) for c in prompt]


def answer(ids, count, alphabet, moved=0, fork=None, healed=False, model=MODEL):
    """(token ids, log-probabilities of the best TOP tokens at each place, as id -> float32). `moved`: by so many ulp."""
    seed = hashlib.sha256(json.dumps([ids, model]).encode()).digest()
    tokens, tops = [], []
    for n in range(count):
        best = (seed[n % 32] + n // 32) % len(alphabet)
        if fork is not None and (n == fork or (n > fork and not healed)):
            best = (best + 1) % len(alphabet)
        numbers = np.float32(-0.05 * (1 + best)) - np.float32(0.7) * np.arange(TOP, dtype=np.float32)
        numbers = (numbers.view(np.uint32) + np.uint32(moved)).view(np.float32)
        tokens.append(best)
        tops.append({(best + 3 * k) % len(alphabet): float(v) for k, v in enumerate(numbers)})
    return tokens, tops


class Planted(ThreadingHTTPServer):
    """`fault`: what is planted. `halfway`: the number of the request from which on `swap` shows another model."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, fault, halfway=50):
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault, self.halfway = fault, halfway
        self.alphabet = ALPHABETS[fault.name == "unicode"]
        self.lock, self.one = threading.Lock(), threading.Lock()
        self.number = self.inside = self.running = self.finished = self.made = 0
        self.steps, self.kept = 0.0, {}
        self.company = {}  # number of a request that is being computed -> the most that were, meanwhile

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Clients may hang up."""

    def ask(self, ids, salt, count):
        """What the engine says to one request, or None for an error."""
        name = self.fault.name
        with self.lock:
            self.number += 1
            number, key = self.number, (tuple(ids), salt, count)
            first = key not in self.kept
            self.kept.setdefault(key, None)
            kept = self.kept[key]
        if name == "drops" and number % 20 == 0:
            return None
        if name == "cache" and kept is not None:
            return kept
        with self.one if name == "ones" else contextlib.nullcontext():
            made = self.compute(number, first, ids, count)
        with self.lock:
            self.kept[key] = made
        return made

    def compute(self, number, first, ids, count):
        name = self.fault.name
        with self.lock:
            self.running += 1
            self.company[number] = 0
            self.company = {one: max(most, self.running) for one, most in self.company.items()}
        time.sleep(self.fault.takes_s)
        with self.lock:
            together = self.company.pop(number)
            self.steps += count / together  # requests that run together share their steps
            self.running -= 1
            self.finished += 1
            self.made += count
        strikes = {
            "batch": together > 1,
            "cache": together > 1,
            "ones": together > 1,
            "heals": together > 1,
            "rare": number % 50 == 0,
            "cold": first,
        }.get(name, False)
        if name == "bits":
            return answer(ids, count, self.alphabet, moved=3 if number % 3 == 0 else 0)
        if name == "swap" and number > self.halfway:
            return answer(ids, count, self.alphabet, model="another")
        if strikes:
            return answer(ids, count, self.alphabet, moved=3, fork=FORK, healed=name == "heals")
        return answer(ids, count, self.alphabet)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer leaves in one piece

    def log_message(self, *arguments):
        pass

    def send(self, value, status=200):
        raw = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(value, str) else "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
        self.wfile.flush()

    def do_GET(self):
        server = self.server
        if self.path == "/v1/models":
            self.send({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        elif self.path == "/version":
            self.send({"version": "0.0"})
        elif self.path == "/metrics":
            with server.lock:
                numbers = {
                    "vllm:num_requests_running": server.running,
                    "vllm:num_requests_waiting": server.inside - server.running,
                    "vllm:request_success_total": server.finished,
                    "vllm:generation_tokens_total": server.made,
                    "vllm:iteration_tokens_total_count": server.steps,
                }
            self.send("".join(f'{name}{{engine="0"}} {value}\n' for name, value in numbers.items()))
        else:
            self.send({"error": "not found"}, 404)

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self.send({"tokens": ids_of(body["prompt"])})
        elif self.path in ("/v1/completions", "/v1/chat/completions"):
            with server.lock:
                server.inside += 1
            try:
                self.complete(body, chat=self.path.endswith("/chat/completions"))
            finally:
                with server.lock:
                    server.inside -= 1
        else:
            self.send({"error": "not found"}, 404)

    def complete(self, body, chat):
        prompt = "".join(m["content"] for m in body["messages"]) if chat else body["prompt"]
        ids, count = ids_of(prompt), body.get("max_tokens", 16)
        made = self.server.ask(ids, body.get("cache_salt"), count)
        if made is None:
            if self.server.number % 40 == 0:
                self.close_connection = True  # and nothing is said
            else:
                self.send({"error": {"message": "internal error", "code": 500}}, 500)
            return
        tokens, tops = made
        spelled = self.server.alphabet
        text = "".join(spelled[t] for t in tokens)
        choice = {"index": 0, "finish_reason": "length"}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        named = (lambda t: f"token_id:{t}") if body.get("return_tokens_as_token_ids") else (lambda t: spelled[t])
        if body.get("return_token_ids"):
            choice |= {"token_ids": tokens, "prompt_token_ids": ids}
        if body.get("logprobs"):
            choice["logprobs"] = logprobs(tokens, tops, named, body, chat)
        with self.server.lock:
            name = f"cmpl-{time.monotonic_ns()}"
        usage = {"prompt_tokens": len(ids), "completion_tokens": count, "total_tokens": len(ids) + count}
        self.send({"id": name, "object": "completion", "model": MODEL, "choices": [choice], "usage": usage})


def logprobs(tokens, tops, named, body, chat):
    asked = body.get("top_logprobs", 0) if chat else body["logprobs"]
    best = [dict(list(top.items())[: max(1, asked)]) for top in tops]
    if not chat:
        return {
            "tokens": [named(t) for t in tokens],
            "token_logprobs": [top[t] for t, top in zip(tokens, tops, strict=True)],
            "top_logprobs": [{named(t): v for t, v in top.items()} for top in best],
        }
    return {
        "content": [
            {
                "token": named(t),
                "logprob": top[t],
                "top_logprobs": [{"token": named(k), "logprob": v} for k, v in few.items()],
            }
            for t, top, few in zip(tokens, tops, best, strict=True)
        ]
    }


@contextlib.contextmanager
def serving(fault, halfway=50):
    server = Planted(fault, halfway)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
