"""Weights updated in a vLLM that runs. Its own call leaves the prefix cache of the old weights as it is: that is the leak to catch."""

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: make test installs it on Linux x86-64")


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """Tensors of an engine, packed ones too, before and after an update whose prefix cache is left."""
    from detcheck import runner
    from detcheck.probes.reload.options import Options
    from detcheck.spec import Spec

    asked = Spec("reload", Options(engine="vllm", keep_cache=True, max_tokens=8))
    return runner.run(asked, tmp_path_factory.mktemp("runs"))


def test_the_prefix_cache_of_the_old_weights_is_caught(left):
    (finding,) = left.findings
    assert [cause["code"] for cause in finding.evidence["causes"]] == ["cache"], left.warnings
    assert (left.exit_code, finding.evidence["after"]["updated"]["from the cache"]) == (1, 2)
    assert finding.evidence["after"]["updated"]["as fresh"] == 0


def test_once_it_is_emptied_the_engine_gives_what_a_fresh_one_gives(left):
    (finding,) = left.findings
    assert finding.evidence["after"]["emptied"]["as fresh"] == 2
    found = finding.evidence["update"]
    assert found["left_count"] == 0 and not found["failed"] and not found["unread"]
    assert finding.metrics["bytes_per_s"] > 0


def test_packed_weights_are_read_through_their_own_product(left):
    """Those of linear layers, which vLLM throws away on the CPU, and the head's beside its plain one."""
    import torch

    from detcheck.engines.vllm.worker.update import tensors_of

    (finding,) = left.findings
    assert finding.evidence["update"]["differ"] >= 10 * 8  # what each layer has
    hidden = torch.randn(5, 300)
    gone, kept = torch.nn.Linear(300, 5), torch.nn.Linear(300, 5)
    gone.weight = torch.nn.Parameter(torch.empty(0))
    for layer in (gone, kept):
        layer.input_size, layer.output_size = 300, 5
        layer.cpu_linear = lambda x, weight, bias: torch.nn.functional.linear(x, hidden)
    other = torch.nn.Linear(2, 2)
    other.weight = torch.nn.Parameter(torch.empty(0))
    found = dict(tensors_of(torch.nn.ModuleDict({"gone": gone, "kept": kept, "other": other})))
    assert torch.equal(found["gone.weight"], hidden) and torch.equal(found["kept.weight (packed)"], hidden)
    assert torch.equal(found["kept.weight"], kept.weight) and found["other.weight"] is None
