"""The Triton kernels in Triton's interpreter, on the CPU: second copies of their modules, since TRITON_INTERPRET is read when a
kernel is defined.

Five things in Triton 3.9's interpreter are mended here. Triton's own helpers (`tl.sum`, `tl.cdiv`) were defined when it was
imported, and are interpreted only if the variable was set then. `tl.dot` multiplies the bit patterns of bfloat16 as if they were
integers; and it is numpy's matmul, whose order of addition follows the size of the tile, so that it would convict kernels
that are innocent: here it adds k after k, each product rounded and then the sum, in float32. And float32 becomes bfloat16 by
cutting bits off, where a GPU rounds to the nearest. And a kernel that calls another function of
its own leaves triton.language patched, so that nothing compiles in this process any more.
"""

import contextlib
import functools
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def interpreter(monkeypatch):
    import triton.experimental.gluon  # noqa: F401  imported at the first call otherwise, in the midst of what is mended
    from triton.runtime import interpreter, jit

    convert = interpreter._convert_float
    monkeypatch.setattr(
        interpreter,
        "_convert_float",
        lambda data, old, new, mode: (
            bfloat16(data) if (str(old), str(new)) == ("fp32", "bf16") else convert(data, old, new, mode)
        ),
    )
    monkeypatch.setattr(jit.JITFunction, "__call__", lambda self, *args, **kwargs: helper(self.fn)(*args, **kwargs))
    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot_in_order)


def call(function, *args, **kwargs):
    """A function that a kernel calls."""
    from triton.runtime import interpreter

    scope = interpreter._patch_lang(function.fn)
    try:
        return function.rewrite()(*args, **kwargs)
    finally:
        scope.restore()


@functools.cache
def helper(function):
    from triton.runtime.interpreter import InterpretedFunction

    return InterpretedFunction(function)


def bfloat16(data):
    import torch

    flat = torch.from_numpy(np.array(data, dtype=np.float32).reshape(-1))
    return flat.bfloat16().view(torch.int16).numpy().view(np.uint16).reshape(np.shape(data))


def float32(handle):
    import triton.language as tl

    if handle.dtype.scalar == tl.bfloat16:
        return (handle.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return handle.data.astype(np.float32)


def dot_in_order(self, a, b, d, input_precision, max_num_imprecise_acc):
    from triton.runtime.interpreter import TensorHandle

    left, right, total = float32(a), float32(b), d.data.astype(np.float32)
    for k in range(left.shape[-1]):
        total = total + left[..., :, k : k + 1] * right[..., k : k + 1, :]
    return TensorHandle(total, d.dtype.scalar)


@contextlib.contextmanager
def defining():
    """Kernels that are defined inside are interpreted wherever they are called. Triton itself is imported before, to compile."""
    import triton.language  # noqa: F401

    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        yield
    finally:
        os.environ.pop("TRITON_INTERPRET")
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before


# Kernels whose launcher is another file: what is copied with them, each file after those that it imports, the launcher last.
TOGETHER = {"attention": ("attention_tiles", "attention", "attention_splits", "attention_launch")}


def load(name, source=None):
    """A copy of detcheck.kernels._triton.`name` that runs on CPU tensors: of the file that launches its kernels, where that is another.

    source: the text of `name`, changed, for a kernel broken on purpose.
    """
    import detcheck.kernels._triton as package

    with defining(), pytest.MonkeyPatch.context() as patch:
        for each in TOGETHER.get(name, (name,)):
            path = source if source is not None and each == name else Path(package.__path__[0]) / f"{each}.py"
            module = copy(path)
            patch.setitem(sys.modules, f"{package.__name__}.{each}", module)  # for the files that follow
            patch.setattr(package, each, module, raising=False)
    return module


def copy(path):
    name = f"interpreted_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Triton looks a kernel's globals up there
    spec.loader.exec_module(module)
    return module
