"""A GGUF file's weights, as floating-point numbers: how transformers is told, what it leaves in the file, and what it made of it."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

PLAIN = ("F32", "F16", "BF16", "F64")  # types that are floating point in the file too
GATE_UP = ("ffn_gate_exps", "ffn_up_exps")


def how(file: Path) -> dict[str, Any]:
    """Arguments for transformers. By its whole path: of a bare name it would take one in the current folder."""
    import transformers

    found = getattr(transformers, "GgufConfig", None)  # where weights may stay packed, for kernels of a GPU
    packed = {"quantization_config": found(dequantize=True)} if found else {}
    return {"gguf_file": str(file.absolute()), **packed}


def quiet() -> contextlib.AbstractContextManager[Any]:
    """Keeps a progress bar out of our output that transformers' own switch does not reach."""
    return contextlib.redirect_stderr(io.StringIO())


def report(model: Any, file: Path, loading: Mapping[str, Collection[Any]]) -> tuple[dict[str, Any], str]:
    """(transformers' loading report, and what it leaves out; what runs, in words)."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    architecture = reader.get_field("general.architecture").contents()
    names = [tensor.name for tensor in reader.tensors]
    made = {
        **loading,
        "missing_keys": {*loading["missing_keys"], *halves(names)},
        "unexpected_keys": {*loading["unexpected_keys"], *unread(model, architecture, names)},
    }
    types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    return made, described(types, str(model.dtype).removeprefix("torch."))


def halves(names: Collection[str]) -> set[str]:
    """Of experts, whose two matrices transformers puts into one, those that are not there: it would leave zeros in their place."""
    both = [(name, name.replace(*swap)) for name in names for swap in (GATE_UP, GATE_UP[::-1]) if swap[0] in name]
    return {other for _, other in both} - set(names)


def unread(model: Any, architecture: str, names: Collection[str]) -> set[str]:
    """Tensors that the model was not made of, where transformers does not report them itself."""
    try:
        from transformers import modeling_gguf_pytorch_utils as utils
        from transformers.integrations.gguf import GGUF_CONFIG_ARCHS as reported
    except ImportError:  # a version of another make
        return set()
    if architecture in reported:
        return set()
    processor = utils.TENSOR_PROCESSORS.get(architecture, utils.TensorProcessor)(config=model.config.to_dict())
    known = utils.get_gguf_hf_weights_map(model, processor)
    return {name for name in names if name not in known and name.removesuffix(".weight") not in known}


def described(types: Counter[str], dtype: str) -> str:
    """ "GGUF (14 tensors in Q8_0, 7 tensors in F32), turned back into float32 by transformers ..." """
    found = [f"{n} tensor{'s' * (n != 1)} in {name}" for name, n in types.most_common()]
    back = f"as {dtype}" if set(types) <= set(PLAIN) else f"turned back into {dtype}"
    return f"GGUF ({', '.join(found)}), {back} by transformers; the kernels are torch's, not llama.cpp's"
