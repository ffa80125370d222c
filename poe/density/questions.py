"""Questions to an expert: each one a function with a default, which wrappers hand on."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

if TYPE_CHECKING:
    from functools import _SingleDispatchCallable

Answer = TypeVar("Answer")

QUESTIONS: list[_SingleDispatchCallable[Any]] = []
"""Every question, in whichever package it is asked: what a composition must have an answer to."""
DEFAULTS: dict[tuple[_SingleDispatchCallable[Any], type], str] = {}
"""Of a question and a class: why the default is its answer."""


class HandsOn:
    """What says all that another expert says: see `poe.density.expert.Wrapper`."""

    def inner(self) -> nn.Module:
        """The expert that answers."""
        raise NotImplementedError(f"expected {type(self).__name__} to define inner()")


def question(default: Callable[..., Answer]) -> _SingleDispatchCallable[Answer]:
    """A question about the density: `default` answers where no rule does, wrappers hand it on.

    Families and compositions register their rules, as with `functools.singledispatch`. A wrapper
    (`poe.density.expert.Wrapper`) answers as the expert inside of it.

    Args:
        default: The answer of an expert that no rule is known for, of the expert first.

    Returns:
        The question, a function of the same arguments.

    >>> @question
    ... def num_peaks(expert):
    ...     return None
    >>> @num_peaks.register
    ... def _(expert: experts.Gaussian):
    ...     return 1
    >>> num_peaks(poe.Chunked(experts.Gaussian([0.0], 1.0), 10))
    1
    >>> QUESTIONS.remove(num_peaks)
    """
    ask = own_question(default)

    @ask.register
    def _(wrapper: HandsOn, *rest: Any) -> Answer:
        return ask(wrapper.inner(), *rest)

    return ask


def own_question(default: Callable[..., Answer]) -> _SingleDispatchCallable[Answer]:
    """A question to the very expert that is asked: a wrapper does not hand it on.

    For what gives another expert back, which would lose the wrapper, and for what follows from
    other answers.

    Args:
        default: The answer of an expert that no rule is known for, of the expert first.

    Returns:
        The question, a function of the same arguments.
    """
    ask = singledispatch(default)
    QUESTIONS.append(ask)
    return ask


def keeps_default(
    kind: type[nn.Module], why: str, *questions: _SingleDispatchCallable[Any]
) -> None:
    """State that the default is what experts of a class answer, though they hold or are wrappers.

    Args:
        kind: The class.
        why: The reason, in words.
        questions: What is asked.

    >>> from poe.density.capabilities import tails
    >>> class Blurred(poe.Relaxed):
    ...     pass
    >>> keeps_default(Blurred, "what blurring does to them is not known", tails)
    >>> answer_of(tails, Blurred)
    'what blurring does to them is not known'
    """
    for ask in questions:
        ask.register(kind)(ask.dispatch(object))
        DEFAULTS[ask, kind] = why


def answer_of(ask: _SingleDispatchCallable[Any], kind: type[nn.Module]) -> str | None:
    """How a class answers a question: by a rule, by handing it on, or by the default and why.

    Args:
        ask: The question.
        kind: The class.

    Returns:
        "answers", "hands on", or the reason; None where nobody has thought of it.

    >>> from poe.density.capabilities import conditionals
    >>> answer_of(conditionals, poe.Chunked)
    'hands on'
    """
    nearest = next(base for base in kind.__mro__ if base in ask.registry)
    if (ask, nearest) in DEFAULTS:
        return DEFAULTS[ask, nearest]
    if nearest is object:
        return None
    return "hands on" if nearest is HandsOn else "answers"
