"""Engine arguments as the user gives them, "key=value", typed and checked by vLLM's own parser. Imported in vLLM's process."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

KEY = "detcheck"
RESERVED = {
    "model": ": use --model",
    "dtype": ": use --dtype",
    "device": ": use --device",
    "trust_remote_code": ": use --trust-remote-code",
    "skip_tokenizer_init": ": detcheck sends token ids",
    "scheduler_cls": ": detcheck has its own, which counts arrivals in engine steps",
    "enable_lora": ": use --adapter",
    "worker_extension_cls": ": detcheck asks each worker by it what ran",
    "additional_config": ": detcheck names the kernels in it",
    "data_parallel_size": ": replicas share the requests out among them, so that no condition would form. Ask one replica",
}


@dataclass(frozen=True)
class Settings:
    """What to open."""

    model: str
    kernels: str
    defaults: dict[str, Any]
    """engine arguments that the user's own go before"""
    arguments: tuple[tuple[str, str], ...]
    """the user's own engine arguments, as text"""
    adapters: tuple[tuple[str, str] | None, ...] = ()
    """that requests name by their place: as it was named, and its folder; None: the model without one"""
    prompt: tuple[int, ...] = ()
    """tokens that show what an adapter changes"""


class BadArgumentError(Exception):
    """An engine argument that vLLM does not know or take."""


def engine_arguments(settings: Settings) -> Any:
    """vLLM's EngineArgs. Its own parser gives each of the user's arguments its type. Raises BadArgumentError."""
    from vllm import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> None:
            raise BadArgumentError(message)

    parser = EngineArgs.add_cli_args(Parser(add_help=False))
    actions = {action.dest: action for action in parser._actions}
    words: list[str] = []
    for name, text in settings.arguments:
        key = name.replace("-", "_")
        if key not in actions:
            near = difflib.get_close_matches(key, actions, 1)
            raise BadArgumentError(
                f"{name} is not an engine argument of vLLM{f'. Did you mean {near[0]}?' if near else ''}"
            )
        if key in RESERVED and not (key == "data_parallel_size" and text == "1"):
            raise BadArgumentError(f"{name} is not for you to set here{RESERVED[key]}")
        options = actions[key].option_strings
        if actions[key].nargs == 0:  # a flag
            if text.lower() not in ("true", "false"):
                raise BadArgumentError(f"{name} wants true or false; got {text}")
            no = [o for o in options if o.startswith("--no-")]
            yes = [o for o in options if not o.startswith("--no-")]
            if text.lower() == "true":
                words.append(yes[-1])
            elif no:
                words.append(no[-1])
        else:
            words.append(f"{options[-1]}={text}")
    try:
        parsed = vars(parser.parse_args(words))
    except SystemExit as error:
        raise BadArgumentError(" ".join(words)) from error
    asked = {name.replace("-", "_") for name, _ in settings.arguments}
    chosen = settings.defaults | {key: parsed[key] for key in asked}
    return EngineArgs(
        model=settings.model,
        skip_tokenizer_init=True,
        worker_extension_cls="detcheck.engines.vllm.worker.plugin.WorkerExtension",
        additional_config={KEY: {"kernels": settings.kernels}},  # part of what a compiled graph is cached under
        **chosen,
    )
