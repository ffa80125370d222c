"""What a value is, as a hash that another process gives too: of functions, their code and data.

A function is told by its bytecode, constants and names, its defaults, what it closes over, and the
globals that it reads; a class that is the user's own by its methods; an instance by its class and
its attributes; a module by its tensors, its parts and its attributes as well. What is installed
(torch, this package) is told by its name. No address, ``id`` or ``hash`` has a say, so that the
same source gives the same in another process.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import hashlib
import re
import sys
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping, Set as AbstractSet
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from poe.core.last_call_cache import Latest

PLAIN = (
    int, float, complex, str, bytes, bytearray, range, slice, Path, np.generic, enum.Enum,
    torch.dtype, torch.device, torch.layout, torch.memory_format, re.Pattern,
    type(None), type(...), type(NotImplemented), weakref.ReferenceType,
)  # fmt: skip
"""What its type and its ``repr`` tell."""
OF_THE_PACKAGE = ("poe", "experts")
TELL_NOTHING = (
    "_io", "_thread", "asyncio", "io", "logging", "queue", "socket", "threading", "tqdm",
    "torch.utils.tensorboard", "_weakref", "weakref",
)  # fmt: skip
"""Modules whose instances tell of a run, or guard it, and have no say in it."""
COMPILED, COMPILED_MODULE = "_torchdynamo_orig_callable", "_orig_mod"
"""Where ``torch.compile`` keeps what it was given."""
DEEPEST = 60
OF_EVERY_MODULE = frozenset(vars(nn.Module()))
UNSAID = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__",
     "__slots__", "__firstlineno__", "__static_attributes__", "__orig_bases__", "__parameters__",
     "__abstractmethods__", "_abc_impl", "__annotate__", "__annotate_func__",
     "__annotations_cache__", "__conditional_annotations__", "__match_args__"}
)  # fmt: skip
"""Of a class: what Python puts there."""


class Said(NamedTuple):
    """A value in parts: what it says itself, and what it consists of, by name."""

    own: bytes
    parts: Iterable[tuple[str, object]] = ()


def fingerprint(value: object) -> str:
    """A hash of what a run depends on: modules with their weights, functions, tensors, numbers.

    Values of different types differ, also where they are equal (1, 1.0 and True; a list and a
    tuple), and so do values that are put together otherwise. The order of a mapping's or a set's
    items makes no difference.

    Args:
        value: Anything.

    Returns:
        A SHA-256, in 64 hexadecimal digits.

    >>> fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(2))
    True
    >>> fingerprint(lambda x: x + 1) == fingerprint(lambda x: x + 2)
    False
    >>> fingerprint(((1,), 2)) == fingerprint(((1, 2),))
    False
    """
    return _Reader().digest(value, "", 0).hex()


def fingerprints(named: Mapping[str, object]) -> dict[str, str]:
    """A hash of every part of some values, by the path to it: what it says itself.

    Args:
        named: The values.

    Returns:
        32 hexadecimal digits each.

    >>> scale = 2.0
    >>> sorted(fingerprints({"collect": lambda x: scale * x}))
    ['collect', 'collect.scale']
    """
    reader = _Reader()
    for name, value in named.items():
        reader.digest(value, name, 0)
    return reader.told


class _Reader:
    """Goes through a value once: what is met again is known."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}
        self._known: dict[int, tuple[object, bytes]] = {}  # holds the object, so its id stays

    def digest(self, value: object, path: str, depth: int) -> bytes:
        if id(value) in self._known:
            return self._known[id(value)][1]
        if not isinstance(value, PLAIN):
            self._known[id(value)] = (value, b"itself")
        own, parts = said(value) if depth < DEEPEST else Said(_name_of(type(value)))
        self.told[path] = hashlib.sha256(own).hexdigest()[:32]
        whole = hashlib.sha256(_told(own))
        for name, part in parts:
            inner = self.digest(part, f"{path}.{name}" if path else name, depth + 1)
            whole.update(_told(name.encode(errors="replace")) + inner)
        if id(value) in self._known:
            self._known[id(value)] = (value, whole.digest())
        return whole.digest()


@functools.singledispatch
def said(value: object) -> Said:
    """An instance: its class, and what it holds.

    Args:
        value: Anything.

    Returns:
        What it says itself, and its parts.
    """
    kind = type(value)
    own = _name_of(kind)
    if isinstance(value, PLAIN):
        return Said(_plainly(value))
    if any(
        kind.__module__ == name or kind.__module__.startswith(f"{name}.") for name in TELL_NOTHING
    ):
        return Said(own)
    if hasattr(kind, "__array__"):
        return Said(own, [("array", np.asarray(value))])
    if callable(value) and (wrapped := getattr(value, "__wrapped__", None)) is not None:
        return Said(own, [("wrapped", wrapped)])  # what wraps it may keep results
    if held := _held(value):
        return Said(own, [("class", kind), *sorted(held.items())])
    return Said(own, [("class", kind), *_reduced(value)])


@said.register
def _(value: Latest) -> Said:
    """What it remembers follows from what is told beside it."""
    return Said(_name_of(type(value)))


@said.register
def _(value: Tensor) -> Said:
    own = f"{value.dtype}{tuple(value.shape)}".encode()
    return Said(_joined(_name_of(type(value)), own, b"" if value.is_meta else bytes_of(value)))


@said.register
def _(value: np.ndarray) -> Said:
    own = _joined(b"array", value.dtype.str.encode(), repr(value.shape).encode())
    if value.dtype.hasobject:
        return Said(own, [("items", value.tolist())])
    return Said(_joined(own, np.ascontiguousarray(value).tobytes()))


@said.register
def _(value: torch.Generator) -> Said:
    return Said(_joined(b"generator", bytes_of(value.get_state())))


@said.register
def _(value: nn.Module) -> Said:
    parts = dict(value.named_children())
    if COMPILED_MODULE in parts:
        return Said(b"compiled", [("module", parts[COMPILED_MODULE])])
    tensors = {
        name: tensor
        for group in (value._parameters, value._buffers)
        for name, tensor in group.items()
        if tensor is not None
    }
    hooks = [*value._forward_hooks.values(), *value._forward_pre_hooks.values()]
    more = {name: held for name, held in _kept(value).items() if name not in OF_EVERY_MODULE}
    names = [*parts, "", *value._parameters, str(value.training)]
    own = _joined(_name_of(type(value)), *map(str.encode, names))
    own_code = [("class", type(value)), *((f"hook {k}", hook) for k, hook in enumerate(hooks))]
    return Said(own, [*parts.items(), *tensors.items(), *own_code, *sorted(more.items())])


@said.register(torch.jit.ScriptModule)
def _(value: Any) -> Said:
    code, constants = value.code_with_constants
    own = _joined(b"script", re.sub(r"___torch_mangle_\d+", "", code).encode())
    parts = [("constants", constants.const_mapping), *value.named_children()]
    return Said(own, [*parts, *value.state_dict().items()])


@said.register(torch.jit.ScriptFunction)
def _(value: Any) -> Said:
    graph = str(torch._C._jit_pass_canonicalize(value.graph))
    return Said(_joined(b"script", re.sub(r"\s*# .*", "", graph).encode()))


@said.register(Mapping)
def _(value: Mapping[Any, Any]) -> Said:
    by_key = {fingerprint(key): (key, item) for key, item in value.items()}
    keys = sorted(by_key)
    own = _joined(_name_of(type(value)), *map(str.encode, keys))
    if all(isinstance(item, PLAIN) for item in value.values()):
        return Said(_joined(own, *(_plainly(by_key[key][1]) for key in keys)))
    return Said(own, [(_label(by_key[key][0]), by_key[key][1]) for key in keys])


@said.register(AbstractSet)
def _(value: AbstractSet[Any]) -> Said:
    return Said(_joined(_name_of(type(value)), *map(str.encode, sorted(map(fingerprint, value)))))


@said.register(tuple)
@said.register(list)
def _(value: tuple[Any, ...] | list[Any]) -> Said:
    own = _joined(_name_of(type(value)), str(len(value)).encode())
    if all(isinstance(item, PLAIN) for item in value):
        return Said(_joined(own, *map(_plainly, value)))
    return Said(own, [(str(index), item) for index, item in enumerate(value)])


@said.register
def _(value: types.FunctionType) -> Said:
    module, name = value.__globals__.get("__name__"), value.__code__.co_qualname
    if _is_installed(module) and "<" not in name:  # what it says of itself, a decorator may set
        return Said(f"{module}.{name}".encode())
    if COMPILED in vars(value):
        return Said(b"compiled", [("function", vars(value)[COMPILED])])
    closure = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    parts = [
        *((name, _content(cell)) for name, cell in closure),
        *_globals_of(value),
        *(("defaults", held) for held in (value.__defaults__, value.__kwdefaults__) if held),
        *sorted((name, held) for name, held in vars(value).items() if name != "__wrapped__"),
    ]
    return Said(_joined(b"function", _code(value.__code__)), parts)


@said.register
def _(value: types.MethodType) -> Said:
    return Said(b"method", [("function", value.__func__), ("self", value.__self__)])


@said.register
def _(value: types.BuiltinFunctionType) -> Said:
    own = f"{value.__module__}.{value.__qualname__}".encode()
    is_bound = not isinstance(value.__self__, types.ModuleType | type(None))
    return Said(own, [("self", value.__self__)] if is_bound else [])


@said.register
def _(value: types.ModuleType) -> Said:
    return Said(f"module {value.__name__}".encode())


@said.register
def _(value: functools.partial) -> Said:  # type: ignore[type-arg]
    parts = [("function", value.func), ("arguments", value.args), ("keywords", value.keywords)]
    return Said(b"partial", parts)


@said.register(staticmethod)
@said.register(classmethod)
def _(value: Any) -> Said:
    return Said(_name_of(type(value)), [("function", value.__func__)])


@said.register
def _(value: property) -> Said:
    return Said(b"property", [("get", value.fget), ("set", value.fset), ("delete", value.fdel)])


@said.register
def _(value: type) -> Said:
    """A class: what is installed by its name, the user's own by what it defines."""
    if _is_installed(value.__module__):
        return Said(f"{value.__module__}.{value.__qualname__}".encode())
    own = {name: held for name, held in vars(value).items() if name not in UNSAID}
    bases = [(f"base {k}", base) for k, base in enumerate(value.__bases__)]
    return Said(_joined(b"class", value.__qualname__.encode()), [*bases, *sorted(own.items())])


def bytes_of(tensor: Tensor) -> bytes:
    """The numbers of a tensor in order, wherever they lie in memory.

    Args:
        tensor: Of any shape, strides and device.

    Returns:
        Its bytes.

    Example:
        >>> len(bytes_of(torch.ones(1).expand(3)))
        12
    """
    dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    flat = torch.empty(dense.numel(), dtype=dense.dtype)
    flat.copy_(dense.cpu().resolve_conj().resolve_neg().reshape(-1))
    return flat.view(torch.uint8).numpy().tobytes()


def _globals_of(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    """What it reads by name from its module, and from modules that are the user's own."""
    found = function.__globals__
    for name in sorted(_names_read(function.__code__)):
        if name not in found or found[name] is getattr(builtins, name, None):
            continue
        value = found[name]
        yield name, value
        if isinstance(value, types.ModuleType) and not _is_installed(value.__name__):
            inner = vars(value)
            yield from (
                (f"{name}.{one}", inner[one])
                for one in sorted(_attributes_read(function.__code__) & inner.keys())
            )


def _names_read(code: types.CodeType) -> set[str]:
    read = ("LOAD_GLOBAL", "LOAD_NAME")
    own = {str(step.argval) for step in dis.get_instructions(code) if step.opname in read}
    return own.union(*map(_names_read, _inner(code)))


def _attributes_read(code: types.CodeType) -> set[str]:
    return set(code.co_names).union(*map(_attributes_read, _inner(code)))


def _inner(code: types.CodeType) -> list[types.CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def _code(code: types.CodeType) -> bytes:
    """What is run: not where it stands, nor what it is called."""
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    constants = (
        _code(one) if isinstance(one, types.CodeType) else fingerprint(one).encode()
        for one in code.co_consts
    )
    told = repr((names, counts)).encode()
    return _joined(code.co_code, code.co_exceptiontable, told, *constants)


def _kept(module: nn.Module) -> dict[str, Any]:
    """Its attributes; of modules that say which of these cannot be copied, the others."""
    try:
        kept = module.__getstate__()
    except Exception:  # some, as parametrised ones, refuse to be copied at all
        return vars(module)
    return kept if isinstance(kept, dict) else vars(module)


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # it is not filled yet
        return "an empty cell"


def _held(value: object) -> dict[str, Any]:
    """The attributes of an instance, those in slots included."""
    slots = (name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name))
    in_slots = {name: getattr(value, name) for name in slots}
    return in_slots | getattr(value, "__dict__", {})


def _slots(kind: type) -> list[str]:
    named = vars(kind).get("__slots__", ())
    names = [named] if isinstance(named, str) else list(named)
    return [name for name in names if name not in UNSAID]


def _reduced(value: object) -> list[tuple[str, object]]:
    """What copying it would take; in words where it cannot be copied."""
    try:
        taken = value.__reduce_ex__(4)
    except Exception:  # an object may raise anything at this, and then says what its repr says
        return [("repr", _words(value))]
    if isinstance(taken, str):
        return [("name", taken)]
    later = [list(part) for part in taken[3:5] if part is not None]
    return [("reduced", [*taken[1:3], *later])]


@functools.cache
def _is_installed(module: str | None) -> bool:
    """Whether a module comes with Python, with this package or with a library."""
    top = (module or "").partition(".")[0]
    if top in OF_THE_PACKAGE or (top in sys.stdlib_module_names and top != "__main__"):
        return True
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _name_of(kind: type) -> bytes:
    return kind.__qualname__.encode()


def _label(key: object) -> str:
    return key if isinstance(key, str) else repr(key) if isinstance(key, PLAIN) else "key"


def _plainly(value: object) -> bytes:
    return _joined(_name_of(type(value)), _words(value))


def _words(value: object) -> bytes:
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value)).encode(errors="replace")


def _told(content: bytes) -> bytes:
    """After its length, so that no two values run alike."""
    return len(content).to_bytes(8, "big") + content


def _joined(*pieces: bytes) -> bytes:
    return b"".join(map(_told, pieces))
