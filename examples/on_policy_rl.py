"""Reinforcement learning on a CPU, off-policy and truly on-policy: reward, and KL between sampler and trainer, step by step.

    python on_policy_rl.py                    # three settings; minutes. Writes on_policy_rl.json and on_policy_rl.svg
    python on_policy_rl.py --steps 6          # the same, seconds

A tiny model (bfloat16, 2 layers, made here) gets a run of digits, like 3 4 5, and has to count on: 6 7 8 9 0 1 2 3. Reward is the share of right
digits; each is right that is one more than the digit before it. A policy is *sampled* by detcheck's transformers engine, in batches padded on the left, with a KV cache, a token at a time; it is *trained*
by REINFORCE, with the mean reward of a place in a group as baseline, on whole sequences padded on the right. The weights are the same, so both should give a token
the same probability. With stock kernels they do not: the article "Defeating Nondeterminism in LLM Inference" (Thinking Machines Lab, 2025) says
what follows from that, and runs the same three settings:

    off-policy    stock kernels, and nothing is done about it
    corrected     stock kernels; a token's gradient is weighted by the ratio of its two probabilities, 2 at most
    bit-equal     batch-invariant kernels in both, so that the KL is 0.0 at every step

Exit code 0: it was so; 1: the third setting differed in a bit; 3: stock did not differ here either, so that the run shows nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from on_policy_check import OffPolicyError, same_bits
from on_policy_plot import picture
from tokenizers import Tokenizer, models

import detcheck
from detcheck.engines.transformers.engine import TransformersEngine

SETTINGS = ("off-policy", "corrected", "bit-equal")
DIGITS, PAD = 10, 10  # token d is the digit d; one more fills rows up
PROMPTS, GROUP, NEW = 8, 8, 8  # of a step: prompts, samples of each, and tokens of a sample
LEARNING_RATE = 3e-3
MOST = 2.0  # weight of a token in `corrected`


@dataclass(frozen=True)
class TrainingStep:
    """What is said of one step of training."""

    reward: float
    """share of right digits, over all samples"""
    kl: float
    """nats per token, from the sampler's distribution to the trainer's: exact, over the whole vocabulary"""
    unlike: int
    """tokens whose log-probabilities differ in a bit"""
    tokens: int


def make_model(folder: Path, seed: int) -> None:
    """A Qwen3 of 2 layers, with a tokenizer of ten digits: a folder that `detcheck batch --model` takes too."""
    shape = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": DIGITS + 1, "max_position_embeddings": 64}
    shape |= {"initializer_range": 0.2}  # the default's logits are all but equal, and equal bits of them tell nothing
    torch.manual_seed(seed)
    config = transformers.Qwen3Config(bos_token_id=None, eos_token_id=None, pad_token_id=PAD, **shape)
    transformers.Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    words = {str(digit): digit for digit in range(DIGITS)} | {"<pad>": PAD}
    tokenizer = Tokenizer(models.WordLevel(words, "<pad>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(folder)


def draw_prompts(generator: random.Random) -> list[list[int]]:
    """Runs of 2 to 30 digits, each given to a whole group."""
    runs = [(generator.randrange(DIGITS), generator.randint(2, 30)) for _ in range(PROMPTS)]
    return [[(first + i) % DIGITS for i in range(length)] for first, length in runs for _ in range(GROUP)]


@torch.no_grad()
def sample(engine: TransformersEngine, prompts: list[list[int]], generator: torch.Generator):
    """(tokens int64[B, NEW], log-probabilities of the whole vocabulary float32[B, NEW, V]), at temperature 1."""
    width = max(map(len, prompts))
    fed = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * (len(prompt) + NEW) for prompt in prompts])
    places, cache, tokens, logprobs = (mask.cumsum(-1) - 1).clamp(min=0), engine.new_cache(width + NEW), [], []
    for until in range(width, width + NEW):
        known = places[:, until - fed.shape[1] : until]
        logits, cache = engine.forward(fed, mask[:, :until], cache, position_ids=known, logits_to_keep=1)
        logprobs.append(torch.log_softmax(logits[:, -1].float(), -1))
        fed = torch.multinomial(logprobs[-1].exp(), 1, generator=generator)
        tokens.append(fed)
    return torch.cat(tokens, 1), torch.stack(logprobs, 1)


def score(engine: TransformersEngine, prompts: list[list[int]], tokens: torch.Tensor) -> torch.Tensor:
    """float32[B, NEW, V] of the same tokens, as a trainer has them: all of a sequence at once, with gradients."""
    rows = [prompt + own for prompt, own in zip(prompts, tokens.tolist(), strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    logits, _ = engine.forward(ids, mask, None, position_ids=torch.arange(width).expand(len(rows), -1))
    own = [logits[i, len(prompt) - 1 : len(prompt) - 1 + NEW] for i, prompt in enumerate(prompts)]
    return torch.log_softmax(torch.stack(own).float(), -1)


def rewards(prompts: list[list[int]], tokens: torch.Tensor) -> torch.Tensor:
    """float32[B, NEW]: 1 for each digit that is one more than the one before it."""
    before = torch.cat([torch.tensor([prompt[-1:] for prompt in prompts]), tokens[:, :-1]], 1)
    return ((tokens == (before + 1) % DIGITS) & (before != PAD)).float()


def train(setting: str, folder: Path, steps: int, seed: int) -> list[TrainingStep]:
    """The parameters are kept in float32 and rounded to the model's bfloat16 behind each step, as mixed precision does it."""
    engine = TransformersEngine(str(folder), "bfloat16", "cpu", "sdpa")
    engine.load()
    narrow = [p for p in engine.model.parameters() if p.requires_grad]
    wide = [p.detach().float().clone().requires_grad_() for p in narrow]
    optimizer = torch.optim.Adam(wide, lr=LEARNING_RATE)
    drawn, chosen, seen = random.Random(seed), torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        with detcheck.batch_invariant() if setting == "bit-equal" else contextlib.nullcontext():
            prompts = draw_prompts(drawn)
            tokens, sampled = sample(engine, prompts, chosen)
            trained = score(engine, prompts, tokens)
            own, theirs = (t.gather(-1, tokens[..., None])[..., 0] for t in (trained, sampled))
            reward = rewards(prompts, tokens)
            grouped = reward.view(PROMPTS, GROUP, NEW)
            advantage = (grouped - grouped.mean(1, keepdim=True)).view(-1, NEW)
            weight = (own.detach() - theirs).exp().clamp(max=MOST) if setting == "corrected" else 1.0
            loss = -(weight * advantage * own).mean()
            engine.model.zero_grad()
            loss.backward()
        seen.append(compared(reward, tokens, sampled, trained.detach()))
        if setting == "bit-equal":
            same_bits(theirs, own)
        for parameter, master in zip(narrow, wide, strict=True):
            master.grad = parameter.grad.float()
        optimizer.step()
        with torch.no_grad():
            for parameter, master in zip(narrow, wide, strict=True):
                parameter.copy_(master)
    return seen


def compared(reward: torch.Tensor, tokens: torch.Tensor, sampled: torch.Tensor, trained: torch.Tensor) -> TrainingStep:
    far = (trained - sampled).double()
    # Of two distributions it is the mean of p log(p / q), and of q / p - 1 - log(q / p) too, which no rounding makes negative.
    kl = (sampled.exp() * (far.expm1() - far)).sum(-1).mean().item()
    bits = [t.gather(-1, tokens[..., None]).contiguous().view(torch.int32) for t in (sampled, trained)]
    return TrainingStep(reward.mean().item(), kl, int((bits[0] != bits[1]).sum()), tokens.numel())


def said(setting: str, seen: list[TrainingStep], seconds: float) -> str:
    last = seen[-max(1, len(seen) // 10) :]
    found = {
        "first reward": f"{seen[0].reward:.3f}",
        "last": f"{sum(s.reward for s in last) / len(last):.3f}",
        "mean KL": f"{sum(s.kl for s in seen) / len(seen):.2e}",
        "largest": f"{max(s.kl for s in seen):.2e}",
        "tokens unlike": f"{sum(s.unlike for s in seen)} of {sum(s.tokens for s in seen)}",
        "steps with KL 0.0": f"{sum(s.kl == 0.0 for s in seen)} of {len(seen)}",
    }
    return f"{setting:<11}" + "; ".join(f"{name} {value}" for name, value in found.items()) + f"; {seconds:.0f} s"


def main() -> int:
    options = argparse.ArgumentParser(description="RL on a CPU: off-policy, corrected, bit-equal")
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--output", type=Path, default=Path("on_policy_rl"), help="without its ending")
    asked = options.parse_args()
    if asked.steps < 1:
        options.error(f"--steps must be at least 1; got {asked.steps}")
    found: dict[str, list[TrainingStep]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), asked.seed)
        for setting in SETTINGS:
            begun = time.perf_counter()
            try:
                found[setting] = train(setting, Path(folder), asked.steps, asked.seed)
            except OffPolicyError as error:
                print(f"{setting}: {error}")
                return 1
            print(said(setting, found[setting], time.perf_counter() - begun), flush=True)
    print("One seed: that one reward rises before another is chance. What differs is the KL.")
    asked.output.with_suffix(".json").write_text(json.dumps({n: [asdict(s) for s in f] for n, f in found.items()}))
    curves = {name: {n: [getattr(s, name) for s in f] for n, f in found.items()} for name in ("reward", "kl")}
    asked.output.with_suffix(".svg").write_text(picture(curves["reward"], curves["kl"]))
    if not all(step.kl == 0.0 and step.unlike == 0 for step in found["bit-equal"]):
        print("bit-equal: the KL is not 0.0 at every step")
        return 1
    if not any(step.unlike for step in found["off-policy"]):
        print("inconclusive: with stock kernels sampler and trainer agreed by bits here too, so this run shows nothing")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
