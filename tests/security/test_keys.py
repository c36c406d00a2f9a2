"""A key is in no file, no log and no traceback: each is marked, asked with in every way, quoted back by the server, and looked for in every byte."""

import base64
import contextlib
import html
import itertools
import json
import os
import re
import subprocess
import sys
import traceback
from urllib.parse import quote

import httpx
import pytest
from misbehaving import completion, serving

import detcheck as api
from detcheck.engines.server.credentials import Secrets
from detcheck.redacted import HIDDEN, hide_user, hide_users, patterns

LETTERS = "Qx7Lm2Vt9"  # of which any run of five tells that it is the key's
KEY = f"sk-{LETTERS}+/&<'\"=\\{LETTERS[::-1]}"
SMALL = ("-n", "6", "--max-tokens", "6", "--conditions", "alone,wave-2", "--allow-unseen-batch", "--timeout", "5")


def pieces():
    """Every form in which a part of it could be read."""
    whole = [LETTERS, LETTERS[::-1]]
    parts = {text[n : n + 5] for text in whole for n in range(len(text) - 4)}
    for pad in range(3):  # base64, wherever in it the key begins
        coded = base64.b64encode(b"x" * pad + KEY.encode()).decode().rstrip("=")
        inner = coded[-(-pad * 4 // 3) + (pad > 0) : -2]
        parts |= {inner[n : n + 12] for n in range(0, len(inner) - 11, 3)}
    return sorted(parts)


PIECES = re.compile("|".join(map(re.escape, pieces())).encode())


def leaks(*texts):
    return [found[0] for text in texts for found in PIECES.finditer(text if isinstance(text, bytes) else text.encode())]


def files_of(folder):
    """Name and bytes of all that lies in there, temporary folders too."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leaking(folder, *said):
    found = files_of(folder)
    return [*(name for name, raw in found.items() if leaks(raw, str(name))), *leaks(*said)]


def in_every_form(text):
    """As servers write it again."""
    return [
        text, json.dumps(text), json.dumps(json.dumps(text)), quote(text, safe=""), quote(text), html.escape(text), text.replace("/", "\\/"),
        re.sub(r"[^\w-]", lambda m: f"\\u{ord(m[0]):04X}", text), base64.b64encode(text.encode()).decode(),
        base64.urlsafe_b64encode(text.encode()).decode(),
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where it is asked, with a temporary folder of its own in it."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def secrets_in(headers):
    """(all that was sent, the key in it)"""
    sent = [headers.get(name, "") for name in ("Authorization", "X-Gate")]
    if sent[0].startswith("Basic "):
        named = base64.b64decode(sent[0].removeprefix("Basic ")).decode()
        sent = [named, *named.split(":", 1)]
    return sent, sent[-1] or sent[0].removeprefix("Bearer ")


def echo(handler, body, number, together):
    """The headers, in every form, wherever an answer has room."""
    sent, key = secrets_in(handler.headers)
    said = [form for one in filter(None, [*sent, key]) for form in in_every_form(one)]
    if number % 4 == 0:
        return handler.send({"error": {"message": " ".join(said)}}, 500 + number % 3, X_Echo=quote(key))
    if number % 4 == 1:
        return handler.send(("{" + said[number % len(said)]).encode(), content_type=f"text/{key}")
    if number % 4 == 2:
        return handler.send(b"", 302, Location=f"http://127.0.0.1:9/{quote(key)}?key={key}")
    return completion(handler.server, body, number, choice={"text": " ".join(said), "finish_reason": "stop"})


def refuses(handler, body, number, together):
    return handler.send({"error": f"invalid key: {handler.headers['Authorization']} {handler.headers['X-Gate']}"}, 401)


def sleeps(handler, body, number, together):
    import time

    time.sleep(0.4)
    return completion(handler.server, body, number)


def in_other_encodings(handler, body, number, together):
    """As json.loads would read it from bytes; or the key alone."""
    if number % 4 == 3:
        return completion(handler.server, body, number)
    encoding = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le")[number % 5]
    sent, key = secrets_in(handler.headers)
    made = completion(handler.server, body, number, choice={"text": f"{sent} {key}", "finish_reason": "stop"})
    raw = json.dumps(made if number % 3 else {"error": {"message": key}}, ensure_ascii=False).encode(encoding)
    return handler.send(raw, 200 if number % 3 else 500)


WAYS = {
    "success": lambda h, b, n, t: completion(h.server, b, n), "echo": echo, "401": refuses, "UTF-16": in_other_encodings,
}  # fmt: skip
GIVEN = {
    "DETCHECK_API_KEY": ({"DETCHECK_API_KEY": KEY}, "{url}", ()),
    "OPENAI_API_KEY": ({"OPENAI_API_KEY": KEY}, "{url}", ()),
    "--header": ({"GATE": KEY}, "{url}", ("--header", "X-Gate=GATE")),
    "address": ({}, "http://user:" + quote(KEY, safe="") + "@{host}", ()),
    "address, as it is": ({}, f"http://user:{LETTERS[::-1]}@" + "{host}", ()),
}


def asked_with(given, server, monkeypatch):
    variables, url, more = GIVEN[given]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return ("--base-url", url.format(url=server.url, host=server.url.removeprefix("http://")), *more)


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("way", WAYS)
def test_a_key_is_written_nowhere(detcheck, folder, monkeypatch, given, way):
    monkeypatch.setenv("HF_TOKEN", KEY)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    with serving(WAYS[way], metrics=True, ids=False, takes_s=0.0) as server:
        arguments = asked_with(given, server, monkeypatch)
        result = detcheck("completions", *arguments, *SMALL, "--verbose")
        assert any(KEY in "".join(seen.values()) or "Basic" in str(seen) for seen in server.headers_seen)
    assert leaking(folder, result.out, result.err) == [], (result.code, result.err)
    runs = [*(folder / "runs").iterdir()] if (folder / "runs").exists() else []
    for run in runs:
        for format in ("terminal", "json", "md", "html", "junit", "sarif"):
            assert leaks(detcheck("report", run, "--format", format).out) == []
    assert result.code in (0, 1, 3, 4) and (way == "401" or len(files_of(folder)) > 8)


def test_the_other_commands_that_ask_servers(detcheck, folder, monkeypatch):
    monkeypatch.setenv("DETCHECK_API_KEY", KEY)
    (folder / "pairs.jsonl").write_text(json.dumps({"prompt": "ab", "completion": "cd"}) + "\n")
    with serving(echo, metrics=True, scores=True, takes_s=0.0) as server:
        for command in (
            ("score", "--prompt-file", "pairs.jsonl", "-n", "6"), ("logprobs", "--sampler", server.url, "--model", "m"), ("reload", "--model", "m"),
            ("completions", "--dry-run", "-n", "6"),
        ):  # fmt: skip
            address = () if command[0] == "logprobs" else ("--base-url", server.url)
            result = detcheck(*command, *address, "--verbose")
            assert leaking(folder, result.out, result.err) == [], (command, result.err)


def test_check_and_what_it_writes(detcheck, folder, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(echo, metrics=True, ids=False, takes_s=0.0) as server:
        url = server.url.replace("//", f"//user:{LETTERS[::-1]}@")
        (folder / "asked").mkdir()
        text = f'[probes.a]\nprobe = "completions"\nbase-url = {url!r}\nsamples = 6\nmax-tokens = 6\nconditions = ["alone", "wave-2"]\n'
        (folder / "asked" / "detcheck.toml").write_text(text)
        result = detcheck("check", "--config", folder / "asked" / "detcheck.toml", "--verbose")
    (folder / "asked" / "detcheck.toml").unlink()
    assert leaking(folder, result.out, result.err) == [] and len(files_of(folder)) > 12


@pytest.mark.parametrize("when", ["look", "complete"])
def test_a_library_that_dies_with_the_key_in_its_words_is_quoted_without(detcheck, folder, monkeypatch, when):
    """Sabotaged: what httpx raises quotes the headers. No traceback, and no defect of ours."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    count = itertools.count()

    def dies(self, method, url, **how):
        if when == "look" or next(count) > 14:
            raise RuntimeError(f"cannot send {dict(self.headers)} {KEY}\n{KEY}")
        return stream(self, method, url, **how)

    stream = httpx.AsyncClient.stream
    monkeypatch.setattr(httpx.AsyncClient, "stream", dies)
    with serving(takes_s=0.0) as server:
        result = detcheck("completions", "--base-url", server.url, *SMALL, "--verbose")
    assert leaking(folder, result.out, result.err) == [] and "Traceback" not in result.err
    said = " ".join((result.out + result.err).split())
    assert result.code in (3, 4) and "it cannot be sent (RuntimeError: cannot send " in said


def test_ctrl_c_and_a_timeout(detcheck, folder, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(sleeps, metrics=True, ids=False, takes_s=0.0) as server:
        slow = detcheck("completions", "--base-url", server.url, *SMALL[:-1], "0.3", "--verbose")
        monkeypatch.setattr("detcheck.engines.server.sampler.send", interrupted)
        stopped = detcheck("completions", "--base-url", server.url, *SMALL, "--verbose")
    assert "no answer within" in slow.out + slow.err and stopped.code == 130
    assert leaking(folder, slow.out, slow.err, stopped.out, stopped.err) == []


async def interrupted(*_):
    raise KeyboardInterrupt


MISTAKES = {
    "no scheme": ("--base-url", f"{LETTERS}:{KEY}@localhost:8000"),
    "a port that is none": ("--base-url", f"http://user:{LETTERS}/x#{LETTERS}@localhost:8000"),
    "a query": ("--base-url", f"http://localhost:8000/v1?api_key={KEY}"),
    "a fragment": ("--base-url", f"http://localhost:8000/v1#{KEY}"),
    "both": ("--base-url", f"ftp://{LETTERS}@localhost?{KEY}"),
    "a header's value": ("--header", f"Authorization: Bearer {KEY}"),
    "a value for a variable": ("--header", f"X-Key={LETTERS}"),
    "a value alone": ("--header", LETTERS),
    "a value that ends in =": ("--header", f"{LETTERS}=="),
    "an option that is none": (f"--api-key={KEY}",),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_key_at_the_wrong_place_is_refused_and_not_said_again(detcheck, folder, mistake, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    given = MISTAKES[mistake]
    url = () if given[0] == "--base-url" else ("--base-url", "http://127.0.0.1:9")
    result = detcheck("completions", *url, *given, "--verbose")
    assert result.code == 2 and leaking(folder, result.out, result.err) == [], result.err
    if len(given) == 2:
        key, value = given[0].lstrip("-"), json.dumps([given[1]])
        base = "" if key == "base-url" else 'base-url = ["http://127.0.0.1:9"]\n'
        (folder / "x.toml").write_text(f"[probes.completions]\n{base}{key} = {value}\n")
        result = detcheck("check", "--config", "x.toml")
        (folder / "x.toml").unlink()
        assert result.code == 2 and leaking(folder, result.out, result.err) == [], result.err


@pytest.mark.parametrize(
    "proxy",
    [f"http://{LETTERS}:{LETTERS[::-1]}@127.0.0.1:9", f"socks5://{LETTERS}:x@127.0.0.1:9", f"what://{LETTERS}@x:y"],
)
def test_a_proxy_of_the_environment_is_no_traceback_and_its_password_is_not_said(detcheck, folder, monkeypatch, proxy):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    result = detcheck("completions", "--base-url", "http://server.example", *SMALL, "--verbose")
    assert result.code == 4 and "Traceback" not in result.err and "cannot be asked" in result.err, result.err
    assert leaking(folder, result.out, result.err) == []
    listed = detcheck("env", "--format", "json")
    assert leaks(listed.out, listed.err) == []


def test_the_environment_of_a_run_has_no_variable_but_those_of_its_list(detcheck, folder, monkeypatch):
    for name in (
        "HF_TOKEN",
        "OPENAI_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "HTTPS_PROXY",
        "GITHUB_TOKEN",
        "PIP_INDEX_URL",
        "HF_ENDPOINT",
    ):
        monkeypatch.setenv(name, f"https://x:{KEY}@host")
    result = detcheck("matmul", "--shape", "4,8,8", "--trials", "2", "--verbose")
    listed = detcheck("env", "--format", "json")
    assert leaking(folder, result.out, result.err, listed.out, listed.err) == [] and result.code in (0, 1, 3)


def test_the_hubs_address_is_quoted_without_its_user(detcheck, folder, monkeypatch):
    """A mirror whose address holds a password, in what the hub's library says of it."""
    import huggingface_hub

    def fails(*_, **__):
        raise OSError(f"404 Client Error for url: https://user:{LETTERS}@mirror.example/api/models/x (a@b)")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    result = detcheck("completions", "--model", "some/model")
    assert (
        result.code == 4 and f"https://{HIDDEN}@mirror.example/api" in result.err and leaking(folder, result.err) == []
    )


@pytest.mark.parametrize("name", ["hf_token", "hf-token "])
def test_a_token_for_vllm_is_refused_before_anything_starts(detcheck, folder, name):
    result = detcheck("completions", "--engine", "vllm", "--engine-arg", f"{name}={KEY}")
    assert result.code == 2 and "Export HF_TOKEN" in result.err and leaking(folder, result.out, result.err) == []


def test_a_traceback_with_its_locals_has_no_key_of_ours(folder, monkeypatch):
    """As pytest -l and rich show them, of whatever is raised while a server is asked."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(refuses, metrics=True, takes_s=0.0) as server:
        for url in (
            server.url,
            "http://127.0.0.1:9",
        ):  # an address with a password stands in the caller's own variables
            with contextlib.chdir(folder), pytest.raises(api.FailedError) as raised:
                api.completions(base_url=[url], samples=4, max_tokens=6)
            frames = [
                f
                for f in traceback.TracebackException.from_exception(raised.value, capture_locals=True).stack
                if "detcheck" in f.filename and "tests" not in f.filename
            ]
            assert frames and leaks(*(repr(frame.locals) for frame in frames)) == []
    assert leaks(repr(Secrets.read((), ("user", KEY)))) == []


def test_another_process_leaves_none_either(folder, monkeypatch):
    """Bytecode, temporary files and all: a whole command, in a process of its own."""
    with serving(echo, metrics=True, ids=False, takes_s=0.0) as server:
        command = [sys.executable, "-m", "detcheck", "completions", "--base-url", server.url, *SMALL]
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            env={**os.environ, "OPENAI_API_KEY": KEY, "PYTHONPYCACHEPREFIX": str(folder / "pyc")},
        )
    assert leaking(folder, done.stdout, done.stderr) == [] and len(files_of(folder)) > 8


@pytest.mark.parametrize(
    ("variables", "user", "model"),
    [
        ({}, "acme-ai:s3cretpw@", "acme-ai/llama"), ({}, "assistant:s3cretpw@", "m"), ({}, "length:completions@", "m"),
        ({"OPENAI_API_KEY": "123456"}, "", "m"), ({"OPENAI_API_KEY": "ollama"}, "", "m"), ({"OPENAI_API_KEY": "litellm"}, "", "m"),
        ({"OPENAI_API_KEY": "EMPTY"}, "", "EMPTY"), ({"OPENAI_API_KEY": "choices"}, "", "m"), ({"OPENAI_API_KEY": "assistant"}, "", "m"),
        ({"OPENAI_API_KEY": "token_id"}, "", "m"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("chat", [False, True])
def test_a_plain_key_breaks_no_answer(detcheck, folder, monkeypatch, variables, user, model, chat):
    """What is spelled like a key is a number, a field, a word of the API or the model's name as well."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def answer(handler, body, number, together):
        return completion(handler.server, body, number, created=1732123456, lp=-0.1234567)

    with serving(answer, metrics=True, model=model, ids=not chat, takes_s=0.0) as server:
        result = detcheck(
            "completions", "--base-url", server.url.replace("//", f"//{user}"), *SMALL[:-2], *["--chat"] * chat
        )
        assert {body["model"] for body in server.requests} == {model}
    assert result.code in (0, 3) and "missing" not in result.out and "***/" not in result.out + result.err, result


@pytest.mark.parametrize(("key", "warned"), [("EMPTY", True), ("ollama", False)])
def test_a_key_that_is_too_short_to_be_redacted_is_warned_of(detcheck, folder, monkeypatch, key, warned):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving(metrics=True, takes_s=0.0) as server:
        result = detcheck("completions", "--base-url", server.url, *SMALL)
        assert ("fewer than 6 characters" in result.out) == warned, result
        (run,) = (folder / "runs").iterdir()
        assert ("fewer than 6 characters" in detcheck("completions", "--resume", run).out) == warned


def test_a_key_that_is_in_the_models_name_is_refused_in_words_unless_the_name_is_given(detcheck, folder, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "default")
    with serving(metrics=True, model="default-7b", takes_s=0.0) as server:
        refused = detcheck("completions", "--base-url", server.url, *SMALL)
        assert refused.code == 2 and "names its model ***-7b" in refused.err and "Say --model" in refused.err
        assert not server.requests
        given = detcheck("completions", "--base-url", server.url, "--model", "default-7b", *SMALL)
        assert {body["model"] for body in server.requests} == {"default-7b"} and given.code in (0, 3), given


def test_secrets_are_redacted_in_texts_and_keys_and_nowhere_else():
    secrets = Secrets()
    secrets.add("Authorization", "Bearer 123456", "123456", "the test")
    body = {
        "created": 1732123456,
        "lp": [-0.1234567, None, True],
        "token_id:123456": -1.0,
        "text": ["id 123456", "token_id:123456"],
    }
    shown = body | {"text": [f"id {HIDDEN}", "token_id:123456"], f"k {HIDDEN}": 1}
    assert secrets.hide_in(body | {"k 123456": 1}) == shown
    assert secrets.hide_in(["a/123456", "a/123456-2", "123456"], "a/123456") == ["a/123456", "a/123456-2", HIDDEN]
    assert secrets.hide_quoted('x{op="123456"} 123456\n') == f'x{{op="{HIDDEN}"}} 123456\n'
    page = 'x{model_name="m"} 1'
    assert secrets.hide_quoted(page) is page
    named = Secrets.read((), ("assistant", "s3cretpw"))
    said = ["assistant of assistants", "s3cretpw", "assistant:s3cretpw"]
    assert named.hide_in(said) == ["assistant of assistants", HIDDEN, HIDDEN]
    assert (
        Secrets.read((), ("tok-1234567", "")).hide_in("of tok-1234567") == f"of {HIDDEN}"
    )  # an address with a key alone


def test_every_form_is_found_and_nothing_else_is_hidden():
    secrets = Secrets()
    secrets.add("Authorization", f"Bearer {KEY}", KEY, "the test")
    for form in in_every_form(KEY):
        assert leaks(secrets.hide(form), secrets.hide_in(f"x {form} y")) == [] and HIDDEN in secrets.hide(form), form
    other = "an answer of sk-Qx7Lm and more"
    assert secrets.hide(other) == other and [re.compile(p) for p in patterns([KEY, "a"])]
    assert (
        hide_user(f"http://a:{KEY}@h:8000/x?k={KEY}#y") == f"http://{HIDDEN}@h:8000/x?{HIDDEN}"
        and hide_user("http://h/x") == "http://h/x"
    )
    assert (
        hide_users("see https://u:p@h/a, mail a@b and http://h/c@d")
        == f"see https://{HIDDEN}@h/a, mail a@b and http://h/c@d"
    )


def test_what_looks_finds_it():
    """The judge of this file: in each form the key is seen."""
    assert (
        all(leaks(form) for form in in_every_form(KEY))
        and leaks(base64.b64encode(f"u:{KEY}".encode()))
        and not leaks("sk- nothing")
    )
