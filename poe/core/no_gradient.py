"""Log-densities that cannot be differentiated: they say so, or are found out.

A value that is merely detached counts as a constant, so that the score of a product would leave
its expert out in silence. Whoever computes outside of torch says so by `without_gradient`; of the
others `require_graph` finds out whether a value without a graph is flat, and its score 0 right.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from poe.core.errors import GradientError
from poe.core.space import Real, Space

REMEDY = (
    "sample with a kernel that asks for none, such as MetropolisHastings, or SurrogateMALA and "
    "DelayedAcceptance along another expert's score; poe.sample without `kernel=` chooses one"
)
WRITE_IT_IN_TORCH = (
    "Compute it by torch operations on x, without numpy, .detach(), .data, .item() or "
    f"torch.no_grad(), or register its gradient by a torch.autograd.Function; else {REMEDY}"
)
SHRINKING = [2.0**-power for power in (7, 10, 13, 17, 20, 24, 28)]
"""Moves, of the size of x or 1, each at most an eighth of the one before."""
STEPS = ("Round", "Floor", "Ceil", "Trunc")
"""How the names of nodes begin whose gradient is 0."""
FIRST = 8
"""So many values of a flat function are all tried."""
PROBES = 8
"""So many rows and directions at least are tried."""
FEW = 0.05
"""This share of them changes by chance: rounding, and steps that lie close together."""
ROUNDING = 32.0
"""Values differ by so many units in the last place through rounding alone."""


def without_gradient(value: Tensor, x: Tensor, who: str) -> Tensor:
    """`value`, a function of x that was computed elsewhere: differentiating it is an error.

    Args:
        value: What is returned, of any shape.
        x: What it is a function of, of any shape.
        who: In whose name the backward pass raises.

    Returns:
        The value, of which differentiating in x raises GradientError.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> without_gradient(x.detach().round(), x, "Rounding").sum().backward()
        Traceback (most recent call last):
        poe.GradientError: Rounding has no gradient: sample with a kernel that asks for none, ...
    """
    if not (x.requires_grad and torch.is_grad_enabled()):
        return value
    return _WithoutGradient.apply(x, value, who)


class _WithoutGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, who: str) -> Tensor:
        ctx.who = who
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> NoReturn:
        raise GradientError(f"{ctx.who} has no gradient: {REMEDY}")


# Whose graph was followed, and how often others were flat. Kept beside the experts, not on them:
# copies and files know nothing of it, and two experts of one architecture stay alike.
_FOLLOWED: set[weakref.ref[nn.Module]] = set()  # a WeakSet takes three times as long to ask
_TRIES: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()


def records_graph(x: Tensor) -> bool:
    """Whether what is computed of x keeps a graph to it, and one that can be looked at."""
    if not (x.requires_grad and torch.is_grad_enabled()):
        return False
    return not (torch.compiler.is_compiling() or x.is_meta or _is_transformed(x))


def is_followed(expert: nn.Module, value: Tensor) -> bool:
    """Whether a value of an expert's keeps a graph, as one that was followed to x before did.

    By attributes alone, since it is asked at every evaluation; True in a graph that is captured.
    """
    return torch.compiler.is_compiling() or (
        value.requires_grad and weakref.ref(expert) in _FOLLOWED
    )


def require_graph(
    expert: nn.Module, function: Callable[[Tensor], Tensor], value: Tensor, x: Tensor, space: Space
) -> None:
    """Raise where `value`, what a function says of x, varies with x and keeps no graph to it.

    Where there is no graph, the function is called at positions nearby: the score of a flat density
    or of steps is 0 rightly. That is done at its first values, and then at the 16th, 32nd, 64th …:
    nothing in the long run. Of x that keeps no graph (see `records_graph`) nothing is asked.

    Args:
        expert: Whose function it is.
        function: ``(*batch, *event) -> (*batch,)``.
        value: Of the function at x, ``(*batch,)``.
        x: Positions, ``(*batch, *event)``.
        space: Where they live.

    Raises:
        GradientError: Where the value varies and has no graph.

    Example:
        >>> x = torch.zeros(3, 2, requires_grad=True)
        >>> lost, flat = (lambda x: x.detach().exp().sum(-1)), (lambda x: torch.ones(3))
        >>> require_graph(nn.Identity(), flat, flat(x), x, Real(2))
        >>> require_graph(nn.Identity(), lost, lost(x), x, Real(2))
        Traceback (most recent call last):
        poe.GradientError: expected Identity to return a log-density with a graph to x, got one ...
    """
    if is_followed(expert, value) or not records_graph(x) or _is_transformed(value):
        return
    tries = _TRIES.get(expert, 0) + 1
    _TRIES[expert] = tries
    if tries > FIRST and tries & (tries - 1):
        return
    if leads_to(value, x):
        _FOLLOWED.add(weakref.ref(expert, _FOLLOWED.discard))
    elif varies_smoothly(function, x.detach(), space):
        del _TRIES[expert]
        raise GradientError(
            f"expected {type(expert).__name__} to return a log-density with a graph to x, got one "
            "that varies with x and carries none, so that its score would be 0. "
            f"{WRITE_IT_IN_TORCH}"
        )


def followed(
    expert: nn.Module, function: Callable[[Tensor], Tensor], space: Space, x: Tensor
) -> Tensor:
    """What a function of an expert's says of x, ``(*batch,)``, where a lost graph is found out.

    Arguments and what is raised are as of `require_graph`.
    """
    try:
        value = function(x)
    except RuntimeError as error:
        explain_numpy(expert, x, error)
        raise
    if isinstance(value, Tensor) and not is_followed(expert, value):
        require_graph(expert, function, value, x, space)
    return value


def explain_numpy(expert: nn.Module, x: Tensor, error: RuntimeError) -> None:
    """Turn torch's complaint about numpy on what requires a gradient into words."""
    if records_graph(x) and "numpy() on Tensor that requires grad" in str(error):
        raise GradientError(
            f"expected {type(expert).__name__} to compute by torch operations where its score is "
            f"asked for, got a call of numpy, which knows no gradient. {WRITE_IT_IN_TORCH}"
        ) from error


def leads_to(value: Tensor, x: Tensor) -> bool:
    """Whether the graph of a value contains x.

    >>> x = torch.ones(2, requires_grad=True)
    >>> leads_to((2 * x).sum(), x), leads_to((2 * x.detach()).sum(), x)
    (True, False)
    """
    if not value.requires_grad:
        return False
    end = torch.autograd.graph.get_gradient_edge(x).node
    return any(node is end for node in graph_of(value))


def has_steps(value: Tensor) -> bool:
    """Whether a value was rounded on the way, by operations whose gradient is 0 rightly.

    >>> x = torch.ones(2, requires_grad=True)
    >>> has_steps(x.exp().round().sum()), has_steps(x.exp().sum())
    (True, False)
    """
    return value.requires_grad and any(node.name().startswith(STEPS) for node in graph_of(value))


def graph_of(value: Tensor) -> Iterator[Node]:
    """The nodes of the graph of a value that requires a gradient, each once."""
    waiting = [torch.autograd.graph.get_gradient_edge(value).node]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        new = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= new
        waiting += new


@torch.no_grad()
def varies_smoothly(function: Callable[[Tensor], Tensor], x: Tensor, space: Space) -> bool:
    """Whether a function changes with x near x, and by less the less x moves: no flat one, no step.

    Moves are ever smaller, along fixed directions; from one to the next a smooth change becomes an
    eighth or, at a summit, a 64th, and that of a step stays or vanishes. In float64 where the
    function takes it.

    Args:
        function: ``(*batch, *event) -> (*batch,)``.
        x: Positions, ``(*batch, *event)``.
        space: Where they live; moves are in its unconstrained coordinates.

    Returns:
        True where more than a few of the rows and directions change smoothly.

    Example:
        >>> x = torch.linspace(-1, 1, 5)[:, None]
        >>> functions = [torch.exp, torch.floor, torch.ones_like]
        >>> [varies_smoothly(lambda x, f=f: f(x).sum(-1), x, Real(1)) for f in functions]
        [True, False, False]
    """
    precise = in_double(function, x)
    if space.is_discrete or isinstance(space, Real):
        return _changes_smoothly(function, precise)
    back = space.to_unconstrained.inv
    return _changes_smoothly(lambda u: function(back(u)), space.to_unconstrained(precise))


def _changes_smoothly(function: Callable[[Tensor], Tensor], u: Tensor) -> bool:
    value = value_near(function, u)
    rounding = ROUNDING * units_in_last_place(value)
    scale = u.square().mean().sqrt().clamp(min=1.0)
    found = []
    for direction in directions(u, -(-PROBES // max(1, value.numel()))):
        ends = (value_near(function, u + move * scale * direction) for move in SHRINKING)
        changes = torch.stack([(end - value).abs() for end in ends])
        found.append(_shrinks(changes.double(), rounding.double()))
    return bool(torch.stack(found).double().mean() > FEW)


def _shrinks(changes: Tensor, rounding: Tensor) -> Tensor:
    """Whether changes ``(moves, *batch)`` shrink with the moves at last, as far as they are seen.

    The first may be too large to tell, or leave the support. What is seen must shrink twice, if it
    is seen so often.
    """
    changes = changes.masked_fill(~changes.isfinite(), torch.nan)
    num_seen = torch.zeros_like(changes[0])
    num_shrunk = torch.zeros_like(changes[0])
    for larger, smaller in pairwise(changes):
        is_seen = larger / 128 > rounding
        is_smaller = (smaller > rounding) & (smaller <= 0.5 * larger)
        num_seen += is_seen
        num_shrunk = torch.where(is_seen, is_smaller * (num_shrunk + 1), num_shrunk)
    return (changes > rounding).any(0) & (num_shrunk >= num_seen.clamp(max=2.0))


def in_double(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """x in float64 where a function takes that and says the same, else as it is; any shape."""
    if not x.is_floating_point() or x.dtype == torch.float64 or x.device.type == "mps":
        return x
    value, precise = function(x), value_near(function, x.double())
    is_same = (precise - value).abs() <= 1e-3 * (1 + value.abs())
    return x.double() if bool((is_same | ~value.isfinite()).all()) else x


def value_near(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What a function says of places that nobody asked for, ``(*batch,)``; NaN if it refuses them.

    A trial must not fail where a run would not: the places may be of another dtype, or such as the
    run never comes to.
    """
    try:
        return function(x)
    except Exception:
        return x.new_full((), torch.nan)


def units_in_last_place(value: Tensor) -> Tensor:
    """The rounding of values, or of 1, in the precision that they show; of their shape."""
    dtype = torch.float32 if bool((value == value.float()).all()) else value.dtype
    dtype = dtype if value.dtype == torch.float64 else value.dtype
    return torch.finfo(dtype).eps * value.abs().nan_to_num(1.0, 1.0, 1.0).clamp(min=1.0)


def directions(x: Tensor, count: int) -> Tensor:
    """Fixed directions, as good as random: ``(count, *x.shape)``, elements of size 1."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn((count, *x.shape), generator=generator, dtype=torch.float64)
    return drawn.to(x.device, x.dtype)


def _is_transformed(x: Tensor) -> bool:
    """Whether torch.func has it in hand, where no value can be looked at."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(x))
