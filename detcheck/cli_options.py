"""Options that several commands have, and the headings of the help that they stand under."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from detcheck import lookup
from detcheck.records import FailOn, Kernels

Format = StrEnum("Format", {name.upper(): name for name in lookup.names("formats")})


def batch_sizes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        sizes = tuple(int(word) for word in text.split(","))
    except ValueError:
        sizes = (0,)
    if min(sizes) < 1:
        raise typer.BadParameter(
            f"wants whole numbers of rows from 1 up, like 1,8,64; got {text}", param_hint="--batch-sizes"
        )
    return sizes


def panel(name: str, help: str, *flags: str, metavar: str | None = None) -> Any:
    """An option under a heading of the help."""
    return typer.Option(*flags, help=help, rich_help_panel=name, metavar=metavar)


MODEL, OP, SERVER, PROMPTS, SCHEDULE = "Model", "Op", "Server", "Prompts", "Schedule"
VERDICT = "Verdict and output"

KernelsOption = Annotated[
    Kernels, panel(MODEL, "Whose run: stock, batch-invariant, both; engine: vLLM's own.", metavar="NAME")
]
ModelOption = Annotated[str | None, panel(MODEL, "Hub id or folder. Default: the embedded amplifier.")]
DtypeOption = Annotated[str | None, panel(MODEL, "float32, bf16 ... Default: the model's own.")]
DeviceOption = Annotated[str, panel(MODEL, "auto, cpu or cuda.")]
AttnOption = Annotated[str | None, panel(MODEL, "Attention: sdpa, eager ... Default: the model's own.")]
TrustOption = Annotated[bool, panel(MODEL, "Run Python code that comes with the model.", "--trust-remote-code")]
PromptFileOption = Annotated[str | None, panel(PROMPTS, "One a line, or .jsonl with `prompt` or `messages`.")]
ChatOption = Annotated[bool, panel(PROMPTS, "Put prompts through the tokenizer's chat template.", "--chat")]
SeedOption = Annotated[int, panel(SCHEDULE, "Of filler tokens and their places.")]
EngineArgOption = Annotated[
    list[str] | None, panel(MODEL, "For vLLM, like max_num_seqs=64. May be given again.", metavar="KEY=VALUE")
]
FormatOption = Annotated[Format, panel(VERDICT, "What to print on stdout.", "--format")]
FailOnOption = Annotated[FailOn, panel(VERDICT, "Which divergence exits with 1: any bit, tokens only, never.")]
FailFastOption = Annotated[bool, panel(VERDICT, "Stop at the first divergence.", "--fail-fast")]
OutputOption = Annotated[Path, panel(VERDICT, "Where the run's folder is made.")]
ResumeOption = Annotated[Path | None, panel(VERDICT, "Go on with this run; its options hold.")]
QuietOption = Annotated[bool, panel(VERDICT, "No progress on stderr.", "--quiet", "-q")]
