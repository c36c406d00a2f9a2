"""Any causal language model that Hugging Face transformers can load, decoded in batches that the probe forms.

The loop is our own, so the evidence is exact: a hook counts the rows of every forward pass, and rows never leave a batch
before its end. Prompts of unequal length are padded on the left, as `generate` does.

Measuring must not add a difference of its own. Each sample's logits are copied to the same buffer and reduced alone, so the
measure runs the same program on the same shape and alignment whatever the batch.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

from detcheck.counted import of_coverage
from detcheck.coverage import uncounted
from detcheck.engine import Completion, Decoded, Row
from detcheck.engines.transformers import adapter
from detcheck.engines.transformers.compiled import compile_model, compiled_part
from detcheck.engines.transformers.load import decoder_start, load, places
from detcheck.engines.transformers.measure import Measure
from detcheck.engines.transformers.mixed import Mixed, mix
from detcheck.engines.transformers.static import static_cache
from detcheck.errors import FailedError, OutOfMemoryError, UsageError
from detcheck.machine import free_memory
from detcheck.models.adapter import Adapter, digests_of
from detcheck.models.cache import Cache
from detcheck.models.checkpoint import Checkpoint, first_line, quiet_transformers
from detcheck.models.quantised import refuse_unread
from detcheck.models.task import Task
from detcheck.op import NotInvariantError
from detcheck.spec import Kernels
from detcheck.switch import batch_invariant
from detcheck.tensors import out_of_memory

# Of the free memory that a batch may take by estimate: the estimate leaves out the allocator's slack.
MEMORY_SHARE = 0.5


class TransformersEngine(Checkpoint):
    """See `engine.Engine`."""

    schedules_itself = False
    model = property(lambda self: self._model, doc="The loaded torch module, for who trains it.")

    def __init__(
        self,
        model: str | None,
        dtype: str | None = None,
        device: str = "auto",
        attn: str | None = None,
        trust_remote_code: bool = False,
        task: str | None = None,
        adapted: Adapter | None = None,
        others: Sequence[Adapter | None] = (),
        cache: str | None = None,
        compile: bool | None = None,
    ) -> None:
        """`task`: what it is to give in one pass, None: completions; `adapted`: what is put onto it; `others`: what rows beside the samples may have instead; `cache`: of a `Cache`'s kinds (None: the model's own, unsaid); `compile`: None: no, unsaid. Raises UsageError for what can be seen without the weights, FailedError without torch or where the hub fails."""
        super().__init__(model, dtype, trust_remote_code, task)
        import torch

        if not self.gguf:
            with quiet_transformers():
                refuse_unread(self.name, self._config, self.folder)
        self._adapter, self._others, self._adapted = adapted, tuple(others), {}
        self._mixed: Mixed | None = None
        if adapted or others:
            adapter.require_peft()
            self.digests = {**self.digests, **digests_of(adapted, self._others)}

        if cache == Cache.STATIC and not self.causal:
            raise UsageError(
                f"--cache static: --task {self.task} takes a prompt in one piece, without a cache. Leave it out"
            )
        self._cache, self._compile = cache, compile
        self._how = {"cache": str(cache)} if cache and self.causal else {}
        self._how |= {"compile": "eager"} if compile is False else {}
        self._model: Any = None
        self._attn, self._made = attn, {}
        self.start: int | None = None  # id of the token that a decoder behind an encoder begins with
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise UsageError(f"--device {device}: use auto, cpu, cuda, or one of several like cuda:1")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise UsageError(
                f"--device {device}: torch {torch.__version__} finds no CUDA device here. Use --device cpu"
            )

    @property
    def dtype(self) -> str:
        return str(self._model.dtype).removeprefix("torch.")

    @property
    def attention(self) -> str:
        """The attention implementation in effect."""
        return self._model.config._attn_implementation

    @property
    def flags(self) -> dict[str, str]:
        made = {"attention": self.attention} | self._how | self._made | self._adapted
        if not self.causal:
            made |= {"task": str(self.task), "padding": f"{self.padding_side}, token {self.pad}"}
        if self.start is not None:
            made["logits"] = f"the decoder's first, behind token {self.start}"
        return made | ({"pooling": str(self.pooling)} if self.pooling else {})

    @property
    def threads(self) -> int:
        import torch

        return torch.get_num_threads()

    def load(self, longest: int = 0) -> None:
        if self._model is not None:
            return
        import torch

        dtype = getattr(torch, self._dtype) if self._dtype else "auto"
        how = {"dtype": dtype, "attn_implementation": self._attn, "trust_remote_code": self._trust}
        self._model, self._made = load(self, self._config, self.device, **how)
        ordinary = self.ordinary_tokens()[-adapter.TOKENS :].tolist() if self._adapter or self._others else []
        if self._others:
            every = self._adapter, *self._others
            self._model, self._mixed, self._adapted = mix(self._model, every, self.name, self.device, ordinary)
        elif self._adapter:
            self._model, self._adapted = adapter.put_on(self._model, self._adapter, self.name, self.device, ordinary)
        if self.task is Task.GENERATE and not self.causal:
            self.start = decoder_start(self.name, self._model)
        if not self.causal:
            self.context = min(self.context, places(self._model))
            text = self._model.config.get_text_config()
            if getattr(text, "pad_token_id", None) is None:  # a classifier of decoder kind finds the last token by it
                text.pad_token_id = self.pad
        accepted = inspect.signature(self._model.forward).parameters
        self._accepts_positions = "position_ids" in accepted
        self._cache_name = (
            "past_key_values" if "past_key_values" in accepted else "cache_params"
        )  # of state-space models
        self._accepts_logits_to_keep = "logits_to_keep" in accepted
        self.new_cache(1)
        if self._compile:
            with quiet_transformers():
                self._how["compile"] = compile_model(self._model, self.device)
        self._ends = self.ends

    def close(self) -> None:
        """Nothing to close."""

    @contextlib.contextmanager
    def running(self, kernels: str) -> Iterator[list[tuple[str, int]]]:
        calls: list[tuple[str, int]] = []
        if kernels == Kernels.STOCK:
            yield calls
            return
        if (name := compiled_part(self._model)) is not None:
            raise FailedError(
                f"--kernels batch-invariant: {name or 'the model'} is compiled by torch.compile, whose fused kernels call none of ours. Load the model without it"
            )
        try:
            with batch_invariant() as coverage:
                yield calls
        except NotInvariantError as error:
            raise FailedError(f"--kernels batch-invariant: {error}") from error
        if not coverage.overridden:
            raise FailedError(
                "--kernels batch-invariant: no op of this model ran on our kernels, so nothing can be said of them"
            )
        calls += of_coverage(coverage).items()

    def max_rows(self, tokens: int, logits: int = 1, backward: bool = False) -> int:
        """`logits`: tokens of a row whose logits are held at once; `backward`: what every layer computes is held too."""
        import torch

        text = self._config.get_text_config()
        heads, hidden = getattr(text, "num_attention_heads", 1), getattr(text, "hidden_size", 1)
        head_dim = getattr(text, "head_dim", None) or hidden // heads
        layers = getattr(text, "num_hidden_layers", 1)
        cache = 2 * layers * (getattr(text, "num_key_value_heads", None) or heads) * head_dim
        prefill = 6 * hidden + 3 * (getattr(text, "intermediate_size", None) or 4 * hidden)
        scores = tokens * (heads if self.attention == "eager" else 1)
        prefill, logits = (prefill * layers, 4 * logits) if backward else (prefill, logits)
        row_bytes = tokens * (cache + prefill + scores) * self._model.dtype.itemsize + 8 * logits * text.vocab_size
        free = torch.cuda.mem_get_info(self.device)[0] if self.device.startswith("cuda") else free_memory()
        return max(1, int(MEMORY_SHARE * free / row_bytes))

    def complete(
        self,
        rows: Sequence[Row],
        max_tokens: int,
        ignore_eos: bool,
        token_budget: int | None = None,
        cached: bool = False,
        padding: int = 0,
    ) -> Decoded:
        import torch

        seen: set[int] = set()
        hook = self._model.register_forward_pre_hook(
            lambda _, __, inputs: seen.add(len(inputs["input_ids"])), with_kwargs=True
        )
        try:
            which = [row.adapter for row in rows]
            mixing = self._mixed.rows(which) if self._mixed else contextlib.nullcontext({0})
            with torch.inference_mode(), quiet_transformers(), mixing as met:
                completions = self._decode(
                    rows, max_tokens, frozenset() if ignore_eos else self._ends, padding, token_budget
                )
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise OutOfMemoryError(f"out of memory with {len(rows)} rows: {first_line(error)}") from None
        finally:
            hook.remove()
        return Decoded(completions, tuple(sorted(seen)) if set(which) <= met else ())

    def prefill(self, row: Row, made: Completion) -> Decoded:
        from detcheck.engines.transformers.prefill import prefill

        with self._mixed.rows([row.adapter]) if self._mixed else contextlib.nullcontext():
            return prefill(self, row, made)

    def new_cache(self, tokens: int) -> Any:
        """What a batch begins with whose rows grow to so many tokens, the last one that is made left out. None: the model makes it."""
        if self._cache != Cache.STATIC:
            return None
        return static_cache(self._model, self._cache_name, tokens, self.name)

    def forward(self, ids: Any, mask: Any, cache: Any, **extra: Any) -> tuple[Any, Any]:
        """(logits[B, kept, V], cache) of one pass: ids[B, n] behind what `cache` holds, mask[B, all tokens so far].

        Raises FailedError where something is to be held, and the model gave no cache that is known here.
        """
        given = cache
        if cache is None and mask.shape[1] > ids.shape[1]:
            raise FailedError(
                f"{self.name} gives neither past_key_values nor cache_params, so that its tokens cannot be fed one by one. "
                "detcheck.assert_batch_invariant takes any function of tensors, a whole model too"
            )
        if self._cache_name == "cache_params":  # states hold the past, so that the mask is of the new tokens alone
            mask = mask[:, -ids.shape[1] :]
        out = self._model(input_ids=ids, attention_mask=mask, use_cache=True, **{self._cache_name: cache}, **extra)
        cache = getattr(out, self._cache_name, None)
        if self._cache == Cache.STATIC and cache is not given:
            raise FailedError(
                f"--cache static: {self.name} took another cache than the static one that it was given. Leave it out"
            )
        return out.logits, cache

    def _decode(
        self, rows: Sequence[Row], max_tokens: int, ends: frozenset[int], padding: int, chunk: int | None
    ) -> dict[int, Completion]:
        import torch

        width = max(len(row.prompt) for row in rows) + padding
        size = self._config.get_text_config().vocab_size  # a config may name an end token that the model does not have
        # What is fed under the mask and after a sample has ended; its rows are never read.
        filling = min((end for end in ends if 0 <= end < size), default=0)
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
            slot: Measure(self._model.config.get_text_config().vocab_size, self.device, r.sampling)
            for slot, r in enumerate(rows)
            if r.continuation is None
        }
        cache, running = self.new_cache(width + max_tokens - 1), set(measures)
        begun = range(chunk, width, chunk) if chunk else ()  # where all but the last chunk of the prompts end
        for until in begun:
            if self._accepts_positions:
                extra["position_ids"] = positions[:, until - chunk : until]
            _, cache = self.forward(step_ids[:, until - chunk : until], mask[:, :until], cache, **extra)
        step_ids = step_ids[:, begun[-1] :] if begun else step_ids
        for step in range(max_tokens):
            until = width + step
            if self._accepts_positions:
                extra["position_ids"] = positions[:, until - step_ids.shape[1] : until]
            logits, cache = self.forward(step_ids, mask[:, :until], cache, **extra)
            with uncounted():
                if not running:
                    break
                # One look at the device for all samples: each waits for it to have finished.
                read = torch.stack([measures[slot].read(logits[slot, -1]) for slot in running]).tolist()
                for slot, numbers in zip(running, read, strict=True):
                    fed[slot, step] = measures[slot].take(*numbers)
            running -= {slot for slot in running if int(fed[slot, step]) in ends}
            if not running:
                break
            step_ids = fed[:, step : step + 1].to(self.device)
        return {slot: measure.completion("length" if slot in running else "stop") for slot, measure in measures.items()}
