"""The whole chain, build → rcp → propose → rc → classify → score: only what is missing is submitted.

`python launch/pipeline.py --config configs/pipeline/redocred-13b.yaml --gpus 8`
"""

import sys

from lmrc.cluster.pipeline import main

if __name__ == "__main__":
    sys.exit(main())
