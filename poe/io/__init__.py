"""Save and load whole compositions: safetensors for the numbers, JSON for the tree, no pickle."""

from __future__ import annotations

from poe.io.tree import (
    DESCRIPTION as DESCRIPTION,
)
from poe.io.tree import (
    FORMAT as FORMAT,
)
from poe.io.tree import (
    Fields as Fields,
)
from poe.io.tree import (
    Module as Module,
)
from poe.io.tree import (
    load as load,
)
from poe.io.tree import (
    packed as packed,
)
from poe.io.tree import (
    read as read,
)
from poe.io.tree import (
    register as register,
)
from poe.io.tree import (
    register_module as register_module,
)
from poe.io.tree import (
    register_on_demand as register_on_demand,
)
from poe.io.tree import (
    save as save,
)
from poe.io.tree import (
    write as write,
)
