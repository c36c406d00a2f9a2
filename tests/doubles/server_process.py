"""The server of misbehaving.py as a process of its own, which can be killed and started again at the same address.

    python tests/doubles/server_process.py --port 8000 --model m --takes 0.01

It prints its URL, and serves until it is killed. --other: the same name, and other weights: every answer is another.
"""

import argparse
import contextlib
import subprocess
import sys
import threading
import uuid

from misbehaving import Server, completion


@contextlib.contextmanager
def started(*arguments):
    """(process, URL); killed at the end, whatever became of it."""
    child = subprocess.Popen([sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    try:
        yield child, child.stdout.readline().strip()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def answer(flip):
    """Names of answers are those of nobody else, also of the process before."""
    return lambda handler, body, number, together: completion(
        handler.server, body, number, flip=flip, id=f"cmpl-{uuid.uuid4()}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="m")
    parser.add_argument("--takes", type=float, default=0.0)
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--other", action="store_true")
    asked = parser.parse_args()
    server = Server(answer(asked.other), metrics=asked.metrics, model=asked.model, takes_s=asked.takes, port=asked.port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.url, flush=True)
    threading.Event().wait()
