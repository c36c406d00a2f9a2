"""vLLM's own `generate`, with nothing of ours: reads a batch a line, answers with its tokens. For `overhead.py`.

python benchmarks/overhead_vllm.py MODEL
"""

import json
import sys

from vllm import LLM, SamplingParams


def main(model):
    engine = LLM(
        model,
        dtype="float32",
        seed=0,
        enforce_eager=True,
        max_model_len=1024,
        max_num_batched_tokens=8192,
        max_num_seqs=256,
        kv_cache_memory_bytes=500_000_000,
        enable_prefix_caching=True,
        disable_log_stats=True,
        skip_tokenizer_init=False,
    )
    for line in sys.stdin:
        asked = json.loads(line)
        engine.reset_prefix_cache()
        fixed = {"temperature": 0.0, "ignore_eos": True, "detokenize": False, "skip_reading_prefix_cache": True}
        made = engine.generate(
            [{"prompt_token_ids": prompt} for prompt, _ in asked["rows"]],
            [SamplingParams(max_tokens=n, logprobs=asked["logprobs"], **fixed) for _, n in asked["rows"]],
            use_tqdm=False,
        )
        print("made", json.dumps([list(one.outputs[0].token_ids) for one in made]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
