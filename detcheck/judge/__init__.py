"""Observations -> findings: pure functions over what was stored."""

from detcheck.called import may_be_called

may_be_called(__name__)
