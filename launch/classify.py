"""Name the relations of candidate pairs.

`python launch/classify.py --candidates runs/propose/candidates --rc runs/rc-redocred-13b/best`
"""

import sys

from lmrc.cluster.launch import main
from lmrc.cluster.stages import CLASSIFY

if __name__ == "__main__":
    sys.exit(main(CLASSIFY))
