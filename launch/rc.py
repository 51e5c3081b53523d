"""Fine-tune the LM that names relations (RC): `python launch/rc.py --config configs/rc/redocred-13b.yaml --gpus 8`."""

import sys

from lmrc.cluster.launch import main
from lmrc.cluster.stages import RC

if __name__ == "__main__":
    sys.exit(main(RC))
