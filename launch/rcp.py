"""Train the candidate classifier (RCP): `python launch/rcp.py --config configs/rcp/redocred.yaml --nodes 1`."""

import sys

try:
    from lmrc.launcher.launch import main
    from lmrc.launcher.stages import RCP
except ModuleNotFoundError as error:
    sys.exit(f"Error: {error}: activate the environment first, by typing . .venv/bin/activate")

if __name__ == "__main__":
    sys.exit(main(RCP))
