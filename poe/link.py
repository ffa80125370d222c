"""Densities from any network output f(x), by a link function that is never negative."""

from __future__ import annotations

from poe.density.link import (
    LINKS as LINKS,
    FromNetwork as FromNetwork,
    Link as Link,
    absolute as absolute,
    exponential as exponential,
    log_absolute as log_absolute,
    log_exponential as log_exponential,
    log_softplus as log_softplus,
    log_square as log_square,
    softplus as softplus,
    square as square,
)
