"""Sampler and trainer on our kernels: vLLM and transformers give the same bits, in decoding, of a prompt, and in a training step."""

import numpy as np
import pytest
from families import FORMS, LAYOUTS, apart, made, one_vllm, scores, trained

from detcheck.models import amplifier

pytestmark = pytest.mark.usefixtures("needs_vllm")
DTYPES = ("float32", "bfloat16")
# Rotary frequencies where torch's own power and ours differ; frequencies that are scaled; other norms, activations and windows.
ASKED = ("amplifier", "Qwen3", "Llama 3", "Gemma 3")
COUNT = 4


@pytest.fixture(scope="module")
def agreement(needs_vllm, tmp_path_factory):
    """(model, dtype) -> what vLLM and transformers gave."""
    numbers = np.random.default_rng(0)
    prompts = [tuple(map(int, numbers.integers(400, 1900, n))) for n in (37, 5)]
    found = {}
    with one_vllm():
        for name in ASKED:
            folder = amplifier.folder() if name == "amplifier" else made(name, tmp_path_factory.mktemp("model"))
            forms = FORMS if name == "amplifier" else ()
            for dtype in DTYPES:
                found[name, dtype] = scores(folder, dtype, prompts, COUNT, forms)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ASKED)
def test_all_have_the_same_bits(agreement, name, dtype):
    scored = agreement[name, dtype]
    everybody = {"vLLM, prompt", "vLLM, decode", "transformers, decode", *(f"trainer, {layout}" for layout in LAYOUTS)}
    assert everybody <= set(scored.logprobs) and not scored.stock
    assert [len(each) for each in scored.logprobs["vLLM, prompt"]] == [37 + COUNT - 1, 5 + COUNT - 1]
    differ = scored.apart()
    assert all(far is not None and far[0] == 0 for far in differ.values()), differ


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_number_of_one_op_that_is_one_ulp_off_is_seen(agreement, dtype):
    scored = agreement["amplifier", dtype]
    model = scored.engine._model

    def nudge(module, given, out):
        out = out.clone()
        out[0, 0, 3] = out[0, 0, 3].nextafter(out.new_tensor(float("inf")))
        return out

    hook = model.model.layers[0].mlp.down_proj.register_forward_hook(nudge)
    try:
        moved = trained(model, scored.sequences, "alone", train=False)
    finally:
        hook.remove()
    count, numbers, far = apart(scored.logprobs["vLLM, prompt"], moved)
    assert 0 < count <= numbers and far > 0
    assert apart(scored.logprobs["vLLM, prompt"], trained(model, scored.sequences, "alone"))[0] == 0
