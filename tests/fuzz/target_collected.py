"""`judge FILE`: completions that other harnesses wrote, in every format. The oracle reads the same files once more, in a few lines a format.

No file passes in which one request has two answers, or in which anything is missing, torn or not understood.
"""

from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from fuzzing import Files, Target, WrongPassError, asked, changed, encoded, torn, written
from hypothesis import strategies as st

from detcheck import runner
from detcheck.spec import InputFormat
from detcheck.storage import collected
from detcheck.storage.input import UNFINISHED

Answers = Iterator[tuple[str, str | None]]
"""(request, answer); None: the file says that there is none"""


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=repr)


def bits(values: Sequence[object] | None) -> list[str] | None:
    if values is None or not any(v is not None for v in values):
        return None
    return ["null" if v is None else struct.pack("<d", float(v)).hex() for v in values]


def ours(rows: Iterable[dict]) -> Answers:
    for row in rows:
        tokens, text = row.get("tokens"), row.get("text")
        spelled = [ord(c) for c in text or ""] if tokens is None else tokens
        answer = canonical([spelled, bits(row.get("logprobs")), row.get("finish_reason") and str(row["finish_reason"])])
        yield (
            canonical(row.get("prompt")),
            None if row.get("error") or not spelled or row.get("finish_reason") in UNFINISHED else answer,
        )


def calls(found: list | None) -> list:
    """Without the ids, which are made up each time."""

    def said(one: dict) -> list:
        arguments = one.get("arguments")
        return [one.get("name"), arguments if isinstance(arguments, str) else canonical(arguments), one.get("input")]

    return [[said(call.get("function") or call.get("custom") or {})] for call in found or ()]


def openai(rows: Iterable[dict]) -> Answers:
    for row in rows:
        name, response = canonical(row["custom_id"]), row.get("response")
        choices = (response or {}).get("body", {}).get("choices") or []
        if row.get("error") or not choices or response.get("status_code", 200) != 200:
            yield name, None
            continue
        for choice in choices:
            message, logprobs = choice.get("message"), choice.get("logprobs") or {}
            said = [choice.get("text")] if message is None else [message.get(k) or "" for k in ("content", "refusal")]
            if message is not None:
                said += [
                    message.get("reasoning") or message.get("reasoning_content") or "",
                    calls(message.get("tool_calls")),
                ]
                said += [calls([{"function": message["function_call"]}]) if message.get("function_call") else []]
            entries = [[e["token"], e.get("bytes"), bits([e["logprob"]])] for e in logprobs.get("content") or ()]
            of_text = [logprobs.get("tokens"), bits(logprobs.get("token_logprobs"))]
            yield name, canonical([said, entries, of_text, choice.get("finish_reason")])


def guidellm(documents: Iterable[dict]) -> Answers:
    for document in documents:
        for benchmark in document["benchmarks"]:
            for status in ("successful", "errored"):
                for one in benchmark["requests"].get(status, []):
                    named = one["prompt"] if isinstance(one.get("prompt"), str) else body_of(one["request_args"])
                    said = [one.get("output") or "", one.get("reasoning_output") or "", calls(one.get("tool_calls"))]
                    yield canonical(named), None if status == "errored" else canonical(said)


def body_of(arguments: str) -> object:
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return (found.get("body") or found) if isinstance(found, dict) else arguments


def lm_eval(rows: Iterable[dict]) -> Answers:
    filters: dict[str, object] = {}
    for row in rows:
        if filters.setdefault(canonical([row.get("doc_id", ""), row["arguments"]]), row.get("filter")) != row.get(
            "filter"
        ):
            continue  # written once more, by another filter
        for place, answers in enumerate(row["resps"]):
            for answer in answers:
                numbers = [float(answer[0]).hex(), str(answer[1])] if isinstance(answer, list) else answer
                yield canonical([row.get("doc_id", ""), row["arguments"], place]), canonical(numbers)


def vllm_bench(documents: Iterable[dict]) -> Answers:
    for one in documents:
        texts, nothing = one["generated_texts"], [None] * len(one["generated_texts"])
        for place, text in enumerate(texts):
            length, error = one.get("input_lens", nothing)[place], one.get("errors", nothing)[place]
            yield canonical([place, length]), None if error or not text else canonical(text)


def table(rows: Iterable[dict]) -> Answers:
    for row in rows:
        made = {k: cell(row[k], kind) for k, kind in (("tokens", int), ("logprobs", float)) if k in row}
        named = [row[k] for k in ("id", "prompt") if k in row]
        yield from ours([{"prompt": named, "text": row.get("text"), **made}])


def cell(text: str, kind: type) -> list | None:
    if not text.strip():
        return None
    return json.loads(text) if text.lstrip().startswith("[") else [kind(word) for word in text.split()]


READ: dict[str, Callable[[Iterable[dict]], Answers]] = {
    "detcheck": ours, "openai_batch": openai, "guidellm": guidellm, "lm_eval": lm_eval, "vllm_bench": vllm_bench, "csv": table,
}  # fmt: skip


def objects(path: Path) -> list[dict]:
    """Raises ValueError and its like for what cannot be read whole."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(path).read().to_pylist()
    text = path.read_bytes().decode("utf-8-sig")
    if path.suffix == ".csv":
        heading, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        return [dict(zip(map(str.strip, heading), row, strict=True)) for row in rows if row]
    try:
        parsed = [json.loads(line.strip(), object_pairs_hook=once) for line in text.split("\n") if line.strip()]
    except ValueError:
        parsed = [json.loads(text.strip(), object_pairs_hook=once)]
    return [one for held in parsed for one in (held if isinstance(held, list) else [held])]


def once(pairs: list[tuple[str, object]]) -> dict:
    if len(dict(pairs)) < len(pairs) and not all(type(value) in (int, float) for _, value in pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def check(folder: Path) -> None:
    paths = sorted(folder.iterdir())
    name = paths[0].name.partition(".")[0]
    other = paths[1] if len(paths) > 1 else None
    format = InputFormat(name.replace("_", "-"))
    run = asked(lambda: runner.judge_file(paths[0], True, other=other, input_format=format))
    if run is None:
        return
    said: list[dict[str, list[str]]] = []
    missing = False
    try:
        for path in paths:
            said.append({})
            for request, answer in READ[name](objects(path)):
                said[-1].setdefault(request, []).extend([answer] if answer is not None else [])
                missing |= answer is None
    except Exception as error:  # noqa: BLE001  whatever is wrong with it, it is no evidence
        if run.exit_code == 0:
            raise WrongPassError(f"it cannot be read whole ({type(error).__name__}: {error}), and passes") from None
        return
    together = {
        request: [a for side in said for a in side.get(request, ())] for request in {r for side in said for r in side}
    }
    if apart := [request for request, answers in together.items() if len(set(answers)) > 1]:
        if run.exit_code != 1:
            raise WrongPassError(f"{apart[0]} has two answers, and the verdict is {run.verdict}: {together[apart[0]]}")
    elif run.exit_code == 0 and (missing or not together or any(len(answers) < 2 for answers in together.values())):
        raise WrongPassError("an answer is missing, or there is nothing to compare, and it passes")


# What the files are made of: answers to two requests, of which some are not like the others.

TEXTS, IDS, NUMBERS = (
    ("one two", "one too", ""),
    ([1, 2, 3], [1, 2, 4], []),
    ([-0.5, -1.25, -0.1], [-0.5, -1.25, -0.1000000001], []),
)


def row_of(kind: int, prompt: int, variant: int) -> dict:
    made: dict = {"prompt": f"p{prompt}", "trial": 0, "batch_size": 1}
    base = min(variant, 1)
    if kind == 0:
        return made | {"text": TEXTS[variant]}
    if kind == 1:
        return made | {"tokens": IDS[variant]}
    if kind == 2:
        return made | {"tokens": TEXTS[base].split(), "finish_reason": "stop"}
    if kind == 3:
        return made | {"tokens": IDS[0], "logprobs": NUMBERS[base]}
    return made | {"tokens": IDS[0], "text": "abc", "finish_reason": ("stop", "length")[base]}


def choice_of(kind: int, variant: int) -> dict:
    text = TEXTS[variant]
    if kind == 0:
        return {"index": 0, "text": text, "finish_reason": "stop"}
    message: dict = {"role": "assistant", "content": "said"}
    call = {"id": f"call-{id(text)}", "type": "function", "function": {"name": "f", "arguments": text}}
    if kind == 1:
        words = text.split()
        content = [{"token": w, "logprob": -0.5, "bytes": list(w.encode()), "top_logprobs": []} for w in words]
        return {
            "message": message | {"content": "".join(words)},
            "logprobs": {"content": content},
            "finish_reason": "stop",
        }
    more = ({"refusal": text}, {"reasoning": text}, {"tool_calls": [call]}, {"function_call": call["function"]},
            {"tool_calls": [{"id": "x", "type": "custom", "custom": {"name": "f", "input": text}}]})[kind - 2]  # fmt: skip
    return {"index": 0, "message": message | more, "logprobs": None, "finish_reason": "tool_calls"}


@st.composite
def documents(draw: st.DrawFn) -> Files:
    """A file, or two, whose JSON was changed and whose bytes may be torn."""
    name = draw(
        st.sampled_from(("detcheck", "detcheck", "openai_batch", "openai_batch", "guidellm", "lm_eval", "vllm_bench"))
    )
    kinds = {"detcheck": 5, "openai_batch": 7}.get(name, 3)
    kind = draw(st.integers(0, kinds - 1))
    sides = draw(st.integers(1, 2)) if name == "detcheck" else 1
    made = {}
    for side in range(sides):
        plan = draw(st.lists(st.tuples(st.integers(0, 1), st.sampled_from((0, 0, 0, 1, 2))), min_size=1, max_size=5))
        lines = draw(changed(lines_of(name, kind, plan)))
        if isinstance(lines, list) and draw(st.booleans()):
            text = "\n".join(map(written, lines)) + "\n"
        else:
            text = written(lines).replace("[", "[\n", 1)
        made[f"{name}.{side}.jsonl"] = draw(torn(draw(encoded(text))))
    return made


def lines_of(name: str, kind: int, plan: Sequence[tuple[int, int]]) -> list[dict]:
    if name == "detcheck":
        return [row_of(kind, *one) | {"trial": n} for n, one in enumerate(plan)]
    if name == "openai_batch":
        bodies = [{"id": f"r{n}", "choices": [choice_of(kind, variant)]} for n, (_, variant) in enumerate(plan)]
        return [
            {"id": f"b{n}", "custom_id": f"c{prompt}", "response": {"status_code": 200, "body": bodies[n]}, "error": None}
            for n, (prompt, _) in enumerate(plan)
        ]  # fmt: skip
    if name == "guidellm":
        call = [{"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        answers = [
            {"prompt": f"p{prompt}", "request_args": '{"body": {"n": 1}}', "output": TEXTS[v if kind != 1 else 0] or "x", "info": {}}
            | ({"reasoning_output": TEXTS[v]} if kind == 1 else {"tool_calls": call * v} if kind == 2 else {})
            for prompt, v in plan
        ]  # fmt: skip
        requests = {"successful": answers, "errored": [], "incomplete": []}
        return [{"benchmarks": [{"config": {"strategy": {"type_": "concurrent", "streams": 8}}, "requests": requests}]}]
    if name == "lm_eval":
        generated = kind == 0
        return [
            {
                "doc_id": prompt, "filter": "none",
                "arguments": [[f"q{prompt}", {"until": ["."]}]] if generated else [[f"q{prompt}", " a"], [f"q{prompt}", " b"]],
                "resps": [[TEXTS[v]]] if generated else [[[-1.5, True]], [[(-2.5, -2.5000001, -3.0)[v], kind == 1 and v == 2]]],
            }
            for prompt, v in plan
        ]  # fmt: skip
    return [
        {
            "generated_texts": [TEXTS[0], TEXTS[v]],
            "errors": ["", ""],
            "input_lens": [3, 3 + prompt],
            "max_concurrency": 8,
        }
        for prompt, v in plan
    ]


@st.composite
def tables(draw: st.DrawFn) -> Files:
    plan = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=5))
    heading = ["id", "prompt", "text", "tokens", "logprobs"]
    rows: list[list[str]] = [
        [
            f"i{prompt}",
            f"p{prompt}",
            TEXTS[v],
            draw(st.sampled_from(("1 2 3", "[1, 2, 3]"))) if v < 2 else "",
            "-0.5 -1.25 -0.1",
        ]
        for prompt, v in plan
    ]
    keep = draw(st.sampled_from(([0, 2], [1, 2], [0, 1, 2], [0, 3], [1, 3, 4], [0, 2, 3], [2], [3, 4])))
    if draw(st.booleans()):
        row, column = draw(st.sampled_from(range(len(rows)))), draw(st.sampled_from(range(5)))
        nasty = (
            "",
            " ",
            '"',
            "1_0 2 3",
            "1 2 ٣",
            "[1, 2, 3, 4]",
            "[1, 2, 3",
            "1e999",
            "NaN",
            "\r\n",
            "\x00",
            "a" * 140_000,
            "[" * 3000,
            "9" * 5000,
        )
        rows[row][column] = draw(st.sampled_from(nasty))
    out = io.StringIO()
    csv.writer(out, lineterminator=draw(st.sampled_from(("\n", "\r\n", "\r")))).writerows(
        [[line[column] for column in keep] for line in (heading, *rows)]
    )
    return {"csv.csv": draw(torn(draw(encoded(out.getvalue()))))}


@st.composite
def parquets(draw: st.DrawFn) -> Files:
    """Columns of every type that parquet has."""
    import pyarrow as pa
    import pyarrow.parquet

    plan = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=5))
    lists = lambda of: (pa.list_(of), pa.large_list(of), pa.list_(of, 3), pa.list_(pa.list_(of)))  # noqa: E731
    texts = (
        pa.string(),
        pa.large_string(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.binary(),
        pa.string_view(),
        pa.null(),
    )
    whole = (
        pa.int64(),
        pa.int8(),
        pa.uint64(),
        pa.float64(),
        pa.float16(),
        pa.decimal128(30, 3),
        pa.bool_(),
        pa.timestamp("ns"),
        pa.null(),
    )
    floats = (pa.float64(), pa.float32(), pa.float16(), pa.decimal128(30, 10), pa.int64(), pa.string())
    columns = {
        "tokens": ([IDS[v] for _, v in plan], [t for one in (pa.int64(), pa.int32(), pa.uint64(), pa.float64(), pa.string(), pa.null()) for t in lists(one)]),
        "text": ([TEXTS[v] for _, v in plan], [*texts, pa.int64(), pa.list_(pa.string())]),
        "logprobs": ([NUMBERS[0] for _ in plan], [t for one in floats for t in lists(one)]),
        "batch_size": ([1 for _ in plan], whole), "trial": ([n for n, _ in enumerate(plan)], whole),
        "prompt": ([p for p, _ in plan], [*whole, pa.string(), pa.date64(), pa.duration("ns"), pa.time64("ns")]),
        "finish_reason": (["stop" for _ in plan], texts),
        "error": ([None for _ in plan], texts),
    }  # fmt: skip
    made = {}
    for name, (values, types) in columns.items():
        if not draw(st.integers(0, 2)):
            continue
        kind = draw(st.sampled_from(types)) if draw(st.integers(0, 2)) == 0 else types[0]
        if draw(st.integers(0, 5)) == 0:
            values = [None, *values[1:]]
        try:
            made[name] = pa.array(values).cast(kind) if kind != types[0] else pa.array(values, kind)
        except (pa.ArrowException, TypeError):
            made[name] = pa.nulls(len(plan), types[0])
    sink = pa.BufferOutputStream()
    compression = draw(st.sampled_from(("NONE", "SNAPPY", "ZSTD")))
    pa.parquet.write_table(pa.table(made or {"x": [1]}), sink, compression=compression)
    return {"detcheck.parquet": draw(torn(sink.getvalue().to_pybytes(), 3))}


def blind(self: object, row: object) -> object:
    """A planted fault: every answer is read as the same."""
    return collected.outcome(collected.np.asarray([1]), text="same")


TARGETS = (
    Target("collected", documents(), check, (collected.Collected, "_outcome", blind), 150),
    Target("collected-csv", tables(), check, (collected.Collected, "_outcome", blind), 60),
    Target("collected-parquet", parquets(), check, (collected.Collected, "_outcome", blind), 60),
)
