"""`detcheck` and `python -m detcheck`: whatever stands in the way of so much as importing it, the exit code is no verdict's."""

import atexit
import contextlib
import os
import sys
import threading


def main() -> None:
    """An import that fails would end Python with 1, which means that bits differ."""
    try:
        from detcheck import cli
    except Exception:  # noqa: BLE001  the boundary: what is installed may be broken in any way
        import traceback

        traceback.print_exc(file=sys.stderr)
        print("detcheck: it cannot be imported here, for the reason above; this is no verdict", file=sys.stderr)
        sys.exit(4)
    try:
        cli.main()
    except SystemExit as stop:
        leave(stop.code)


def leave(code: int | str | None) -> None:
    """Ends the process as Python does, but without taking its modules to pieces.

    With torch and transformers that takes more than a second, in which everything is said already. And a library that crashes
    while it is unloaded would put its signal in the place of the exit code.
    """
    if isinstance(code, str):
        raise SystemExit(code)
    threading._shutdown()  # type: ignore[attr-defined]  # threads that are to be waited for
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError, ValueError):  # a reader that went away
            stream.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    # With -m Python looks for modules in the current folder first: a random.py there would be taken for Python's own.
    if sys.path[:1] == [os.getcwd()]:
        del sys.path[0]
    main()
