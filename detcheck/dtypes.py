"""Names of dtypes: torch's, and the short forms that people write."""

from detcheck.errors import UsageError

SHORT_DTYPES = {
    "fp32": "float32",
    "f32": "float32",
    "float": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
}
EPSILON = {
    "float32": 2.0**-23,
    "bfloat16": 2.0**-7,
    "float16": 2.0**-10,
    "float64": 2.0**-52,
}  # from 1 to the next number
DTYPES = tuple(EPSILON)


def full_dtype(name: str | None) -> str | None:
    """torch's name for a dtype, short forms accepted. Raises UsageError."""
    if name is None:
        return None
    full = SHORT_DTYPES.get(name, name).removeprefix("torch.")
    if full not in DTYPES:
        raise UsageError(
            f"--dtype {name}: not one that models run in. Use one of {', '.join(DTYPES)}, or {', '.join(SHORT_DTYPES)}"
        )
    return full
