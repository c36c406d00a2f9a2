"""Equality is bytes: floating-point bit patterns, and distances between them. No torch."""

import numpy as np

BFLOAT16_STEP = 1 << 16  # float32s from one bfloat16 to the next


def as_integers(values: np.ndarray) -> np.ndarray:
    """The bit patterns of float16, float32 or float64[n], as unsigned integers: -0.0 is not 0.0, a NaN equals only its own bits."""
    return np.ascontiguousarray(values).view({2: np.uint16, 4: np.uint32, 8: np.uint64}[values.dtype.itemsize])


def ulp_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many representable numbers lie between a[n] and b[n] (both of one dtype). float64[n]; NaN where either is NaN."""
    top = {2: np.uint16(1 << 15), 4: np.uint32(1 << 31), 8: np.uint64(1 << 63)}[a.dtype.itemsize]
    x, y = as_integers(a), as_integers(b)
    x_size, y_size = (x & ~top).astype(np.int64), (y & ~top).astype(np.int64)
    apart = np.where(
        (x & top) == (y & top), np.abs(x_size - y_size).astype(np.float64), x_size.astype(np.float64) + y_size
    )
    return np.where(np.isnan(a) | np.isnan(b), np.nan, apart)


def floats_of(patterns: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers behind bit patterns (int64[n]) of that dtype (torch's name). bfloat16 comes as the float32 of equal value."""
    if dtype == "bfloat16":
        return (patterns.astype(np.uint32) << 16).view(np.float32)
    unsigned = {"float16": np.uint16, "float32": np.uint32, "float64": np.uint64}[dtype]
    return patterns.astype(unsigned).view(dtype)


def patterns(bits: np.ndarray) -> np.ndarray:
    """int64[n] of bit patterns that came as integers of any width: what fewer bits leave open is zero."""
    unsigned = bits.view(f"u{bits.dtype.itemsize}") if bits.dtype.kind == "i" else bits
    return unsigned.astype(np.uint64).view(np.int64)


def furthest(a: np.ndarray, b: np.ndarray, dtype: str) -> tuple[float | None, float | None]:
    """(ulp, absolute distance) of the two numbers furthest apart, of unequal patterns (int64[n]); None where no pair is one of numbers."""
    x, y = floats_of(a[a != b], dtype), floats_of(b[a != b], dtype)
    numbers = np.isfinite(x) & np.isfinite(y)
    if not numbers.any():
        return None, None
    ulp = np.max(ulp_distance(x[numbers], y[numbers])) / (BFLOAT16_STEP if dtype == "bfloat16" else 1)
    return float(ulp), float(np.max(np.abs(x[numbers].astype(np.float64) - y[numbers].astype(np.float64))))


def first_difference(a: np.ndarray, b: np.ndarray) -> int | None:
    """First index at which two integer sequences part; the shorter one's length if it is a prefix; None if they are equal."""
    shared = min(len(a), len(b))
    unequal = np.flatnonzero(a[:shared] != b[:shared])
    if unequal.size:
        return int(unequal[0])
    return None if len(a) == len(b) else shared
