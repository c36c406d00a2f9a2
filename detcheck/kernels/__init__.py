"""One file per op: why it is batch-invariant, and every implementation it has."""

from detcheck.called import may_be_called

may_be_called(__name__)
