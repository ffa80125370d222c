"""NOT: what one expert says and another does not."""

from __future__ import annotations

import math

from poe.errors import PoeError
from poe.expert import Expert, Product


def contrast(q: Expert, r: Expert, a: float) -> Product:
    """The contrast q(x)^(1 + a) / r(x)^a: what q says, more strongly where r does not say it.

    At a = 0 this is q. It is "q AND NOT r" of Du, Li and Mordatch (2020, "Compositional visual
    generation with energy based models"), whose NOT raises a density to a negative power, and it
    keeps q whole where q = r. It need not be normalisable: for Gaussians it is so only where
    (1 + a) times q's precision exceeds a times r's. Samplers refuse with `ImproperError` where
    `poe.properties.check_proper` can tell: in one family, and else where the tails of all experts
    are known and do not balance. Where it cannot (networks, flows), watch for chains that escape.

    Raises `PoeError` where a is negative or not finite, `SpaceMismatchError` where q and r live
    on different spaces.

    >>> q, r = experts.Gaussian([1.0], scale=[1.0]), experts.Gaussian([0.0], scale=[2.0])
    >>> poe.simplify(contrast(q, r, 1.0)).expert.loc
    tensor([1.1429])
    """
    if not (math.isfinite(a) and a >= 0):
        raise PoeError(
            f"expected a finite strength a >= 0, got {a}; to soften q use `q ** w` with w < 1"
        )
    return q ** (1 + a) / r**a
