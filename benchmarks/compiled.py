"""Our Triton kernels as they are compiled for GPUs, found without one: registers, spills, shared memory, matrix instructions.

Tiles in detcheck/kernels/_triton/*.py are chosen by this table: nothing spills, and products in bf16 and fp16 are made by the
matrix units. In float32 NVIDIA's have no exactly rounded product, so there it is FFMA. TMA: how many loads of whole tiles, by
the unit for it, stand in the code. Programs: how many a multiprocessor holds at once, by its registers, threads and shared memory; in
flight: KiB of its buffers in all of them, which a decode's weight streams through. What it cannot show is time.

python benchmarks/compiled.py [TARGET ...]   all of them take some minutes; a machine with Triton is enough
"""

import collections
import itertools
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton
from measured import record
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from detcheck.kernels._triton import attention, matmul, rowwise, tiles

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_89": GPUTarget("cuda", 89, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "sm_120": GPUTarget("cuda", 120, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DTYPES = ("bf16", "fp16", "fp32")
MATRIX = r"\b(HMMA|HGMMA|UTC\w*MMA|v_mfma_\w+)"
# Shared memory of a multiprocessor that programs share, in bytes; each program takes 1 KiB beside its own. Of AMD's this is not known here.
SHARED = {"sm_80": 167936, "sm_89": 102400, "sm_90": 233472, "sm_100": 233472, "sm_120": 102400}
REGISTERS, THREADS, PROGRAMS = 65536, {"sm_89": 1536, "sm_120": 1536}, 32
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
VARIANTS = ({"PAGE": 16}, {"PAGE": 0, "WINDOW": 128, "CAP": True})
ATTENTION = list(itertools.product((64, 128, 256), VARIANTS))  # the head's width, and what is compiled in


@dataclass(frozen=True)
class Compiled:
    registers: int
    """a thread's"""
    spills: int
    """bytes of a thread's stack on NVIDIA, registers on AMD"""
    shared: int
    """bytes a program"""
    matrix: str
    """the matrix instruction, and how often it stands in the code; empty: none"""
    tma: int = 0
    """loads of whole tiles that stand in the code"""
    warps: int = 0

    def programs(self, target):
        """How many a multiprocessor holds; None: not known for that target."""
        if target not in SHARED:
            return None
        threads = 32 * self.warps
        registers = -(-self.registers // 8) * 8 * threads  # given out in eights
        limits = (
            SHARED[target] // (self.shared + 1024),
            REGISTERS // max(registers, 1),
            THREADS.get(target, 2048) // threads,
        )
        return min(*limits, PROGRAMS)


def compiled(kernel, signature, dtype, target, **changes):
    """The kernel as its launcher compiles it. The first of several values; `changes` are other constexprs or options."""
    known = kernel.arg_names
    constants = {n: v[0] if isinstance(v, tuple) else v for n, v in signature.constexprs.items()}
    constants |= {n: v for n, v in changes.items() if n in known}
    options = {**signature.options, **{n: v for n, v in changes.items() if n not in known}}
    types, marks = {}, {}
    for i, parameter in enumerate(kernel.params):
        name = parameter.name
        if name in constants:
            types[name] = "constexpr"
        elif (
            name == "w_k" and not parameter.do_not_specialize
        ):  # a weight is dense along K, and Triton makes a constant of 1
            types[name], constants[name] = "constexpr", 1
        else:
            types[name] = signature.arguments[name].replace("*T", f"*{dtype}")
            if types[name].startswith("*") or (types[name] == "i32" and not parameter.do_not_specialize):
                marks[(i,)] = [["tt.divisibility", 16]]
    fixed = {(known.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=types, constexprs=fixed, attrs=marks)
    return triton.compile(source, target=TARGETS[target], options=options)


def measured(made):
    """What the binary says of itself."""
    if "cubin" not in made.asm:
        text = made.asm["amdgcn"]

        def number(field):
            return int(re.search(rf"\.{field}:\s*(\d+)", text)[1])

        return Compiled(number("vgpr_count"), number("vgpr_spill_count"), made.metadata.shared, instructions(text))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        used = tool("cuobjdump", "-res-usage", file.name)
        code = tool("nvdisasm", "-c", file.name)
    registers, stack, local = (int(re.search(rf"{field}:(\d+)", used)[1]) for field in ("REG", "STACK", "LOCAL"))
    return Compiled(
        registers,
        stack + local,
        made.metadata.shared,
        instructions(code),
        code.count("UTMALDG"),
        made.metadata.num_warps,
    )


def tool(name, *arguments):
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout


def instructions(text):
    found = collections.Counter(re.findall(MATRIX, text))
    return ", ".join(f"{name} {count}" for name, count in found.most_common(1))


def subjects(dtype, target):
    """(what it is called, kernel, signature, changes) of everything that our launchers launch."""
    m, a, r = matmul, attention, rowwise
    for n in (4096, 32768):
        signature = m.matmul_signature(dtype, target, n)
        yield f"matmul {n}x4096", m.matmul_kernel, signature, {}
        if signature.constexprs["DESCRIPTORS"]:
            yield f"matmul {n}x4096, pointers", m.matmul_kernel, signature, {"DESCRIPTORS": False}
    for _, columns, tile in tiles.BY_ROWS.get(target, ()) if dtype != "fp32" else ():
        sizes = "x".join(str(tile.sizes[f"BLOCK_{axis}"]) for axis in "MNK")
        words = f"matmul {sizes}{' swapped' if tile.sizes['SWAP'] else ''}"
        yield words, m.matmul_kernel, m.matmul_signature(dtype, target, min(columns, 32768), chosen=tile), {}
    yield "bmm", m.bmm_kernel, m.bmm_signature(dtype, target), {}
    for name in ("attention_kernel", "split_kernel", "merge_kernel"):
        for dim, changes in ATTENTION:
            if name == "merge_kernel" and changes.get("CAP"):
                continue  # it knows of none
            words = f"{name[:-7]} {dim}, {'paged' if changes['PAGE'] else 'dense'}{', window, cap' if 'CAP' in changes else ''}"
            yield words, getattr(a, name), a.signature_of(name, dim)(dtype, target), changes
    for name, of in r.DETCHECK.items():
        signature = of(dtype, target)
        choices = {n: v for n, v in signature.constexprs.items() if isinstance(v, tuple)}
        for values in itertools.product(*choices.values()):
            words = " ".join([name[:-7], *(f"{n}={v}".lower() for n, v in zip(choices, values, strict=True))])
            yield words, getattr(r, name), signature, dict(zip(choices, values, strict=True))


def main(targets):
    print(f"Triton {triton.__version__}\n")
    heads = (
        f"{'registers':>11}{'spills':>8}{'shared':>9}{'TMA':>5}{'programs':>10}{'in flight':>11}  matrix instruction"
    )
    print(f"{'kernel':34}{'target':>8}{'dtype':>7}{heads}")
    worst = 0
    for target, dtype in itertools.product(targets, DTYPES):
        for name, kernel, signature, changes in subjects(dtype, target):
            it = measured(compiled(kernel, signature, dtype, target, **changes))
            worst = max(worst, it.spills)
            programs = it.programs(target)
            held = "" if programs is None else programs
            flying = "" if programs is None else f"{programs * it.shared / 1024:.0f}"
            figures = f"{it.registers:11}{it.spills:8}{it.shared:9}{it.tma:5}{held:>10}{flying:>11}  {it.matrix}"
            print(f"{name:34}{target:>8}{dtype:>7}{figures}", flush=True)
    print(f"\nmost spills: {worst}")
    record("compiled", [worst], f"{', '.join(targets)}; Triton {triton.__version__}")


if __name__ == "__main__":
    main(sys.argv[1:] or TARGETS)
