"""The kernel of one level of a path, where a level needs one of its own."""

from __future__ import annotations

from poe.density.capabilities import conditionals, label_pairs, spin_pairs
from poe.density.expert import Expert, Product
from poe.samplers.block_gibbs import BlockGibbs
from poe.samplers.checkerboard import Checkerboard
from poe.samplers.chromatic import ChromaticGibbs
from poe.samplers.gibbs import Gibbs
from poe.samplers.kernel import Kernel
from poe.samplers.label_clusters import LabelClusters
from poe.samplers.lattice import lattice
from poe.samplers.path import GeometricPath
from poe.samplers.swendsen_wang import SwendsenWang
from poe.space import Space


def on_level(kernel: Kernel, path: GeometricPath, temperature: float, space: Space) -> Kernel:
    """Kernels of pairs by the level's own, block Gibbs by its conditionals, others unchanged.

    Where the pairs are not known, as those of a start are not, it is block Gibbs. The conditionals
    of log γ_t are those of both ends, weighted. Where they are not known, as those of a start are
    not or of hidden units to a power that is no count, it is Gibbs site by site.

    >>> import poe
    >>> from poe.samplers.path import geometric_path
    >>> from poe.uniform import Uniform
    >>> target = experts.Ising.grid((2, 2), coupling=1.0)
    >>> path = geometric_path(Uniform(target.space), target)
    >>> kernel = on_level(BlockGibbs(conditionals(target)), path, 0.5, target.space)
    >>> x = torch.ones(1, 2, 2)
    >>> kernel.conditionals.given(x, torch.zeros(1, 0))(x)  # half of 2 · (1 + 1)
    tensor([[[2., 2.],
             [2., 2.]]])
    """
    if isinstance(kernel, ChromaticGibbs | LabelClusters):
        return _on_labels(kernel, _level(path, temperature))
    if isinstance(kernel, SwendsenWang):
        pairs = spin_pairs(_level(path, temperature))
        if pairs is not None:
            return SwendsenWang(pairs)
    elif isinstance(kernel, Checkerboard):
        pairs = spin_pairs(_level(path, temperature))
        if pairs is not None and lattice(pairs, space.event_shape) is not None:
            return Checkerboard(pairs, kernel.shape)
    elif not isinstance(kernel, BlockGibbs):
        return kernel
    found = conditionals(_level(path, temperature))
    return Gibbs(space) if found is None else BlockGibbs(found)


def _on_labels(kernel: ChromaticGibbs | LabelClusters, level: Expert) -> Kernel:
    pairs = label_pairs(level)
    if pairs is None:
        return Gibbs(level.space)
    if isinstance(kernel, LabelClusters):
        return LabelClusters(pairs) if pairs.is_attractive else ChromaticGibbs(pairs)
    return kernel.with_pairs(pairs)


def _level(path: GeometricPath, temperature: float) -> Expert:
    assert isinstance(path.start, Expert)
    start = path.start ** (1.0 + (path.exponent - 1.0) * temperature)
    if path.rest is None:
        return start
    assert isinstance(path.rest, Expert)
    return Product(start, path.rest**temperature)
