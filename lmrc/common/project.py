"""Paths of the checkout and of the shipped configs."""

from __future__ import annotations

from pathlib import Path

# The checkout, or the folder that an installed package lies in.
PROJECT = Path(__file__).resolve().parents[2]
# An installed package carries the configs in lmrc/configs, which is a link in a checkout.
CONFIGS = PROJECT / "configs" if (PROJECT / "setup.cfg").is_file() else PROJECT / "lmrc" / "configs"
