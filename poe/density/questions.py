"""Questions to an expert: each one a function with a default, which wrappers hand on.

A rule holds for the class that registered it, with its own log-density. Where a subclass, a hook or
an attribute of the instance may have made another density of it, the default answers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache, singledispatch, wraps
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast

from torch import nn
from torch.nn.modules import module as torch_module

if TYPE_CHECKING:
    from functools import _SingleDispatchCallable

Answer = TypeVar("Answer")
Kind = TypeVar("Kind")
Method = TypeVar("Method", bound=Callable[..., Any])

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
    ask = asked_of_a_class(default)
    QUESTIONS.append(ask)
    return ask


def asked_of_a_class(default: Callable[..., Answer]) -> _SingleDispatchCallable[Answer]:
    """As `functools.singledispatch`, where a rule holds for what speaks as its class alone.

    Args:
        default: The answer where no rule holds, of the module first.

    Returns:
        A function of the same arguments.
    """
    rules = singledispatch(default)

    @wraps(default)
    def answer(expert: Any, *rest: Any) -> Answer:
        kind = next(base for base in type(expert).__mro__ if base in rules.registry)
        holds = kind is object or speaks_as(expert, kind)
        return rules.dispatch(kind if holds else object)(expert, *rest)

    ask = cast("_SingleDispatchCallable[Answer]", answer)
    ask.register, ask.dispatch = rules.register, rules.dispatch  # type: ignore[method-assign]
    ask.registry = rules.registry
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


def interchangeable(method: Method) -> Method:
    """Mark a method that says what the one above it says, evaluated otherwise.

    Then what is known of the class above holds for the one below.

    Args:
        method: Such as ``forward``, or what ``forward`` calls.

    Returns:
        The method itself.

    >>> class Faster(experts.Gaussian):
    ...     @interchangeable
    ...     def forward(self, x):
    ...         return super().forward(x)
    >>> speaks_as(Faster([0.0], scale=[1.0]), experts.Gaussian)
    True
    """
    method.is_interchangeable = True  # type: ignore[attr-defined]
    return method


def speaks_as(module: object, kind: type[Kind]) -> TypeGuard[Kind]:
    """Whether it is of a class, and what is known of the class holds for it.

    It does not where its subclass has another ``forward``, or another method that ``forward`` goes
    through; where the instance has one; and where hooks may change what comes out.

    Args:
        module: An expert, or another part of a composition.
        kind: The class.

    Returns:
        True where its log-density is that of the class.

    >>> class Sharp(experts.Gaussian):
    ...     def forward(self, x):
    ...         return 4.0 * super().forward(x)
    >>> speaks_as(Sharp([0.0], scale=[1.0]), experts.Gaussian)
    False
    """
    if not isinstance(module, kind):
        return False
    is_changed = isinstance(module, nn.Module) and (is_altered(module) or has_global_hooks())
    return inherits_density(type(module), kind) and not is_changed


def is_altered(module: nn.Module) -> bool:
    """Whether this one instance may say something else than its class does.

    Args:
        module: An expert, or another part of a composition.

    Returns:
        True where it has forward hooks, or a method of its own that the log-density goes through.
    """
    if module._forward_hooks or module._forward_pre_hooks:
        return True
    kind: Any = type(module)
    return not _names(kind).isdisjoint(module.__dict__)


def inherits_density(own: Any, kind: Any) -> bool:
    """Whether a class says the density that the classes say which it has from another.

    Args:
        own: The class.
        kind: The other class, above.

    Returns:
        False where it replaced something of what was said before.
    """
    spoken_by = tuple(getattr(own, name, None) for name in _entries(own))  # may be put there later
    return _inherits_density(own, kind, spoken_by)


@lru_cache(maxsize=4096)
def _inherits_density(own: Any, kind: Any, spoken_by: object) -> bool:
    names = _names(own)
    above = [b for b in own.__mro__ if issubclass(b, kind) and not _is_abstract(b, names)]
    for name in names:
        said = [_definition(base, name) for base in (own, *above)]
        if any(each is not None and each is not said[0] for each in said):
            return False
    return True


def _entries(kind: type) -> tuple[str, ...]:
    """The methods by which a class's log-density is asked for."""
    found: tuple[str, ...] = getattr(kind, "_density_methods", ("forward",))
    return found


@lru_cache(maxsize=4096)
def _names(kind: Any) -> frozenset[str]:
    """The names of all methods that the log-density goes through, in any of the classes."""
    found: set[str] = set()
    ahead = [*_entries(kind)]
    while ahead:
        name = ahead.pop()
        functions = [] if name in found else list(_functions(kind, name))
        if functions:
            found.add(name)
            ahead += [inner for function in functions for inner in _names_in(function.__code__)]
    return frozenset(found)


def _functions(kind: type, name: str) -> Iterator[FunctionType]:
    for base in kind.__mro__:
        function = _function(vars(base).get(name))
        if function is not None and base is not nn.Module:
            yield function


def _function(found: Any) -> FunctionType | None:
    """The function of a method, a property or the like; None of data."""
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, cached_property):
        found = found.func
    elif isinstance(found, staticmethod | classmethod):
        found = found.__func__
    found = inspect.unwrap(found) if callable(found) else None
    return found if isinstance(found, FunctionType) else None


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _definition(kind: type, name: str) -> Any:
    """What a class has by that name, behind what only says the same otherwise; None for nothing."""
    found = (vars(base)[name] for base in kind.__mro__ if name in vars(base))
    return next((f for f in found if not getattr(_function(f), "is_interchangeable", False)), None)


def _is_abstract(kind: type, names: frozenset[str]) -> bool:
    """Whether a class leaves it to others what its log-density is."""
    if any(getattr(kind, name, None) is None for name in _entries(kind)):
        return True
    return any(_is_left_open(_function(_definition(kind, name))) for name in names)


def _is_left_open(function: FunctionType | None) -> bool:
    if function is None:
        return False
    is_marked = getattr(function, "__isabstractmethod__", False)
    return is_marked or "NotImplementedError" in function.__code__.co_names


def has_global_hooks() -> bool:
    """Whether every module has hooks, beside those by which torch itself counts and traces."""
    if not (torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks):
        return False
    hooks = (*torch_module._global_forward_hooks.values(),)
    hooks += (*torch_module._global_forward_pre_hooks.values(),)
    return any(not getattr(hook, "__module__", "").startswith("torch.") for hook in hooks)
