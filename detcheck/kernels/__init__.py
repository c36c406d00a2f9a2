"""Batch-invariant ops. One file per op; files that begin with an underscore serve them all."""
