"""Fine-tune the LLM of RC with LoRA: `python launch/rc.py --config configs/rc/redocred-13b.yaml --gpus 8`."""

import sys

try:
    from lmrc.launcher.launch import main
    from lmrc.launcher.stages import RC
except ModuleNotFoundError as error:
    sys.exit(f"Error: {error}: activate the environment first, by typing . .venv/bin/activate")

if __name__ == "__main__":
    sys.exit(main(RC))
