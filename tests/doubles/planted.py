"""Faults planted in a model that runs on our kernels: at one place one op follows the batch from a size on, or is noisy.

A dispatch mode below the tracer's: what the tracer calls, again and alone too, goes through it.
"""

import contextlib
import random
from dataclasses import dataclass, field

import torch
import transformers
from models import llama_like
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoTokenizer

from detcheck.engines.transformers.engine import TransformersEngine
from detcheck.engines.transformers.logits import forward
from detcheck.judge.conditions import judge
from detcheck.kernels.attention import hugging_face
from detcheck.models import amplifier
from detcheck.probes.bisect.judge import findings
from detcheck.probes.bisect.options import Options
from detcheck.probes.bisect.session import Bisect
from detcheck.spec import Kernels, Spec

ATTENTION = "transformers::attention"
PROMPT = "Tell me about him"
ROWS = 8


@dataclass(frozen=True)
class Place:
    op: str
    path: str
    rows: int
    """of its output when the prompt is alone: first dimension"""


@dataclass
class Fault:
    place: Place
    kind: str
    """"batch" or "run" """
    size: int = 2
    """"batch": the smallest batch that has other bits"""
    chance: float = 0.5
    """"run": how often"""
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def strikes(self, out):
        if self.kind == "run":
            return self.rng.random() < self.chance
        return out.shape[0] >= self.size * self.place.rows


class Planted(TorchDispatchMode):
    """Faults in place; or, without any, a record of where ops are (`places`)."""

    def __init__(self, model, faults=()):
        super().__init__()
        self._model, self._faults, self._path = model, faults, [""]
        self.places = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if not func.is_view and any(isinstance(a, torch.Tensor) for a in args):
            self.strike(func._schema.name, made)
        return made

    def strike(self, op, made):
        out = made[0] if isinstance(made, tuple | list) else made
        if not isinstance(out, torch.Tensor) or not out.is_floating_point() or not out.ndim:
            return
        self.places.setdefault((op, self._path[-1]), Place(op, self._path[-1], out.shape[0]))
        for fault in self._faults:
            if (fault.place.op, fault.place.path) == (op, self._path[-1]) and fault.strikes(out):
                part = out[..., (fault.kind == "run") :: 3] if out.shape[-1] > 1 else out
                part.copy_(torch.where(part.isfinite(), part.nextafter(part.new_full((), float("inf"))), part))

    @contextlib.contextmanager
    def planted(self):
        hooks = []
        for name, module in self._model.named_modules():
            hooks += [
                module.register_forward_pre_hook(lambda *_, name=name: self._path.append(name)),
                module.register_forward_hook(lambda *_: (self._path.pop(), None)[1]),
            ]
        plain = hugging_face.differentiable

        def attend(*arguments):
            made = plain(*arguments)
            self.strike(ATTENTION, made)
            return made

        hugging_face.differentiable = attend
        try:
            with self:
                yield self
        finally:
            hugging_face.differentiable = plain
            for hook in hooks:
                hook.remove()


def places(engine):
    """Where faults can be planted: ops that compute something, with rows of the batch in the result: elsewhere none would strike."""
    alone, together = ({(p.op, p.path): p for p in computed(engine, rows)} for rows in (1, 2))
    return [place for at, place in alone.items() if at in together and together[at].rows == 2 * place.rows]


def computed(engine, rows):
    with engine.running("batch-invariant"), torch.no_grad(), Planted(engine._model).planted() as seen:
        forward(engine, [engine.encode(PROMPT)] * rows, 1)
    skipped = (
        "aten::_unsafe_view",
        "aten::copy_",
        "aten::clone",
        "aten::empty",
        "aten::_to_copy",
        "aten::new_",
        "aten::cat",
        "aten::full",
        "aten::where",
    )
    return [
        p
        for p in seen.places.values()
        if not p.op.startswith(skipped) and not p.op.endswith("_") and p.path and "rotary" not in p.path
    ]


def bisected(engine, faults, trials=8, sizes=(ROWS,), kernels=Kernels.BATCH_INVARIANT, **options):
    """The findings."""
    own = Options(**{"prompt": PROMPT, "decode": 1} | options)
    probe = Bisect(Spec("bisect", own, kernels=kernels, trials=trials, batch_sizes=sizes), engine)
    with Planted(engine._model, faults).planted():
        seen = [probe.observe(step) for step in probe.subject.schedule.steps]
    cases = [case for case, _ in probe.subject.cases]
    observations = [o for found, _ in seen for o in found]
    outcomes = {o.id: o for _, found in seen for o in found}
    return judge(cases, probe.subject.schedule, observations, outcomes, roles=dict(probe.subject.cases), by=findings)


def gpt2_like(folder):
    config = transformers.GPT2Config(
        vocab_size=amplifier.VOCABULARY,
        n_positions=256,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=None,
        eos_token_id=None,
    )
    return saved(transformers.GPT2LMHeadModel, config, folder)


def experts_like(folder, **changes):
    config = transformers.Qwen3MoeConfig(
        vocab_size=amplifier.VOCABULARY, hidden_size=64, intermediate_size=64, moe_intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=4, num_experts_per_tok=2,
        max_position_embeddings=256, bos_token_id=None, eos_token_id=None, pad_token_id=None, **changes,
    )  # fmt: skip
    return saved(transformers.Qwen3MoeForCausalLM, config, folder)


def saved(kind, config, folder):
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(amplifier.folder()).save_pretrained(folder)
    return folder


MADE = {"amplifier": None, "llama": llama_like, "gpt2": gpt2_like, "experts": experts_like}


def engine(name, folder):
    made = MADE[name]
    loaded = TransformersEngine(None if made is None else str(made(folder)))
    loaded.load()
    return loaded


def verdict_on(findings, faults):
    """(right op and kind for every fault, false positives): what the benchmark counts."""
    guilty = {(f.case.subject, f.case.input): f for f in findings if "culprit" in f.evidence}
    right = True
    for fault in faults:
        found = guilty.pop((fault.place.op, fault.place.path), None)
        expected = "run-variant" if fault.kind == "run" else "batch-variant"
        right = right and found is not None and found.verdict == expected
    return right, [f"{op} {path}" for op, path in guilty]
