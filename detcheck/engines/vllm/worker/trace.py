"""What every module of a vLLM model does with the rows of one request, and two arms on the innermost of them. Runs in vLLM's workers.

vLLM computes the tokens of all requests of a step as rows of one matrix, wherever a request stands in it. So a row is known by its
position in the prompt, and is the same row whether it was computed in one go, in chunks, or decoded: bytes in and bytes out of
each module are kept a row each, as hashes. What a layer with a cache takes in is its rows *and all before them*, so theirs are
chained: equal chains are equal caches, as far as bytes that went in can say.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

from detcheck.coverage import uncounted
from detcheck.engines.vllm.calls import ArgumentForm, ModuleTrace
from detcheck.engines.vllm.worker.module_call import SAMPLER, ModuleCall, source
from detcheck.engines.vllm.worker.rows import RowSpan, leaves, mapped, nudge, own_rows
from detcheck.engines.vllm.worker.scheduler import KEY
from detcheck.tensors import ALIGNED, integers, row_digests, same_form

TRACED = "traced"  # in a request's plan: it is the one whose rows are looked at
LOGITS = "LogitsProcessor"


class Trace:
    """Hooks on every module while a batch runs. What lone runs showed is kept for the batches after them."""

    def __init__(self, runner: Any, repeats: int) -> None:
        """`repeats`: calls of each arm. Raises AttributeError where this vLLM names things otherwise."""
        self._runner, self._repeats = runner, repeats
        self._root = runner.get_model()
        self._own: RowSpan | None = None
        self._asking = False
        self._inner: set[str] = set()
        self._offsets: dict[tuple[str, int, int], int] = {}
        stateful = [n for n, m in self._root.named_modules() if isinstance(m, AttentionLayerBase)]
        self._stateful = set(stateful) | {
            ".".join(name.split(".")[:n]) for name in stateful for n in range(len(name.split(".")))
        }
        self._placed()  # names that have moved are an error before anything runs

    @contextlib.contextmanager
    def running(
        self, lone: bool, test: bool, nudge: str | None, keep: tuple[str, int, int] | None, only_logits: bool
    ) -> Iterator[None]:
        """While a batch runs. `nudge`: the module whose last row comes out one ulp off. `keep`: (path, visit, position) of a row."""
        self.calls: list[ModuleTrace] = []
        self.logits: dict[int, np.ndarray] = {}
        """bit patterns that came out at a position of the request"""
        self.kept: tuple[np.ndarray, str] | None = None
        """bit patterns of the row that is kept, and its dtype"""
        self._keep = keep
        self._lone, self._test, self._nudge = lone, test, nudge
        self._visits: Counter[str] = Counter()
        self._open: list[ModuleTrace] = []
        self._chains: dict[str, dict[int, int]] = defaultdict(dict)
        self._done: set[Any] = set()
        self._step, self._own = -1, None
        named = [*self._root.named_modules(), (SAMPLER, self._runner.sampler)]
        hooks: list[Any] = []
        try:
            for name, module in named:
                if not name:
                    hooks.append(module.register_forward_pre_hook(self._begin, with_kwargs=True))
                if not only_logits:
                    hooks += self._hooked(name, module)
                if type(module).__name__ == LOGITS:
                    hooks.append(module.register_forward_hook(self._keep_logits))
            yield
        finally:
            for hook in hooks:
                hook.remove()
        if lone and test is False and not only_logits:
            self._inner = {c.path for c in self.calls} - {c.path for c in self.calls if not c.inner}

    def _placed(self) -> tuple[Any, Any]:
        """(ids of the requests of this step in the order of their rows, where each begins)"""
        return self._runner.input_batch.req_ids, self._runner.query_start_loc.np

    def _begin(self, module: Any, args: Any, kwargs: Any) -> None:
        """A forward pass begins: where are the request's rows?"""
        self._own = None
        names, starts = self._placed()
        tokens = next((t.shape[0] for t in leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.ndim), 0)
        for index, name in enumerate(names):
            plan = (self._runner.requests[name].sampling_params.extra_args or {}).get(KEY) or {}
            if plan.get(TRACED):
                computed = int(self._runner.input_batch.num_computed_tokens_cpu[index])
                first, last = int(starts[index]), int(starts[index + 1])
                self._own = RowSpan(first, last, computed, tokens, index, len(names))
                self._step += 1
        self._visits.clear()

    def _keep_logits(self, module: Any, args: Any, out: Any) -> None:
        if self._own and not self._asking and isinstance(out, torch.Tensor):
            self.logits[self._own.positions[-1]] = integers(self._own.cut(out)[-1]).numpy().copy()

    def _hooked(self, name: str, module: torch.nn.Module) -> list[Any]:
        kept: list[Any] = []

        def enter(module: Any, args: Any, kwargs: Any) -> None:
            if self._own is None or self._asking:
                return
            for call in self._open:
                call.inner = False
            visit, self._visits[name] = self._visits[name], self._visits[name] + 1
            with uncounted():
                rows, digests, forms = self._rows(leaves((args, kwargs)), everything=True)
                call = ModuleTrace(name, visit, type(module).__name__, 0, self._step, rows, digests, forms=forms)
                if name in self._stateful:
                    call.before = self._chained(name, rows, digests)
                self._open.append(call)
                kept.append(self._kept(call, args, kwargs))

        def leave(module: Any, args: Any, kwargs: Any, out: Any) -> None:
            if self._own is None or self._asking:
                return
            call, given = self._open.pop(), kept.pop()
            with uncounted():
                if name == self._nudge and call.step == 0:
                    nudge(self._own, out)
                rows, call.after, _ = self._rows(leaves(out), everything=False)
                if rows != call.positions:
                    call.after = [None] * len(call.positions)
                call.order = len(self.calls)
                self.calls.append(call)
                if self._keep and self._keep[:2] == (call.path, call.visit) and self._keep[2] in rows:
                    row = own_rows(out, self._own)[0][rows.index(self._keep[2])]
                    self.kept = integers(row).numpy().copy(), str(row.dtype).removeprefix("torch.")
                if given is not None:
                    self._asking = True
                    try:
                        asked = ModuleCall(call, module, given, self._own, name in self._stateful, self._offsets)
                        call.replayed = asked.replayed(out, self._repeats)
                        call.source = source(module) if call.replayed.differs else ""
                    finally:
                        self._asking = False

        return [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, with_kwargs=True),
        ]

    def _rows(self, found: Sequence[Any], everything: bool) -> tuple[list[int], list[int | None], list[ArgumentForm]]:
        """(positions, a hash a row, forms) of the tensors among these. `everything`: not the floating-point numbers alone."""
        own, parts, whole, forms = self._own, [], [], []
        for place, leaf in enumerate(found):
            if not isinstance(leaf, torch.Tensor):
                whole += [repr(leaf)] if everything and isinstance(leaf, (bool, int, float, str, type(None))) else []
                continue
            if isinstance(leaf, torch.nn.Parameter) or not (everything or leaf.is_floating_point()):
                continue
            rows = own.cut(leaf)
            if rows is None:
                whole.append(row_digests(leaf.reshape(1, -1)))
            else:
                parts.append(row_digests(rows.reshape(len(rows), -1)))
            dtype, offset = str(leaf.dtype).removeprefix("torch."), leaf.data_ptr() % ALIGNED
            forms.append(ArgumentForm(tuple(leaf.shape), dtype, tuple(leaf.stride()), place, offset))
        lengths = {len(part) for part in parts}
        every = list(own.positions)
        rows = every if lengths == {len(every)} else every[-1:]
        if len(lengths) != 1 or lengths not in ({len(every)}, {1}):
            return rows, [None] * len(rows), forms
        return rows, [hash((*column, *map(str, whole))) for column in zip(*parts, strict=True)], forms

    def _chained(self, name: str, rows: list[int], digests: list[int | None]) -> list[int | None]:
        """Of each row, all that went in up to it; where something before it was not seen, None."""
        chain, found = self._chains[name], []
        for position, digest in zip(rows, digests, strict=True):
            before = 0 if position == 0 else chain.get(position - 1)
            link = None if before is None or digest is None else hash((before, digest))
            if link is not None:
                chain[position] = link
            found.append(link)
        return found

    def _kept(self, call: ModuleTrace, args: Any, kwargs: Any) -> Any:
        """Copies of what went in, where the call will be asked again: it may write into them."""
        if self._lone:
            for form in call.forms:
                self._offsets[call.path, call.visit, form.place] = form.offset
        if not self._test or call.path not in self._inner or self._lone:
            return None
        form = call.path, call.visit, len(call.positions), tuple(form.shape for form in call.forms)
        if form in self._done:
            return None
        self._done.add(form)
        return mapped((args, kwargs), lambda _, t: same_form(t) if self._own.cut(t) is not None else t)
