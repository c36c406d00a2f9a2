"""How a model keeps the keys and values of what it has seen."""

from enum import StrEnum


class Cache(StrEnum):
    """As in transformers' `generate(cache_implementation=...)`."""

    DYNAMIC = "dynamic"
    """grows with each token"""
    STATIC = "static"
    """as long as the longest row of the batch will be, from the beginning: attention reads what is empty too, under a mask"""
