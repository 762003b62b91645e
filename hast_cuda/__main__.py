"""``python -m hast_cuda`` is the command line."""

from __future__ import annotations

import sys

from hast_cuda.cli import main

sys.exit(main())
