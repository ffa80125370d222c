"""Save and load whole compositions: safetensors for the numbers, JSON for the tree, no pickle."""

from __future__ import annotations

from poe.io.tree import (
    DESCRIPTION as DESCRIPTION,
    FORMAT as FORMAT,
    Fields as Fields,
    Module as Module,
    load as load,
    packed as packed,
    read as read,
    register as register,
    register_module as register_module,
    register_on_demand as register_on_demand,
    save as save,
    write as write,
)
