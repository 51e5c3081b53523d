"""Propose candidate pairs of a corpus.

`python launch/propose.py --corpus data/redocred/dev --rcp runs/rcp-redocred/best`
"""

import sys

from lmrc.cluster.launch import main
from lmrc.cluster.stages import PROPOSE

if __name__ == "__main__":
    sys.exit(main(PROPOSE))
