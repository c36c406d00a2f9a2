"""detcheck.toml and [tool.detcheck], prompts files, and what of a model's folder our own code reads.

The config asks `judge` and `compare` of files whose answers differ. Whoever changes the file cannot make a pass of that but by the options
that are meant to (`fail-on`), or by not asking it.
"""

from __future__ import annotations

import contextlib
import json
import re
import struct
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from fuzzing import Files, Target, WrongPassError, changed, encoded, raised, torn, written
from hypothesis import strategies as st

from detcheck import runner, stderr
from detcheck.check import file, run
from detcheck.errors import DetcheckError
from detcheck.harness import prompts
from detcheck.models import adapter, folder, gguf, quantised, sentence
from detcheck.models import stored as tensors
from detcheck.probes.logprobs import weights
from detcheck.probes.score import pairs

DIFFER = b'{"text": "one"}\n{"text": "two"}\n'
SAME = b'{"text": "one"}\n{"text": "one"}\n'
BASE = {
    "output-dir": "runs", "allow-unseen-batch": True, "quiet": False,
    "probes": {
        "judge": {"file": "differ.jsonl", "fail-on": "any"},
        "again": {"probe": "judge", "file": "same.jsonl", "input-format": "detcheck"},
        "completions": {"samples": 4, "batch-sizes": [1, 8], "base-url": ["http://127.0.0.1:9"], "engine-arg": ["a=b"], "conditions": "alone,wave-2", "dtype": "bf16"},
        "kernels": {"op": "rmsnorm", "trials": 2, "seed": 0, "max-tokens": 3},
        "compare": {"a": "same.jsonl", "b": "differ.jsonl"},
    },
}  # fmt: skip
VALUES = ("1", "-1", "0", "true", '""', '"a"', '"any"', '"never"', '"tokens"', "[]", "[1, 2]", '["a"]', "nan", "inf", "1e999", "1.5", "9" * 30, "9" * 5000, "{}", "{a = 1}", "1979-05-27", "07:32:00", "0x10", '"\\u0000"', '"\\ud800"', '"../out"', '"/"', '"differ.jsonl"', '"same.jsonl"', "'" + "a" * 5000 + "'", "[" * 1500, "[" * 200 + "]" * 200, '"x\\ny"', "[[1], [2]]", '"detcheck"', '"judge"', '"--help"', "1_0", "+1", "-0.0", "99999999999", "[-1]", '"1,8,"', '"alone"', '"~"', '"$HOME"')  # fmt: skip
KEYS = (
    "file",
    "other",
    "probe",
    "fail-on",
    "fail_on",
    "model",
    "samples",
    "n",
    "batch-sizes",
    "trials",
    "allow-unseen-batch",
    "input-format",
    "kernels",
    "dtype",
    "conditions",
    "prompt-file",
    "baseline",
    "header",
    "output-dir",
    "format",
    "resume",
    "x",
    '"a.b"',
    '""',
    "adapter",
    "op",
    "shape",
    "target",
    "max-diff",
    "timeout",
)


@st.composite
def configs(draw: st.DrawFn) -> Files:
    """TOML, line by line: keys, values, headings."""
    within = draw(st.sampled_from(("", "tool.detcheck.")))
    tables = {"": {k: v for k, v in BASE.items() if k != "probes"}}
    names = draw(st.lists(st.sampled_from(sorted(BASE["probes"])), min_size=1, max_size=3, unique=True))
    tables |= {f"probes.{name}": BASE["probes"][name] for name in names}
    lines = []
    for name, table in tables.items():
        lines += [f"[{(within + name).strip('.')}]"] if within or name else []
        lines += [
            f"{key} = {json.dumps(value)}"
            for key, value in table.items()
            if key not in ("allow-unseen-batch", "quiet") or draw(st.booleans())
        ]
    for _ in range(draw(st.integers(0, 3))):
        n = draw(st.sampled_from(range(len(lines))))
        how = draw(st.sampled_from(("value", "value", "value", "key", "drop", "again", "more", "heading")))
        key = lines[n].partition(" = ")[0]
        if how == "value" and " = " in lines[n]:
            lines[n] = f"{key} = {draw(st.sampled_from(VALUES))}"
        elif how == "key" and " = " in lines[n]:
            lines[n] = f"{draw(st.sampled_from(KEYS))} = {lines[n].partition(' = ')[2]}"
        elif how == "drop" and len(lines) > 1:
            del lines[n]
        elif how == "again":
            lines.insert(n, lines[n])
        elif how == "more":
            lines.insert(n + 1, f"{draw(st.sampled_from(KEYS))} = {draw(st.sampled_from(VALUES))}")
        else:
            lines[n] = draw(
                st.sampled_from(
                    (
                        "[probes]",
                        "[[probes.judge]]",
                        "[probes.judge.file]",
                        "[probes.'']",
                        '[probes."../x"]',
                        "[probes.report]",
                        "[tool]",
                        "[probes.a.b.c]",
                        f"[probes.{'a' * 300}]",
                        "[tool.detcheck.probes.judge]",
                        "[]",
                        "[probes.JUDGE]",
                        "[probes.judge]",
                    )
                )
            )
    text = "\n".join(lines) + "\n"
    name = "pyproject.toml" if within else "detcheck.toml"
    return {name: draw(torn(draw(encoded(text)), 8)), "differ.jsonl": DIFFER, "same.jsonl": SAME}


def check(here: Path) -> None:
    with contextlib.ExitStack() as held:
        # What dies is told in words, and here it is a find.
        held.enter_context(mock.patch.object(stderr, "trace", raised))
        held.enter_context(mock.patch.object(runner, "run", lambda *_, **__: nothing()))  # what would run a model
        try:
            config = file.find(here)
            suite = run.run(config, run.Called(), lambda _: contextlib.nullcontext(), lambda *_: None)
        except DetcheckError as error:
            assert error.lines and all(line.strip() for line in error.lines), "it was refused without a word"
            return
    if suite.exit_code == 0:
        raw = (here / config.path.name).read_bytes().decode("utf-8")
        document = tomllib.loads(raw)
        table = document if config.path.name == "detcheck.toml" else document["tool"]["detcheck"]
        never = {
            str(t.get("fail-on", t.get("fail_on", table.get("fail-on", table.get("fail_on")))))
            for t in table["probes"].values()
        }
        for name, one in table["probes"].items():
            if (
                one.get("probe", name) == "judge"
                and one.get("file") == "differ.jsonl"
                and not {"never", "tokens"} & never
            ):
                raise WrongPassError(f"[{name}] asks about answers that differ, and all passes")
        if not table["probes"]:
            raise WrongPassError("nothing is asked, and it passes")


def nothing() -> None:
    raise DetcheckError("nothing is run here")


# Prompts: text, JSONL, conversations, pairs to be scored.

LINES = (
    {"prompt": "one"}, {"text": "two"}, {"question": "three"}, {"messages": [{"role": "user", "content": "four"}]}, {"prompt": "a", "continuation": "b"},
    {"body": {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "t"}]}, {"role": "assistant", "content": "x"}, {"role": "tool", "content": "y", "tool_call_id": "1"}]}},
)  # fmt: skip


@st.composite
def prompt_files(draw: st.DrawFn) -> Files:
    lines = draw(st.lists(st.sampled_from(LINES), min_size=1, max_size=4))
    text = "\n".join(written(draw(changed(line))) for line in lines)
    return {"p.jsonl": draw(torn(draw(encoded(text)), 6))}


def check_prompts(here: Path) -> None:
    path = here / "p.jsonl"
    lines = [line for line in re.split(r"\r\n|\r|\n", path.read_bytes().decode("utf-8-sig", "replace")) if line.strip()]
    for read in (prompts.read_prompts, lambda p: prompts.read_prompts(p, turns=True), read_pairs):
        asked = refused(lambda read=read: read(path))
        if asked is not None and len(asked) != len(lines):
            raise WrongPassError(f"{len(lines)} lines are {len(asked)} prompts")
    path.rename(here / "p.txt")
    refused(lambda: prompts.read_prompts(here / "p.txt"))


def read_pairs(path: Path) -> list[pairs.Pair]:
    return [pairs.read(line, "p") for line in path.read_text("utf-8-sig").split("\n") if line.strip()]


def refused(call: Callable[[], object]) -> object | None:
    try:
        return call()
    except UnicodeDecodeError:
        return None  # of our own reading
    except DetcheckError as error:
        assert error.lines and all(line.strip() for line in error.lines), "it was refused without a word"
        return None


# A model's folder: its headers, its index, its adapter, how it is pooled.

HEADER = {
    "a.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b.weight": {"dtype": "I8", "shape": [4], "data_offsets": [16, 20]},
    "__metadata__": {"format": "pt"},
}
DOCUMENTS = {
    "model.safetensors.index.json": {"metadata": {"total_size": 20}, "weight_map": {"a.weight": "model.safetensors", "b.weight": "model.safetensors"}},
    "adapter_config.json": {"peft_type": "LORA", "r": 8, "rank_pattern": {"q": 4}, "target_modules": ["q"]},
    "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}, {"path": "2_Dense", "type": "x.Dense"}, {"path": "3", "type": "x.Normalize"}],
    "1_Pooling/config.json": {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
    "2_Dense/config.json": {"in_features": 2, "activation_function": "torch.nn.modules.activation.Tanh"},
    "sentence_bert_config.json": {"max_seq_length": 512},
    "config.json": {"architectures": ["Qwen3ForCausalLM"]},
}  # fmt: skip


@st.composite
def folders(draw: st.DrawFn) -> Files:
    text = written(draw(changed(HEADER))).encode("utf-8", "replace")
    length = draw(st.sampled_from((len(text),) * 6 + (len(text) - 1, len(text) + 1, 0, 2**40, 2**63, 2**64 - 1)))
    body = draw(st.sampled_from((20, 20, 20, 19, 21, 0)))
    files = {
        "model.safetensors": draw(torn(struct.pack("<Q", length) + text + bytes(body), 5)),
        "2_Dense/model.safetensors": b"",
        "adapter_model.safetensors": b"",
    }
    for name, document in DOCUMENTS.items():
        if draw(st.integers(0, 2)):
            files[name] = draw(torn(draw(encoded(written(draw(changed(document, 2))))), 9))
    if draw(st.integers(0, 3)) == 0:
        files["x.gguf"] = draw(torn(b"GGUF" + struct.pack("<IQQ", 3, draw(st.sampled_from((0, 2**63))), 2**64 - 1), 2))
    return files


def check_folder(here: Path) -> None:
    whole = refused(lambda: tensors.stored(here, "it"))
    if whole is not None:
        size = (here / "model.safetensors").stat().st_size
        if any(not 0 <= t.start <= t.start + t.nbytes <= size for t in whole if t.file.name == "model.safetensors"):
            raise WrongPassError("a tensor lies outside of its file, which is said to be whole")
        refused(lambda: list(tensors.buckets(whole, 8)))
        refused(lambda: weights.tensor_digests(here))
    for read in READERS:
        refused(lambda read=read: read(here))


READERS: tuple[Callable[[Path], object], ...] = (
    sentence.pools, sentence.longest, sentence.pooling, lambda here: list(quantised.kinds(here)), lambda here: adapter.find(str(here), False),
    lambda here: folder.resolve(str(here)), lambda here: gguf.of(str(here / "x.gguf")), lambda here: folder.digests(here, False, None),
)  # fmt: skip


def blind(*_: object) -> Iterator[tensors.StoredTensor]:
    """A planted fault: every file is whole, and has a tensor anywhere."""
    return [tensors.StoredTensor("a", Path("model.safetensors"), "F32", (1,), 4, 1 << 40)]


TARGETS = (
    Target("config", configs(), check, (runner, "judge_file", lambda *_: runner.load.undefined), 60),
    Target(
        "prompts",
        prompt_files(),
        check_prompts,
        (prompts, "from_json", lambda line, *_: json.loads(line)["prompt"]),
        80,
    ),
    Target("checkpoint", folders(), check_folder, (tensors, "tensors_of", blind), 60),
)
