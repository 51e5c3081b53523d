"""Train the candidate classifier (RCP): `python launch/rcp.py --config configs/rcp/redocred.yaml --nodes 1`."""

import sys

from lmrc.cluster.launch import main
from lmrc.cluster.stages import RCP

if __name__ == "__main__":
    sys.exit(main(RCP))
