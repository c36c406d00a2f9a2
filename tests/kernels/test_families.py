"""Kinds of models, tiny and seeded: with ours a row's bits follow neither its neighbours nor, where the model allows it, their padding."""

import pytest
import torch
import transformers

import detcheck
from detcheck.kernels._cpu.fallback import bits_equal

COMMON = {
    "vocab_size": 512,
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
HEADS = {"intermediate_size": 256, "num_attention_heads": 4, "max_position_embeddings": 128}
LINEAR = {
    "num_key_value_heads": 2, "head_dim": 24, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
}  # fmt: skip
CONFIGS = {
    "mamba": lambda: transformers.MambaConfig(**COMMON, state_size=8),
    "qwen3_next": lambda: transformers.Qwen3NextConfig(**COMMON, **HEADS, **LINEAR),
    "bert": lambda: transformers.BertConfig(**COMMON, **HEADS),
}
COUNTS = (1, 2, 5)  # of neighbours
PADS = 5


def made(name, kind):
    torch.manual_seed(3)
    model = kind.from_config(CONFIGS[name]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)  # so that logits are apart
    return model


def tokens(*size, seed=0):
    return torch.randint(5, 500, size, generator=torch.Generator().manual_seed(seed))


def generated(model, ids, mask):
    """Logits of the first row, a few tokens on."""
    found = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    return torch.stack(found.logits, 1)[0]


def beside(row, mask, count):
    """The row first, then `count` whole rows of its width."""
    width = row.shape[1]
    return torch.cat([row, tokens(count, width, seed=1)]), torch.cat([mask, torch.ones(count, width, dtype=torch.long)])


@pytest.mark.parametrize("name", ["mamba", "qwen3_next"])
def test_rows_of_state_space_and_hybrid_models_do_not_see_their_neighbours(name):
    """Padding reaches the chunks of the gated delta rule, so there a padded row is compared with itself, padded and alone."""
    model = made(name, transformers.AutoModelForCausalLM)
    row, ones = tokens(1, 9), torch.ones(1, 9, dtype=torch.long)
    padded = torch.cat([torch.full((1, PADS), 2), row], 1), torch.cat([torch.zeros(1, PADS, dtype=torch.long), ones], 1)

    def asked():
        answers = [[generated(model, *beside(*one, count)) for count in (0, *COUNTS)] for one in ((row, ones), padded)]
        return [[bits_equal(each, alone) for each in others] for alone, *others in answers], answers

    with detcheck.batch_invariant() as coverage:
        equal, answers = asked()
    assert all(map(all, equal)) and not coverage.uncovered
    assert bits_equal(answers[0][0], answers[1][0]) or name == "qwen3_next"
    assert not all(map(all, asked()[0]))


def test_an_embedding_sees_neither_its_neighbours_nor_their_length():
    """The mean over a row's own tokens, as sentence-transformers takes it."""
    model = made("bert", transformers.AutoModel)
    row, ones = tokens(1, 9), torch.ones(1, 9, dtype=torch.long)

    def embedded(ids, mask):
        with torch.no_grad():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask[..., None].float()
        return ((hidden * kept).sum(1) / kept.sum(1).clamp(min=1e-9))[0]

    def asked():
        alone, found = embedded(row, ones), [embedded(*beside(row, ones, count)) for count in COUNTS]
        for more in (1, PADS, 20, 60):
            behind = (
                torch.cat([row, torch.full((1, more), 2)], 1),
                torch.cat([ones, torch.zeros(1, more, dtype=torch.long)], 1),
            )
            found.append(embedded(*beside(*behind, 3)))
        return [bits_equal(each, alone) for each in found]

    with detcheck.batch_invariant() as coverage:
        assert all(asked()) and not coverage.uncovered
    assert not all(asked())
