"""detllm against a server: an adapter for its public `check(backend_adapter=...)`, since it has none for servers. Runs in detllm's environment.

python benchmarks/side_by_side_detllm.py URL PROMPTS.jsonl OUT

The adapter says that the server can do whatever detllm asks about, so that nothing is left out; detllm takes its word for it. A batch
of N prompts is N requests at once.
"""

import concurrent.futures
import json
import sys
import urllib.request

from detllm import check
from detllm.backends.base import BackendCapabilities

RUNS, SIZES, TOKENS = 10, (2, 4, 8), 16


class Server:
    def __init__(self, url):
        self.url = url

    def capabilities(self):
        return BackendCapabilities(
            supports_tier1_fixed_batch=True, supports_scores=True, supports_torch_deterministic=True
        )

    def generate(self, prompts, max_new_tokens=TOKENS, capture_scores=False, **other):
        with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(lambda prompt: self.one(prompt, max_new_tokens), prompts))

    def one(self, prompt, count):
        body = {"model": "planted", "prompt": prompt, "max_tokens": count, "temperature": 0, "logprobs": 1}
        raw = json.dumps(body | {"return_token_ids": True}).encode()
        request = urllib.request.Request(f"{self.url}/v1/completions", raw, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            (choice,) = json.load(answer)["choices"]
        return {
            "prompt": prompt,
            "input_ids": choice["prompt_token_ids"],
            "output_ids": choice["token_ids"],
            "scores": choice["logprobs"]["token_logprobs"],
        }


def main():
    url, file, out = sys.argv[1:]
    with open(file, encoding="utf-8") as lines:
        prompts = [json.loads(line)["prompt"] for line in lines]
    report = check(
        backend="server",
        model="planted",
        prompts=prompts,
        tier=2,
        runs=RUNS,
        vary_batch=SIZES,
        max_new_tokens=TOKENS,
        out_dir=out,
        backend_adapter=Server(url),
    )
    print(f"Status: {report.status}")
    print(f"Category: {report.category}")
    if batch := report.details.get("batch_divergence"):
        print(f"- batch_divergence: {batch}")
    sys.exit(0 if report.status == "PASS" else 1)


if __name__ == "__main__":
    main()
