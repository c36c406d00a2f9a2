"""Our product with the tiles that follow the number of rows, each as a kernel to certify."""

from detcheck.kernels._triton.matmul import matmul_kernel, matmul_signature  # noqa: F401
from detcheck.kernels._triton.tiles import BY_ROWS

place = 0  # in the table, of the one that is declared


def declared(dtype, target):
    _, columns, tile = BY_ROWS[target][place]
    return matmul_signature(dtype, target, min(columns, 32768), chosen=tile)


DETCHECK = {"matmul_kernel": declared}
