"""`detcheck` and `python -m detcheck`: whatever stands in the way of so much as importing it, the exit code is no verdict's."""

import os
import sys


def main() -> None:
    """An import that fails would end Python with 1, which means that bits differ; one that Ctrl-C ends, with a traceback."""
    try:
        from detcheck import cli, ending
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:  # noqa: BLE001  the boundary: what is installed may be broken in any way
        import traceback

        traceback.print_exc(file=sys.stderr)
        print("detcheck: it cannot be imported here, for the reason above; this is no verdict", file=sys.stderr)
        sys.exit(4)
    try:
        cli.main()
    except SystemExit as stop:
        ended = stop
    else:
        return
    ending.leave(ended.code)
    raise ended


if __name__ == "__main__":
    # With -m Python looks for modules in the current folder first: a random.py there would be taken for Python's own.
    if sys.path[:1] == [os.getcwd()]:
        del sys.path[0]
    main()
