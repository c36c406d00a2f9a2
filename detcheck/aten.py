"""What torch's own schemas say of an aten overload, each asked once: the switch needs them at every block."""

from __future__ import annotations

import functools


@functools.cache
def writers(name: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(overload, names of the arguments that it writes into) of all that compute the same: `out=`, and in place."""
    import torch

    base, _, overload = name.partition(".")
    own = [a.name for a in getattr(getattr(torch.ops.aten, base), overload or "default")._schema.arguments]
    found = []
    for packet in (base, f"{base}_"):
        for other in getattr(torch.ops.aten, packet).overloads() if hasattr(torch.ops.aten, packet) else ():
            given = getattr(getattr(torch.ops.aten, packet), other)._schema.arguments
            written = tuple(a.name for a in given if a.alias_info and a.alias_info.is_write)
            out = tuple(a.name for a in given if a.is_out)
            if written and [a.name for a in given if a.name not in out] == own:
                found.append((packet + ("" if other == "default" else f".{other}"), written))
    return tuple(found)


def made_of_others(name: str, key: str) -> bool:
    """Whether torch has no kernel for it there, and calls other ops in its place."""
    import torch

    return composite(name) and not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key)


@functools.cache
def composite(name: str) -> bool:
    import torch

    return torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "CompositeImplicitAutograd")


@functools.cache
def tensors_of(name: str) -> tuple[int, ...]:
    """Places of those arguments that are tensors."""
    import torch

    base, _, overload = name.partition(".")
    schema = getattr(getattr(torch.ops.aten, base), overload or "default")._schema
    return tuple(n for n, a in enumerate(schema.arguments) if isinstance(a.type, torch.TensorType) and not a.kwarg_only)
