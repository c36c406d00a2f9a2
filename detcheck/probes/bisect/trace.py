"""Every aten op of a forward pass, seen as it runs: where it stands, what goes in and what comes out.

A dispatch mode sees the leaf ops of modules and of functional calls alike; module hooks say where an op stands, and are what
catches a kernel that reaches no dispatcher. A call is found again in another run by its place: forward pass, module and which
visit to it, op, weight, and the index among these. An op more or less elsewhere does not shift it.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detcheck.coverage import uncounted
from detcheck.kernels.attention.hugging_face import transformers_attention
from detcheck.models.checkpoint import first_line
from detcheck.op import NotInvariantError
from detcheck.probes.bisect.arguments import flat
from detcheck.probes.bisect.call import Key, TracedCall, of_attention, points_into_the_batch
from detcheck.probes.bisect.rows import Layout, Part, like_the_others
from detcheck.probes.bisect.tensor import look, made_of_parts, weights
from detcheck.tensors import out_of_memory, same_form

if TYPE_CHECKING:
    import torch

ATTENTION = "transformers::attention"
UNSET = ("empty", "new_empty")  # what they give holds nothing yet
# By its own place, not by its name: a checkout, or a project of somebody's, may lie in a folder that is called detcheck.
OURSELVES = Path(__file__).parents[2].as_posix() + "/"
LIBRARIES = ("/torch/", OURSELVES, "/contextlib.py", "/functools.py", "<")


class Tracer:
    """Traces forward passes of a model, under no_grad: in inference mode composite ops would come in one piece."""

    def __init__(
        self,
        model: torch.nn.Module,
        alone: Mapping[Key, TracedCall] | None = None,
        layout: Layout | None = None,
        test: Callable[..., None] | None = None,
        nudge: Key | None = None,
    ) -> None:
        """`alone`: the calls of the prompt's lone run, which a batch of that layout is read by.

        `test(call, alone, function, arguments, options, kept, outputs, source)` is called for every op whose parts are known.

        `nudge`: the call of which the last row comes out moved by one ulp: the detector's own test subject.
        """
        self._model, self._alone, self._layout, self._test, self._nudge = model, alone, layout, test, nudge
        self._names = weights(model)
        self.calls: dict[Key, TracedCall] = {}
        self.unmatched: Counter[str] = Counter()
        """ops that the lone run has no counterpart of -> calls"""
        self._path: list[tuple[str, int]] = [("", 0)]
        self._visits: Counter[tuple[int, str]] = Counter()
        self._seen: Counter[Key] = Counter()
        self._step, self._tokens = -1, 0
        self.raised: tuple[Exception, str] | None = None
        """what an op raised last, and where, in words"""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Forward passes inside are traced."""
        from torch.utils._python_dispatch import TorchDispatchMode

        tracer = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                if any(made_of_parts(kind) for kind in types) and not func.is_view:
                    return NotImplemented  # a quantised weight does it with ops on its parts, which come here then
                return tracer.dispatch(func, args, kwargs or {})

        with contextlib.ExitStack() as undo:
            for name, module in self._model.named_modules():
                for hook in self._hooks(name, module):
                    undo.callback(hook.remove)
            self._mode = Mode()
            self._attention(undo)
            undo.enter_context(self._mode)
            yield

    def _attention(self, undo: contextlib.ExitStack) -> None:
        """Our attention of transformers is no op of torch: it is seen where transformers calls it."""
        from transformers import modeling_utils

        table = modeling_utils.ALL_ATTENTION_FUNCTIONS._local_mapping
        for name, function in list(table.items()):
            if function is transformers_attention:
                undo.callback(table.__setitem__, name, function)
                table[name] = self._seen_attention(function)

    def _seen_attention(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(module: Any, *arguments: Any, **options: Any) -> Any:
            def attend(*given: Any, **more: Any) -> Any:
                return function(module, *given, **more)

            with _below(self._mode):
                return self._call(ATTENTION, attend, arguments, options)

        return call

    def _hooks(self, name: str, module: torch.nn.Module) -> list[Any]:
        from torch.utils._pytree import tree_leaves

        open_calls: list[TracedCall] = []
        depths: list[int] = []

        def enter(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            if not name:
                self._step += 1
                if self._layout:
                    self._layout = replace(self._layout, tokens=self._layout.tokens + (self._step > 0))
                ids = kwargs.get("input_ids", args[0] if args else None)
                self._tokens = ids.shape[1]
            visit = self._visits[self._step, name]
            self._visits[self._step, name] += 1
            self._path.append((name, visit))
            depths.append(len(self._path) - 1)
            call = self._open(f"module {type(module).__name__}", None)
            with unseen():
                self._look_at(call, [leaf for leaf in tree_leaves((args, kwargs)) if name], floats_only=True)
            open_calls.append(call)

        def leave(module: torch.nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            call = open_calls.pop()
            del self._path[depths.pop() :]  # and what stands behind it: a module that raised is not left by a hook
            if name:
                with unseen():
                    self._finish(call, tree_leaves(out))

        return [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, with_kwargs=True),
        ]

    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = func._schema.name
        if func.is_view or name.endswith(("::_unsafe_view", "::detach", "::alias", "::lift_fresh")):
            return func(*args, **kwargs)
        return self._call(name, func, args, kwargs)

    def _open(self, op: str, weight: str | None) -> TracedCall:
        place = (self._step, *self._path[-1], op, weight)
        key = (*place, self._seen[place])
        self._seen[place] += 1
        return TracedCall(key, 0, op, self._path[-1][0], self._step)

    def _call(self, op: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        import torch

        leaves = flat((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not tensors or op.split("::")[1].startswith(UNSET):
            return self._run(op, function, args, kwargs)
        names = [self._names.get(t.untyped_storage().data_ptr(), "") for t in tensors if t.numel()]
        offsets = [t.storage_offset() for t, n in zip((t for t in tensors if t.numel()), names, strict=True) if n]
        call = self._open(op, f"{'|'.join(n for n in names if n)}{offsets}" if any(names) else None)
        alone = None if self._alone is None else self._alone.get(call.key)
        if self._alone is not None and (alone is None or alone.after is None):
            if alone is None:
                self.unmatched[op] += 1
            return self._run(op, function, args, kwargs)
        with unseen():
            self._look_at(call, leaves)
            kept = None
            if self._test is not None and alone is not None:
                kept = written(function, leaves)
        made = self._run(op, function, args, kwargs)
        with unseen():
            outputs = [t for t in flat(made) if isinstance(t, torch.Tensor)] or tensors[:1]
            if call.attention:
                outputs = outputs[:1]  # what comes beside it is for a backward pass
            if call.key == self._nudge:
                nudge(outputs[0])
            self._finish(call, outputs)
        if kept is not None and not call.moves:
            self._test(call, alone, function, args, kwargs, kept, outputs, source)
        return made

    def _run(self, op: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if not isinstance(error, NotInvariantError) and not out_of_memory(error):
                where = self._path[-1][0] or "the model"
                self.raised = error, f"{op} in {where} ({source()}) raised {type(error).__name__}: {first_line(error)}"
            raise  # as it is: the model may catch it

    def _look_at(self, call: TracedCall, leaves: list[Any], floats_only: bool = False) -> None:
        """What goes in. Of attention the mask is no part of what must be equal; of a module only floating-point numbers are."""
        import torch

        alone = None if self._alone is None else self._alone.get(call.key)
        late = []
        for place, leaf in enumerate(leaves):
            if not isinstance(leaf, torch.Tensor):
                call.plain[place] = "" if floats_only or callable(leaf) else repr(leaf)
            elif not floats_only or leaf.is_floating_point():
                before = None if alone is None else alone.inputs.get(place)
                call.inputs[place] = look(leaf, self._names, self._tokens, before, self._layout)
                if self._layout and before is None:
                    late.append(place)
        self._agree_on_rows(call, alone, leaves)
        for place in late:
            known = [(seen.shape, seen.part) for seen in call.inputs.values() if seen.part and seen.part.dims]
            call.inputs[place].part = like_the_others(call.inputs[place].shape, known)
        if self._layout and call.attention and alone:
            of_attention(call, alone, self._layout)
        if self._layout and points_into_the_batch(call):
            for seen in call.inputs.values():
                seen.part = seen.digest = None
        counted = call.inputs.values() if not call.attention else list(call.inputs.values())[:3]
        plain = () if floats_only or call.attention else tuple(call.plain.items())
        digests = [seen.digest for seen in counted]
        if None not in digests and (self._alone is None or alone is not None) and digests:
            call.before = hash((tuple(digests), plain))

    def _agree_on_rows(self, call: TracedCall, alone: TracedCall | None, leaves: list[Any]) -> None:
        """Where the rows of one input were found by their bytes, those beside it are the same ones: the widest decides."""
        picked = [s for s in call.inputs.values() if s.part and s.part.picked]
        if not picked:
            return
        best = max(picked, key=lambda s: s.shape[1])
        for place, s in call.inputs.items():
            if s is not best and s.floats and not s.weight and s.shape[:1] == best.shape[:1]:
                before = alone.inputs.get(place) if alone else None
                call.inputs[place] = look(leaves[place], self._names, self._tokens, before, self._layout, best.part)

    def _finish(self, call: TracedCall, outputs: list[Any]) -> None:
        import torch

        alone = None if self._alone is None else self._alone.get(call.key)
        sliced = self._layout is not None and any(
            s.part and s.part.dims and not s.part.whole for s in call.inputs.values()
        )
        picked = max(
            (s for s in call.inputs.values() if s.part and s.part.picked), key=lambda s: s.shape[1:], default=None
        )
        digests: list[int | None] = []
        for place, out in enumerate(outputs):
            if not isinstance(out, torch.Tensor) or (not out.is_floating_point() and not out.is_complex()):
                continue
            before = None if alone is None else alone.outputs.get(place)
            known = None
            if (
                picked
                and before
                and out.ndim
                and out.shape[0] == picked.shape[0]
                and before.shape[0] == len(picked.part.picked)
            ):
                known = Part((*picked.part.dims,), 0, picked.part.picked)
            seen = look(out, self._names, self._tokens, before, self._layout, known)
            # A result that holds no batch, of inputs that do, mixes the rows: nothing in it is the prompt's own.
            mixes = sliced and seen.part is not None and seen.part.whole
            call.outputs[place] = seen
            digests.append(None if mixes else seen.digest)
        if digests and None not in digests and not call.moves:
            call.after = hash(tuple(digests))
        call.order = len(self.calls)
        self.calls[call.key] = call


@contextlib.contextmanager
def _below(mode: Any) -> Iterator[None]:
    """Inside, the mode does not see what runs; those beneath it do."""
    from torch.utils._python_dispatch import _get_current_dispatch_mode, _pop_mode_temporarily

    if _get_current_dispatch_mode() is not mode:
        yield
        return
    with _pop_mode_temporarily():
        yield


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """What runs inside is our own looking: no mode sees it, nothing counts it."""
    import torch

    with uncounted(), torch._C._DisableTorchDispatch():
        yield


def written(function: Any, leaves: list[Any]) -> dict[int, torch.Tensor]:
    """Copies of what the op writes into, by place, so that it can be called again on what was there before."""
    schema = getattr(function, "_schema", None)
    if schema is None or not schema.is_mutable:
        return {}
    return {place: same_form(leaf) for place, leaf in enumerate(leaves) if hasattr(leaf, "untyped_storage")}


def nudge(tensor: torch.Tensor) -> None:
    """Move the last row by one representable number each."""
    row = tensor[(-1,) * (tensor.ndim - 1)]
    row.copy_(row.nextafter(row.new_full((), float("inf"))))


def source() -> str:
    """File and line of the model's code that is running, as far as it says which file."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename.replace("\\", "/")
        if not any(part in name if part != "<" else name.startswith("<") for part in LIBRARIES):
            return f"{'/'.join(name.split('/')[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
