"""A stock that reacts to the batch on every machine: the more rows a product has, the more parts it is added up in.

What a test says of stock must hold whatever this processor's stock does. So where stock has to react, its matrix products are these:
torch's `mm` and `addmm` of the CPU, and vLLM's linear layers. Equal rows of one product have equal bits, and nothing but the
number of rows matters. Our own kernels come after them in torch's dispatcher, so a run on ours is as it always is.
"""

import contextlib
import importlib.abc
import importlib.util
import os
import sys
import warnings
from pathlib import Path


def product(x, w, bias=None, packed=None):
    """x[M, K] @ w[N, K].T + bias[N]. packed: a dict that keeps the parts of w, for a weight that stays."""
    from detcheck.kernels.matmul import Packed, linear

    parts = max(1, min(len(x).bit_length(), x.shape[1]))  # 1, then 2 from two rows on, 3 from four on, 4 from eight on
    of_w = w.tensor_split(parts, 1)
    if packed is not None:
        if parts not in packed:
            packed[parts] = [Packed(b) for b in of_w]
        of_w = packed[parts]
    total = None
    for a, b in zip(x.tensor_split(parts, 1), of_w, strict=True):
        total = linear(a, b) if total is None else total + linear(a, b)
    return total if bias is None else total + bias


def in_torch():
    """The library that holds the two; they are torch's again when it is destroyed."""
    import torch

    def mm(keys, a, b):
        taken = a.dtype in (torch.float32, torch.bfloat16, torch.float16)
        return product(a, b.t()) if taken else plain.call_boxed(keys, a, b)

    def addmm(keys, bias, a, b, *, beta=1, alpha=1):
        return beta * bias + alpha * mm(keys, a, b)

    plain = torch.library.get_kernel("aten::mm", "CPU")
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.impl("mm", mm, "CPU", with_keyset=True)
        library.impl("addmm", addmm, "CPU", with_keyset=True)
    return library


def in_vllm(utils):
    def dispatch(layer, remove_weight):
        weight = layer.weight
        if weight.is_meta or weight.ndim != 2:
            return plain(layer, remove_weight)
        kept, packed = weight.detach().clone(), {}
        layer.cpu_linear = lambda x, _, bias=None: product(x.reshape(-1, x.shape[-1]), kept, bias, packed).view(
            *x.shape[:-1], len(kept)
        )
        return None

    plain, utils.dispatch_cpu_unquantized_gemm = utils.dispatch_cpu_unquantized_gemm, dispatch


class AfterImport(importlib.abc.MetaPathFinder):
    """Plants them in a process that is only starting, once it has imported what they go into; at once where it has."""

    def __init__(self):
        self.waiting = {
            "torch": lambda torch: setattr(torch, "_reacting", in_torch()),
            "vllm.model_executor.layers.utils": in_vllm,
        }
        for name in set(self.waiting) & set(sys.modules):
            self.waiting.pop(name)(sys.modules[name])

    def find_spec(self, name, path=None, target=None):
        if name not in self.waiting:
            return None
        plant = self.waiting.pop(name)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            plant(module)

        spec.loader.exec_module = exec_module
        return spec


@contextlib.contextmanager
def stock(folder):
    """In this process, and in all that are started meanwhile. folder: an empty one."""
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport reacting\nsys.path.pop(0)\nsys.meta_path.insert(0, reacting.AfterImport())\n"
    )
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
    library = in_torch()
    try:
        yield
    finally:
        library._destroy()
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
