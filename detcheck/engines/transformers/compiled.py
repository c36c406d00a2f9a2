"""torch.compile around a model's forward pass, so that what runs is compiled or the run ends: torch's own way back to eager is closed.

Every graph counts its calls, and a pass that called none ends the run. Shapes are dynamic from the first call on (`dynamic=True`). Otherwise
a graph is made of the first shape and another one for all later ones, and the same batch has other bits when it comes again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from detcheck.errors import FailedError, OutOfMemoryError
from detcheck.models.checkpoint import first_line
from detcheck.tensors import out_of_memory

if TYPE_CHECKING:
    import torch

MOST_GRAPHS = (
    64  # of one model: more mean that a new one is made for each batch, and that is no compiled model to ask about
)
TOKENS = 3  # of the first pass, which shows whether it can be compiled
NEEDS = (
    "On a CPU it needs a C++ compiler (g++), on a GPU Triton. Install that, or leave out --compile; with --engine vllm, "
    "--engine-arg enforce_eager=false compiles"
)


class Compiled:
    """Takes the place of a model's forward pass."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        """Nothing is compiled before the first call."""
        import torch
        import torch._dynamo.exc

        functools.update_wrapper(self, forward)
        self.graphs = self.calls = 0
        self._exceptions = torch._dynamo.exc
        self._run = torch.compile(forward, backend=self._made, dynamic=True)
        self._strict = torch._dynamo.config.patch(
            recompile_limit=MOST_GRAPHS, fail_on_recompile_limit_hit=True, suppress_errors=False
        )

    def _made(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        """A graph, compiled by inductor, that counts its calls."""
        import torch._dynamo

        made = torch._dynamo.lookup_backend("inductor")(graph, inputs)
        self.graphs += 1

        def call(*arguments: Any) -> Any:
            self.calls += 1
            return made(*arguments)

        return call

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Raises FailedError where it cannot be compiled, or ran without a graph; OutOfMemoryError as eager does."""
        before = self.calls
        try:
            with self._strict:
                out = self._run(*arguments, **options)
        except self._exceptions.FailOnRecompileLimitHit:
            raise FailedError(
                f"--compile: more than {MOST_GRAPHS} graphs were made of this model, one for nearly each batch. Leave out --compile"
            ) from None
        except self._exceptions.TorchDynamoException as error:
            if out_of_memory(error):
                raise OutOfMemoryError(f"out of memory: {first_line(error)}") from None
            raise FailedError(f"--compile: torch.compile failed: {first_line(error)}. {NEEDS}") from error
        if self.calls == before:
            raise FailedError(
                "--compile: a forward pass ran without any compiled graph. Unset TORCH_COMPILE_DISABLE and TORCHDYNAMO_DISABLE, "
                "or leave out --compile"
            )
        return out


def compile_model(model: Any, device: str) -> str:
    """Compiles its forward pass, runs it once, and says what it is. Raises FailedError where it cannot be."""
    import torch

    model.forward = Compiled(model.forward)
    ids = torch.ones(2, TOKENS, dtype=torch.long, device=device)
    with torch.inference_mode():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    pieces = model.forward.calls
    return "torch.compile, inductor, dynamic shapes" + (f", in {pieces} pieces" if pieces > 1 else "")


def compiled_part(model: torch.nn.Module) -> str | None:
    """Name of a module of this model that runs under torch.compile, "" for the model itself; None: there is none."""
    for name, module in model.named_modules():
        if getattr(module, "_compiled_call_impl", None) is not None or type(module).__name__ == "OptimizedModule":
            return name
    return None
