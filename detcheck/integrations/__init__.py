"""The thin hooks that other programs load."""
