"""`python -P -m detcheck.check.found`, for the action: prints the file that `detcheck check` would read here, or nothing where there is none."""

import sys
from pathlib import Path

from detcheck.check.file import nearest
from detcheck.errors import UsageError

if __name__ == "__main__":
    try:
        if found := nearest(Path()):
            print(found.path)
    except UsageError as error:
        print(f"detcheck: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
