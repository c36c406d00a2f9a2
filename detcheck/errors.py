"""What can go wrong, by the exit code it leads to. Every message says what was wrong, what was found and what to do."""


class DetcheckError(Exception):
    """A condition that detcheck foresaw. Its text is for people and is printed without a traceback."""

    exit_code = 4

    @property
    def lines(self) -> tuple[str, ...]:
        """What is said, a fault a line."""
        return (str(self),)


class UsageError(DetcheckError):
    """The question cannot be asked like this: bad option, bad file, no such path. Nothing was run."""

    exit_code = 2


class FailedError(DetcheckError):
    """The question was right, but it could not be run: load error, out of memory, missing dependency."""

    exit_code = 4


class OutOfMemoryError(FailedError):
    """One batch did not fit. Its samples are missing; smaller batches may still run."""


class LongNameError(UsageError):
    """A file's name is longer than any file's."""

    def __init__(self, name: object) -> None:
        super().__init__(f"{str(name)[:60]}...: no file can have so long a name")


class NothingToAskError(DetcheckError):
    """There is nothing that the question is about, and the user said that this is no fault. Nothing was run."""

    exit_code = 0
