"""Triton kernels for `certify`: the guilty, each wrong in a way of its own, and the innocent that look like them."""

import triton
import triton.language as tl

from detcheck.op import Signature

ROWS = {"x": "*T", "y": "*T", "M": "i32", "N": "i32"}


def rows(**more):
    """The signature of a kernel over x[M, N], a row a program."""
    given = {
        "arguments": ROWS,
        "constexprs": {"BLOCK": 256},
        "batch": ("M",),
        "reduction": ("N",),
        "aligned": ("x", "y"),
    }
    return Signature(**(given | more))


# ---------------------------------------------------------------- guilty: sums over a row


@triton.jit(do_not_specialize=["M"])
def atomic_sum(x, y, M, N, BLOCK: tl.constexpr):
    row, part = tl.program_id(0), tl.program_id(1)
    c = part * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    tl.atomic_add(y + row, tl.sum(v, 0))


@triton.jit(do_not_specialize=["M"])
def bound_follows_batch(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(0, N // (1 + (M < 64)), BLOCK):
        c = k + tl.arange(0, BLOCK)
        acc += tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    tl.store(y + row, tl.sum(acc, 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def step_follows_batch(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(0, N, tl.minimum(M, 4) * BLOCK):
        c = k + tl.arange(0, BLOCK)
        acc += tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    tl.store(y + row, tl.sum(acc, 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def rotated_start(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(0, N, BLOCK):
        c = (k + row * BLOCK) % N + tl.arange(0, BLOCK)
        acc += tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    tl.store(y + row, tl.sum(acc, 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def branch_by_batch(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    v = tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    if M > 64:  # noqa: SIM108  a branch is what it is about
        s = tl.sum(v, 0)
    else:
        s = tl.sum(tl.sum(tl.reshape(v, [BLOCK // 8, 8]), 1), 0)
    tl.store(y + row, s.to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def sum_over_the_batch(x, y, M, N, BLOCK: tl.constexpr):
    r, c = tl.arange(0, BLOCK), tl.program_id(0)
    v = tl.load(x + r * N + c, mask=r < M, other=0.0).to(tl.float32)
    tl.store(y + c, tl.sum(v, 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def divided_by_the_batch(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    v = tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    tl.store(y + row, (tl.sum(v, 0) / M).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def mask_by_the_batch(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    v = tl.load(x + row * N + c, mask=c < N - M % 2, other=0.0).to(tl.float32)
    tl.store(y + row, tl.sum(v, 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def halving_while(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    s = 0.0
    left = M
    while left > 0:
        s += tl.sum(tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32), 0)
        left = left // 2
    tl.store(y + row, s.to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def strided_by_programs(x, y, M, N, BLOCK: tl.constexpr):
    """Each program adds up what it happens to get: as many as the grid leaves it."""
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(tl.program_id(0) * BLOCK, N, tl.num_programs(0) * BLOCK):
        c = k + tl.arange(0, BLOCK)
        acc += tl.load(x + c, mask=c < N, other=0.0).to(tl.float32)
    tl.store(y + tl.program_id(0), tl.sum(acc, 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def sum_in_memory(x, y, M, N, BLOCK: tl.constexpr):
    """Carries nothing along: what it has so far lies in y."""
    row = tl.program_id(0)
    for i in range(M):
        c = i * BLOCK + tl.arange(0, BLOCK)
        v = tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
        tl.store(y + row, (tl.load(y + row).to(tl.float32) + tl.sum(v, 0)).to(y.dtype.element_ty))


@triton.heuristics({"BLOCK": lambda args: 128 if args["M"] > 100_000 else 256})
@triton.jit(do_not_specialize=["M"])
def heuristic_for_giants(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    tl.store(y + row, tl.sum(tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32), 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def two_guards(x, y, M, N, BLOCK: tl.constexpr):
    """A branch between two ways of adding, written as two conditions."""
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    v = tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    if M > 64:
        tl.store(y + row, tl.sum(v, 0).to(y.dtype.element_ty))
    if M <= 64:
        tl.store(y + row, tl.sum(tl.sum(tl.reshape(v, [BLOCK // 8, 8]), 1), 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def two_stores(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    s = tl.sum(tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32), 0)
    if row < M // 2:
        tl.store(y + row, s.to(y.dtype.element_ty))
    else:
        tl.store(y + row, (s * 1.0000001).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def gathered(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    v = tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    tl.store(y + row, tl.sum(tl.gather(v, (c + M) % BLOCK, 0), 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def scaled_for_the_batch(x, y, amax, M, N, BLOCK: tl.constexpr):
    """One scale for all rows, of the largest number in the batch."""
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    v = tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    tl.store(y + row, tl.sum(v / tl.load(amax), 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def by_multiprocessor(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    where = tl.inline_asm_elementwise("mov.u32 $0, %smid; // $1", "=r,r", [row], dtype=tl.int32, is_pure=True, pack=1)
    at = (c + where) % BLOCK
    v = tl.load(x + row * N + at, mask=at < N, other=0.0).to(tl.float32)
    tl.store(y + row, tl.sum(v, 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def bits_of_the_batch(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    v = tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    tl.store(y + row, (tl.sum(v, 0) + (M + 0).to(tl.float32, bitcast=True)).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def masked_by_a_product(x, y, M, N, BLOCK: tl.constexpr):
    """Innocent: rows that are not there are multiplied by zero."""
    r, c = tl.program_id(0) * 8 + tl.arange(0, 8), tl.arange(0, BLOCK)
    v = tl.load(x + r[:, None] * N + c[None, :], mask=c[None, :] < N, other=0.0).to(tl.float32)
    v = v * (r < M).to(tl.float32)[:, None]
    tl.store(y + r, tl.sum(v, 1).to(y.dtype.element_ty), mask=r < M)


@triton.jit(do_not_specialize=["M"])
def one_of_two_numbers(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    v = tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    exact = tl.sum(v, 0)
    fast = tl.sum(v.to(tl.float16), 0).to(tl.float32)
    tl.store(y + row, tl.where(M > 16, fast, exact).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def data_decides(x, y, M, N, BLOCK: tl.constexpr):
    """Goes on until it has converged, over a tile of several rows: so a neighbour decides too."""
    r, c = tl.program_id(0) * 4 + tl.arange(0, 4), tl.arange(0, BLOCK)
    v = tl.load(x + r[:, None] * N + c[None, :], mask=c[None, :] < N, other=0.0).to(tl.float32)
    while tl.max(tl.max(v, 1), 0) > 1.0:
        v = v / tl.sum(v, 1)[:, None]
    tl.store(y + r, tl.sum(v, 1).to(y.dtype.element_ty))


@triton.jit
def specialised(x, y, M, N, BLOCK: tl.constexpr):
    """Right in every form; but M = 1 is another binary, and nothing shows that it adds alike."""
    row = tl.program_id(0)
    if row < M:
        c = tl.arange(0, BLOCK)
        v = tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
        tl.store(y + row, tl.sum(v, 0).to(y.dtype.element_ty))


@triton.autotune([triton.Config({"BLOCK": 128}), triton.Config({"BLOCK": 256})], key=["M"])
@triton.jit(do_not_specialize=["M"])
def tuned_by_batch(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(0, N, BLOCK):
        c = k + tl.arange(0, BLOCK)
        acc += tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    tl.store(y + row, tl.sum(acc, 0).to(y.dtype.element_ty))


@triton.autotune([triton.Config({"BLOCK": 128}), triton.Config({"BLOCK": 256})], key=["N"])
@triton.jit(do_not_specialize=["M"])
def tuned_by_time(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(0, N, BLOCK):
        c = k + tl.arange(0, BLOCK)
        acc += tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    tl.store(y + row, tl.sum(acc, 0).to(y.dtype.element_ty))


@triton.heuristics({"BLOCK": lambda args: 128 if args["M"] < 64 else 256})
@triton.jit(do_not_specialize=["M"])
def heuristic_by_batch(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(0, N, BLOCK):
        c = k + tl.arange(0, BLOCK)
        acc += tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    tl.store(y + row, tl.sum(acc, 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def scaled_for_the_tile(x, y, M, N, BLOCK: tl.constexpr):
    """Each tile of four rows has one scale, so a row's bits depend on the three beside it."""
    r, c = tl.program_id(0) * 4 + tl.arange(0, 4), tl.arange(0, BLOCK)
    v = tl.load(x + r[:, None] * N + c[None, :], mask=c[None, :] < N, other=0.0).to(tl.float32)
    top = tl.max(tl.max(v, 1), 0)
    tl.store(y + r, tl.sum(v / top, 1).to(y.dtype.element_ty), mask=r < M)


@triton.jit(do_not_specialize=["M"])
def rows_through_a_dot(x, y, M, N, BLOCK: tl.constexpr):
    r, c = tl.program_id(0) * 16 + tl.arange(0, 16), tl.arange(0, BLOCK)
    v = tl.load(x + r[:, None] * N + c[None, :], mask=c[None, :] < N, other=0.0)
    mixed = tl.dot(tl.full([16, 16], 0.0625, v.dtype), v, input_precision="ieee")
    tl.store(y + r[:, None] * N + c[None, :], mixed.to(y.dtype.element_ty), mask=(r[:, None] < M) & (c[None, :] < N))


# ---------------------------------------------------------------- tensor descriptors


@triton.jit
def tiles_in_turn(d, row, end, shift, BLOCK: tl.constexpr):
    acc = tl.zeros([1, BLOCK], tl.float32)
    for c in range(0, end, BLOCK):
        acc += d.load([row, c - shift]).to(tl.float32)
    return tl.sum(acc, 1)


@triton.jit(do_not_specialize=["M"])
def described(x, y, M, N, BLOCK: tl.constexpr):
    """Innocent: how many rows the tensor has follows the batch."""
    d = tl.make_tensor_descriptor(x, [M, N], [N, 1], [1, BLOCK])
    row = tl.program_id(0)
    tl.store(y + row + tl.arange(0, 1), tiles_in_turn(d, row, N, 0, BLOCK).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def described_too_short(x, y, M, N, BLOCK: tl.constexpr):
    """How much of a row the tensor has follows the batch, so zeros come in the place of the rest."""
    d = tl.make_tensor_descriptor(x, [M, tl.minimum(N, 16 * M)], [N, 1], [1, BLOCK])
    row = tl.program_id(0)
    tl.store(y + row + tl.arange(0, 1), tiles_in_turn(d, row, N, 0, BLOCK).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def described_shifted(x, y, M, N, BLOCK: tl.constexpr):
    d = tl.make_tensor_descriptor(x, [M, N], [N, 1], [1, BLOCK])
    row = tl.program_id(0)
    tl.store(y + row + tl.arange(0, 1), tiles_in_turn(d, row, N + 64, 8 * (M % 8), BLOCK).to(y.dtype.element_ty))


# ---------------------------------------------------------------- matmul

MATMUL = {"x": "*T", "w": "*T", "out": "*T", "M": "i32", "N": "i32", "K": "i32"}


def product(constexprs=None, **more):
    given = {
        "arguments": MATMUL, "constexprs": {"BM": 32, "BN": 32, "BK": 32} | (constexprs or {}), "batch": ("M",), "reduction": ("K",),
        "aligned": ("x", "w", "out"),
    }  # fmt: skip
    return Signature(**(given | more))


@triton.jit
def multiply(x, w, M, N, K, rm, rn, begin, end, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    acc = tl.zeros([BM, BN], tl.float32)
    for k in range(begin, end, BK):
        rk = k + tl.arange(0, BK)
        a = tl.load(x + rm[:, None] * K + rk[None, :], mask=(rm[:, None] < M) & (rk[None, :] < K), other=0.0)
        b = tl.load(w + rn[None, :] * K + rk[:, None], mask=(rn[None, :] < N) & (rk[:, None] < K), other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    return acc


@triton.jit(do_not_specialize=["M"])
def split_k_by_host(x, w, out, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLITS: tl.constexpr):
    """SPLITS is chosen on the host, from M; another kernel adds the parts up."""
    rm, rn = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    part = tl.program_id(2)
    acc = multiply(x, w, M, N, K, rm, rn, part * (K // SPLITS), (part + 1) * (K // SPLITS), BM, BN, BK)
    tl.store(
        out + part * M * N + rm[:, None] * N + rn[None, :],
        acc.to(out.dtype.element_ty),
        mask=(rm[:, None] < M) & (rn[None, :] < N),
    )


@triton.jit(do_not_specialize=["M"])
def stream_k(x, w, out, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """Programs share all iterations out evenly, so where a program's part of a tile begins follows M."""
    each = tl.cdiv(tl.cdiv(M, BM) * tl.cdiv(N, BN) * tl.cdiv(K, BK), tl.num_programs(0))
    first = tl.program_id(0) * each
    begin = (first % tl.cdiv(K, BK)) * BK
    rm, rn = (first // tl.cdiv(K, BK)) * BM + tl.arange(0, BM), tl.arange(0, BN)
    acc = multiply(x, w, M, N, K, rm, rn, begin, tl.minimum(K, begin + each * BK), BM, BN, BK)
    tl.store(
        out + rm[:, None] * N + rn[None, :], acc.to(out.dtype.element_ty), mask=(rm[:, None] < M) & (rn[None, :] < N)
    )


@triton.jit(do_not_specialize=["M"])
def grouped_matmul(x, w, out, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """Innocent: which tile a program takes follows M, how it adds does not. (Triton's tutorial.)"""
    pid, across, down = tl.program_id(0), tl.cdiv(N, BN), tl.cdiv(M, BM)
    in_group = 8 * across
    first = pid // in_group * 8
    high = tl.minimum(down - first, 8)
    pm, pn = first + (pid % in_group) % high, (pid % in_group) // high
    rm, rn = pm * BM + tl.arange(0, BM), pn * BN + tl.arange(0, BN)
    acc = multiply(x, w, M, N, K, rm, rn, 0, K, BM, BN, BK)
    tl.store(
        out + rm[:, None] * N + rn[None, :], acc.to(out.dtype.element_ty), mask=(rm[:, None] < M) & (rn[None, :] < N)
    )


@triton.jit(do_not_specialize=["M"])
def persistent_matmul(x, w, out, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """Innocent: how many tiles a program takes follows M and the grid; each is added up by itself."""
    across = tl.cdiv(N, BN)
    for tile in range(tl.program_id(0), tl.cdiv(M, BM) * across, tl.num_programs(0)):
        rm, rn = tile // across * BM + tl.arange(0, BM), tile % across * BN + tl.arange(0, BN)
        acc = multiply(x, w, M, N, K, rm, rn, 0, K, BM, BN, BK)
        tl.store(
            out + rm[:, None] * N + rn[None, :],
            acc.to(out.dtype.element_ty),
            mask=(rm[:, None] < M) & (rn[None, :] < N),
        )


# ---------------------------------------------------------------- innocent: rows


@triton.jit(do_not_specialize=["M"])
def softmax(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    v = tl.load(x + row * N + c, mask=c < N, other=-float("inf")).to(tl.float32)
    e = tl.exp(v - tl.max(v, 0))
    tl.store(y + row * N + c, (e / tl.sum(e, 0)).to(y.dtype.element_ty), mask=c < N)


@triton.jit(do_not_specialize=["M"])
def layernorm(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(0, N, BLOCK):
        c = k + tl.arange(0, BLOCK)
        acc += tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    mean = tl.sum(acc, 0) / N
    acc = tl.zeros([BLOCK], tl.float32)
    for k in range(0, N, BLOCK):
        c = k + tl.arange(0, BLOCK)
        d = tl.where(c < N, tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32) - mean, 0.0)
        acc += d * d
    scale = tl.rsqrt(tl.sum(acc, 0) / N + 1e-6)
    for k in range(0, N, BLOCK):
        c = k + tl.arange(0, BLOCK)
        v = tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
        tl.store(y + row * N + c, ((v - mean) * scale).to(y.dtype.element_ty), mask=c < N)


@triton.jit(do_not_specialize=["M"])
def early_return(x, y, M, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    if row >= M:
        return
    c = tl.arange(0, BLOCK)
    v = tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
    tl.store(y + row, tl.sum(v, 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def rows_in_turn(x, y, M, N, BLOCK: tl.constexpr):
    for row in range(tl.program_id(0), M, tl.num_programs(0)):
        c = tl.arange(0, BLOCK)
        v = tl.load(x + row * N + c, mask=c < N, other=0.0).to(tl.float32)
        tl.store(y + row, tl.sum(v, 0).to(y.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def tiles_of_rows(x, y, M, N, BLOCK: tl.constexpr):
    r, c = tl.program_id(0) * 8 + tl.arange(0, 8), tl.arange(0, BLOCK)
    inside = (r[:, None] < M) & (c[None, :] < N)
    v = tl.load(x + r[:, None] * N + c[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(y + r, tl.sum(v, 1).to(y.dtype.element_ty), mask=r < M)


@triton.jit(do_not_specialize=["M"])
def elementwise(x, y, M, N, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, mask=at < M * N, other=0.0).to(tl.float32)
    tl.store(y + at, (v * tl.sigmoid(v)).to(y.dtype.element_ty), mask=at < M * N)


# ---------------------------------------------------------------- attention

ATTENTION = {"q": "*T", "k": "*T", "v": "*T", "out": "*T", "L": "i32", "S": "i32"}


def attending(**more):
    given = {
        "arguments": ATTENTION, "constexprs": {"D": 32, "BM": 32, "BN": 32}, "batch": ("L",), "reduction": ("S",),
        "aligned": ("q", "k", "v", "out"), "masked_tail": True,
    }  # fmt: skip
    return Signature(**(given | more))


@triton.jit
def attend(
    q,
    k,
    v,
    out,
    L,
    S,
    begin,
    end,
    seen,
    window,
    CAUSAL: tl.constexpr,
    GUARD: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    r, d = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, D)
    query = tl.load(q + r[:, None] * D + d[None, :], mask=r[:, None] < L, other=0.0)
    top, total, acc = tl.full([BM], -1e30, tl.float32), tl.zeros([BM], tl.float32), tl.zeros([BM, D], tl.float32)
    for j in range(begin, end, BN):
        n = j + tl.arange(0, BN)
        key = tl.load(k + n[None, :] * D + d[:, None], mask=n[None, :] < S, other=0.0)
        s = tl.dot(query, key, input_precision="ieee") * 0.125
        if CAUSAL:
            s = tl.where(
                (n[None, :] <= (S - L + r)[:, None])
                & (n[None, :] < seen)
                & (n[None, :] > (S - L + r - window)[:, None]),
                s,
                -float("inf"),
            )
        now = tl.maximum(top, tl.max(s, 1))
        fade, e = tl.exp(top - now), tl.exp(s - now[:, None])
        if not GUARD:
            e = e + 1e-30
        total = total * fade + tl.sum(e, 1)
        value = tl.load(v + n[:, None] * D + d[None, :], mask=n[:, None] < S, other=0.0)
        acc = tl.dot(e.to(value.dtype), value, acc * fade[:, None], input_precision="ieee")
        top = now
    tl.store(out + r[:, None] * D + d[None, :], (acc / total[:, None]).to(out.dtype.element_ty), mask=r[:, None] < L)


@triton.jit(do_not_specialize=["L"])
def causal_attention(q, k, v, out, L, S, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Innocent: how far a tile of queries goes follows the tile, and what it sees beyond a row's own keys is masked for that row."""
    attend(q, k, v, out, L, S, 0, tl.minimum(S, S - L + (tl.program_id(0) + 1) * BM), S, S, True, True, D, BM, BN)


@triton.jit(do_not_specialize=["L"])
def window_attention(q, k, v, out, L, S, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Innocent: blocks that the window of a whole tile has left behind are passed over, a whole number of them."""
    first = tl.maximum(S - L + tl.program_id(0) * BM - 64, 0) // BN * BN
    attend(
        q, k, v, out, L, S, first, tl.minimum(S, S - L + (tl.program_id(0) + 1) * BM), S, 64, True, True, D, BM, BN
    )  # fmt: skip


@triton.jit(do_not_specialize=["L"])
def window_from_anywhere(q, k, v, out, L, S, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Where blocks of keys begin follows where the tile of queries begins."""
    first = tl.maximum(S - L + tl.program_id(0) * BM - 64, 0)
    attend(
        q, k, v, out, L, S, first, tl.minimum(S, S - L + (tl.program_id(0) + 1) * BM), S, 64, True, True, D, BM, BN
    )  # fmt: skip


@triton.jit(do_not_specialize=["L"])
def attention_that_hides_a_key(q, k, v, out, L, S, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Of an odd number of queries none sees the last key."""
    attend(
        q, k, v, out, L, S, 0, tl.minimum(S, S - L + (tl.program_id(0) + 1) * BM), S - L % 2, S, True, True, D, BM, BN
    )


@triton.jit(do_not_specialize=["L"])
def attention_without_a_mask(q, k, v, out, L, S, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    attend(q, k, v, out, L, S, 0, tl.minimum(S, S - L + (tl.program_id(0) + 1) * BM), S, S, False, True, D, BM, BN)


@triton.jit(do_not_specialize=["L"])
def attention_that_adds_a_little(q, k, v, out, L, S, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    attend(q, k, v, out, L, S, 0, tl.minimum(S, S - L + (tl.program_id(0) + 1) * BM), S, S, True, False, D, BM, BN)


@triton.jit(do_not_specialize=["L"])
def attention_from_anywhere(q, k, v, out, L, S, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Where splits of keys begin follows the number of queries."""
    attend(q, k, v, out, L, S, L % BN - BN, S, S, S, True, True, D, BM, BN)


@triton.jit(do_not_specialize=["SPLITS"])
def fixed_number_of_splits(q, k, v, out, L, S, SPLITS, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """As many splits as the batch leaves processors for, so how long each is follows the batch."""
    each = tl.cdiv(S, SPLITS)
    part = tl.program_id(1)
    attend(q, k, v, out, L, S, part * each, tl.minimum(S, (part + 1) * each), S, S, True, True, D, BM, BN)


def block_for(arguments):
    """A heuristic's own helper."""
    return 128 if arguments["M"] > 100_000 else 256


SPLIT = attending(arguments={**ATTENTION, "SPLITS": "i32"}, batch=("SPLITS",), batch_axes=())
SCALED = rows(arguments={**ROWS, "amax": "*fp32"}, batch=("M", "amax"), aligned=("x", "y", "amax"))
REFUTED = {
    "atomic_sum": rows(), "bound_follows_batch": rows(), "step_follows_batch": rows(), "rotated_start": rows(), "branch_by_batch": rows(),
    "sum_over_the_batch": rows(batch_axes=()), "divided_by_the_batch": rows(), "mask_by_the_batch": rows(), "halving_while": rows(),
    "strided_by_programs": rows(), "one_of_two_numbers": rows(), "by_multiprocessor": rows(), "gathered": rows(), "bits_of_the_batch": rows(),
    "described_too_short": rows(), "described_shifted": rows(), "scaled_for_the_batch": SCALED, "tuned_by_batch": rows(constexprs={}),
    "heuristic_by_batch": rows(constexprs={}),
    "split_k_by_host": product({"SPLITS": (1, 4)}, batch=("M", "SPLITS"), batch_axes=(0, 1)), "stream_k": product(),
    "attention_from_anywhere": attending(),
    "fixed_number_of_splits": SPLIT, "window_from_anywhere": attending(),
}  # fmt: skip
UNDECIDED = {
    "scaled_for_the_tile": rows(), "rows_through_a_dot": rows(), "two_guards": rows(), "two_stores": rows(), "data_decides": rows(), "specialised": rows(), "tuned_by_time": rows(constexprs={}), "sum_in_memory": rows(),
    "heuristic_for_giants": rows(constexprs={}), "attention_that_hides_a_key": attending(),
    "attention_that_adds_a_little": attending(), "attention_without_a_mask": attending(),
}  # fmt: skip
CERTIFIED = {
    "grouped_matmul": product(), "persistent_matmul": product(), "softmax": rows(), "layernorm": rows(), "early_return": rows(),
    "rows_in_turn": rows(), "tiles_of_rows": rows(), "elementwise": rows(), "masked_by_a_product": rows(), "described": rows(),
    "causal_attention": attending(), "window_attention": attending(),
}  # fmt: skip
NVIDIA = {"by_multiprocessor"}  # written in that maker's assembly
DETCHECK = UNDECIDED | REFUTED | CERTIFIED
