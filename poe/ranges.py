"""Bridges between ranges and sizes: named bijections, and maps that are features only."""

from __future__ import annotations

from poe.core.ranges import (
    Floats as Floats,
)
from poe.core.ranges import (
    Indices as Indices,
)
from poe.core.ranges import (
    Rescale as Rescale,
)
from poe.core.ranges import (
    Resize as Resize,
)
from poe.core.ranges import (
    logit as logit,
)
