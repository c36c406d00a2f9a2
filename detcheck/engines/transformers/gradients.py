"""Gradients of one prompt's loss, from a loaded `TransformersEngine`: of the inputs that the prompt was given, and of every parameter.

The loss is the sum of the log-probabilities of the prompt's own tokens, each given those before it, with the sign turned: what a trainer sees whose
other samples have the weight zero. Neighbours are computed and differentiated too, by zeros. Their gradients are taken as autograd hands
them out, one parameter after the other: each is hashed and measured from that of the prompt alone, and only those are kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from detcheck.bits import furthest, patterns
from detcheck.coverage import uncounted
from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.errors import FailedError, OutOfMemoryError
from detcheck.hashes import content_hash
from detcheck.models.checkpoint import first_line, quiet_transformers
from detcheck.outcomes import Earlier
from detcheck.tensors import integers, out_of_memory

if TYPE_CHECKING:
    import torch

INPUTS = "the inputs"
"""what stands among the parameters' names for the embeddings of the prompt's tokens"""


@dataclass
class Gradients:
    """Of one sample, in the order in which the backward pass has them ready: the parameters nearest to the loss are the first."""

    lone: Gradients | None
    """what they are measured from; None: they are kept to be that"""
    hashes: dict[str, int] = field(default_factory=dict)
    """by the parameter's name"""
    apart: list[tuple[float, float]] = field(default_factory=list)
    """(ulp, absolute)"""
    bits: dict[str, np.ndarray] = field(default_factory=dict)
    first_input: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """bit patterns of the gradient of the first token's embedding, which the whole backward pass has reached"""
    dtype: str = ""
    """its"""

    def take(self, name: str, gradient: torch.Tensor) -> None:
        dtype = str(gradient.dtype).removeprefix("torch.")
        bits, far = integers(gradient).numpy(), (0.0, 0.0)
        known = self.lone.bits.get(name) if self.lone else None
        if known is not None and np.array_equal(bits, known):
            hashed = self.lone.hashes[name]
        else:
            hashed = int(content_hash(dtype.encode(), bits.tobytes())[:16], 16) - 2**63
            far = furthest(patterns(bits), patterns(known), dtype) if known is not None else far
        self.hashes[name] = hashed
        self.apart.append(tuple(float("nan") if number is None else number for number in far))
        if self.lone is None:
            self.bits[name] = bits.copy()

    def result(self) -> Earlier:
        apart = np.asarray(self.apart, np.float32).T
        return Earlier(np.asarray([*self.hashes.values()], np.int64), apart, tuple(self.hashes))


def lone_gradients(engine: TransformersEngine, prompt: Sequence[int]) -> Gradients:
    """Raises OutOfMemoryError if it does not fit, FailedError where there are none."""
    (made,), _ = gradients(engine, [prompt], [0], None)
    return made


def gradients(
    engine: TransformersEngine,
    prompts: Sequence[Sequence[int]],
    slots: Sequence[int],
    lone: Gradients | None,
    padding: int = 0,
) -> tuple[list[Gradients], tuple[int, ...]]:
    """(those of each of `slots`, rows that the backward passes were of). `padding`: pad tokens in front of the longest.

    Raises OutOfMemoryError if the batch does not fit, FailedError where the model has no gradients.
    """
    import torch

    made, seen = [Gradients(lone) for _ in slots], set()
    try:
        with quiet_transformers(), trained(engine) as named, torch.enable_grad():
            losses, inputs = forward(engine, prompts, slots, padding)
            for n, (slot, loss, taken) in enumerate(zip(slots, losses, made, strict=True)):
                with taking(named, taken):
                    inputs.grad = None
                    loss.backward(retain_graph=n + 1 < len(slots))
                of_inputs = inputs.grad
                seen.add(len(of_inputs))
                own = of_inputs[slot, of_inputs.shape[1] - len(prompts[slot]) :]
                if not bool((own != 0).any()):
                    raise FailedError(
                        f"{engine.name}: no gradient reaches the prompt's tokens, so there is nothing to compare"
                    )
                taken.take(INPUTS, own)
                taken.first_input, taken.dtype = integers(own[0]).numpy().copy(), str(own.dtype).removeprefix("torch.")
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            raise OutOfMemoryError(f"out of memory with {len(prompts)} rows: {first_line(error)}") from None
        raise FailedError(f"the backward pass of {engine.name} failed: {first_line(error)}") from error
    return made, tuple(sorted(seen))


def forward(
    engine: TransformersEngine, prompts: Sequence[Sequence[int]], slots: Sequence[int], padding: int
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """(the loss of each of `slots`, the embeddings [B, width, H] that all were computed from)."""
    import torch

    width = max(map(len, prompts)) + padding
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=engine.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=engine.device)
    extra = {"logits_to_keep": 0} if engine._accepts_logits_to_keep else {}
    if engine._accepts_positions:
        with uncounted():
            extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    embedded: list[torch.Tensor] = []
    table = engine._model.get_input_embeddings()
    hook = table.register_forward_hook(lambda _, __, out: embedded.append(out) or out.retain_grad())
    try:
        logits = engine._model(input_ids=ids, attention_mask=mask, use_cache=False, **extra).logits
    finally:
        hook.remove()
    if len(embedded) != 1:
        raise FailedError(
            f"{engine.name} calls its input embeddings {len(embedded)} times, so which are the prompt's is not known"
        )
    if logits.shape[1] != width:
        raise FailedError(f"{engine.name} gives the logits of its last token alone, so a prompt has no loss")
    likely = torch.log_softmax(logits[:, :-1].float(), -1).gather(-1, ids[:, 1:, None])[..., 0]  # [B, width - 1]
    losses = []
    for slot in slots:
        weights = torch.zeros_like(likely)
        weights[slot, width - len(prompts[slot]) :] = 1.0
        losses.append(-(likely * weights).sum())
    return losses, embedded[0]


@contextlib.contextmanager
def trained(engine: TransformersEngine) -> Iterator[dict[str, torch.Tensor]]:
    """Every parameter that can have a gradient, by its name, has one inside."""
    named = {name: p for name, p in engine._model.named_parameters() if p.is_floating_point()}
    before = {name: p.requires_grad for name, p in named.items()}
    try:
        for parameter in named.values():
            parameter.requires_grad_(True)
        yield named
    finally:
        for name, parameter in named.items():
            parameter.requires_grad_(before[name]).grad = None


@contextlib.contextmanager
def taking(named: dict[str, torch.Tensor], taken: Gradients) -> Iterator[None]:
    """Each parameter's gradient is taken when it is complete, and is not kept."""

    def taker(name: str) -> Callable[[torch.Tensor], None]:
        def take(parameter: torch.Tensor) -> None:
            taken.take(name, parameter.grad)
            parameter.grad = None

        return take

    hooks = [parameter.register_post_accumulate_grad_hook(taker(name)) for name, parameter in named.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
