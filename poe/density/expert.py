"""Experts (unnormalised log-densities), their powers, products and mixtures: one recursion."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from types import FunctionType
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.distributions.transforms import Transform
from torch.func import grad_and_value

from poe.core.arguments import (
    Kind,
    checked,
    instance_of,
    register_kind,
    require,
    require_count,
    told,
)
from poe.core.conversions import way_together
from poe.core.distribution_modules import Feature
from poe.core.errors import (
    GradientError,
    NonFiniteError,
    NormalizationError,
    OperatorError,
    PoeError,
    ShapeError,
    SpaceMismatchError,
)
from poe.core.image_of_space import moved
from poe.core.no_gradient import explain_numpy, followed, is_followed, require_graph
from poe.core.randomness import choose, resolve
from poe.core.space import Space
from poe.density.checks import (
    NotInherited,
    check_output,
    device_of,
    dtype_of,
    explain_change,
    explain_placement,
    floats_of,
    handed_out,
    leaves_x,
    own_method,
    precise,
    refuse,
    refuse_change,
    require_numbers,
    unique_names,
    version_of,
)
from poe.density.one_hot import OneHotLogDensity, smooth_place
from poe.density.questions import (
    HandsOn,
    has_global_hooks,
    inherits_density,
    is_altered,
    own_question,
    question,
    speaks_as,
)

Exponent = float | Tensor


LogDensity = Callable[[Tensor], Tensor]
"""x ``(*batch, *event)`` to ``(*batch,)``."""
Sampler = Callable[..., Tensor]
"""``num_samples``, and ``generator`` by its name, to draws ``(num_samples, *event)``."""


def _settle(kind: type[Expert], name: str) -> None:
    """A closed form of a class's own asks for hooks first; one of another density is not there."""
    owner = next((base for base in kind.__mro__ if name in vars(base)), None)
    if owner is kind and isinstance(found := vars(kind)[name], FunctionType):
        setattr(kind, name, _of_the_class_alone(found))
    elif owner is not None and owner is not kind and not inherits_density(kind, owner):
        setattr(kind, name, NotInherited(name, owner))


def _of_the_class_alone(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # Comparisons with NaN may draw what looks like numbers.
    is_sampler = method.__name__ == "sample"

    @wraps(method)
    def asked(self: Expert, *args: Any, **named: Any) -> Tensor:
        if not torch.compiler.is_compiling() and (is_altered(self) or has_global_hooks()):
            raise NormalizationError(
                f"expected {type(self).__name__} as its class defines it, to which its "
                f"{method.__name__} belongs, got one with forward hooks or a method of its own: "
                "take them off (handle.remove(), or torch.nn.utils.prune.remove), or use "
                "log_density(x), poe.sample and poe.log_partition"
            )
        if is_sampler and not torch.compiler.is_compiling():
            require_numbers(self)
        return method(self, *args, **named)

    return asked


class Expert(nn.Module):
    """An unnormalised log-density log p̃(x) on a space; subclasses implement `forward`.

    A subclass sets `self.space` and returns the log-density of shape `(*batch,)` for x of shape
    `(*batch, *event)`. Where the normaliser is known it also defines `log_prob(x)`, and where
    exact sampling exists `sample(num_samples, *, generator=None)`.

    What is known of a class (a `log_prob`, closed forms, exact draws, structure) holds for its own
    log-density. A subclass with another `forward`, or another method that `forward` goes through,
    inherits none of it, save where the method is marked `poe.density.questions.interchangeable`;
    nor does an instance with forward hooks.

    >>> class Laplace(Expert):
    ...     space = poe.Real(1)
    ...     def forward(self, x):
    ...         return -x.abs().sum(-1)
    >>> Laplace()(torch.tensor([[1.0], [-2.0]]))
    tensor([-1., -2.])
    """

    space: Space
    may_be_infinite: ClassVar[tuple[str, ...] | None] = None
    """The tensors in which an infinity means something; None where the values alone shall tell."""
    _density_methods: ClassVar[tuple[str, ...]] = ("__call__", "forward", "log_density", "energy")
    _missing_methods: ClassVar[dict[str, str]] = {
        "log_prob": "has no log_prob, since its normaliser is not known; use log_density(x), and "
        "poe.log_partition(expert) for the normaliser",
        "sample": "has no exact sample(); use poe.sample(expert, num_samples)",
        "log_density_of_one_hot": "has no gradient in the one-hot encoding of x; build it as "
        "poe.FromOneHot(fn, space=...), or give it a method of this name",
    }

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("log_prob", "sample", "rsample", "log_density_of_one_hot"):
            _settle(cls, name)

    def __call__(self, x: Tensor) -> Tensor:
        """The log-density with its shapes checked: `(*batch, *event) -> (*batch,)`."""
        batch_shape = self.space.batch_shape(x)
        handed = handed_out(self, x)
        version = version_of(x) if handed is x else None
        try:
            value = super().__call__(handed)
        except RuntimeError as error:
            explain_numpy(self, x, error)
            explain_change(self, error)
            explain_placement(self, x, error)
            raise
        if version is not None and x._version != version:
            refuse_change(self)
        check_output(self, self.space, value, x, batch_shape)
        if not is_followed(self, value):
            require_graph(self, super().__call__, value, x, self.space)
        return precise(value)

    def log_density(self, x: Tensor) -> Tensor:
        """The unnormalised log-density.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            log p̃(x), ``(*batch,)``.
        """
        return self(x)

    @property
    def num_densities(self) -> int | None:
        """How many densities it is, where there is one for each event of a batch; None for one.

        A composition is a batch of densities where an expert inside it is.
        """
        found = (expert.num_densities for expert in _experts_below(self))
        return next((count for count in found if count is not None), None)

    def energy(self, x: Tensor) -> Tensor:
        """The energy E(x) = −log p̃(x).

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            E(x), ``(*batch,)``.
        """
        return -self(x)

    def score(self, x: Tensor) -> Tensor:
        """The gradient of log p̃ at x, detached.

        On Binary that of the expert's own formula, read at real numbers; on Categorical and
        Sequence that in the one-hot encoding of x (``poe.density.one_hot``).

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            ∇ log p̃(x), ``(*batch, *event)``; on Categorical and Sequence ``(*batch, *event, k)``.

        Raises:
            PoeError: On a discrete space, where there is no gradient.
        """
        return self.log_density_and_score(x)[1]

    def log_density_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log p̃(x) and its gradient by one forward and one backward pass, both detached.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            log p̃(x), ``(*batch,)``, and the gradient, of the shape that ``score`` has.

        Raises:
            PoeError: On a discrete space, where there is no gradient.
        """
        function, place = self._differentiable(x)
        if torch.compiler.is_compiling():
            return _by_transform(function, place)
        with torch.inference_mode(False), torch.enable_grad():
            position = place.detach().clone().requires_grad_()
            value = function(position)
            score = _gradient(value, position)
        return value.detach(), score

    def _differentiable(self, x: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """What is differentiated, and where."""
        if not self.space.is_discrete:
            if not isinstance(x, Tensor) or not x.is_floating_point():
                self.space.batch_shape(x)  # before x is asked for a gradient
            return self, x
        batch_shape = self.space.batch_shape(x)
        function, place = smooth_place(
            self.space,
            x,
            floats=lambda: floats_of(self),
            own=lambda: log_density_of_one_hot(self),
            without=lambda: _without(self),
        )
        if function is None:
            return self, place

        def asked(z: Tensor) -> Tensor:
            value = followed(self, function, self.space, z)
            check_output(self, self.space, value, x, batch_shape)
            return value

        return asked, place

    def at(self, generator: nn.Module | Transform, space: Space | None = None) -> At:
        """This expert read through a map G, without a Jacobian: z -> log p̃(G(z)).

        Args:
            generator: G, an ``nn.Module``, or a bijection that is read as a mere feature.
            space: Where z lives; by default ``generator.space``, or what the bijection takes to
                this expert's space.

        Returns:
            The expert on z, a ``poe.At``.

        Raises:
            PoeError: Where G is no module, or nothing says where z lives.
        """
        return At(self, generator, space)

    def __mul__(self, other: object) -> Product:
        if isinstance(other, Expert):
            return Product(self, other)
        if not isinstance(other, int | float | Tensor):
            require_expert(other)
        refuse(f"cannot multiply an expert by {told(other)}: to weight an expert use `expert ** 2`")

    def __rmul__(self, other: object) -> NoReturn:
        refuse(f"cannot multiply {told(other)} by an expert: to weight an expert use `expert ** 2`")

    def __truediv__(self, other: object) -> Product:
        if isinstance(other, Expert):
            return Product(self, other**-1)
        refuse(
            f"cannot divide an expert by {told(other)}: for a temperature T use `expert ** (1 / T)`"
        )

    def __rtruediv__(self, other: object) -> NoReturn:
        refuse(f"cannot divide {told(other)} by an expert: use `a / b` or `b ** -1`")

    def __pow__(self, exponent: Exponent) -> Expert:
        if isinstance(exponent, Expert):
            refuse("an exponent is a number, not an expert: for both together use `a * b`")
        return Tempered(self, exponent)

    def __rpow__(self, other: object) -> NoReturn:
        refuse("an exponent is a number, not an expert: use `expert ** 2`")

    def __or__(self, other: object) -> Mixture:
        if isinstance(other, Expert):
            return either(self, other)
        refuse(
            f"cannot mix an expert with {told(other)}: use `a | b` or `Mixture([a, b], weights)`"
        )

    def __ror__(self, other: object) -> NoReturn:
        refuse(
            f"cannot mix {told(other)} with an expert: use `a | b` or `Mixture([a, b], weights)`"
        )

    def __add__(self, other: object) -> NoReturn:
        refuse("densities are not added: use `a * b` for AND, `a | b` for OR")

    __radd__ = __add__

    def __sub__(self, other: object) -> NoReturn:
        refuse("densities are not subtracted: use `a / b ** alpha` for a AND NOT b")

    __rsub__ = __sub__

    def __neg__(self) -> NoReturn:
        refuse("a density has no negative: use `a / b ** alpha` for a AND NOT b")

    def __getattr__(self, name: str) -> Any:
        # Only what an expert lacks arrives here: these exist where the mathematics allows.
        if name not in _CLOSED_FORMS:
            return super().__getattr__(name)
        found = _ask_closed_form(self, name)
        if found is None:
            lost = inspect.getattr_static(type(self), name, None)
            if isinstance(lost, NotInherited):
                raise AttributeError(lost.in_words(type(self)))
            raise AttributeError(f"{type(self).__name__} {self._missing_methods[name]}")
        return found

    def _factors(self) -> Iterator[tuple[str, Expert]]:
        """The named factors that this expert adds to a product."""
        yield type(self).__name__, self


class Tempered(Expert):
    """p̃(x)^w: log-density w log p̃(x), where weight 0 means that the expert has no say.

    At w = 0 the log-density is 0 even where log p̃(x) is infinite; NaN stays NaN.

    Args:
        expert: Of log-density log p̃.
        exponent: w, a finite number, a 0-d tensor (kept as a buffer) or an ``nn.Parameter``
            (learned).

    Raises:
        OperatorError: Where the exponent is neither a number nor a tensor, or ``expert`` no expert.
        ShapeError: For a tensor that is not 0-d.
        PoeError: Where the exponent is not finite.
    """

    exponent: Tensor
    may_be_infinite = ()

    def __init__(self, expert: Expert, exponent: Exponent) -> None:
        super().__init__()
        self.space = require_expert(expert).space
        self.expert = expert
        weight = _as_exponent(exponent, expert)
        if isinstance(weight, nn.Parameter):
            self.exponent = weight
        else:
            self.register_buffer("exponent", weight)

    @leaves_x
    def forward(self, x: Tensor) -> Tensor:
        """w log p̃(x).

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            The unnormalised log-density, ``(*batch,)``.
        """
        return self.weigh(self.expert(x))

    def weigh(self, value: Tensor) -> Tensor:
        """w times a log-density, 0 where w is 0 though the value is infinite.

        Args:
            value: Log-densities of the expert, of any shape.

        Returns:
            w times these, of the same shape.
        """
        exponent = self.exponent.to(value.dtype)
        has_no_say = (exponent == 0) & value.isinf()
        return exponent * value.masked_fill(has_no_say, 0)

    def __pow__(self, exponent: Exponent) -> Expert:
        learned = isinstance(self.exponent, nn.Parameter) or isinstance(exponent, nn.Parameter)
        if learned or isinstance(exponent, Expert) or not is_power(self):
            return super().__pow__(exponent)
        return Tempered(self.expert, self.exponent * _as_exponent(exponent, self.expert))

    def extra_repr(self) -> str:
        kind = "learned, " if isinstance(self.exponent, nn.Parameter) else ""
        return f"exponent={kind}{'?' if self.exponent.is_meta else f'{self.exponent.item():g}'}"

    def _factors(self) -> Iterator[tuple[str, Expert]]:
        factors = list(self.expert._factors())
        if len(factors) == 1 or not is_power(self):
            yield factors[0][0], self
            return
        for name, factor in factors:
            yield name, factor**self.exponent


class Product(Expert):
    """The conjunction of experts: log p̃(x) = Σ_i w_i log p̃_i(x).

    Nested products flatten and powers of products distribute. A factor's name is its keyword, or
    its class; repeated names get a suffix. Nothing is evaluated at build time.

    Where one factor excludes x (contribution −inf) the product is −inf, whatever the others say:
    in particular 0 / 0 is 0. A division by zero elsewhere is +inf, and NaN stays NaN.

    Args:
        *experts: Factors, named after their classes; all on one space.
        **named: Factors by the names they are to have.

    Raises:
        PoeError: Where there is no factor.
        OperatorError: Where one is no expert.
        SpaceMismatchError: Where two live on different spaces.

    References:
        Hinton (2002), Training products of experts by minimizing contrastive divergence, eq. 1,
        doi:10.1162/089976602760128018.
    """

    names: tuple[str, ...]

    def __init__(self, /, *experts: Expert, **named: Expert) -> None:
        super().__init__()
        factors = [pair for expert in experts for pair in require_expert(expert)._factors()]
        for name, expert in named.items():
            factors += _renamed(name, list(require_expert(expert)._factors()))
        if not factors:
            raise PoeError("expected at least one expert in a product, got none")
        self.names = unique_names([name for name, _ in factors])
        self.experts = nn.ModuleList([expert for _, expert in factors])
        self.space = shared_space(self.names, [expert for _, expert in factors])

    @leaves_x
    def forward(self, x: Tensor) -> Tensor:
        """The sum of what the factors say, −inf where one of them excludes x.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            log p̃(x), ``(*batch,)``.
        """
        return conjunction(torch.stack([expert(x) for expert in self.experts]))

    def contributions(self, x: Tensor) -> Tensor:
        """What each factor says, w_i log p̃_i(x); it sums to ``self(x)``.

        Where one factor excludes x, a division by zero in another counts as 0.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            The contributions, ``(*batch, n_experts)``, in the order of ``names``.
        """
        self.space.batch_shape(x)
        values = torch.stack([expert(x) for expert in self.experts], -1)
        is_excluded = (values == -torch.inf).any(-1, keepdim=True)
        return values.masked_fill(is_excluded & (values == torch.inf), 0)

    def __pow__(self, exponent: Exponent) -> Expert:
        if isinstance(exponent, Expert) or not is_product(self):
            return super().__pow__(exponent)
        weight = _as_exponent(exponent, self)
        powers = [expert**weight for expert in experts_in(self.experts)]
        return named_product(self.names, powers)

    def extra_repr(self) -> str:
        return f"names={list(self.names)}"

    def _factors(self) -> Iterator[tuple[str, Expert]]:
        if is_product(self):
            yield from zip(self.names, experts_in(self.experts), strict=True)
        else:
            yield type(self).__name__, self


class Mixture(Expert):
    """The disjunction of experts: log Σ_k w_k p_k(x), with weights that sum to 1.

    Unnormalised densities have no common scale to be added on: each component needs ``log_prob``,
    or an estimate of its log partition; ``poe.any_of`` estimates what is missing. ``log_prob``
    exists where nothing was estimated, ``sample`` where every component has one.

    Args:
        experts: The components p_k, on one space.
        weights: w ``(n_experts,)``, not negative, of sum 1; by default all the same. An
            ``nn.Parameter`` v is learned: w = |v| / Σ|v|, whatever an optimiser makes of it.
        log_partitions: An estimate of log Z for each component, None for those with ``log_prob``;
            by default none.

    Raises:
        NormalizationError: Where a component has neither ``log_prob`` nor an estimate.
        NonFiniteError: Where an estimate is no finite number.
        SpaceMismatchError: Where two live on different spaces.
        ShapeError: Where there are more or fewer weights or estimates than components.
        PoeError: Without components, where the weights are negative or do not sum to 1, and for a
            tensor of them that an optimiser would change and that is no ``nn.Parameter``.

    Example:
        >>> m = Mixture([experts.Gaussian([0.0], 1.0), experts.Gaussian([4.0], 1.0)], [0.25, 0.75])
        >>> m.log_prob(torch.zeros(1, 1))
        tensor([-2.3042])
    """

    weights: Tensor
    may_be_infinite = ()

    @checked
    def __init__(
        self,
        experts: Sequence[Expert],
        weights: Sequence[float] | Tensor | None = None,
        *,
        log_partitions: Sequence[float | None] | None = None,
    ) -> None:
        super().__init__()
        components = [require_expert(expert) for expert in experts]
        if not components:
            raise PoeError("expected at least one component in a mixture, got none")
        self.experts = nn.ModuleList(components)
        names = tuple(type(expert).__name__ for expert in components)
        self.space = shared_space(names, components, "mixture")
        self.estimates = tuple(
            None if estimate is None else float(estimate)
            for estimate in log_partitions or [None] * len(components)
        )
        _require_scale(components, self.estimates)
        kept = _as_weights(weights, len(components), dtype_of(self.experts))
        if isinstance(kept, nn.Parameter):
            self.weights = kept
        else:
            self.register_buffer("weights", kept)

    @property
    def proportions(self) -> Tensor:
        """What each component counts, of sum 1: the weights, as they are read where learned.

        Returns:
            w, ``(n_experts,)``.
        """
        if "weights" not in self._parameters:
            return self.weights
        sizes = self.weights.abs()
        return sizes / sizes.sum()

    @leaves_x
    def forward(self, x: Tensor) -> Tensor:
        """log Σ_k w_k p_k(x), with estimated normalisers where they were given.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            The log-density, ``(*batch,)``.
        """
        return torch.logsumexp(self._weighted(x), -1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Whose x may be: w_k p_k(x) / p(x), 0 where p(x) is.

        Args:
            x: Positions, ``(*batch, *event)``.

        Returns:
            Probabilities of the components, ``(n_experts, *batch)``.
        """
        values = self._weighted(x)
        is_outside = (values == -torch.inf).all(-1, keepdim=True)
        return values.softmax(-1).masked_fill(is_outside, 0).movedim(-1, 0)

    def extra_repr(self) -> str:
        return f"{len(self.experts)} components"

    def _weighted(self, x: Tensor) -> Tensor:
        """log w_k p_k(x): `(*batch, n_experts)`."""
        components = zip(experts_in(self.experts), self.estimates, strict=True)
        values = torch.stack([self._component(*each, x) for each in components], -1)
        return values + self.proportions.log().to(values.dtype)

    def _component(self, expert: Expert, estimate: float | None, x: Tensor) -> Tensor:
        if estimate is not None:
            return expert(x) - estimate
        return followed(expert, expert.log_prob, self.space, x)

    @torch.no_grad()
    def _sample(
        self, weights: Tensor, num_samples: int, generator: torch.Generator | None
    ) -> Tensor:
        require_numbers(self)
        generator = resolve(generator, self.weights.device)
        chosen = choose(weights, num_samples, generator=generator)
        parts = [
            expert.sample(int((chosen == k).sum()), generator=generator)
            for k, expert in enumerate(experts_in(self.experts))
        ]
        # Sorted by component, then put back where each component was chosen.
        return torch.cat(parts)[chosen.argsort(stable=True).argsort()]


class At(Expert):
    """A factor read through a map G, without a Jacobian: z -> log p̃(G(z)).

    This weighs z by what the expert says of G(z); it is no change of variables (for that use
    ``Transformed``).

    Args:
        expert: Of log-density log p̃, on the space of G(z).
        generator: G, an ``nn.Module``, or a bijection that is read as a mere feature.
        space: Where z lives; by default ``generator.space``, or what the bijection takes to the
            expert's space.

    Raises:
        OperatorError: Where ``expert`` is no expert.
        PoeError: Where G is no module, or nothing says where z lives.

    Example:
        >>> doubled = torch.nn.Linear(1, 1, bias=False)
        >>> torch.nn.init.constant_(doubled.weight, 2.0).item()
        2.0
        >>> experts.Gaussian([2.0], 1.0).at(doubled, poe.Real(1))(torch.ones(1, 1)).detach()
        tensor([-0.9189])
    """

    def __init__(
        self, expert: Expert, generator: nn.Module | Transform, space: Space | None = None
    ) -> None:
        super().__init__()
        if isinstance(generator, Transform):
            space = space or moved(require_expert(expert).space, generator.inv)
            generator = Feature(generator)
        if not isinstance(generator, nn.Module):
            raise PoeError(f"expected an nn.Module G, got {type(generator).__name__}")
        require("space", space, Space | None)
        self.space = _input_space(generator) if space is None else space
        self.expert = require_expert(expert)
        self.generator = generator

    def forward(self, z: Tensor) -> Tensor:
        """log p̃(G(z)).

        Args:
            z: Positions, ``(*batch, *event)`` of the space of z.

        Returns:
            The unnormalised log-density, ``(*batch,)``.
        """
        return self.expert(self.generator(z))


def either(a: Expert, b: Expert) -> Mixture:
    """`a | b`: every component counts the same, so `a | b | c` has weights 1/3, 1/3, 1/3."""
    first, second = _components(a), _components(b)
    total = len(first) + len(second)
    weights = [len(first) / total * w for _, w in first]
    weights += [len(second) / total * w for _, w in second]
    return Mixture([expert for expert, _ in [*first, *second]], weights)


@checked
def contrast(q: Expert, r: Expert, a: float) -> Product:
    """The contrast q(x)^(1 + a) / r(x)^a: what q says, more strongly where r does not say it.

    At a = 0 this is q. It is "q AND NOT r" of Du, Li and Mordatch, whose NOT raises a density to a
    negative power, and it keeps q whole where q = r. It need not be normalisable: for Gaussians it
    is so only where (1 + a) times q's precision exceeds a times r's. Samplers refuse with
    ``ImproperError`` where ``poe.density.capabilities.check_proper`` can tell: in one family, and
    else where the tails of all experts are known and do not balance. Where it cannot (networks,
    flows), watch for chains that escape.

    Args:
        q: What is wanted.
        r: What is not.
        a: The strength, not negative.

    Returns:
        The product of the two powers.

    Raises:
        PoeError: Where a is negative or not finite.
        SpaceMismatchError: Where q and r live on different spaces.

    References:
        Du, Li & Mordatch (2020), Compositional visual generation with energy based models,
        arXiv:2004.06030.

    Example:
        >>> q, r = experts.Gaussian([1.0], scale=[1.0]), experts.Gaussian([0.0], scale=[2.0])
        >>> poe.simplify(contrast(q, r, 1.0)).expert.loc
        tensor([1.1429])
    """
    if not (math.isfinite(a) and a >= 0):
        raise PoeError(
            f"expected a finite strength a >= 0, got {a}; to soften q use `q ** w` with w < 1"
        )
    return q ** (1 + a) / r**a


class Simplified(NamedTuple):
    """An equal density in a simpler form: ``original(x) == expert(x) + log_constant``.

    Args:
        expert: The simpler form.
        log_constant: What is missing, ``()``.
    """

    expert: Expert
    log_constant: Tensor


@own_question
def simplify(expert: Expert) -> Simplified:
    """The same density in the simplest known form; an improper product stays as it is.

    Experts of one family are merged, and mixtures multiplied out where all their products have a
    closed form. The value changes by rounding alone.

    Args:
        expert: Any; one of which no simpler form is known comes back as it is.

    Returns:
        The simpler expert, and the constant by which its log-density differs.

    Example:
        >>> g = experts.Gaussian([0.0], scale=[1.0])
        >>> simplify(g * g).expert.scale
        tensor([0.7071])
        >>> simplify((g | g) * g).expert
        Mixture(
          2 components
          (experts): ModuleList(
            (0-1): 2 x Gaussian(Real(1), diagonal covariance)
          )
        )
    """
    return Simplified(require("expert", expert, nn.Module), torch.zeros(()))


@question
def log_prob_of(expert: Expert) -> LogDensity | None:
    """log p, normalised, as a function of x; None where the normaliser is not known.

    An expert offers it by a method `log_prob`; how a composition does so is registered here.

    >>> g = experts.Gaussian([0.0], scale=[1.0])
    >>> log_prob_of(g**2)(torch.zeros(1, 1)), log_prob_of(poe.At(g, torch.nn.Identity(), g.space))
    (tensor([-0.5724]), None)
    """
    return own_method(expert, "log_prob")


@question
def sampler_of(expert: Expert) -> Sampler | None:
    """What draws from p exactly, `(num_samples, *, generator=None)`; None where nothing does.

    An expert offers it by a method `sample`; where that depends on the expert, and how a
    composition does so, is registered here.

    >>> g = experts.Gaussian([0.0], scale=[1.0])
    >>> sampler_of(g**2)(3, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([3, 1])
    """
    return own_method(expert, "sample")


@question
def log_density_of_one_hot(expert: Expert) -> OneHotLogDensity | None:
    """log p̃ as a smooth function of the one-hot encoding, or None where the expert offers none.

    An expert offers it by a method of this name; how a composition does so is registered here.

    >>> classes = experts.Categorical([[0.0, 1.0, 2.0]])
    >>> log_density_of_one_hot(classes**2)(torch.tensor([[[0.0, 0.0, 1.0]]]))
    tensor([-0.8152])
    """
    return own_method(expert, "log_density_of_one_hot")


@own_question
def is_normalized(expert: Expert) -> bool:
    """Whether the normaliser is known in closed form, so that `log_prob` exists."""
    return log_prob_of(expert) is not None


class Wrapper(HandsOn, Expert):
    """An expert that says what another one says, in its own way, and answers questions as that one.

    A subclass sets `self.space`, implements `forward`, and names the expert by `inner()`. Every
    question is handed on (`poe.density.questions`), one of tomorrow too, save those that give
    another expert back; a rule for the subclass comes first. Its own `log_prob`, `sample` and
    `log_density_of_one_hot` come before those of the expert inside.

    >>> class Told(Wrapper):
    ...     def __init__(self, expert):
    ...         super().__init__()
    ...         self.space, self.expert = expert.space, expert
    ...     def inner(self):
    ...         return self.expert
    ...     def forward(self, x):
    ...         return self.expert(x)
    >>> Told(experts.Gaussian([0.0], scale=[1.0])).log_prob(torch.zeros(1, 1))
    tensor([-0.9189])
    """

    def inner(self) -> Expert:
        """The expert that answers."""
        raise NotImplementedError(f"expected {type(self).__name__} to define inner()")


@log_prob_of.register
def _(expert: Wrapper) -> LogDensity | None:
    return own_method(expert, "log_prob") or log_prob_of(expert.inner())


@sampler_of.register
def _(expert: Wrapper) -> Sampler | None:
    return own_method(expert, "sample") or sampler_of(expert.inner())


@log_density_of_one_hot.register
def _(expert: Wrapper) -> OneHotLogDensity | None:
    own = own_method(expert, "log_density_of_one_hot")
    return own or log_density_of_one_hot(expert.inner())


_CLOSED_FORMS: dict[str, Callable[[Expert], Callable[..., Tensor] | None]] = {
    "log_prob": log_prob_of,
    "sample": sampler_of,
    "log_density_of_one_hot": log_density_of_one_hot,
}
"""What an expert has as a method where a question finds it."""


def _ask_closed_form(expert: Expert, name: str) -> Callable[..., Tensor] | None:
    try:
        found = _CLOSED_FORMS[name](expert)
    except AttributeError as error:  # that of a mistake inside is no "there is none"
        raise PoeError(
            f"expected to learn whether {type(expert).__name__} has {name}, got an AttributeError "
            f"on the way: {error}"
        ) from error
    return partial(_sampled, found) if name == "sample" and found is not None else found


@checked
def _sampled(
    draw: Sampler, num_samples: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """The draws of what a question found, asked for as those of a method."""
    require_count("num_samples", num_samples, 0)
    return draw(num_samples, generator=generator)


def conjunction(values: Tensor) -> Tensor:
    """The sum of what experts say, −inf where one of them excludes x: ``(n, *batch) -> (*batch,)``.

    >>> conjunction(torch.tensor([[1.0, float("inf")], [2.0, -float("inf")]]))
    tensor([3., -inf])
    """
    lowest = values.detach().amin(0)
    return torch.where(lowest == -torch.inf, lowest, values.sum(0))


def experts_in(modules: nn.ModuleList) -> list[Expert]:
    """The experts that a module list holds."""
    return cast("list[Expert]", list(modules))


def require_expert(candidate: object) -> Expert:
    """`candidate` itself, if it is an Expert; raises `OperatorError` with the remedy otherwise."""
    if isinstance(candidate, Expert):
        return candidate
    refuse(f"expected an Expert, got {told(candidate)}{_how_to_make_one(candidate)}")


def _how_to_make_one(candidate: object) -> str:
    if isinstance(candidate, type):
        return ": make one, with its parameters"
    if isinstance(candidate, list | tuple | dict):
        return "; unpack it, as in poe.Product(*experts) or poe.Product(**experts)"
    if hasattr(candidate, "given"):
        return "; bind it to a condition first: conditional.given(y)"
    return (
        "; use poe.as_expert(distribution), poe.FromLogDensity(fn, space=...) or "
        "poe.FromEnergy(fn, space=...)"
    )


register_kind(
    Expert, Kind("an Expert", partial(instance_of, Expert), _how_to_make_one, OperatorError)
)


def shared_space(names: tuple[str, ...], experts: list[Expert], kind: str = "product") -> Space:
    """The one space of all `experts`; raises `SpaceMismatchError` where there are two."""
    first = experts[0].space
    for name, expert in zip(names, experts, strict=True):
        if expert.space is not first and expert.space != first:
            raise SpaceMismatchError(
                f"experts of a {kind} share one space: {names[0]} lives on {first}, {name} on "
                f"{expert.space}; {way_together(names[0], first, name, expert.space)}"
            )
    return first


def named_product(names: tuple[str, ...], experts: list[Expert]) -> Product:
    """The product of `experts` under exactly these names."""
    product = Product(*experts)
    product.names = names
    return product


def is_known_sum(expert: Expert) -> TypeGuard[Mixture]:
    """Whether it is a mixture whose components are all normalised."""
    return speaks_as(expert, Mixture) and all(e is None for e in expert.estimates)


def has_estimated_weights(target: Expert) -> bool:
    """Whether what a mixture's components count rests on estimates of their normalisers."""
    mixtures = (part for part in target.modules() if isinstance(part, Mixture))
    return any(estimate is not None for mixture in mixtures for estimate in mixture.estimates)


def is_power(expert: Expert) -> TypeGuard[Tempered]:
    """Whether it says a power of the expert inside of it, and nothing else."""
    return speaks_as(expert, Tempered)


def is_product(expert: Expert) -> TypeGuard[Product]:
    """Whether it says the product of the experts inside of it, and nothing else."""
    return speaks_as(expert, Product)


def _experts_below(module: nn.Module) -> Iterator[Expert]:
    """The nearest experts inside a module."""
    for child in module.children():
        if isinstance(child, Expert):
            yield child
        else:
            yield from _experts_below(child)


def _without(expert: Expert) -> str:
    """The factors at fault, by name."""
    names = [name for name, part in expert._factors() if log_density_of_one_hot(part) is None]
    return " and ".join(names)


def _by_transform(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The value and its gradient as one function of x, which is what a compiled graph can hold."""

    def summed(x: Tensor) -> tuple[Tensor, Tensor]:
        value = function(x)
        return value.sum(), value

    score, (_, value) = grad_and_value(summed, has_aux=True)(x)
    return value, score


def _gradient(value: Tensor, position: Tensor) -> Tensor:
    if not position.requires_grad:
        raise GradientError(
            "expected a log-density that leaves x.requires_grad as it is, got one that switches it "
            "off in place, which loses every gradient: take x.detach() where none is wanted"
        )
    if not value.requires_grad:  # a constant density, such as a uniform one
        return torch.zeros_like(position)
    each = torch.ones_like(value)
    return torch.autograd.grad(value, position, each, materialize_grads=True)[0]


def _as_exponent(exponent: Exponent, expert: nn.Module) -> Tensor:
    if isinstance(exponent, bool) or not isinstance(exponent, int | float | Tensor):
        refuse(f"expected an exponent that is a number or a 0-d tensor, got {told(exponent)}")
    if isinstance(exponent, Tensor):
        if exponent.ndim != 0:
            raise ShapeError(
                f"expected an exponent of shape (), got {tuple(exponent.shape)}; "
                "use one `expert ** w` for each weight"
            )
        if not exponent.is_floating_point():
            exponent = exponent.to(dtype_of(expert))
    else:
        exponent = float(require("an exponent", exponent, float))
        exponent = torch.tensor(exponent, dtype=dtype_of(expert), device=device_of(expert))
    if not exponent.is_meta and not math.isfinite(exponent.item()):
        raise PoeError(f"expected a finite exponent, got {exponent.item()}")
    return exponent


def _renamed(name: str, factors: list[tuple[str, Expert]]) -> list[tuple[str, Expert]]:
    if len(factors) == 1:
        return [(name, factors[0][1])]
    return [(f"{name}.{inner}", factor) for inner, factor in factors]


def _components(expert: Expert) -> list[tuple[Expert, float]]:
    if not is_known_sum(expert) or "weights" in expert._parameters:
        return [(expert, 1.0)]
    return list(zip(experts_in(expert.experts), expert.weights.tolist(), strict=True))


def _require_scale(experts: list[Expert], estimates: tuple[float | None, ...]) -> None:
    if len(estimates) != len(experts):
        raise ShapeError(f"expected {len(experts)} log partitions, got {len(estimates)}")
    for expert, estimate in zip(experts, estimates, strict=True):
        if estimate is None and log_prob_of(expert) is None:
            raise NormalizationError(
                f"expected normalised components, but {type(expert).__name__} has no log_prob; "
                "give an estimate in log_partitions=, for example poe.log_partition(expert).value"
            )
        if estimate is not None and not math.isfinite(estimate):
            raise NonFiniteError(
                f"expected finite log_partitions, got {estimate} for {type(expert).__name__}: "
                "give None for a component that has log_prob, or leave it out of the mixture"
            )


def _as_weights(weights: Sequence[float] | Tensor | None, count: int, dtype: torch.dtype) -> Tensor:
    if weights is None:
        return torch.full((count,), 1 / count, dtype=dtype)
    is_learned = isinstance(weights, nn.Parameter)
    tensor = torch.as_tensor(weights, dtype=None if is_learned else dtype)
    if tensor.requires_grad and tensor.is_leaf and not is_learned:
        raise PoeError(
            "expected weights that are numbers or an nn.Parameter, got a tensor that requires a "
            "gradient, which an optimiser would move off a sum of 1: use torch.nn.Parameter(w)"
        )
    if tensor.shape != (count,):
        raise ShapeError(f"expected weights of shape ({count},), got {tuple(tensor.shape)}")
    if is_learned:
        if not (math.isfinite(total := float(tensor.detach().abs().sum())) and total > 0):
            raise PoeError(f"expected finite weights, some above 0, got {tensor.tolist()}")
    elif not bool((tensor >= 0).all()) or abs(float(tensor.sum()) - 1) > 1e-5:
        raise PoeError(
            f"expected weights >= 0 that sum to 1, got {tensor.tolist()}; use w / w.sum()"
        )
    return tensor


def _input_space(generator: nn.Module) -> Space:
    space = getattr(generator, "space", None)
    if isinstance(space, Space):
        return space
    raise PoeError(
        f"expected to know where the input of {type(generator).__name__} lives; "
        "use expert.at(generator, poe.Real(...))"
    )
