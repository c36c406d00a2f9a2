# ruff: noqa
# fmt: off
"""Written from the declarations of the options by `python -m detcheck.api.stub`."""

from typing import Any, Literal

from detcheck.api.ask import OnProgress
from detcheck.api.ask import load as load
from detcheck.api.ask import resume as resume
from detcheck.api.ask import run as run
from detcheck.api.keywords import Named, Numbers, Pairs, Words
from detcheck.api.run import Run as Run
from detcheck.errors import FailedError as FailedError
from detcheck.errors import UsageError as UsageError
from detcheck.harness.repeats import assert_deterministic as assert_deterministic
from detcheck.op import Signature as Signature
from detcheck.probes.kernels.assertion import assert_batch_invariant as assert_batch_invariant
from detcheck.spec import Spec as Spec
from detcheck.switch import batch_invariant as batch_invariant
from detcheck.verdict import Verdict as Verdict
from detcheck.models.task import Task
from detcheck.spec import InputFormat
from detcheck.spec import Kernels
from detcheck.verdict import FailOn

__version__: str

def batch(
    *,
    model: Named | None = None,
    kernels: Kernels | Literal['stock', 'batch-invariant', 'both', 'engine'] = 'stock',
    dtype: Any | None = None,
    device: Named = 'auto',
    attn: Named | None = None,
    cache: Named = 'dynamic',
    compile: bool = False,
    trust_remote_code: bool = False,
    adapter: Named | None = None,
    merge_adapter: bool = False,
    task: Task | Literal['auto', 'generate', 'embed', 'score'] = 'auto',
    backward: bool = False,
    prompt: Named | None = None,
    prompt_file: Named | None = None,
    chat: bool = False,
    batch_sizes: Numbers | None = None,
    trials: int = 2,
    seed: int = 0,
    fail_on: FailOn | Literal['any', 'tokens', 'never'] = 'any',
    fail_fast: bool = False,
    output_dir: Named = 'runs',
    progress: OnProgress = True,
) -> Run:
    """What a model gives for one prompt (logits, embedding or score), alone and in batches of every size: is it always the same row?

    Returns a Run, whatever its verdict is: nothing is raised because bits differ. Raises UsageError where the question cannot be asked, and
    FailedError where it could not be run. Ctrl-C gives the run of what was observed until then.

    Parameters
    ----------
    model : str or path, default None
        Hub id, folder or .gguf. Default: the embedded amplifier.
    kernels : stock | batch-invariant | both | engine, default 'stock'
        Whose run: stock, batch-invariant, both; engine: vLLM's own.
    dtype : str, or torch's dtype, default None
        float32, bf16 ... Default: the model's own.
    device : str or path, default 'auto'
        auto, cpu or cuda.
    attn : str or path, default None
        Attention: sdpa, eager ... Default: the model's own.
    cache : str or path, default 'dynamic'
        dynamic or static, as generate's cache_implementation.
    compile : bool, default False
        Run it through torch.compile.
    trust_remote_code : bool, default False
        Run Python code that comes with the model.
    adapter : str or path, default None
        A LoRA adapter to put on, as peft saves it.
    merge_adapter : bool, default False
        Merge the adapter into the weights.
    task : auto | generate | embed | score, default 'auto'
        generate, embed or score. auto: by the model's files.
    backward : bool, default False
        Ask for the gradients of the prompt's loss, in the place of its logits.
    prompt : str or path, default None
        Default: that of completions.
    prompt_file : str or path, default None
        One a line, or .jsonl with `prompt` or `messages`.
    chat : bool, default False
        Put prompts through the tokenizer's chat template.
    batch_sizes : int, or several, default None
        Like 1,8,256. Default: the thresholds up to 64.
    trials : int, default 2
        Repeats of every condition.
    seed : int, default 0
        Seed for filler tokens and their places.
    fail_on : any | tokens | never, default 'any'
        Which divergence exits with 1: any bit, tokens only, never.
    fail_fast : bool, default False
        Stop at the first divergence.
    output_dir : str or path, default 'runs'
        Where the run's folder is made.
    progress : bool, or a function, default True
        Show how far it is, on stderr; or call this with each `detcheck.watch.Progress`.
    """

def bisect(
    run: Named | Run | None = None,
    *,
    model: Named | None = None,
    kernels: Kernels | Literal['stock', 'batch-invariant', 'both', 'engine'] = 'stock',
    dtype: Any | None = None,
    device: Named = 'auto',
    attn: Named | None = None,
    trust_remote_code: bool = False,
    adapter: Named | None = None,
    merge_adapter: bool = False,
    engine: Named = 'transformers',
    engine_arg: Pairs = (),
    apply: bool = False,
    prompt: Named | None = None,
    prompt_file: Named | None = None,
    chat: bool = False,
    decode: int = 2,
    batch_sizes: Numbers | None = None,
    trials: int = 2,
    seed: int = 0,
    fail_on: FailOn | Literal['any', 'tokens', 'never'] = 'any',
    output_dir: Named = 'runs',
    progress: OnProgress = True,
) -> Run:
    """Which module and which op gives a prompt other bits in a batch than alone, and is it the run or the batch?

    Returns a Run, whatever its verdict is: nothing is raised because bits differ. Raises UsageError where the question cannot be asked, and
    FailedError where it could not be run. Ctrl-C gives the run of what was observed until then.

    Parameters
    ----------
    run : Named | Run, default None
        A run of completions or batch that found a difference.
    model : str or path, default None
        Hub id, folder or .gguf. Default: the embedded amplifier.
    kernels : stock | batch-invariant | both | engine, default 'stock'
        Whose run: stock, batch-invariant, both; engine: vLLM's own.
    dtype : str, or torch's dtype, default None
        float32, bf16 ... Default: the model's own.
    device : str or path, default 'auto'
        auto, cpu or cuda.
    attn : str or path, default None
        Attention: sdpa, eager ... Default: the model's own.
    trust_remote_code : bool, default False
        Run Python code that comes with the model.
    adapter : str or path, default None
        A LoRA adapter to put on, as peft saves it.
    merge_adapter : bool, default False
        Merge the adapter into the weights.
    engine : str or path, default 'transformers'
        transformers, or vllm: there modules are looked at, not ops.
    engine_arg : str, several, or a dict, default ()
        For vLLM, like max_num_seqs=64. May be given again.
    apply : bool, default False
        Then replace each cause by a kernel of ours, one kind at a time.
    prompt : str or path, default None
        Default: that of completions.
    prompt_file : str or path, default None
        One a line, or .jsonl with `prompt` or `messages`.
    chat : bool, default False
        Put prompts through the tokenizer's chat template.
    decode : int, default 2
        Last tokens that are fed one by one.
    batch_sizes : int, or several, default None
        Like 2,8. Default: 2,8.
    trials : int, default 2
        Runs of every condition, and calls of every op.
    seed : int, default 0
        Seed for filler tokens and their places.
    fail_on : any | tokens | never, default 'any'
        Which divergence exits with 1: any bit, tokens only, never.
    output_dir : str or path, default 'runs'
        Where the run's folder is made.
    progress : bool, or a function, default True
        Show how far it is, on stderr; or call this with each `detcheck.watch.Progress`.
    """

def certify(
    files: Words = (),
    *,
    op: Named = 'all',
    target: Words = ('sm_80', 'sm_90', 'sm_100', 'gfx942'),
    allow_none: bool = False,
    dtype: Any | None = None,
    fail_on: FailOn | Literal['any', 'tokens', 'never'] = 'any',
    output_dir: Named = 'runs',
    progress: OnProgress = True,
) -> Run:
    """A Triton kernel, compiled for a GPU that need not be there, and read: can the batch reach the order in which it adds?

        Exit codes: 0 certified, 1 refuted, 3 undecided.
    

    Returns a Run, whatever its verdict is: nothing is raised because bits differ. Raises UsageError where the question cannot be asked, and
    FailedError where it could not be run. Ctrl-C gives the run of what was observed until then.

    Parameters
    ----------
    files : str, or several, default ()
        Python files: every kernel that they declare, instead of op.
    op : str or path, default 'all'
        A bundled op, all, or your own Triton kernel: package.module:kernel.
    target : str, or several, default ('sm_80', 'sm_90', 'sm_100', 'gfx942')
        sm_80, sm_90, sm_100, gfx942, several with commas, or all.
    allow_none : bool, default False
        Pass where none of the files declares a kernel.
    dtype : str, or torch's dtype, default None
        Like bf16,float32. Default: those that the kernel declares.
    fail_on : any | tokens | never, default 'any'
        Which divergence exits with 1: any bit, tokens only, never.
    output_dir : str or path, default 'runs'
        Where the run's folder is made.
    progress : bool, or a function, default True
        Show how far it is, on stderr; or call this with each `detcheck.watch.Progress`.
    """

def completions(
    *,
    model: Named | None = None,
    kernels: Kernels | Literal['stock', 'batch-invariant', 'both', 'engine'] = 'stock',
    dtype: Any | None = None,
    device: Named = 'auto',
    attn: Named | None = None,
    cache: Named = 'dynamic',
    compile: bool = False,
    trust_remote_code: bool = False,
    adapter: Named | None = None,
    merge_adapter: bool = False,
    other_adapter: Words = (),
    engine: Named = 'auto',
    engine_arg: Pairs = (),
    max_tokens: int = 128,
    temperature: float = 0.0,
    seeds: int = 0,
    ignore_eos: bool = False,
    prompt: Named | None = None,
    prompt_file: Named | None = None,
    chat: bool = False,
    turns: bool = False,
    base_url: Words = (),
    header: Pairs = (),
    ca_bundle: Named | None = None,
    timeout: float = 300.0,
    max_concurrency: int = 64,
    max_requests: int | None = None,
    load_rate: float | None = None,
    allow_unseen_batch: bool = False,
    samples: int = 100,
    conditions: Words | None = None,
    batch_sizes: Numbers | None = None,
    trials: int = 2,
    seed: int = 0,
    baseline: Named | None = None,
    fail_on: FailOn | Literal['any', 'tokens', 'never'] = 'any',
    fail_fast: bool = False,
    output_dir: Named = 'runs',
    progress: OnProgress = True,
) -> Run:
    """N completions of a prompt, greedy or seeded, in batches of every kind: how many distinct, where do they fork?

    Returns a Run, whatever its verdict is: nothing is raised because bits differ. Raises UsageError where the question cannot be asked, and
    FailedError where it could not be run. Ctrl-C gives the run of what was observed until then.

    Parameters
    ----------
    model : str or path, default None
        Hub id, folder or .gguf. Default: the embedded amplifier.
    kernels : stock | batch-invariant | both | engine, default 'stock'
        Whose run: stock, batch-invariant, both; engine: vLLM's own.
    dtype : str, or torch's dtype, default None
        float32, bf16 ... Default: the model's own.
    device : str or path, default 'auto'
        auto, cpu or cuda.
    attn : str or path, default None
        Attention: sdpa, eager ... Default: the model's own.
    cache : str or path, default 'dynamic'
        dynamic or static, as generate's cache_implementation.
    compile : bool, default False
        Run it through torch.compile.
    trust_remote_code : bool, default False
        Run Python code that comes with the model.
    adapter : str or path, default None
        A LoRA adapter to put on, as peft saves it.
    merge_adapter : bool, default False
        Merge the adapter into the weights.
    other_adapter : str, or several, default ()
        An adapter of neighbours (adapters-N). May be given again.
    engine : str or path, default 'auto'
        auto, transformers or vllm. auto: vLLM where a GPU is.
    engine_arg : str, several, or a dict, default ()
        For vLLM, like max_num_seqs=64. May be given again.
    max_tokens : int, default 128
        Tokens per completion.
    temperature : float, default 0.0
        Above 0 tokens are drawn. Needs seeds.
    seeds : int, default 0
        Seeds to draw with, each a case.
    ignore_eos : bool, default False
        Go on to max_tokens past an end token.
    prompt : str or path, default None
        Default: 'Tell me about Richard Feynman', longer where there is a prefix cache; the amplifier has its own.
    prompt_file : str or path, default None
        One a line, or .jsonl with `prompt` or `messages`.
    chat : bool, default False
        Put prompts through the tokenizer's chat template.
    turns : bool, default False
        Answer every turn of `messages`, earlier answers fed back.
    base_url : str, or several, default ()
        Ask this server instead. Repeat for each replica.
    header : str, several, or a dict, default ()
        A header whose value is in an environment variable.
    ca_bundle : str or path, default None
        Certificates that TLS is verified by.
    timeout : float, default 300.0
        Seconds that a request may take.
    max_concurrency : int, default 64
        Requests in flight at once.
    max_requests : int, default None
        Requests to send in all. Default: no limit.
    load_rate : float, default None
        Add a steady load of so many requests a second.
    allow_unseen_batch : bool, default False
        Accept a pass where the server does not show its batches.
    samples : int, default 100
        Completions per prompt.
    conditions : str, or several, default None
        Like alone,wave-8,chunked. Default: those the samples pay for.
    batch_sizes : int, or several, default None
        Like 1,8,64. Default: the thresholds that the samples pay for.
    trials : int, default 2
        Repeats of every condition, at least.
    seed : int, default 0
        Seed for filler tokens and their places.
    baseline : str or path, default None
        A run, or the baseline.json of one, that this one must be equal to.
    fail_on : any | tokens | never, default 'any'
        Which divergence exits with 1: any bit, tokens only, never.
    fail_fast : bool, default False
        Stop at the first divergence.
    output_dir : str or path, default 'runs'
        Where the run's folder is made.
    progress : bool, or a function, default True
        Show how far it is, on stderr; or call this with each `detcheck.watch.Progress`.
    """

def kernels(
    *,
    op: Named = 'all',
    shapes: Words | None = None,
    kernels: Kernels | Literal['stock', 'batch-invariant', 'both', 'engine'] = 'both',
    dtype: Any | None = None,
    device: Named = 'auto',
    batch_sizes: Numbers | None = None,
    trials: int = 2,
    seed: int = 0,
    fail_on: FailOn | Literal['any', 'tokens', 'never'] = 'any',
    fail_fast: bool = False,
    output_dir: Named = 'runs',
    progress: OnProgress = True,
) -> Run:
    """One op, the same row in batches of every kind: always the same bits, the right ones, and how fast?

    Returns a Run, whatever its verdict is: nothing is raised because bits differ. Raises UsageError where the question cannot be asked, and
    FailedError where it could not be run. Ctrl-C gives the run of what was observed until then.

    Parameters
    ----------
    op : str or path, default 'all'
        A bundled op, all, or your own: package.module:function.
    shapes : str, or several, default None
        Like 1024,4096. Default: the op's own; its smallest with all.
    kernels : stock | batch-invariant | both | engine, default 'both'
        stock, batch-invariant, or both: stock is reported beside ours.
    dtype : str, or torch's dtype, default None
        Like float32,bf16. Default: these two; float32 for your own.
    device : str or path, default 'auto'
        auto, cpu or cuda.
    batch_sizes : int, or several, default None
        Like 1,8,64. Default: all thresholds.
    trials : int, default 2
        Repeats of every condition.
    seed : int, default 0
        Seed for inputs and places.
    fail_on : any | tokens | never, default 'any'
        Which divergence exits with 1: any bit, tokens only, never.
    fail_fast : bool, default False
        Stop at the first divergence.
    output_dir : str or path, default 'runs'
        Where the run's folder is made.
    progress : bool, or a function, default True
        Show how far it is, on stderr; or call this with each `detcheck.watch.Progress`.
    """

def logprobs(
    file: Named | Run | None = None,
    other: Named | Run | None = None,
    *,
    model: Named | None = None,
    kernels: Kernels | Literal['stock', 'batch-invariant', 'both', 'engine'] = 'stock',
    dtype: Any | None = None,
    device: Named = 'auto',
    sampler: Named | None = None,
    trainer: Named | None = None,
    trainer_model: Named | None = None,
    attn: Named | None = None,
    trust_remote_code: bool = False,
    engine_arg: Pairs = (),
    sampling: Pairs = (),
    prompt: Named | None = None,
    prompt_file: Named | None = None,
    chat: bool = False,
    max_tokens: int = 64,
    ignore_eos: bool = False,
    header: Pairs = (),
    samples: int = 1,
    conditions: Words = ('alone', 'padded-4', 'packed-4'),
    trials: int = 2,
    max_kl: float | None = None,
    max_diff: float | None = None,
    fail_on: FailOn | Literal['any', 'tokens', 'never'] = 'any',
    fail_fast: bool = False,
    output_dir: Named = 'runs',
    progress: OnProgress = True,
) -> Run:
    """The log-probabilities of the same tokens, by the sampler and by the trainer: are they the same, and if not, is it numerics?

        Give two files, one file that holds both sides, a file and trainer transformers, or sampler and trainer.
    

    Returns a Run, whatever its verdict is: nothing is raised because bits differ. Raises UsageError where the question cannot be asked, and
    FailedError where it could not be run. Ctrl-C gives the run of what was observed until then.

    Parameters
    ----------
    file : Named | Run, default None
        The sampler's, or of both: JSONL, parquet, safetensors, npz.
    other : Named | Run, default None
        The trainer's.
    model : str or path, default None
        Hub id, folder or .gguf. Default: the embedded amplifier.
    kernels : stock | batch-invariant | both | engine, default 'stock'
        Whose both sides run: stock, batch-invariant, both; engine: vLLM's own.
    dtype : str, or torch's dtype, default None
        float32, bf16 ... Default: the model's own.
    device : str or path, default 'auto'
        auto, cpu or cuda.
    sampler : str or path, default None
        vllm, transformers, or a server's URL.
    trainer : str or path, default None
        transformers.
    trainer_model : str or path, default None
        The trainer's, where it has another one.
    attn : str or path, default None
        Attention: sdpa, eager ... Default: the model's own.
    trust_remote_code : bool, default False
        Run Python code that comes with the model.
    engine_arg : str, several, or a dict, default ()
        For vLLM, like max_num_seqs=64. May be given again.
    sampling : str, several, or a dict, default ()
        Like temperature=0.7. May be given again.
    prompt : str or path, default None
        Default: eight of unequal length.
    prompt_file : str or path, default None
        One a line, or .jsonl with `prompt` or `messages`.
    chat : bool, default False
        Put prompts through the tokenizer's chat template.
    max_tokens : int, default 64
        Tokens per completion.
    ignore_eos : bool, default False
        Go on to max_tokens past an end token.
    header : str, several, or a dict, default ()
        A header whose value is in an environment variable.
    samples : int, default 1
        Completions per prompt.
    conditions : str, or several, default ('alone', 'padded-4', 'packed-4')
        How the trainer scores: alone, padded-N, packed-N.
    trials : int, default 2
        How often the trainer scores under each condition.
    max_kl : float, default None
        Accept differences up to this KL estimate (k3), in nats.
    max_diff : float, default None
        Accept differences of a token up to this, in nats.
    fail_on : any | tokens | never, default 'any'
        Which divergence exits with 1: any bit, tokens only, never.
    fail_fast : bool, default False
        Stop at the first divergence.
    output_dir : str or path, default 'runs'
        Where the run's folder is made.
    progress : bool, or a function, default True
        Show how far it is, on stderr; or call this with each `detcheck.watch.Progress`.
    """

def matmul(
    *,
    shape: Numbers = (64, 1024, 1024),
    dtype: Any | None = None,
    device: Named = 'auto',
    trials: int = 1000,
    seed: int = 0,
    fail_on: FailOn | Literal['any', 'tokens', 'never'] = 'any',
    output_dir: Named = 'runs',
    progress: OnProgress = True,
) -> Run:
    """One matrix product of the same inputs, a thousand times: are its bits always equal?

    Returns a Run, whatever its verdict is: nothing is raised because bits differ. Raises UsageError where the question cannot be asked, and
    FailedError where it could not be run. Ctrl-C gives the run of what was observed until then.

    Parameters
    ----------
    shape : int, or several, default (64, 1024, 1024)
        M,N,K of [M, K] times [K, N].
    dtype : str, or torch's dtype, default None
        float32, bf16 ... Default: float32.
    device : str or path, default 'auto'
        auto, cpu or cuda.
    trials : int, default 1000
        How many times to multiply.
    seed : int, default 0
        Seed for the two matrices.
    fail_on : any | tokens | never, default 'any'
        Which divergence exits with 1: any bit, tokens only, never.
    output_dir : str or path, default 'runs'
        Where the run's folder is made.
    progress : bool, or a function, default True
        Show how far it is, on stderr; or call this with each `detcheck.watch.Progress`.
    """

def order(
    *,
    op: Named = 'torch.nn.functional:linear',
    form: Named | None = None,
    shape: Numbers | None = None,
    kernels: Kernels | Literal['stock', 'batch-invariant', 'both', 'engine'] = 'stock',
    dtype: Any | None = None,
    device: Named = 'auto',
    threads: Numbers | None = None,
    layout: Named | None = None,
    prove: bool = False,
    batch_sizes: Numbers | None = None,
    trials: int = 2,
    seed: int = 0,
    fail_on: FailOn | Literal['any', 'tokens', 'never'] = 'any',
    output_dir: Named = 'runs',
    progress: OnProgress = True,
) -> Run:
    """In which order does an op add, at each batch size? The tree itself, revealed, and re-added to the bit.

    Returns a Run, whatever its verdict is: nothing is raised because bits differ. Raises UsageError where the question cannot be asked, and
    FailedError where it could not be run. Ctrl-C gives the run of what was observed until then.

    Parameters
    ----------
    op : str or path, default 'torch.nn.functional:linear'
        A bundled op, all, or any by import path: package.module:function.
    form : str or path, default None
        linear, mm, bmm, mv, dot, sum, squares, vector, attention. Default: by its name.
    shape : int, or several, default None
        Like 4096,1024: K,N of a linear; K of a sum.
    kernels : stock | batch-invariant | both | engine, default 'stock'
        stock, batch-invariant, or both side by side.
    dtype : str, or torch's dtype, default None
        float32, bf16 ... Default: float32.
    device : str or path, default 'auto'
        auto, cpu or cuda.
    threads : int, or several, default None
        Like 1,2. Default: torch's own number.
    layout : str or path, default None
        strides: rows with room between them; alignment: one element off.
    prove : bool, default False
        Ask about every pair of summands of a product.
    batch_sizes : int, or several, default None
        Like 1,2,4,64. Default: thresholds up to 64.
    trials : int, default 2
        How often each tree is revealed.
    seed : int, default 0
        Seed for data and pivots.
    fail_on : any | tokens | never, default 'any'
        Which divergence exits with 1: any bit, tokens only, never.
    output_dir : str or path, default 'runs'
        Where the run's folder is made.
    progress : bool, or a function, default True
        Show how far it is, on stderr; or call this with each `detcheck.watch.Progress`.
    """

def reload(
    *,
    model: Named | None = None,
    kernels: Kernels | Literal['stock', 'batch-invariant', 'both', 'engine'] = 'stock',
    dtype: Any | None = None,
    device: Named = 'auto',
    old: Named | None = None,
    attn: Named | None = None,
    compile: bool = False,
    trust_remote_code: bool = False,
    engine: Named = 'auto',
    engine_arg: Pairs = (),
    max_tokens: int = 32,
    ignore_eos: bool = False,
    prompt: Named | None = None,
    prompt_file: Named | None = None,
    chat: bool = False,
    base_url: Words = (),
    fresh_url: Named | None = None,
    header: Pairs = (),
    ca_bundle: Named | None = None,
    timeout: float = 300.0,
    update: Words = ('files',),
    keep_cache: bool = False,
    bucket_mib: int = 64,
    trials: int = 2,
    fail_on: FailOn | Literal['any', 'tokens', 'never'] = 'any',
    output_dir: Named = 'runs',
    progress: OnProgress = True,
) -> Run:
    """Weights updated in place in an engine that runs, against a fresh load of the same: the same bits, and nothing left of the old?

    Returns a Run, whatever its verdict is: nothing is raised because bits differ. Raises UsageError where the question cannot be asked, and
    FailedError where it could not be run. Ctrl-C gives the run of what was observed until then.

    Parameters
    ----------
    model : str or path, default None
        The new weights: hub id or folder. Default: the embedded amplifier.
    kernels : stock | batch-invariant | both | engine, default 'stock'
        Whose run: stock, batch-invariant; engine: vLLM's own.
    dtype : str, or torch's dtype, default None
        float32, bf16 ... Default: the model's own.
    device : str or path, default 'auto'
        auto, cpu or cuda.
    old : str or path, default None
        Weights to begin with, of the same model. Default: made of the new ones.
    attn : str or path, default None
        Attention: sdpa, eager ... Default: the model's own.
    compile : bool, default False
        Run it through torch.compile.
    trust_remote_code : bool, default False
        Run Python code that comes with the model.
    engine : str or path, default 'auto'
        auto, transformers or vllm. auto: vLLM where a GPU is.
    engine_arg : str, several, or a dict, default ()
        For vLLM, like max_num_seqs=64. May be given again.
    max_tokens : int, default 32
        Tokens per completion.
    ignore_eos : bool, default False
        Go on to max_tokens past an end token.
    prompt : str or path, default None
        Default: 'Tell me about Richard Feynman', longer where there is a prefix cache; the amplifier has its own.
    prompt_file : str or path, default None
        One a line, or .jsonl with `prompt` or `messages`.
    chat : bool, default False
        Put prompts through the tokenizer's chat template.
    base_url : str, or several, default ()
        Update this server, which has the old weights.
    fresh_url : str or path, default None
        A server that was started with the new weights.
    header : str, several, or a dict, default ()
        A header whose value is in an environment variable.
    ca_bundle : str or path, default None
        Certificates that TLS is verified by.
    timeout : float, default 300.0
        Seconds that a request may take.
    update : str, or several, default ('files',)
        Like files,pipelined,shared,broadcast,sleep: each in an engine of its own.
    keep_cache : bool, default False
        Leave the prefix cache as the update leaves it.
    bucket_mib : int, default 64
        MiB that are sent at once.
    trials : int, default 2
        How often each prompt is asked before and after the update.
    fail_on : any | tokens | never, default 'any'
        Which divergence exits with 1: any bit, tokens only, never.
    output_dir : str or path, default 'runs'
        Where the run's folder is made.
    progress : bool, or a function, default True
        Show how far it is, on stderr; or call this with each `detcheck.watch.Progress`.
    """

def score(
    *,
    model: Named | None = None,
    kernels: Kernels | Literal['stock', 'batch-invariant', 'both', 'engine'] = 'stock',
    dtype: Any | None = None,
    device: Named = 'auto',
    attn: Named | None = None,
    trust_remote_code: bool = False,
    adapter: Named | None = None,
    merge_adapter: bool = False,
    engine: Named = 'auto',
    engine_arg: Pairs = (),
    prompt: Named | None = None,
    continuation: Named | None = None,
    prompt_file: Named | None = None,
    base_url: Words = (),
    header: Pairs = (),
    ca_bundle: Named | None = None,
    timeout: float = 300.0,
    max_concurrency: int = 64,
    max_requests: int | None = None,
    load_rate: float | None = None,
    allow_unseen_batch: bool = False,
    samples: int = 100,
    batch_sizes: Numbers | None = None,
    trials: int = 2,
    seed: int = 0,
    baseline: Named | None = None,
    fail_on: FailOn | Literal['any', 'tokens', 'never'] = 'any',
    fail_fast: bool = False,
    output_dir: Named = 'runs',
    progress: OnProgress = True,
) -> Run:
    """Log-probabilities of tokens that are given, as evaluation harnesses ask for them, alone and in batches of every kind: always the same bits?

    Returns a Run, whatever its verdict is: nothing is raised because bits differ. Raises UsageError where the question cannot be asked, and
    FailedError where it could not be run. Ctrl-C gives the run of what was observed until then.

    Parameters
    ----------
    model : str or path, default None
        Hub id, folder or .gguf. Default: the embedded amplifier.
    kernels : stock | batch-invariant | both | engine, default 'stock'
        Whose run: stock, batch-invariant, both; engine: vLLM's own.
    dtype : str, or torch's dtype, default None
        float32, bf16 ... Default: the model's own.
    device : str or path, default 'auto'
        auto, cpu or cuda.
    attn : str or path, default None
        Attention: sdpa, eager ... Default: the model's own.
    trust_remote_code : bool, default False
        Run Python code that comes with the model.
    adapter : str or path, default None
        A LoRA adapter to put on, as peft saves it.
    merge_adapter : bool, default False
        Merge the adapter into the weights.
    engine : str or path, default 'auto'
        auto, transformers or vllm. auto: vLLM where a GPU is.
    engine_arg : str, several, or a dict, default ()
        For vLLM, like max_num_seqs=64. May be given again.
    prompt : str or path, default None
        The context.
    continuation : str or path, default None
        What is scored behind it, with the space between; empty: the prompt itself.
    prompt_file : str or path, default None
        A .jsonl with `prompt` and `continuation`.
    base_url : str, or several, default ()
        Ask this server instead. Repeat for each replica.
    header : str, several, or a dict, default ()
        A header whose value is in an environment variable.
    ca_bundle : str or path, default None
        Certificates that TLS is verified by.
    timeout : float, default 300.0
        Seconds that a request may take.
    max_concurrency : int, default 64
        Requests in flight at once.
    max_requests : int, default None
        Requests to send in all. Default: no limit.
    load_rate : float, default None
        Add a steady load of so many requests a second.
    allow_unseen_batch : bool, default False
        Accept a pass where the server does not show its batches.
    samples : int, default 100
        Scores per continuation; of one padded alone there are more.
    batch_sizes : int, or several, default None
        Like 1,8,64. Default: the thresholds that the samples pay for.
    trials : int, default 2
        Repeats of every condition, at least.
    seed : int, default 0
        Seed for filler tokens and their places.
    baseline : str or path, default None
        A run, or the baseline.json of one, that this one must be equal to.
    fail_on : any | tokens | never, default 'any'
        Which divergence exits with 1: any bit, tokens only, never.
    fail_fast : bool, default False
        Stop at the first divergence.
    output_dir : str or path, default 'runs'
        Where the run's folder is made.
    progress : bool, or a function, default True
        Show how far it is, on stderr; or call this with each `detcheck.watch.Progress`.
    """

def judge(
    file: Named | Run,
    other: Named | Run | None = None,
    *,
    input_format: InputFormat | Literal['auto', 'csv', 'detcheck', 'guidellm', 'lm-eval', 'openai-batch', 'vllm-bench'] = 'auto',
    allow_unseen_batch: bool = False,
    fail_on: FailOn | Literal['any', 'tokens', 'never'] = 'any',
) -> Run:
    """Judge completions that another harness collected; or two files, of two systems' answers to the same requests.

    Returns a Run, whatever its verdict is: nothing is raised because bits differ. Raises UsageError where the question cannot be asked, and
    FailedError where it could not be run. Ctrl-C gives the run of what was observed until then.

    Parameters
    ----------
    file : Named | Run
        Completions: JSONL, JSON, CSV or parquet (see docs/runs.md).
    other : Named | Run, default None
        Another system's answers to the same requests: is each answer the same?
    input_format : auto | csv | detcheck | guidellm | lm-eval | openai-batch | vllm-bench, default 'auto'
        Whose format it is: auto, csv, detcheck, guidellm, lm-eval, openai-batch, vllm-bench. auto: its keys tell.
    allow_unseen_batch : bool, default False
        Accept a pass without batch sizes.
    fail_on : any | tokens | never, default 'any'
        Which divergence exits with 1: any bit, tokens only, never.
    """

def compare(
    a: Named | Run,
    b: Named | Run,
    *,
    fail_on: FailOn | Literal['any', 'tokens', 'never'] = 'any',
) -> Run:
    """Two runs, of two versions or machines: may they be compared, what changed, and do they give the same?

    Returns a Run, whatever its verdict is: nothing is raised because bits differ. Raises UsageError where the question cannot be asked, and
    FailedError where it could not be run. Ctrl-C gives the run of what was observed until then.

    Parameters
    ----------
    a : Named | Run
        A run's folder, or the baseline.json of one.
    b : Named | Run
        The run that may have changed.
    fail_on : any | tokens | never, default 'any'
        Which divergence exits with 1: any bit, tokens only, never.
    """
