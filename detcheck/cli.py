"""The command line: options -> Spec, print, exit code. One command per probe."""

from __future__ import annotations

import functools
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from detcheck.cli_options import (
    MODEL,
    OP,
    PROMPTS,
    SCHEDULE,
    SERVER,
    VERDICT,
    AttnOption,
    ChatOption,
    DeviceOption,
    DtypeOption,
    EngineArgOption,
    FailFastOption,
    FailOnOption,
    Format,
    FormatOption,
    KernelsOption,
    ModelOption,
    OutputOption,
    PromptFileOption,
    QuietOption,
    ResumeOption,
    SeedOption,
    TrustOption,
    batch_sizes,
    panel,
)
from detcheck.errors import DetcheckError, UsageError
from detcheck.probe import Probe
from detcheck.records import INTERRUPTED, FailOn, Kernels, Role, Run, Spec, Verdict

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Does an LLM inference stack give the same bits for the same request, and if not: where, why, and how often?\n\n"
    "Exit codes: 0 identical, 1 divergent, 2 usage, 3 inconclusive, 4 failed, 130 interrupted.",
)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose broken pipes and ends of input are uncaught exceptions like any other: typer would exit with 1."""

    @functools.wraps(function)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except (OSError, EOFError) as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    return app.command()(guarded)


@app.callback()
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
    if version:
        from detcheck import __version__

        print(f"detcheck {__version__}")
        raise typer.Exit


@command
def completions(
    context: typer.Context,
    model: ModelOption = None,
    kernels: KernelsOption = Kernels.STOCK,
    dtype: DtypeOption = None,
    device: DeviceOption = "auto",
    engine: Annotated[
        str, panel(MODEL, "auto, transformers or vllm. auto: vLLM where a GPU is.", metavar="NAME")
    ] = "auto",
    engine_arg: EngineArgOption = None,
    attn: AttnOption = None,
    trust_remote_code: TrustOption = False,
    prompt: Annotated[
        str | None, panel(PROMPTS, "Default: 'Tell me about Richard Feynman'; the amplifier has its own.")
    ] = None,
    prompt_file: PromptFileOption = None,
    chat: ChatOption = False,
    base_url: Annotated[
        list[str] | None, panel(SERVER, "Ask this server instead. Again for each of several replicas.", metavar="URL")
    ] = None,
    header: Annotated[
        list[str] | None,
        panel(SERVER, "A header whose value is in an environment variable.", metavar="NAME=VARIABLE"),
    ] = None,
    ca_bundle: Annotated[str | None, panel(SERVER, "Certificates that TLS is verified by.", metavar="FILE")] = None,
    timeout: Annotated[float, panel(SERVER, "Seconds that a request may take.")] = 300.0,
    max_concurrency: Annotated[int, panel(SERVER, "Requests in flight at once.")] = 64,
    max_requests: Annotated[int | None, panel(SERVER, "Requests to send in all. Default: no limit.")] = None,
    load_rate: Annotated[float | None, panel(SERVER, "Add a steady load of so many requests a second.")] = None,
    allow_unseen_batch: Annotated[
        bool, panel(SERVER, "Accept a pass where the server does not show its batches.", "--allow-unseen-batch")
    ] = False,
    dry_run: Annotated[
        bool, panel(SERVER, "Say how many requests and tokens it would send, and send none.", "--dry-run")
    ] = False,
    max_tokens: Annotated[int, panel(PROMPTS, "Tokens per completion.")] = 128,
    ignore_eos: Annotated[bool, panel(PROMPTS, "Go on to --max-tokens past an end token.", "--ignore-eos")] = False,
    samples: Annotated[int, panel(SCHEDULE, "Completions per prompt.", "--samples", "-n")] = 100,
    sizes: Annotated[
        str | None, panel(SCHEDULE, "Like 1,8,64. Default: the thresholds that the samples pay for.", "--batch-sizes")
    ] = None,
    conditions: Annotated[
        str | None, panel(SCHEDULE, "Like alone,wave-8,chunked. Default: those the samples pay for.", metavar="NAMES")
    ] = None,
    trials: Annotated[int, panel(SCHEDULE, "Repeats of every condition, at least.")] = 2,
    seed: SeedOption = 0,
    baseline: Annotated[
        str | None, panel(VERDICT, "A run, or the baseline.json of one, that this one must be equal to.", metavar="RUN")
    ] = None,
    fail_on: FailOnOption = FailOn.ANY,
    fail_fast: FailFastOption = False,
    format: FormatOption = Format.TERMINAL,
    output_dir: OutputOption = Path("runs"),
    resume: ResumeOption = None,
    quiet: QuietOption = False,
    verbose: Annotated[bool, panel(VERDICT, "What vLLM prints, on stderr.", "--verbose")] = False,
) -> None:
    """N temperature-0 completions of a prompt, in batches of every kind: how many distinct, where do they fork?"""
    if verbose:
        logging.getLogger("detcheck").setLevel(logging.INFO)
    named = tuple(word.strip() for word in conditions.split(",")) if conditions else None
    asked = samples, max_tokens, ignore_eos, prompt, prompt_file, chat, attn, trust_remote_code
    from detcheck.probes.completions import options as part

    servers = tuple(base_url or ()), tuple(header or ()), ca_bundle, timeout, max_concurrency, max_requests, load_rate
    own = part.Options(*asked, engine, tuple(engine_arg or ()), named, *servers, allow_unseen_batch, baseline)
    spec = Spec("completions", own, model, kernels, dtype, device, seed, trials, batch_sizes(sizes), fail_on, fail_fast)
    if dry_run:
        print(part.estimate(spec), end="")
        return
    probe(context, spec, format, output_dir, resume, quiet)


@command
def kernels(
    context: typer.Context,
    op: Annotated[str, panel(OP, "A bundled op, all, or your own: package.module:function.")] = "all",
    kernels: Annotated[
        Kernels, panel(OP, "stock, batch-invariant, or both: stock is reported beside ours.", metavar="NAME")
    ] = Kernels.BOTH,
    dtype: Annotated[str | None, panel(OP, "Like float32,bf16. Default: these two; float32 for your own.")] = None,
    device: Annotated[str, panel(OP, "auto, cpu or cuda.")] = "auto",
    shapes: Annotated[str | None, panel(OP, "Like 1024,4096. Default: the op's own; its smallest with all.")] = None,
    sizes: Annotated[str | None, panel(SCHEDULE, "Like 1,8,64. Default: all thresholds.", "--batch-sizes")] = None,
    trials: Annotated[int, panel(SCHEDULE, "Repeats of every condition.")] = 2,
    seed: Annotated[int, panel(SCHEDULE, "Of inputs and places.")] = 0,
    fail_on: FailOnOption = FailOn.ANY,
    fail_fast: FailFastOption = False,
    format: FormatOption = Format.TERMINAL,
    output_dir: OutputOption = Path("runs"),
    resume: ResumeOption = None,
    quiet: QuietOption = False,
) -> None:
    """One op, the same row in batches of every kind: always the same bits, the right ones, and how fast?"""
    named = tuple(word.strip() for word in shapes.split(",")) if shapes else None
    own = Probe("kernels").options(op, named)
    spec = Spec("kernels", own, None, kernels, dtype, device, seed, trials, batch_sizes(sizes), fail_on, fail_fast)
    probe(context, spec, format, output_dir, resume, quiet)


@command
def matmul(
    context: typer.Context,
    shape: Annotated[str, panel(OP, "M,N,K of [M, K] times [K, N].")] = "64,1024,1024",
    dtype: Annotated[str | None, panel(OP, "float32, bf16 ... Default: float32.")] = None,
    device: Annotated[str, panel(OP, "auto, cpu or cuda.")] = "auto",
    trials: Annotated[int, panel(SCHEDULE, "How many times to multiply.")] = 1000,
    seed: Annotated[int, panel(SCHEDULE, "Of the two matrices.")] = 0,
    fail_on: FailOnOption = FailOn.ANY,
    format: FormatOption = Format.TERMINAL,
    output_dir: OutputOption = Path("runs"),
    resume: ResumeOption = None,
    quiet: QuietOption = False,
) -> None:
    """One product of the same two matrices, many times: are its bits always equal?"""
    try:
        numbers = tuple(int(word) for word in shape.split(","))
    except ValueError:
        raise typer.BadParameter(f"wants M,N,K, like 64,1024,1024; got {shape}", param_hint="--shape") from None
    own = Probe("matmul").options(numbers)
    spec = Spec("matmul", own, None, Kernels.STOCK, dtype, device, seed, trials, None, fail_on)
    probe(context, spec, format, output_dir, resume, quiet)


@command
def batch(
    context: typer.Context,
    model: ModelOption = None,
    kernels: KernelsOption = Kernels.STOCK,
    dtype: DtypeOption = None,
    device: DeviceOption = "auto",
    attn: AttnOption = None,
    trust_remote_code: TrustOption = False,
    prompt: Annotated[str | None, panel(PROMPTS, "Default: that of completions.")] = None,
    prompt_file: PromptFileOption = None,
    chat: ChatOption = False,
    sizes: Annotated[
        str | None, panel(SCHEDULE, "Like 1,8,256. Default: the thresholds up to 64.", "--batch-sizes")
    ] = None,
    trials: Annotated[int, panel(SCHEDULE, "Repeats of every condition.")] = 2,
    seed: SeedOption = 0,
    fail_on: FailOnOption = FailOn.ANY,
    fail_fast: FailFastOption = False,
    format: FormatOption = Format.TERMINAL,
    output_dir: OutputOption = Path("runs"),
    resume: ResumeOption = None,
    quiet: QuietOption = False,
) -> None:
    """One prompt's last logits, alone and in batches of every size, in one go and decoded: is it always the same row?"""
    own = Probe("batch").options(prompt, prompt_file, chat, attn, trust_remote_code)
    spec = Spec("batch", own, model, kernels, dtype, device, seed, trials, batch_sizes(sizes), fail_on, fail_fast)
    probe(context, spec, format, output_dir, resume, quiet)


@command
def bisect(
    context: typer.Context,
    run: Annotated[
        Path | None, typer.Argument(help="A run of completions or batch that found a difference.", show_default=False)
    ] = None,
    model: ModelOption = None,
    engine: Annotated[
        str, panel(MODEL, "transformers, or vllm: there modules are looked at, not ops.")
    ] = "transformers",
    engine_arg: EngineArgOption = None,
    kernels: KernelsOption = Kernels.STOCK,
    apply: Annotated[
        bool, panel(MODEL, "Then replace the guilty by kernels of ours, one kind at a time.", "--apply")
    ] = False,
    dtype: DtypeOption = None,
    device: DeviceOption = "auto",
    attn: AttnOption = None,
    trust_remote_code: TrustOption = False,
    prompt: Annotated[str | None, panel(PROMPTS, "Default: that of completions.")] = None,
    prompt_file: PromptFileOption = None,
    chat: ChatOption = False,
    decode: Annotated[int, panel(PROMPTS, "Last tokens that are fed one by one.")] = 2,
    sizes: Annotated[str | None, panel(SCHEDULE, "Like 2,8. Default: 2,8.", "--batch-sizes")] = None,
    trials: Annotated[int, panel(SCHEDULE, "Runs of every condition, and calls of every op.")] = 2,
    seed: SeedOption = 0,
    fail_on: FailOnOption = FailOn.ANY,
    format: FormatOption = Format.TERMINAL,
    output_dir: OutputOption = Path("runs"),
    resume: ResumeOption = None,
    quiet: QuietOption = False,
) -> None:
    """Which module and which op gives a prompt other bits in a batch than alone, and is it the run or the batch?"""
    from detcheck.probes.bisect import options as part

    arguments = tuple(engine_arg or ())
    own = part.Options(None, prompt, prompt_file, chat, attn, trust_remote_code, engine, arguments, decode, apply)
    spec = Spec("bisect", own, model, kernels, dtype, device, seed, trials, batch_sizes(sizes), fail_on)
    if run:
        from detcheck import runner

        given = [n for n in context.params if str(context.get_parameter_source(n)).endswith("COMMANDLINE")]
        names = {"batch_sizes": "sizes"}
        if said := next((n for n in part.Options.FROM_RUN if names.get(n, n) in given), None):
            raise UsageError(f"--{said.replace('_', '-')} is the run's own where a run is given. Leave one of them out")
        spec = part.of_run(str(run), spec, *runner.differing(run))
    probe(context, spec, format, output_dir, resume, quiet)


@command
def certify(
    context: typer.Context,
    op: Annotated[str, panel(OP, "A bundled op, all, or your own Triton kernel: package.module:kernel.")] = "all",
    target: Annotated[
        str, panel(OP, "sm_80, sm_90, sm_100, gfx942, several with commas, or all.", metavar="NAMES")
    ] = "all",
    dtype: Annotated[str | None, panel(OP, "Like bf16,float32. Default: those that the kernel declares.")] = None,
    fail_on: FailOnOption = FailOn.ANY,
    format: FormatOption = Format.TERMINAL,
    output_dir: OutputOption = Path("runs"),
    resume: ResumeOption = None,
    quiet: QuietOption = False,
) -> None:
    """A Triton kernel, compiled for a GPU that need not be there, and read: can the batch reach the order in which it adds?

    Exit codes: 0 certified, 1 refuted, 3 undecided.
    """
    from detcheck.probes.certify import options as part

    named = part.TARGETS if target == "all" else tuple(word.strip() for word in target.split(","))
    spec = Spec("certify", part.Options(op, named), None, Kernels.STOCK, dtype, "auto", 0, 1, None, fail_on)
    probe(context, spec, format, output_dir, resume, quiet)


@command
def order(
    context: typer.Context,
    op: Annotated[
        str, panel(OP, "A bundled op, all, or any by import path: package.module:function.")
    ] = "torch.nn.functional:linear",
    form: Annotated[
        str | None,
        panel(OP, "linear, mm, bmm, mv, dot, sum, squares, vector, attention. Default: by its name.", metavar="NAME"),
    ] = None,
    shape: Annotated[str | None, panel(OP, "Like 4096,1024: K,N of a linear; K of a sum.")] = None,
    kernels: KernelsOption = Kernels.STOCK,
    dtype: Annotated[str | None, panel(OP, "float32, bf16 ... Default: float32.")] = None,
    device: Annotated[str, panel(OP, "auto, cpu or cuda.")] = "auto",
    sizes: Annotated[
        str | None, panel(SCHEDULE, "Like 1,2,4,64. Default: thresholds up to 64.", "--batch-sizes")
    ] = None,
    threads: Annotated[str | None, panel(SCHEDULE, "Like 1,2. Default: torch's own number.")] = None,
    layout: Annotated[
        str | None, panel(SCHEDULE, "strides: rows with room between them; alignment: one element off.", metavar="NAME")
    ] = None,
    prove: Annotated[bool, panel(SCHEDULE, "Ask about every pair of summands of a product.", "--prove")] = False,
    trials: Annotated[int, panel(SCHEDULE, "How often each tree is revealed.")] = 2,
    seed: Annotated[int, panel(SCHEDULE, "Of data and pivots.")] = 0,
    fail_on: FailOnOption = FailOn.ANY,
    format: FormatOption = Format.TERMINAL,
    output_dir: OutputOption = Path("runs"),
    resume: ResumeOption = None,
    quiet: QuietOption = False,
) -> None:
    """In which order does an op add, at each batch size? The tree itself, revealed, and re-added to the bit."""
    numbers = []
    for text, name in ((shape, "--shape"), (threads, "--threads")):
        try:
            numbers.append(tuple(int(word) for word in text.split(",")) if text else None)
        except ValueError:
            raise typer.BadParameter(f"wants whole numbers, like 1,2; got {text}", param_hint=name) from None
    own = Probe("order").options(op, form, *numbers, layout, prove)
    spec = Spec("order", own, None, kernels, dtype, device, seed, trials, batch_sizes(sizes), fail_on)
    probe(context, spec, format, output_dir, resume, quiet)


def probe(
    context: typer.Context, spec: Spec, format: Format, output_dir: Path, resume: Path | None, quiet: bool
) -> None:
    """Run it, or go on with a run, and finish."""
    from detcheck import progress, runner

    with progress.shown(quiet) as on_progress:
        if resume:
            refuse_other_options(context, spec, runner.read(resume)[1])
            run = runner.resume(resume, on_progress)
        else:
            run = runner.run(spec, output_dir, on_progress, command=typed())
    finish(run, format)


def typed() -> str:
    """The command line, as it was given, but for who is named in a URL: between // and the last @."""
    words = [re.sub(r"//.*@", "//***@", word, flags=re.DOTALL) if "://" in word else word for word in sys.argv[1:]]
    return shlex.join(["detcheck", *words])


def refuse_other_options(context: typer.Context, given: Spec, stored: Spec) -> None:
    """A run that is resumed has its options: one that is given all the same must not say otherwise."""
    for name, value in given.flat().items():
        parameter = {"batch_sizes": "sizes"}.get(name, name)
        if str(context.get_parameter_source(parameter)).endswith("COMMANDLINE") and value != stored.flat()[name]:
            option = "--" + name.replace("_", "-")
            raise UsageError(
                f"--resume goes on with the run's own options, and it has {option} {stored.flat()[name]}, not {value}. Leave {option} out"
            )


@command
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


@command
def compare(
    a: Annotated[Path, typer.Argument(help="A run's folder, or the baseline.json of one.")],
    b: Annotated[Path, typer.Argument(help="The run that may have changed.")],
    format: FormatOption = Format.TERMINAL,
    fail_on: FailOnOption = FailOn.ANY,
) -> None:
    """Two runs, of two versions or machines: may they be compared, what changed, and do they give the same?

    Exit codes: 0 the same, 1 not the same, 3 not comparable.
    """
    from detcheck import runner

    finish(runner.compare(a, b, fail_on, command=typed()), format)


@command
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    format: FormatOption = Format.TERMINAL,
) -> None:
    """Judge a stored run again and show it in any format. Exits with the run's own code; needs no torch."""
    from detcheck import runner

    show(runner.load(run), format)


def finish(run: Run, format: Format) -> None:
    """Reports beside the data, the chosen one on stdout, and the exit code."""
    from detcheck import github
    from detcheck.report import write_all

    github.publish(run)
    for trouble in write_all(run) if run.path else ():
        say(trouble)
    show(run, format)


def show(run: Run, format: Format) -> None:
    from detcheck.report import described, render

    if format is Format.TERMINAL:
        from detcheck.formats.terminal import render as terminal

        text = terminal(described(run), colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    else:
        text = render(run, format)
    try:
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough; the verdict stays
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if run.verdict is Verdict.FAILED:
        say(min(run.findings, key=lambda f: (f.role is not Role.GATES, f.verdict is not Verdict.FAILED)).note)
    raise typer.Exit(run.exit_code)


def say(text: str) -> None:
    """To stderr, with what a terminal would obey written out."""
    from detcheck.text import visible

    print(f"detcheck: {visible(text)}", file=sys.stderr)


def main() -> None:
    """The entry point. Whatever happens, the exit code means what DESIGN says: an uncaught exception is 4, never 1."""
    try:
        app(standalone_mode=True)
    except DetcheckError as error:
        say(str(error))
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
