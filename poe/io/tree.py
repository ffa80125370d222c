"""Save and load whole compositions: safetensors for the numbers, JSON for the tree, no pickle.

A saved expert is a directory with `expert.json` (the tree, and the hashes of everything) and one
`weights-<hash>.safetensors`. Only classes that were registered are ever built, so a file can run
no code. Writing is atomic: the JSON is moved into place last, in one step, and the weights that
it names were complete before; those of before are removed once nothing names them. Who reads beside
who writes sees one expert or the other. The JSON has a hash of every byte of itself, and of the
weights.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from poe.core.arguments import checked
from poe.core.errors import StorageError
from poe.core.joint_space import Joint
from poe.core.randomness import Lent
from poe.core.space import (
    Binary,
    Categorical,
    Count,
    Interval,
    Positive,
    PositiveDefinite,
    Real,
    Sequence as TokenSequence,
    Simplex,
    Space,
)
from poe.density.checks import require_numbers
from poe.density.questions import is_altered
from poe.files.atomic import alone_in, content_of, require_room, write_bytes
from poe.files.tensor_file import FORMAT_VERSION, NO_HASH, is_sealed, loads, sealed, sha256
from poe.io.bounds import Allowance

FORMAT = "product-of-experts"
DESCRIPTION = "expert.json"
OF_A_SAVE = re.compile("weights-[0-9a-f]{16}\\.safetensors")
"""The weights that `save` wrote: a user's own, of another name, are left alone."""
ATTEMPTS = 100
"""So often a reader begins again where the description has changed beneath it."""
MOMENT = 0.01
"""Seconds between two attempts, where what is read is being written."""
MOST_PARTS = 1_000_000
"""Of a tree, those that are shared counted wherever they stand."""
ROOM, ROOM_OF_WEIGHTS = 2**30, 16
"""Bytes that building may take: so many, and so many times those of the weights."""

Module = TypeVar("Module", bound=nn.Module)
Fields = dict[str, Any]
_SPACES: dict[str, type[Space]] = {
    "Binary": Binary,
    "Categorical": Categorical,
    "Count": Count,
    "Interval": Interval,
    "Joint": Joint,
    "Positive": Positive,
    "PositiveDefinite": PositiveDefinite,
    "Real": Real,
    "Sequence": TokenSequence,
    "Simplex": Simplex,
}


_DTYPES = {  # of what is stored in another
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}


class _Codec(NamedTuple):
    kind: type[nn.Module]
    name: str
    formerly: tuple[str, ...]
    is_lasting: bool  # the name was given, and does not follow from where the class lies
    describe: Callable[[Any], Fields]
    build: Callable[[Fields], nn.Module]

    @property
    def names(self) -> tuple[str, ...]:
        """All that a file may call it, beside the path of its class."""
        return (self.name, *self.formerly)


_codecs: dict[type[nn.Module], _Codec] = {}
_by_name: dict[str, _Codec] = {}
_on_demand: dict[str, str] = {}


def register(
    kind: type[Module],
    describe: Callable[[Module], Fields],
    build: Callable[[Fields], Module],
    *,
    name: str | None = None,
    formerly: Sequence[str] = (),
) -> None:
    """Let instances of ``kind`` (exactly, no subclasses) be saved and loaded.

    Loading needs the same registration, so do it where the class is defined. A class that is
    registered again keeps its names, unless others are given.

    Args:
        kind: The class.
        describe: Named fields of an instance: numbers, strings, None, tensors, spaces, registered
            modules, and lists, tuples or dicts of these.
        build: Makes the instance again from its fields.
        name: What files call the class, for good: where its users find it, like "experts.RBM".
            Without one it is the path of the class, ``module.qualname``, so that the class cannot
            be moved before it has a name.
        formerly: What older files may call it: its paths and names of before. Its present path
            need not be listed.

    Raises:
        StorageError: Where a name is that of another class.

    >>> class Constant(nn.Module):
    ...     def __init__(self, value):
    ...         super().__init__()
    ...         self.value = value
    >>> register(
    ...     Constant, lambda c: {"value": c.value}, lambda fields: Constant(**fields),
    ...     name="mine.Constant", formerly=["mine.old_module.Constant"],
    ... )
    """
    known = _codecs.get(kind)
    if name is None and known is not None:
        codec = known._replace(describe=describe, build=build)
    else:
        path = _path_of(kind)
        codec = _Codec(kind, name or path, tuple(formerly), name is not None, describe, build)
    for each in codec.names:
        _require_free(each, kind)
    if (redefined := _by_name.get(codec.name)) is not None:
        _codecs.pop(redefined.kind, None)
    _codecs[kind] = codec
    _by_name.update(dict.fromkeys(codec.names, codec))
    _by_name.setdefault(_path_of(kind), codec)


def register_on_demand(prefix: str, module: str) -> None:
    """Let a file whose names begin so be loaded: the module that registers them is imported then.

    For classes whose module needs a library that is imported only where it is used.

    Args:
        prefix: Of lasting names, or of former ones.
        module: The module that registers the classes so called.

    >>> register_on_demand("mine.flows.", "mine.adapters.flows")
    """
    _on_demand[prefix] = module


def _known(name: str) -> _Codec | None:
    """The class of that name; its module is imported where it was announced."""
    for prefix, module in _on_demand.items():
        if name.startswith(prefix) and name not in _by_name:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise StorageError(
                    f"the file holds a {name}, and {module}, which defines it, cannot be imported: "
                    f"{error}"
                ) from error
    return _by_name.get(name)


def _require_free(name: str, kind: type[nn.Module]) -> None:
    """A name is free that nobody has, or the class itself, or one that this one redefines."""
    taken = _by_name.get(name)
    if taken is not None and _path_of(taken.kind) != _path_of(kind):
        raise StorageError(
            f"expected a name of its own for {_path_of(kind)}, got {name!r}, by which "
            f"{_path_of(taken.kind)} is saved: give another by poe.io.register(..., name=...)"
        )


def register_module(
    kind: type[Module],
    arguments: Sequence[str] | Callable[[Module], Fields] = (),
    *,
    name: str | None = None,
    formerly: Sequence[str] = (),
) -> None:
    """Let a network class be saved: its constructor's arguments, and all its tensors by name.

    Non-persistent buffers are left to the constructor.

    Args:
        kind: The class.
        arguments: The attributes that the constructor takes under the same names, or a function
            that returns them.
        name: As of `register`.
        formerly: As of `register`.

    Raises:
        StorageError: As `register`.

    >>> class Shift(nn.Module):
    ...     def __init__(self, size):
    ...         super().__init__()
    ...         self.size, self.by = size, nn.Parameter(torch.zeros(size))
    >>> register_module(Shift, ["size"], name="mine.Shift")
    """

    def describe(module: Module) -> Fields:
        given = arguments(module) if callable(arguments) else _attributes(module, arguments)
        return {"arguments": given, "tensors": module.state_dict(keep_vars=True)}

    def build(fields: Fields) -> Module:
        module = kind(**fields["arguments"])
        _assign_tensors(module, fields["tensors"])
        return module

    register(kind, describe, build, name=name, formerly=formerly)


@checked
def save(expert: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write an expert into a directory, atomically.

    Args:
        expert: Any composition, a conditional, or a registered module.
        path: The directory; an expert saved there before is replaced, in one step.

    Raises:
        StorageError: Where a part of the composition has no registered class (a bare function has
            none), a space is none of this package, or a tensor holds no numbers.
        NonFiniteError: Where a parameter is NaN, which `load` would refuse; what was saved there
            before stays.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> save(experts.Gaussian([0.0], scale=[1.0]) ** 2, folder)
    >>> load(folder)(torch.zeros(1, 1))
    tensor([-1.8379])
    """
    require_numbers(expert)
    description, weights = packed(expert)
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"expected a directory to save into, got the file {folder}")
    with _storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    name = f"weights-{description['weights_sha256'][:16]}.safetensors"
    write(folder / DESCRIPTION, description | {"weights": name}, weights)


def packed(
    expert: nn.Module, stored: Callable[[Tensor], Tensor] = torch.Tensor.detach
) -> tuple[Fields, bytes]:
    """The tree of an expert as JSON can hold it, and the content of the file of its tensors.

    Args:
        expert: Any composition, a conditional, or a registered module.
        stored: What is kept of each tensor: by default itself. One that is kept in another dtype
            comes back in its own.

    Returns:
        What `write` takes; the description's ``weights``, the name of their file, is to be added.

    Raises:
        StorageError: As `save`.
    """
    for name, part in _parts(expert):
        _require_unaltered(name, part)
    encoder = _Encoder(stored)
    tree = encoder.encode(expert)
    weights = safetensors.torch.save(encoder.tensors())
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "weights_sha256": sha256(weights),
        "in_training": [name for name, part in expert.named_modules() if part.training],
        "tree": tree,
    }
    return description, weights


def write(file: Path, description: Fields, weights: bytes) -> None:
    """Write what `packed` made: the weights, then the description, which names them, sealed.

    Args:
        file: Of the description; the weights lie beside it, under the name that it has for them.
        description: As of `packed`, with ``weights``, and whatever else is to be said.
        weights: As of `packed`.

    Raises:
        StorageError: Where other files have these names, or none can be written there.
    """
    told = json.dumps({**description, "sha256": NO_HASH}, indent=1, allow_nan=False).encode()
    content, place = sealed(told, len(told)), file.parent / description["weights"]
    require_room(file)
    if file.is_symlink():
        raise StorageError(
            f"expected a file of its own at {file}, got a link to {os.path.realpath(file)}, which "
            "others may load: save into another folder"
        )
    with _storing(file), alone_in(file.parent) as is_alone:
        before, is_new = _weights_before(file), not place.exists()
        if is_new or place.name == before:
            write_bytes(place, weights)
        elif sha256(content_of(place)) != description["weights_sha256"]:
            raise StorageError(
                f"expected nothing at {place} or the same weights, got another file: save into "
                "another folder, or remove it"
            )
        try:
            write_bytes(file, content)
        except BaseException:
            if is_new and is_alone:
                place.unlink(missing_ok=True)
            raise
        if is_alone and before not in (None, place.name) and OF_A_SAVE.fullmatch(str(before)):
            (file.parent / str(before)).unlink(missing_ok=True)


def _weights_before(file: Path) -> str | None:
    """The weights that the description at that place names; None where there is none yet."""
    if not file.exists() or file.stat().st_size == 0:
        return None
    try:
        content = content_of(file)
        description = loads(content)
        is_own = isinstance(description, dict) and description.get("format") == FORMAT
    except (OSError, ValueError, RecursionError):
        is_own = False
    if not is_own:
        raise StorageError(
            f"expected nothing at {file} or the description of a saved expert to write over, got "
            "another file: save into another folder, or remove it"
        )
    stated = description.get("weights")
    is_whole = _is_whole(content, description) and isinstance(stated, str)
    return Path(stated).name if is_whole else None


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    """What the system refuses, in words."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"expected to write to {path}, got {error}: save into another folder"
        ) from error


@checked
def load(path: str | os.PathLike[str]) -> Any:
    """The expert that `save` wrote into a directory, bit for bit, on the CPU.

    The global generator stays where it is, whatever the constructors of networks draw.

    Args:
        path: The directory.

    Returns:
        The expert, the conditional or the module.

    Raises:
        StorageError: Where a file is missing, truncated or altered, where it is of a newer version,
            or where it names a class that nobody registered (import its package first).
    """
    return read(Path(path) / DESCRIPTION)


def read(file: Path) -> Any:
    """The expert that a description is of; as `load`, for one of another name.

    Args:
        file: Of the description, as `write` wrote it.

    Returns:
        The expert, the conditional or the module.

    Raises:
        StorageError: As `load`.
    """
    description, tensors, size = _read_beside_who_writes(Path(file))
    try:
        # Networks are built with weights that are replaced: no reason to move the global generator.
        with (
            Lent(torch.Generator().manual_seed(0)),
            Allowance(ROOM + ROOM_OF_WEIGHTS * size),
        ):
            expert = _Decoder(tensors).decode(description["tree"])
        in_training = set(description["in_training"])
        for name, part in expert.named_modules():
            part.training = name in in_training
    except StorageError as error:
        raise StorageError(f"{file}: {error}") from error
    except Exception as error:
        raise StorageError(f"{file} does not describe a valid expert: {error}") from error
    return expert


def _read_beside_who_writes(file: Path) -> tuple[Fields, dict[str, Tensor], int]:
    """Description, tensors, and the bytes of these; begun again where the former has changed."""
    for _ in range(ATTEMPTS):
        content = _content_of_description(file)
        description = _description_in(content, file)
        try:
            return (description, *_read_weights(file, description))
        except StorageError:
            is_changed = _content_of_description(file) != content
            if not (is_changed or _is_being_written(file, description)):
                raise
    raise StorageError(
        f"expected {file} to stay for as long as it takes to read its weights, got another "
        f"{ATTEMPTS} times: read it again when nobody saves there"
    )


def _is_being_written(file: Path, description: Fields) -> bool:
    """Whether weights of a name that lasts were just replaced, and their description not yet.

    Then after a moment.
    """
    place = file.parent / Path(description["weights"]).name
    try:
        written, described = place.stat().st_mtime, file.stat().st_mtime
    except (OSError, ValueError):
        return False
    if OF_A_SAVE.fullmatch(place.name) or not described < written or time.time() - written > 1:
        return False
    time.sleep(MOMENT)
    return True


class _Encoder:
    """Objects to JSON, each shared module and tensor once."""

    def __init__(self, stored: Callable[[Tensor], Tensor]) -> None:
        self._stored = stored
        self._seen: dict[int, tuple[object, Any]] = {}  # holds the object, so its id stays its own
        self._tensors: list[Tensor] = []

    def encode(self, value: object) -> Any:
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return {"$": "float", "value": value.hex()}
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            return {"$": kind, "items": [self.encode(item) for item in value]}
        if isinstance(value, dict):
            return {"$": "dict", "items": {str(k): self.encode(v) for k, v in value.items()}}
        if isinstance(value, Space):
            return self._encode_space(value)
        return self._encode_shared(value)

    def tensors(self) -> dict[str, Tensor]:
        return {
            str(i): tensor.detach().cpu().contiguous().clone()
            for i, tensor in enumerate(self._tensors)
        }

    def _encode_space(self, space: Space) -> Any:
        name = type(space).__name__
        if _SPACES.get(name) is not type(space):
            raise StorageError(
                f"cannot save the space {_path_of(type(space))}: expected one of "
                f"{', '.join(_SPACES)}"
            )
        fields = dataclasses.fields(space)
        told = {field.name: self.encode(getattr(space, field.name)) for field in fields}
        return {"$": "space", "kind": name, "fields": told}

    def _encode_shared(self, value: object) -> Any:
        if id(value) in self._seen:
            return {"$": "same", "as": self._seen[id(value)][1]}
        number = len(self._seen)
        self._seen[id(value)] = (value, number)
        if isinstance(value, Tensor):
            return self._encode_tensor(value, number)
        codec = _codecs.get(type(value)) if isinstance(value, nn.Module) else None
        if codec is None:
            raise StorageError(
                f"cannot save {_path_of(type(value))}: it is not registered; use "
                "poe.io.register(YourClass, describe, build), and a module instead of a function"
            )
        fields = {key: self.encode(field) for key, field in codec.describe(value).items()}
        return {"$": "module", "kind": codec.name, "id": number, "fields": fields}

    def _encode_tensor(self, tensor: Tensor, number: int) -> Any:
        if tensor.is_meta:
            raise StorageError("cannot save a tensor on the meta device: it holds no numbers")
        kept = self._stored(tensor)
        self._tensors.append(kept)
        node = {
            "$": "parameter" if isinstance(tensor, nn.Parameter) else "tensor",
            "id": number,
            "key": str(len(self._tensors) - 1),
            "learned": tensor.requires_grad and tensor.is_leaf,
        }
        if kept.dtype != tensor.dtype:
            node["dtype"] = str(tensor.dtype).removeprefix("torch.")
        return node


class _Decoder:
    """JSON to objects; what was shared is shared again."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._made: dict[int, Any] = {}
        self._num_parts = 0
        self._sizes: dict[int, int] = {}

    def decode(self, node: Any) -> Any:
        self._count(1)
        if not isinstance(node, dict):
            return node
        match node["$"]:
            case "float":
                return float.fromhex(node["value"])
            case "list":
                return [self.decode(item) for item in node["items"]]
            case "tuple":
                return tuple(self.decode(item) for item in node["items"])
            case "dict":
                return {key: self.decode(item) for key, item in node["items"].items()}
            case "space":
                fields = {key: self.decode(item) for key, item in node["fields"].items()}
                return _SPACES[node["kind"]](**fields)
            case "same":
                self._count(self._sizes[node["as"]])
                return self._made[node["as"]]
        before = self._num_parts
        self._made[node["id"]] = made = self._make(node)
        self._sizes[node["id"]] = self._num_parts - before
        return made

    def _count(self, more: int) -> None:
        self._num_parts += more
        if self._num_parts > MOST_PARTS:
            raise StorageError(
                f"expected an expert of at most {MOST_PARTS:,} parts, got one of more, with those "
                "that are shared counted wherever they stand"
            )

    def _tensor(self, node: Any) -> Tensor:
        tensor = self._tensors[node["key"]]
        return tensor.to(_DTYPES[node["dtype"]]) if "dtype" in node else tensor

    def _make(self, node: Any) -> Any:
        if node["$"] == "parameter":
            return nn.Parameter(self._tensor(node), requires_grad=node["learned"])
        if node["$"] == "tensor":
            return self._tensor(node).requires_grad_(node["learned"])
        if node["$"] != "module":
            raise StorageError(f"the file holds an unknown node {node['$']!r}")
        codec = _known(node["kind"])
        if codec is None:
            raise StorageError(
                f"the file holds a {node['kind']}, which is not registered here; import the "
                f"package that defines it before loading ({_package_of(node['kind'])})"
            )
        return codec.build({key: self.decode(field) for key, field in node["fields"].items()})


def _content_of_description(file: Path) -> bytes:
    try:
        return content_of(file)
    except FileNotFoundError as error:
        raise StorageError(
            f"expected a saved expert at {file.parent}, found no {file.name}"
        ) from error
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error}") from error


def _description_in(content: bytes, file: Path) -> Fields:
    try:
        description = loads(content)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{file} is truncated or damaged: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise StorageError(f"{file} is not a saved expert of this package")
    version = description.get("format_version", description.get("version"))
    if not isinstance(version, int) or version not in range(1, FORMAT_VERSION + 1):
        raise StorageError(
            f"expected {file} of format_version {FORMAT_VERSION} or before, got "
            f"{version}: load it with the version of this package that saved it, or a newer one"
        )
    if not _is_whole(content, description):
        raise StorageError(f"{file} was altered after it was saved: its hash differs")
    for key, kind in {"weights": str, "weights_sha256": str, "in_training": list}.items():
        if not isinstance(description.get(key), kind):
            raise StorageError(
                f"{file} does not describe a valid expert: expected a {kind.__name__} under "
                f"{key!r}, got {description.get(key)!r}"
            )
    return description


def _is_whole(content: bytes, description: Fields) -> bool:
    """Whether the hash in it is its own: of all its bytes, before version 3 of what it says."""
    rest = {key: value for key, value in description.items() if key != "sha256"}
    stated = description.get("sha256")
    if description.get("format_version", description.get("version")) in (1, 2):
        try:
            return bool(stated == _digest(rest))
        except (ValueError, RecursionError):
            return False
    return is_sealed(content, stated, len(content))


def _read_weights(described: Path, description: Fields) -> tuple[dict[str, Tensor], int]:
    name = description["weights"]
    file = described.parent / Path(name).name  # beside it, and nowhere else
    if Path(name).name != name:
        raise StorageError(f"{described} does not describe a valid expert: its weights are {name}")
    try:
        weights = content_of(file)
    except (OSError, ValueError) as error:  # a name may hold what no name can
        raise StorageError(f"cannot read the weights {file}: {error}") from error
    if sha256(weights) != description["weights_sha256"]:
        raise StorageError(
            f"{file} is truncated or was altered: its hash is not the one in {described.name}; "
            "save the expert again or fetch the file again"
        )
    try:
        return safetensors.torch.load(weights), len(weights)
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise StorageError(f"{file} is no valid safetensors file: {error}") from error


def _digest(description: Fields) -> str:
    """Of what a description says, as files before version 3 have it."""
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(canonical.encode())


def _path_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _package_of(name: str) -> str:
    """What to import for a class of that name, as far as the name says."""
    package = name.rpartition(".")[0]
    return f"`import {package}`" if package else "`import experts`, for example"


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return module.named_modules(remove_duplicate=False)


def _require_unaltered(name: str, module: nn.Module) -> None:
    """What hooks and the like make of a module is in no file."""
    if is_altered(module):
        raise StorageError(
            f"cannot save {type(module).__name__}{f' ({name})' if name else ''}: it has forward "
            "hooks or a method of its own, which no file holds; take them off first "
            "(handle.remove(), torch.nn.utils.prune.remove or remove_spectral_norm)"
        )


def _attributes(module: nn.Module, names: Sequence[str]) -> Fields:
    return {name: getattr(module, name) for name in names}


def _assign_tensors(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put the saved tensors themselves in place: dtype, sharing and `requires_grad` included."""
    expected = module.state_dict()
    if expected.keys() != tensors.keys():
        odd = sorted(expected.keys() ^ tensors.keys())
        raise StorageError(f"the tensors of {type(module).__name__} do not fit: {', '.join(odd)}")
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:  # non-persistent buffers follow
        module.to(dtypes.pop())
    for path, tensor in tensors.items():
        if tensor.shape != expected[path].shape:
            raise StorageError(
                f"expected {type(module).__name__}.{path} of shape {tuple(expected[path].shape)}, "
                f"got {tuple(tensor.shape)}"
            )
        owner_path, _, name = path.rpartition(".")
        owner = module.get_submodule(owner_path)
        tensors_of_owner: Any = owner._parameters if name in owner._parameters else owner._buffers
        tensors_of_owner[name] = tensor
