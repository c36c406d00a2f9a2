"""A GGUF file's weights, as floating-point numbers: how transformers is told, what it leaves in the file, and what it made of it."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

PLAIN = ("F32", "F16", "BF16", "F64")  # types that are floating point in the file too


def how(file: Path) -> dict[str, Any]:
    """Arguments for transformers. By its whole path: of a bare name it would take one in the current folder."""
    import transformers

    found = getattr(transformers, "GgufConfig", None)  # where weights may stay packed, for kernels of a GPU
    packed = {"quantization_config": found(dequantize=True)} if found else {}
    return {"gguf_file": str(file.absolute()), **packed}


def quiet() -> contextlib.AbstractContextManager[Any]:
    """Keeps a progress bar out of our output that transformers' own switch does not reach."""
    return contextlib.redirect_stderr(io.StringIO())


def unread(model: Any, file: Path) -> set[str]:
    """Names of the tensors that the model was not made of, where transformers does not report them itself."""
    from gguf import GGUFReader

    try:
        from transformers import modeling_gguf_pytorch_utils as utils
        from transformers.integrations.gguf import GGUF_CONFIG_ARCHS as reported
    except ImportError:
        reported = ()
    reader = GGUFReader(file)
    architecture = reader.get_field("general.architecture").contents()
    if architecture in reported:
        return set()
    processor = utils.TENSOR_PROCESSORS.get(architecture, utils.TensorProcessor)(config=model.config.to_dict())
    known = utils.get_gguf_hf_weights_map(model, processor)
    return {t.name for t in reader.tensors if t.name not in known and t.name.removesuffix(".weight") not in known}


def described(model: Any, file: Path) -> str:
    """ "GGUF (14 tensors in Q8_0, 7 in F32), turned back into float32 by transformers ..." """
    from gguf import GGUFReader

    types = Counter(tensor.tensor_type.name for tensor in GGUFReader(file).tensors)
    found = [f"{n} tensor{'s' * (n != 1)} in {name}" for name, n in types.most_common()]
    dtype = str(model.dtype).removeprefix("torch.")
    back = f"as {dtype}" if set(types) <= set(PLAIN) else f"turned back into {dtype}"
    return f"GGUF ({', '.join(found)}), {back} by transformers; the kernels are torch's, not llama.cpp's"
