"""The figures that README and docs claim: a row each, with the script that measures it. `bench.py` measures them, `bench_page.py` draws them.

A row's `claims` quote a page as it stands there, or name a section of it by its heading. `tests/unit/test_bench.py` finds every figure
on the pages (times, ratios, sizes) and wants a row that quotes it, or a line in `OTHER_FIGURES` that says why it has none.
"""

from row import Claim, Job, Row

# A row takes a line or two.
# fmt: off
SPEED, KERNELS, COUNTS, GPU = "detcheck itself", "Our kernels for the CPU", "Counts", "On a GPU"
GROUPS = {
    SPEED: "",
    KERNELS: "Time of ours / time of stock. Below 1 ours is faster.",
    COUNTS: "How much is right, of all that was asked.",
    GPU: "Stock's time / ours, so that 1 is as fast and more is faster. `make bench` on a machine with a GPU fills these rows.",
}
README, FIGURES = "README.md", "docs/kernels.md"
ORDER, BISECT, RELOAD = "docs/probes/order.md", "docs/probes/bisect.md", "docs/probes/reload.md"


def pair(name: str, what: str, against: str, goals: tuple[float | None, float | None], words: str, says: tuple[float, float], claims: tuple[Claim, ...]) -> tuple[Row, Row]:
    """The geometric mean over all shapes, and the worst shape; what README says of both."""
    mean, worst = ((Claim(README, words, (figure,)), *claims) for figure in says)
    return (Row(name, f"{what}: geometric mean", against, goal=goals[0], claims=mean), Row(f"{name}-worst", f"{what}: the slowest shape", against, goal=goals[1], claims=worst))


STOCK_FIGURES = Claim(
    FIGURES, "Ours reach 76 to 86% of the bandwidth that a plain read reaches (stock 34 to 65%), and 80 to 84% of the peak of multiplications (stock 55 to 67% in float32, 88% in bfloat16)."
)
BY_PROCESSOR = Claim(FIGURES, "| AMD EPYC (Zen 4), 2 cores | all it has: AVX-512, AVX512_BF16 | avx512_bf16 | 0.55, 0.97 | 0.74, 1.11 | 0.27, 0.99 | 0.54, 0.71 |")
MATMUL, ATTENTION = "fp32: geometric mean 0.55, worst 0.97; bf16: 0.74, 1.11", "decode: geometric mean 0.27, worst 0.99; prefill: 0.54, 0.71"
VLLM = "fp32 0.79 to 1.07, geometric mean 0.96; bf16 0.74 to 1.04, 0.90"
IN_VLLM = (
    Claim(FIGURES, "Inside vLLM (`benchmarks/engine.py 9`"),
    Claim("docs/faq.md", "detcheck's kernels for the CPU took 0.74 to 1.07 times the time of stock vLLM here"),
)
ORDERS = Claim(README, "30 to 50, the published algorithm 16,000; in float32 0.10 to 0.28 s")
ORDER_CALLS = Claim(README, ORDERS.words, (30, 50), 0)
ROW_TABLE = Claim(FIGURES, "| op | few rows | 256 rows |")
ELEMENTWISE = Claim(FIGURES, "4 to 40 times stock's time")
ROW_OPS = dict.fromkeys(["layer_norm", "group_norm", "sum", "cumsum", "conv1d", "solve_triangular", "sigmoid", "softplus"], (ROW_TABLE,)) | {"elementwise": (ELEMENTWISE,)}

JOBS = (
    Job("startup.py", (Row("help", "`detcheck --help`", "`--help` of a program of one empty typer command", goal=2.0, claims=(Claim(README, "0.25 to 0.29 s, 1.5 times a bare typer program", (1.5,)),)),), SPEED, 120),
    Job(
        "judge.py",
        (
            Row("judge", "judging 100,000 completions of 1000 tokens, 100 distinct, on one core", unit="s", goal=1.0, claims=(Claim(README, "0.33 s, 1.9 MB; the same memory for 10,000", (0.33,)),)),
            Row("judge-pass", "the same", "one pass of Python over the same observations that counts outcomes by condition"),
            Row("judge-memory", "peak memory of judging 100,000 completions", "that of judging 10,000", goal=1.05, counted=True, claims=(Claim(README, "0.33 s, 1.9 MB; the same memory for 10,000"),)),
        ),
        SPEED,
        120,
    ),
    Job(
        "report.py",
        (
            Row("report", "`detcheck report RUN` of 1000 stored completions of 1000 tokens, 100 distinct, from start to exit", unit="s", goal=1.0),
            Row("report-bare", "the same", "`--help` of a program of one empty typer command"),
            Row("report-100000", "the same of 100,000 completions", unit="s"),
            Row("report-100000-bare", "the same of 100,000 completions", "`--help` of a program of one empty typer command"),
        ),
        SPEED,
        120,
    ),
    Job(
        "order.py",
        (
            Row(
                "order-float32",
                "calls to reveal stock `linear`'s order twice and re-add it, K = 4096, N = 1024, float32, the most of 1, 2, 4 and 64 rows",
                unit="calls",
                goal=50,
                counted=True,
                claims=(ORDER_CALLS, Claim(ORDER, "in 30 to 40 calls at each batch size in", (30, 40), 0)),
            ),
            Row("order-bfloat16", "the same in bfloat16", unit="calls", goal=50, counted=True, claims=(ORDER_CALLS, Claim(ORDER, "44 to 50 in bfloat16", (44, 50), 0))),
            Row("order-published", "calls of the published algorithm at 4 rows", "our calls there", counted=True, claims=(ORDERS, Claim(ORDER, "The published algorithm makes 16,000 calls there"))),
            Row(
                "order-beside",
                "time of revealing beside the op's own, float32, the slowest of the batch sizes",
                unit="s",
                goal=0.5,
                claims=(Claim(README, ORDERS.words, (0.10, 0.28)), Claim(ORDER, "0.10 to 0.28 s beside the op's own time in float32, and 0.14 to 0.55 s in bfloat16")),
            ),
            Row("order-data", "time of making the data to re-add on, once a run", unit="s", claims=(Claim(ORDER, "and 0.12 to 0.41 s once a run, to make the data", (0.12, 0.41)),)),
        ),
        SPEED,
        180,
        ("4096", "1024", "bench"),
    ),
    Job(
        "prove.py",
        (
            Row("prove", "`order --prove`: all 16.8 million pairs of stock `linear`'s summands, K = 4096, N = 1024, 64 rows", unit="s", goal=4.0, claims=(Claim(ORDER, "256 calls for 16.8 million pairs, and seconds"),)),
            Row("prove-op", "the same", "the op's own time in these calls"),
        ),
        SPEED,
        120,
    ),
    Job(
        "overhead.py",
        (
            Row(
                "overhead-transformers",
                "`completions` on a Llama of 117M parameters in transformers",
                "transformers' own `generate` of the same batches",
                goal=1.01,
                claims=(Claim(README, "rounds vary by 3%) | transformers 1.005, vLLM 1.005", (1.005,), 0.005),),
            ),
        ),
        SPEED,
        300,
        ("transformers",),
    ),
    Job(
        "overhead.py",
        (
            Row("overhead-vllm", "the same in vLLM", "vLLM's own generation of the same waves in the same engine, with the same log-probabilities", goal=1.01, claims=(Claim(README, "rounds vary by 3%) | transformers 1.005, vLLM 1.005", (1.005,), 0.005),)),
            Row("overhead-vllm-tokens", "the same", "vLLM's own generation without log-probabilities"),
        ),
        SPEED,
        300,
        ("vllm",),
        needs="vllm",
    ),
    Job(
        "tracing.py",
        (
            Row(
                "bisect",
                "CPU time of `bisect` with its defaults on the amplifier, whose ops are tiny",
                "the same forward passes, traced and nothing else",
                goal=3.0,
                claims=(Claim(BISECT, "the amplifier's takes 1.8 times", (1.8,)),),
            ),
            Row("bisect-plain", "the same", "the same forward passes, plain", claims=(Claim(BISECT, "4.6 times for the amplifier", (4.6,)),)),
        ),
        SPEED,
        200,
        ("amplifier",),
    ),
    Job(
        "tracing.py",
        (
            Row("bisect-billion", "the same on a Llama shape of 1.1 billion parameters", "the same forward passes, traced and nothing else", goal=3.0),
            Row(
                "bisect-billion-plain",
                "the same",
                "the same forward passes, plain",
                claims=(Claim(BISECT, "2.2 times for a Llama shape of 1.1 billion seeded float32 parameters"), Claim(BISECT, "5.12 GiB at most where the plain forward passes took 4.55")),
            ),
        ),
        SPEED,
        600,
        ("billion",),
        slow=True,
    ),
    Job(
        "client.py",
        (
            Row("client", "detcheck's CPU time for a request to a server, 128 tokens with log-probabilities, one in flight", unit="ms", claims=(Claim(README, "1.7 ms and 1.8 ms", (1.7,)),)),
            Row("client-256", "the same with 256 in flight", "with one in flight", goal=1.1, claims=(Claim(README, "1.7 ms and 1.8 ms"),)),
        ),
        SPEED,
        120,
        ("512",),
    ),
    Job(
        "fleet.py",
        (
            Row("fleet-held", "memory that the asker of a fleet holds for 10,000 equal answers", "for 100", counted=True, claims=(Claim("docs/fleet.md", "## How large a fleet can be"),)),
            Row("fleet-judge", "judging these 10,000", unit="s", claims=(Claim("docs/fleet.md", "## How large a fleet can be"),)),
            Row("fleet-judge-distinct", "judging 1000 answers of which 200 are distinct", unit="s", claims=(Claim("docs/fleet.md", "## How large a fleet can be"),)),
        ),
        SPEED,
        400,
        ("--made-up",),
        slow=True,
    ),
    Job(
        "fleet.py",
        (
            Row("fleet-workers-alike", "what the process that asks 200 real workers of a local cluster gains in memory from the first answer to the last, all alike, less what it gains with 10", unit="MB", claims=(Claim("docs/fleet.md", "## How large a fleet can be"),)),
            Row("fleet-workers-different", "the same, all different", unit="MB", claims=(Claim("docs/fleet.md", "## How large a fleet can be"),)),
        ),
        SPEED,
        900,
        needs="ray",
        slow=True,
    ),
    Job(
        "reload.py",
        (
            Row(
                "reload-pipelined",
                "MiB a second of new weights into a transformers model of 117M parameters, `pipelined`",
                "`files`",
                claims=(Claim(RELOAD, "`files` 978, `pipelined` 783, `shared` 216, `broadcast` 20"),),
            ),
            Row("reload-shared", "`shared`", "`files`", claims=(Claim(RELOAD, "`files` 978, `pipelined` 783, `shared` 216, `broadcast` 20"),)),
            Row("reload-broadcast", "`broadcast`", "`files`", claims=(Claim(RELOAD, "`files` 978, `pipelined` 783, `shared` 216, `broadcast` 20"),)),
        ),
        SPEED,
        180,
    ),
    Job(
        "kernels.py",
        (
            *pair("matmul-float32", "matmul, float32: 4 weights, M = 1 to 256, one and two threads", "stock `linear`", (1.0, 1.2), MATMUL, (0.55, 0.97), (BY_PROCESSOR, STOCK_FIGURES)),
            *pair("matmul-bfloat16", "matmul, bfloat16", "stock `linear`", (1.0, 1.2), MATMUL, (0.74, 1.11), (BY_PROCESSOR,)),
            *pair("attention-decode", "attention, decode over 300 to 4096 keys", "`scaled_dot_product_attention`", (1.0, None), ATTENTION, (0.27, 0.99), (BY_PROCESSOR,)),
            *pair("attention-prefill", "attention, prefill of 64 to 512 tokens", "`scaled_dot_product_attention`", (1.2, None), ATTENTION, (0.54, 0.71), (BY_PROCESSOR,)),
        ),
        KERNELS,
        300,
    ),
    Job(
        "engine.py",
        (
            Row("vllm-float32", "ours in vLLM, float32, a model of 34M parameters: seconds in the engine's steps, geometric mean of 7 loads", "stock in vLLM", goal=1.05, claims=(Claim(README, VLLM, (0.96,)), *IN_VLLM)),
            Row("vllm-float32-worst", "the slowest of the loads", "stock in vLLM", goal=1.05, claims=(Claim(README, VLLM, (1.07,)), *IN_VLLM)),
            Row("vllm-bfloat16", "the same in bfloat16", "stock in vLLM", goal=1.05, claims=(Claim(README, VLLM, (0.90,)), *IN_VLLM)),
            Row("vllm-bfloat16-worst", "the slowest of the loads", "stock in vLLM", goal=1.05, claims=(Claim(README, VLLM, (1.04,)), *IN_VLLM)),
        ),
        KERNELS,
        420,
        ("3",),
        needs="vllm",
    ),
    Job(
        "backward.py",
        (
            Row(
                "gradient-float32",
                "a weight's gradient, float32, 512 and 2048 tokens, two threads",
                "stock",
                claims=(Claim(FIGURES, "A weight's gradient took 1.7 to 2.8 times stock's time in float32, and 3 to 6 times in bfloat16"),),
            ),
            Row("gradient-bfloat16", "the same in bfloat16", "stock", claims=(Claim(FIGURES, "A weight's gradient took 1.7 to 2.8 times stock's time in float32, and 3 to 6 times in bfloat16"),)),
            Row(
                "gradient-attention",
                "an attention's backward pass, 4 x 8 heads of 64 over 300 tokens",
                "stock",
                claims=(Claim(FIGURES, "an attention's, 4 x 8 heads of 64 over 300 tokens, 2.0 times"),),
            ),
        ),
        KERNELS,
        120,
    ),
    Job(
        "rowwise.py",
        (
            *(Row(f"row-{op}-{size}", f"`{'tanh' if op == 'elementwise' else op}`, {words}", "torch's", claims=claims) for op, claims in ROW_OPS.items() for size, words in (("few", "1 to 8 rows"), ("256", "256 rows"))),
            Row("row-call", "a call of a row op on one row of 67, from Python, the slowest op", unit="us", claims=(Claim(FIGURES, "a call costs 7 to 19 us where stock's costs 1 to 4"),)),
        ),
        KERNELS,
        180,
    ),
    Job(
        "accuracy.py",
        (
            Row(
                "accuracy-sound",
                "error of sound ops of length 4096, the largest",
                "what their roundings may add up to",
                goal=1.0,
                counted=True,
                claims=(Claim(FIGURES, "| op | fault | float32 | bfloat16 | float16 |"), Claim(FIGURES, "| softmax | sound | 0.0015 | 0.88 | 0.37 |", (0.88,))),
            ),
            Row(
                "accuracy-sound-float32",
                "error of a sound float32 product of length 4096",
                "what its roundings may add up to",
                goal=0.001,
                counted=True,
                claims=(Claim(FIGURES, "uses less than a thousandth of it"), Claim(FIGURES, "| matmul | sound | 0.00031 | 0.73 | 0.34 |", (0.00031,))),
            ),
            Row(
                "accuracy-planted",
                "error of planted inaccuracies, the smallest",
                "what roundings may add up to",
                goal=1.0,
                at_least=True,
                counted=True,
                claims=(Claim(FIGURES, "| op | fault | float32 | bfloat16 | float16 |"), Claim(FIGURES, "| rmsnorm | bfloat16 sums | 15 | 2.4 | 7.4 |", (2.4,))),
            ),
        ),
        COUNTS,
        120,
    ),
    Job(
        "culprits.py",
        (
            Row(
                "planted",
                "faults planted in four models of which `bisect` names the right op and kind",
                "all that were planted",
                "share",
                goal=1.0,
                at_least=True,
                counted=True,
                claims=(Claim(README, "200 of 200; 0", (1.0,), 0),),
            ),
            Row("planted-others", "ops named that are none of the planted ones", unit="false positives", goal=0.0, counted=True, claims=(Claim(README, "200 of 200; 0", (0.0,), 0),)),
        ),
        COUNTS,
        1800,
        ("200",),
        slow=True,
    ),
    Job(
        "kinds.py",
        (
            Row(
                "kinds",
                "kinds of models that are identical with our kernels",
                "all on which stock reacted",
                "share",
                counted=True,
                claims=(Claim("docs/engines/transformers.md", "## Kinds of models"), Claim("docs/engines/transformers.md", "printed on an Intel Xeon (AVX-512, AMX) with two threads:")),
            ),
            Row("kinds-refused", "kinds that are refused in words", unit="kinds", counted=True, claims=(Claim("docs/engines/transformers.md", "## Kinds of models"),)),
        ),
        COUNTS,
        900,
        needs="torchao",
        slow=True,
    ),
    Job(
        "agreement.py",
        (
            Row(
                "agreement",
                "families and dtypes whose log-probabilities in vLLM and transformers are equal to the bit, on our kernels",
                "all that run",
                "share",
                counted=True,
                claims=(Claim("docs/agreement.md", "## What was measured"),),
            ),
        ),
        COUNTS,
        1800,
        needs="vllm",
        slow=True,
    ),
    Job(
        "side_by_side.py",
        (
            Row(
                "side-by-side",
                "planted subjects of which detcheck says what is right",
                "all subjects",
                "share",
                goal=1.0,
                at_least=True,
                counted=True,
                claims=(Claim("docs/side_by_side.md", "# Side by side"),),
            ),
        ),
        COUNTS,
        1800,
        slow=True,
    ),
    Job(
        "compiled.py",
        (
            Row(
                "compiled",
                "the most that a Triton kernel of ours spills, compiled for six GPUs",
                unit="bytes",
                goal=32.0,
                counted=True,
                claims=(
                    Claim("docs/gpu.md", "Nothing spills but 16 bytes in float32 attention of wide heads under Triton 3.6, and up to 32 bytes on sm_89 and sm_120"),
                    Claim("docs/gpu.md", "| rows | tile (rows x columns x K) | registers, shared memory (sm_90, Triton 3.6) | instruction |"),
                ),
            ),
        ),
        COUNTS,
        1200,
        needs="triton",
        slow=True,
    ),
    Job(
        "gpu.py",
        tuple(
            Row(f"gpu-{op}-{how}-{dtype}", f"{op}, {how}, {dtype}: geometric mean", "cuBLAS" if op == "matmul" else "`scaled_dot_product_attention`", goal=goal, at_least=True)
            for op, how, goal in (("matmul", "decode", 0.9), ("matmul", "prefill", 0.8), ("attention", "decode", 0.9), ("attention", "prefill", 0.9))
            for dtype in ("bfloat16", "float16", "float32")
        ),
        GPU,
        600,
        needs="gpu",
    ),
)

SETTING, DEFINITION, OTHERS = ("a setting or a limit of the program", "what a word means", "figures of others, who are named")
EXAMPLE, KEPT_BY_A_TEST = "what a run of an example showed", "a test keeps it"
BY_HAND = "measured by hand before, as it says there: no script does it again"
OTHER_FIGURES = {
    SETTING: (
        Claim("docs/ci.md", "below the 1 MiB that GitHub takes"),
        Claim("docs/concepts.md", "(Clopper-Pearson, 95%)"),
        Claim("docs/verdicts.md", "(Clopper-Pearson, 95%)"),
        Claim("docs/engines/server.md", "in more than 5% of runs"),
        Claim("docs/engines/server.md", "they are waited for (10 s)"),
        Claim("docs/engines/server.md", "`--timeout` (300 s)"),
        Claim("docs/engines/vllm.md", "(1 to 16 GiB)"),
        Claim("docs/fuzz.md", "at most 20 s of a processor"),
        Claim("docs/fuzz.md", "60 to 250, in about 20 s of one core"),
        Claim("docs/probes/bisect.md", "8 times, for noise that is rare"),
        Claim("docs/probes/order.md", "at one row it takes 64 times the calls"),
        Claim("docs/probes/reload.md", "(buckets of 1 MiB)"),
        Claim("docs/probes/reload.md", "in buckets of 64 MiB"),
        Claim("docs/reports.md", "about 2 MB of the"),
        Claim("docs/verdicts.md", "32 times as far"),
    ),
    DEFINITION: (
        Claim("docs/faq.md", "46% for 6 batches, 3.6% for 100, 0.37% for 1000. (Clopper and"),
        Claim("docs/faq.md", "Pearson, 95%.)"),
        Claim("docs/faq.md", "some 65,000 times finer than bfloat16's"),
        Claim("docs/probes/logprobs.md", "100%: all count the same. 10% of the sequences"),
    ),
    OTHERS: (Claim("docs/faq.md", "The article of 2025-09 took 42 s instead of 26 s for 1000 sequences of an 8B model. SGLang's post of 2025-09 reports 34% on average, mostly 25% to 45%."),),
    EXAMPLE: (Claim("docs/tutorial.md", "at most 45.9% of such batches"), Claim("docs/tutorial.md", "with 95% confidence"), Claim("docs/probes/logprobs.md", "## Measured")),
    KEPT_BY_A_TEST: (Claim("docs/reports.md", "keeps a run of 220 prompts below 5 MB, and one of 10,000 different completions below 0.5 MB"),),
    BY_HAND: (Claim(FIGURES, "0.9 to 1.2 times its time, before 1.0 to 1.7"), Claim(FIGURES, "On Zen 5, which multiplies twice as fast, ours reach 68 to 78% of that peak")),
}
"""Why a figure on a page has no row -> where it stands"""
