"""What the Triton kernels share: one binary for every batch, and how it is compiled.

Triton compiles a kernel again for what it sees in the arguments: an integer that is 1 or a multiple of 16, a pointer that is
aligned to 16 bytes. Where such an integer or pointer follows the batch, so does the binary. Therefore integers that follow
the batch are `do_not_specialize`, strides are handed over in a unit that the row's length alone decides, and a tensor that
does not fit is copied.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detcheck.op import NotInvariantError

if TYPE_CHECKING:
    import torch

    from detcheck.op import Signature

ALIGNMENT = 16  # bytes: Triton's own threshold
# Off: with it on, each kernel's compiler chooses which product is fused into which sum, and two kernels that must agree (attention
# at one go, and split) may be given different ones. Where we want a fused one the source says so. Triton 3.10 turns its default.
FP_FUSION = False
TYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}  # torch's names -> Triton's
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
ASSUMED = "sm_90"  # the target where there is no device: the interpreter, whose tests run the tiles of this one


@dataclass(frozen=True)
class Tile:
    """How much one program takes, and with what. What of it makes the result's bits is said where it is chosen."""

    sizes: Mapping[str, int]
    """constexpr -> value"""
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, object]:
        """How the kernel is compiled: the same at a launch and in a certificate."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": FP_FUSION}


def available() -> bool:
    """Whether Triton can be imported here: it does not exist for macOS and Windows."""
    return importlib.util.find_spec("triton") is not None


def need() -> None:
    if not available():
        raise NotInvariantError(
            "batch-invariant kernels on a GPU need Triton, which is not installed: pip install triton"
        )


def description() -> str:
    """What makes the bits, for a report."""
    import triton

    # What the environment makes of the option is asked of Triton where it tells (3.9); before, an option that is given holds.
    effective = getattr(triton.knobs.language, "fp_fusion_enabled", None)
    fused = effective(FP_FUSION) if effective else FP_FUSION
    return f"Triton {triton.__version__}, {target_of_device()}, {'fused' if fused else 'no fused'} multiply-add but where written"


def target_of_device() -> str:
    """The current device as a target's name, "sm_90" or "gfx942"; ASSUMED where there is none."""
    import torch

    if not torch.cuda.is_available():
        return ASSUMED
    if torch.version.hip:
        return torch.cuda.get_device_properties().gcnArchName.split(":")[0]
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def family(target: str) -> str:
    """The target whose tiles this one takes: what has the same matrix instructions, and at least its shared memory."""
    if target.startswith("gfx"):
        return "gfx"
    number = int(target.removeprefix("sm_"))
    return (
        "sm_90" if number == 90 else "sm_100" if number in (100, 103) else "sm_80"
    )  # sm_86, sm_89, sm_120 multiply as sm_80 does


def processors() -> int:
    """How many programs run side by side: one a multiprocessor. Decides how work is dealt out, never what is added to what."""
    import torch

    return torch.cuda.get_device_properties().multi_processor_count if torch.cuda.is_available() else 3


def on_its_device(launch: Callable[..., Any]) -> Callable[..., Any]:
    """Triton launches on the current device, and asks that one for its target: the launcher's tensors make theirs the current one."""

    @functools.wraps(launch)
    def there(*given: Any, **more: Any) -> Any:
        import torch

        device = next(each.device for each in given if isinstance(each, torch.Tensor))
        if device.type != "cuda" or device.index == torch.cuda.current_device():
            return launch(*given, **more)
        with torch.cuda.device(device):
            return launch(*given, **more)

    return there


def type_of(t: torch.Tensor) -> str:
    return TYPES[str(t.dtype)[6:]]  # behind "torch."


def unit(columns: int, dtype: str) -> int:
    """Strides are multiples of this many elements: of 16 bytes where the rows' own length is one, which Triton then knows."""
    wide = ALIGNMENT // BYTES[dtype]
    return wide if columns % wide == 0 else 1


def fit(t: torch.Tensor, step: int) -> torch.Tensor:
    """t itself where its last dimension is dense, its strides are multiples of `step` and it is aligned; else a copy that is."""
    dims = range(t.ndim - 1)
    dense = t.shape[-1] == 1 or t.stride(-1) == 1
    if dense and t.data_ptr() % ALIGNMENT == 0 and all(t.stride(d) % step == 0 for d in dims):
        return t
    return t.contiguous() if not t.is_contiguous() else t.clone()


def strides(t: torch.Tensor, step: int) -> list[int]:
    """Of all dimensions but the last, in units of `step` elements."""
    return [t.stride(d) // step for d in range(t.ndim - 1)]


Declared = dict[str, "Callable[[str, str], Signature]"]  # kernel -> (dtype, target) -> what `detcheck certify` is told
