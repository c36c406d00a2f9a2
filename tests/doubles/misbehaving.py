"""A server whose every answer, and every fault, we wrote. It speaks OpenAI's API on loopback, and exports vLLM's metrics if told."""

import contextlib
import hashlib
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

WORDS = ("one ", "two ", "three ", "four ", "five ", "six ", "seven ", "eight ")
PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


def good(prompt, count=8, flip=False):
    """(token ids, log-probabilities) of a prompt. `flip`: the fourth token is another one."""
    seed = hashlib.sha256(json.dumps(prompt).encode()).digest()
    tokens = [seed[n % 32] % len(WORDS) for n in range(count)]
    if flip and count > 3:
        tokens[3] = (tokens[3] + 1) % len(WORDS)
    return tokens, [float(np.float32(-0.1 * (t + 1))) for t in tokens]


def completion(server, body, number, **changes):
    """A whole, right answer. `changes` go into it."""
    if server.scores and body.get("echo"):
        return echoed(server, body, number, **changes)
    asked_ids = isinstance(body.get("prompt"), list)
    prompt = body.get("prompt") or body.get("messages")
    text_prompt = " ".join(map(str, prompt)) if asked_ids else str(prompt)
    drawn = f"{text_prompt} {body['seed']}" if body.get("temperature") and server.draws else text_prompt
    tokens, logprobs = good(drawn, body.get("max_tokens", 16), changes.pop("flip", False))
    if (digits := changes.pop("round_to", server.round_to)) is not None:
        logprobs = [round(v + 0.0123456, digits) for v in logprobs]
    words = [WORDS[t] for t in tokens]
    choice = {"index": 0, "text": "".join(words), "finish_reason": "length"}
    if body.get("messages"):
        choice["message"] = {"role": "assistant", "content": choice.pop("text")}
    if server.ids and body.get("return_token_ids"):
        choice["token_ids"] = tokens
        choice["prompt_token_ids"] = prompt if asked_ids else ids_of(text_prompt)
    if server.logprobs and body.get("logprobs"):
        names = [f"token_id:{t}" for t in tokens] if server.ids else words
        if body.get("messages"):
            content = [{"token": n, "logprob": v, "top_logprobs": []} for n, v in zip(names, logprobs, strict=True)]
            choice["logprobs"] = {"content": content}
        else:
            choice["logprobs"] = {"tokens": names, "token_logprobs": logprobs}
    choice |= changes.pop("choice", {})
    made = {"id": f"cmpl-{number}", "model": server.model, "choices": [choice]}
    return made | {"usage": {"prompt_tokens": size(prompt), "completion_tokens": len(tokens)}} | changes


def echoed(server, body, number, ulp=0, leads=True):
    """The prompt and a token behind it, with log-probabilities: of letters. `ulp`: by how much they are off."""
    prompt, made = body["prompt"], [5] * body["max_tokens"]
    tokens = [*(prompt if isinstance(prompt, list) else ids_of(prompt)), *made]
    numbers = [float(np.float32(-0.1 * (t % 8 + 1))) for t in tokens]
    if ulp:
        numbers = [float(np.nextafter(np.float32(v), np.float32(0))) for v in numbers]
    if (digits := server.round_to) is not None:
        numbers = [round(v + 0.0123456, digits) for v in numbers]
    names = [f"token_id:{t}" if server.ids else chr(t) for t in tokens]
    tops = [None, *({n: v, "token_id:3": v - 1 if leads else v + 0.01} for n, v in zip(names, numbers, strict=True))]
    found = {"tokens": names, "token_logprobs": [None, *numbers[1:]], "top_logprobs": [None, *tops[2:]]}
    choice = {
        "index": 0,
        "text": "echo",
        "finish_reason": "length",
        "logprobs": found if body.get("logprobs") else None,
    }
    usage = {"prompt_tokens": len(tokens) - len(made), "completion_tokens": len(made)}
    return {"id": f"cmpl-{number}", "model": server.model, "choices": [choice], "usage": usage}


def size(prompt):
    """Of ids, or of a text or messages: as many tokens as letters."""
    return sum(len(m["content"] or "") for m in prompt) if isinstance(prompt[0], dict) else len(prompt)


def made_in(answer, asked):
    """Tokens that the server made for it: as its usage says, else as many as were asked for."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    return usage.get("completion_tokens", asked) if isinstance(usage, dict) else asked


def ids_of(text):
    return [ord(c) for c in text]


class Server(ThreadingHTTPServer):
    """`answer(handler, body, number, together)` -> a JSON value, or None where it has written something of its own.

    `together`: the most requests that were being served at once while this one was, itself included. Requests that open the run (tokens <= 4) are always served well.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self,
        answer=None,
        *,
        metrics=False,
        ids=True,
        logprobs=True,
        model="m",
        takes_s=0.05,
        round_to=None,
        endpoints=("completions", "chat"),
        tls=False,
        gauge=lambda running: running,
        counts=True,
        version="0.0",
        scores=False,
        draws=True,
        opens_well=True,
        page=lambda page: page,
        port=0,
    ):
        super().__init__(("127.0.0.1", port), Handler)
        self.answer, self.metrics, self.ids, self.logprobs, self.model = answer, metrics, ids, logprobs, model
        self.takes_s, self.round_to, self.endpoints = takes_s, round_to, endpoints
        self.company = {}  # number of a request that is being served -> the most that were, meanwhile
        self.lock, self.running, self.number, self.finished, self.made = threading.Lock(), 0, 0, 0, 0
        self.requests, self.headers_seen, self.models, self.steps = [], [], (), 0.0
        self.gauge, self.counts, self.version = gauge, counts, version
        self.page = page  # what /metrics shows, of what is the case
        self.opens_well = (
            opens_well  # whether short requests, which open a run, are answered well whatever `answer` does
        )
        self.draws = draws  # whether a temperature above 0 gives other tokens by the seed
        self.scores = scores  # whether an echo has the prompt's log-probabilities
        self.scheme = "https" if tls else "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(Path(__file__).with_name("loopback.pem"))  # signed by itself, for 127.0.0.1 alone
            self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer leaves in one piece, without waiting for the other side to acknowledge its head

    def log_message(self, *arguments):
        pass

    def send(self, value, status=200, content_type="application/json", **headers):
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(raw)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(raw)
        self.wfile.flush()

    def do_GET(self):
        server = self.server
        server.headers_seen.append(dict(self.headers))
        if self.path == "/v1/models":
            self.send({"data": [{"id": name} for name in server.models or (server.model,)]})
        elif self.path == "/version":
            self.send({"version": server.version})
        elif self.path == "/metrics" and server.metrics:
            with server.lock:
                numbers = {"vllm:num_requests_running": server.gauge(server.running)}
                if server.counts:
                    numbers |= {
                        "vllm:request_success_total": server.finished,
                        "vllm:generation_tokens_total": server.made,
                        "vllm:iteration_tokens_total_count": server.steps,
                    }
            lines = [f'{name}{{engine="0"}} {value}' for name, value in numbers.items()]
            self.send(server.page("\n".join([*lines, ""]).encode()), content_type="text/plain")
        else:
            self.send({"error": "not found"}, 404)

    def do_POST(self):
        server = self.server
        server.headers_seen.append(dict(self.headers))
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize" and server.ids:
            self.send({"tokens": ids_of(body["prompt"])})
            return
        if self.path not in [PATHS[name] for name in server.endpoints]:
            self.send({"error": "not found"}, 404)
            return
        with server.lock:
            server.running += 1
            server.number += 1
            number = server.number
            server.requests.append(body)
            server.company[number] = 0
            server.company = {one: max(most, server.running) for one, most in server.company.items()}
        tokens, made = body["max_tokens"], None
        try:
            scored = server.scores and body.get("echo")
            take(server.takes_s if body["max_tokens"] > 4 or scored else 0)
            if server.answer is None or (server.opens_well and body["max_tokens"] <= 4 and not scored):
                made = completion(server, body, number)
            else:
                made = server.answer(self, body, number, server.company[number])
            tokens = tokens if made is None else made_in(made, tokens)
        finally:  # before the answer leaves: whoever has it may send the next one at once, which is not beside this one
            with server.lock:
                server.steps += tokens / max(1, server.running)  # those that run together share their steps
                server.running -= 1
                del server.company[number]
                server.finished += 1
                server.made += tokens
        if made is not None:
            self.send(made)


def take(seconds):
    """In twenty pieces: where this whole process stands still for a while, the requests of a wave meet all the same when it goes on."""
    for _ in range(20):
        time.sleep(seconds / 20)


@contextlib.contextmanager
def serving(answer=None, **how):
    server = Server(answer, **how)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
