"""The command line on a stock that reacts to the batch (reacting.py): a real process to kill.

python tests/doubles/reacting_process.py completions -n 20
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import reacting

if __name__ == "__main__":
    sys.meta_path.insert(0, reacting.AfterImport())
    from detcheck.cli import main

    main()
