"""Densities from any network output f(x), by a link function that is never negative."""

from __future__ import annotations

from poe.density.link import (
    LINKS as LINKS,
)
from poe.density.link import (
    FromNetwork as FromNetwork,
)
from poe.density.link import (
    Link as Link,
)
from poe.density.link import (
    absolute as absolute,
)
from poe.density.link import (
    exponential as exponential,
)
from poe.density.link import (
    log_absolute as log_absolute,
)
from poe.density.link import (
    log_exponential as log_exponential,
)
from poe.density.link import (
    log_softplus as log_softplus,
)
from poe.density.link import (
    log_square as log_square,
)
from poe.density.link import (
    softplus as softplus,
)
from poe.density.link import (
    square as square,
)
