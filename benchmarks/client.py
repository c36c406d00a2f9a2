"""What detcheck itself costs for each request to a server: seconds of this process's CPU, with 1 and with 256 in flight.

The server is a process of its own, which answers at once with 128 tokens and their log-probabilities, so that nothing else is measured.

python benchmarks/client.py [REQUESTS]
"""

import asyncio
import json
import multiprocessing
import statistics
import sys
import time

from measured import ratios, record

from detcheck.engines.server.answer import read
from detcheck.engines.server.client import Client
from detcheck.engines.server.credentials import Secrets, Url

TOKENS, ROUNDS = 128, 5
CHOICE = {
    "index": 0,
    "text": "word " * TOKENS,
    "finish_reason": "length",
    "token_ids": list(range(TOKENS)),
    "logprobs": {
        "tokens": [f"token_id:{n}" for n in range(TOKENS)],
        "token_logprobs": [-0.5] * TOKENS,
        "top_logprobs": [{f"token_id:{n}": -0.5, "token_id:7777": -1.5} for n in range(TOKENS)],
    },
}


def serve(port):
    body = json.dumps({"id": "x", "model": "m", "choices": [CHOICE], "usage": {"completion_tokens": TOKENS}}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def answer(reader, writer):
        try:
            while True:
                asked = await reader.readuntil(b"\r\n\r\n")
                length = int(asked.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                writer.write(head + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main():
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(main())


async def measure(url, requests, in_flight):
    """(CPU seconds, wall seconds) a request."""
    client = Client(Url(url), Secrets(), 60.0)
    body = {"model": "m", "prompt": list(range(300)), "max_tokens": TOKENS, "temperature": 0, "logprobs": 2}
    left = iter(range(requests))

    async def worker():
        for _ in left:
            read((await client.json("POST", "/v1/completions", body)).body)

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    await client.close()
    return cpu / requests, wall / requests


def main():
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    port = multiprocessing.Value("i", 0)
    process = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    process.start()
    while not port.value:
        time.sleep(0.05)
    print(f"{requests} requests of {TOKENS} tokens with log-probabilities, medians of {ROUNDS} rounds that take turns")
    found = {n: [] for n in (1, 16, 256)}
    for _ in range(ROUNDS):
        for in_flight, rounds in found.items():
            rounds.append(asyncio.run(measure(f"http://127.0.0.1:{port.value}", requests, in_flight)))
    for in_flight, rounds in found.items():
        cpu, wall = (statistics.median(each) for each in zip(*rounds, strict=True))
        print(f"{in_flight:4} in flight: {1e3 * cpu:.2f} ms of CPU a request, {1e3 * wall:.2f} ms of time")
    one, many = ([1e3 * cpu for cpu, _ in found[n]] for n in (1, 256))
    record("client", one)
    record("client-256", ratios(many, one), f"{statistics.median(many):.2f} ms")
    process.terminate()


if __name__ == "__main__":
    main()
