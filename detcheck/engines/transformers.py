"""Any causal language model that Hugging Face transformers can load, decoded greedily in batches that the probe forms.

The loop is our own, so the evidence is exact: a hook counts the rows of every forward pass, and rows never leave a batch
before its end. Prompts of unequal length are padded on the left, as `generate` does.

Measuring must not add a difference of its own. Each sample's logits are copied to the same buffer and reduced alone, so the
measure runs the same program on the same shape and alignment whatever the batch.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detcheck.engines import amplifier
from detcheck.engines.base import Completion, Decoded, Row
from detcheck.engines.folder import digests, resolve
from detcheck.errors import FailedError, OutOfMemoryError, UsageError
from detcheck.kernels._switch import uncounted

SHORT_DTYPES = {
    "fp32": "float32",
    "f32": "float32",
    "float": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
}
DTYPES = ("float32", "bfloat16", "float16", "float64")
MEMORY_SHARE = (
    0.5  # of the free memory that a batch may take by estimate: the estimate leaves out the allocator's slack
)


def full_dtype(name: str | None) -> str | None:
    """torch's name for a dtype, short forms accepted. Raises UsageError."""
    if name is None:
        return None
    full = SHORT_DTYPES.get(name, name).removeprefix("torch.")
    if full not in DTYPES:
        raise UsageError(
            f"--dtype {name}: not one that models run in. Use one of {', '.join(DTYPES)}, or {', '.join(SHORT_DTYPES)}"
        )
    return full


class TransformersEngine:
    """See `engines.base.Engine`."""

    def __init__(
        self,
        model: str | None,
        dtype: str | None = None,
        device: str = "auto",
        attn: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Raises UsageError for what can be seen without the weights, FailedError without torch or where the hub fails."""
        self.name = amplifier.NAME if model is None else model
        self._dtype = full_dtype(dtype) or ("float32" if model is None else None)
        try:
            import torch
            import transformers  # noqa: F401
        except ImportError as error:
            raise FailedError(
                f"running a model needs torch and transformers ({error}): pip install 'detcheck[transformers]'"
            ) from None
        self.folder: Path = amplifier.folder() if model is None else resolve(model)
        self._model: Any = None
        self._attn = attn
        self._trust = trust_remote_code
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise UsageError(f"--device {device}: use auto, cpu, cuda, or one of several like cuda:1")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError(
                f"--device {device}: torch {torch.__version__} finds no CUDA device here. Use --device cpu"
            )
        self.digests: Mapping[str, str] = digests(self.folder, code=trust_remote_code)
        with quiet_transformers():
            self._config, self._tokenizer = self._read_config_and_tokenizer()
        text = self._config.get_text_config()
        self.context: int = getattr(text, "max_position_embeddings", None) or 2**31

    def _read_config_and_tokenizer(self) -> tuple[Any, Any]:
        from transformers import AutoConfig, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(self.folder, trust_remote_code=self._trust)
            return config, AutoTokenizer.from_pretrained(self.folder, trust_remote_code=self._trust)
        except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
            raise UsageError(
                f"cannot read config or tokenizer of {self.name}: {first_line(error)}. It must be a causal language model's folder"
            ) from None

    @property
    def dtype(self) -> str:
        return str(self._model.dtype).removeprefix("torch.")

    @property
    def attention(self) -> str:
        """The attention implementation in effect."""
        return self._model.config._attn_implementation

    @property
    def flags(self) -> dict[str, str]:
        return {"attention": self.attention}

    def load(self) -> None:
        if self._model is not None:
            return
        import torch
        from transformers import AutoModelForCausalLM

        try:
            with quiet_transformers():
                model = AutoModelForCausalLM.from_pretrained(
                    self.folder,
                    dtype=getattr(torch, self._dtype) if self._dtype else "auto",
                    attn_implementation=self._attn,
                    trust_remote_code=self._trust,
                    use_safetensors=True,
                )
            self._model = model.to(self.device).eval()
        except Exception as error:
            raise FailedError(f"cannot load {self.name}: {first_line(error)}") from error
        accepted = inspect.signature(self._model.forward).parameters
        self._accepts_positions = "position_ids" in accepted
        self._accepts_logits_to_keep = "logits_to_keep" in accepted
        ends = self._model.generation_config.eos_token_id if self._model.generation_config else None
        ends = self._config.eos_token_id if ends is None else ends
        self._ends = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])

    def encode(self, text: str) -> tuple[int, ...]:
        try:
            return tuple(self._tokenizer(text)["input_ids"])
        except (TypeError, UnicodeError) as error:
            raise UsageError(
                f"the tokenizer of {self.name} refuses the prompt {text[:40]!a}: {first_line(error)}. Is it valid Unicode?"
            ) from None

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            raise UsageError(
                f"the tokenizer of {self.name} has no chat template. Leave out --chat, or give prompts instead of messages"
            )
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise UsageError(f"the chat template of {self.name} refuses the messages: {first_line(error)}") from None
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def ordinary_tokens(self) -> np.ndarray:
        size = min(len(self._tokenizer), self._config.get_text_config().vocab_size)
        special = list(set(self._tokenizer.all_special_ids) | self._ends)
        return np.setdiff1d(np.arange(size, dtype=np.int64), np.asarray(special, dtype=np.int64))

    def max_rows(self, tokens: int) -> int:
        import torch

        text = self._config.get_text_config()
        heads = getattr(text, "num_attention_heads", 1)
        hidden = getattr(text, "hidden_size", 1)
        head_dim = getattr(text, "head_dim", None) or hidden // heads
        layers = getattr(text, "num_hidden_layers", 1)
        cache = 2 * layers * (getattr(text, "num_key_value_heads", None) or heads) * head_dim
        prefill = 6 * hidden + 3 * (getattr(text, "intermediate_size", None) or 4 * hidden)
        scores = tokens * (heads if self.attention == "eager" else 1)
        row_bytes = tokens * (cache + prefill + scores) * self._model.dtype.itemsize + 8 * text.vocab_size
        if self.device.startswith("cuda"):
            free = torch.cuda.mem_get_info()[0]
        else:
            import psutil

            free = psutil.virtual_memory().available
        return max(1, int(MEMORY_SHARE * free / row_bytes))

    def complete(self, rows: Sequence[Row], max_tokens: int, ignore_eos: bool) -> Decoded:
        import torch

        seen: set[int] = set()
        hook = self._model.register_forward_pre_hook(
            lambda _, __, inputs: seen.add(len(inputs["input_ids"])), with_kwargs=True
        )
        try:
            with torch.inference_mode():
                completions = self._decode(rows, max_tokens, frozenset() if ignore_eos else self._ends)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise OutOfMemoryError(f"out of memory with {len(rows)} rows: {first_line(error)}") from None
        finally:
            hook.remove()
        return Decoded(completions, tuple(sorted(seen)))

    def _decode(self, rows: Sequence[Row], max_tokens: int, ends: frozenset[int]) -> dict[int, Completion]:
        import torch

        width = max(len(row.prompt) for row in rows)
        filling = (
            min(ends) if ends else 0
        )  # what is fed under the mask and after a sample has ended; its rows are never read
        padded = [[filling] * (width - len(row.prompt)) + list(row.prompt) for row in rows]
        unpadded = [[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in rows]
        step_ids = torch.tensor(padded, device=self.device)  # [B, width], then [B, 1]
        mask = torch.ones(len(rows), width + max_tokens, dtype=torch.long, device=self.device)
        mask[:, :width] = torch.tensor(unpadded, device=self.device)
        with uncounted():
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
        fed = torch.full((len(rows), max_tokens), filling)  # [B, T]: tokens known beforehand
        for slot, row in enumerate(rows):
            if row.continuation:
                fed[slot, : len(row.continuation)] = torch.tensor(row.continuation[:max_tokens])
        extra = {"logits_to_keep": 1} if self._accepts_logits_to_keep else {}
        measures = {
            slot: Measure(self._model.config.get_text_config().vocab_size, self.device)
            for slot, r in enumerate(rows)
            if r.continuation is None
        }
        cache, running = None, set(measures)
        for step in range(max_tokens):
            until = width + step
            if self._accepts_positions:
                extra["position_ids"] = positions[:, until - step_ids.shape[1] : until]
            out = self._model(
                input_ids=step_ids, attention_mask=mask[:, :until], past_key_values=cache, use_cache=True, **extra
            )
            cache = out.past_key_values
            with uncounted():
                for slot in running:
                    fed[slot, step] = measures[slot].take(out.logits[slot, -1])
            running -= {slot for slot in running if int(fed[slot, step]) in ends}
            if not running:
                break
            step_ids = fed[:, step : step + 1].to(self.device)
        return {slot: measure.completion("length" if slot in running else "stop") for slot, measure in measures.items()}


class Measure:
    """Reads token, log-probability and margin off one sample's logits, step by step."""

    def __init__(self, vocabulary: int, device: str) -> None:
        import torch

        self._logits = torch.empty(vocabulary, dtype=torch.float32, device=device)
        self._steps: list[tuple[int, int, float, float]] = []

    def take(self, logits: Any) -> int:
        """logits[V] of any dtype -> the id of the largest."""
        self._logits.copy_(logits)
        top = self._logits.topk(2)
        best, second = top.values.unbind()
        logprob = best - self._logits.logsumexp(-1)
        token, runner_up = top.indices.tolist()
        self._steps.append((token, runner_up, logprob.item(), (best - second).item()))
        return token

    def completion(self, finish_reason: str) -> Completion:
        tokens, runners_up, logprobs, margins = zip(*self._steps, strict=True)
        return Completion(
            tokens, np.asarray(logprobs, np.float32), np.asarray(margins, np.float32), runners_up, finish_reason
        )


def out_of_memory(error: BaseException) -> bool:
    """torch says it in three ways: a class of its own on GPUs, a RuntimeError on the CPU, Python's MemoryError."""
    import torch

    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "can't allocate memory" in str(error)
        or "out of memory" in str(error)
    )


def first_line(error: BaseException) -> str:
    """What an error says, in one line: libraries append pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps transformers' warnings and progress bars out of our output, and puts its settings back."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
