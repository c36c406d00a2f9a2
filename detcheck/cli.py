"""The command line: options -> Spec, print, exit code. One command per probe."""

from __future__ import annotations

import os
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from detcheck.errors import DetcheckError, UsageError
from detcheck.records import FailOn, Kernels, Run, Spec, Verdict

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Does an LLM inference stack give the same bits for the same request, and if not: where, why, and how often?\n\n"
    "Exit codes: 0 identical, 1 divergent, 2 usage, 3 inconclusive, 4 failed, 130 interrupted.",
)
INTERRUPTED = 130


class Format(StrEnum):
    TERMINAL = "terminal"
    JSON = "json"
    MD = "md"
    HTML = "html"
    JUNIT = "junit"


@app.callback()
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
    if version:
        from detcheck import __version__

        print(f"detcheck {__version__}")
        raise typer.Exit


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


FormatOption = Annotated[Format, typer.Option("--format", help="What to print on stdout.")]
FailOnOption = Annotated[FailOn, typer.Option(help="Which divergence exits with 1: any bit, tokens only, never.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


@app.command()
def completions(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Option(help="Hub id or folder. Default: the embedded amplifier, made on the spot.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", help="Completions per prompt.")] = 100,
    max_tokens: Annotated[int, typer.Option(help="Tokens per completion.")] = 128,
    prompt: Annotated[
        str | None, typer.Option(help="Default: 'Tell me about Richard Feynman' (the amplifier has its own).")
    ] = None,
    prompt_file: Annotated[
        str | None, typer.Option(help="One prompt a line, or .jsonl with `prompt` or `messages`.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put prompts through the tokenizer's chat template.")] = False,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on to --max-tokens past an end token.")] = False,
    kernels: Annotated[Kernels, typer.Option(help="Whose kernels run. This version has stock only.")] = Kernels.STOCK,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16 or short forms. Default: the model's own.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    attn: Annotated[
        str | None, typer.Option(help="Attention implementation: sdpa, eager ... Default: the model's own.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
    ] = False,
    sizes: Annotated[
        str | None,
        typer.Option("--batch-sizes", help="Like 1,8,64. Default: as many thresholds as the samples pay for."),
    ] = None,
    trials: Annotated[int, typer.Option(help="Repeats of every condition, at least.")] = 2,
    seed: Annotated[int, typer.Option(help="Of filler tokens and their places.")] = 0,
    output_dir: Annotated[Path, typer.Option(help="Where the run's folder is made.")] = Path("runs"),
    resume: Annotated[Path | None, typer.Option(help="Go on with this run; its options hold.")] = None,
    format: FormatOption = Format.TERMINAL,
    fail_on: FailOnOption = FailOn.ANY,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first divergence.")] = False,
    quiet: QuietOption = False,
) -> None:
    """N temperature-0 completions of a prompt, in batches of every kind: how many distinct, where do they fork?"""
    from detcheck import lookup, progress, runner

    own = lookup.find("probes", "completions").Options(
        samples, max_tokens, ignore_eos, prompt, prompt_file, chat, attn, trust_remote_code
    )
    spec = Spec("completions", own, model, kernels, dtype, device, seed, trials, batch_sizes(sizes), fail_on, fail_fast)
    with progress.shown(quiet) as on_progress:
        if resume:
            refuse_other_options(context, spec, runner.read(resume)[1])
            run = runner.resume(resume, on_progress)
        else:
            run = runner.run(spec, output_dir, on_progress, command=typed())
    finish(run, format)


def typed() -> str:
    """The command line, as it was given."""
    return shlex.join(["detcheck", *sys.argv[1:]])


def refuse_other_options(context: typer.Context, given: Spec, stored: Spec) -> None:
    """A run that is resumed has its options: one that is given all the same must not say otherwise."""
    for name, value in given.flat().items():
        parameter = {"batch_sizes": "sizes"}.get(name, name)
        if str(context.get_parameter_source(parameter)).endswith("COMMANDLINE") and value != stored.flat()[name]:
            option = "--" + name.replace("_", "-")
            raise UsageError(
                f"--resume goes on with the run's own options, and it has {option} {stored.flat()[name]}, not {value}. Leave {option} out"
            )


@app.command()
def judge(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSONL or parquet: `tokens` or `text`; optional `logprobs`, `batch_size`, `trial`, `prompt`."
        ),
    ],
    allow_unseen_batch: Annotated[
        bool, typer.Option("--allow-unseen-batch", help="Accept a pass without batch sizes.")
    ] = False,
    format: FormatOption = Format.TERMINAL,
    fail_on: FailOnOption = FailOn.ANY,
) -> None:
    """Judge completions that another harness collected, a sample a row."""
    from detcheck import runner

    finish(runner.judge_file(file, allow_unseen_batch, fail_on, command=typed()), format)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    format: FormatOption = Format.TERMINAL,
) -> None:
    """Judge a stored run again and show it in any format. Exits with the run's own code; needs no torch."""
    from detcheck import runner

    show(runner.load(run), format)


def finish(run: Run, format: Format) -> None:
    """Reports beside the data, the chosen one on stdout, and the exit code."""
    from detcheck.report import _github, write_all

    _github.publish(run)
    for trouble in write_all(run) if run.path else ():
        print(f"detcheck: {trouble}", file=sys.stderr)
    show(run, format)


def show(run: Run, format: Format) -> None:
    from detcheck.report import render

    if format is Format.TERMINAL:
        from detcheck.report.terminal import render as terminal

        text = terminal(run, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    else:
        text = render(run, format)
    sys.stdout.buffer.write(text.encode("utf-8"))
    sys.stdout.flush()
    if run.verdict is Verdict.FAILED:
        print(f"detcheck: {run.findings[0].note}", file=sys.stderr)
    raise typer.Exit(INTERRUPTED if run.interrupted else run.exit_code)


def main() -> None:
    """The entry point. Whatever happens, the exit code means what DESIGN says: an uncaught exception is 4, never 1."""
    try:
        app(standalone_mode=True)
    except DetcheckError as error:
        print(f"detcheck: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception:  # noqa: BLE001  the last boundary
        import traceback

        traceback.print_exc(file=sys.stderr)
        print(
            "detcheck: this is a defect in detcheck, not a verdict; please report it with the lines above",
            file=sys.stderr,
        )
        sys.exit(4)
