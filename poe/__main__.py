"""``python -m poe``: the command line."""

from __future__ import annotations

import sys

from poe.cli import main

sys.exit(main())
