"""Save and load whole compositions: safetensors for the numbers, JSON for the tree, no pickle."""

from __future__ import annotations

from poe.io.tree import (
    DESCRIPTION as DESCRIPTION,
    FORMAT as FORMAT,
    Fields as Fields,
    Module as Module,
    load as load,
    register as register,
    register_module as register_module,
    save as save,
)
