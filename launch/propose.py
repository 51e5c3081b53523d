"""Propose candidate pairs for a corpus.

`python launch/propose.py --corpus data/redocred/dev --rcp runs/rcp-redocred/best`
"""

import sys

try:
    from lmrc.launcher.launch import main
    from lmrc.launcher.stages import PROPOSE
except ModuleNotFoundError as error:
    sys.exit(f"Error: {error}: activate the environment first, by typing . .venv/bin/activate")

if __name__ == "__main__":
    sys.exit(main(PROPOSE))
