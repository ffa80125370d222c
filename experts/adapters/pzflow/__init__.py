"""Flows of pzflow, read without it."""

from __future__ import annotations

from experts.adapters.pzflow.table_flow import (
    BASES as BASES,
)
from experts.adapters.pzflow.table_flow import (
    BIJECTORS as BIJECTORS,
)
from experts.adapters.pzflow.table_flow import (
    ERROR_MODEL as ERROR_MODEL,
)
from experts.adapters.pzflow.table_flow import (
    EXAMPLE as EXAMPLE,
)
from experts.adapters.pzflow.table_flow import (
    Affine as Affine,
)
from experts.adapters.pzflow.table_flow import (
    Permutation as Permutation,
)
from experts.adapters.pzflow.table_flow import (
    SplineCoupling as SplineCoupling,
)
from experts.adapters.pzflow.table_flow import (
    TableFlow as TableFlow,
)
from experts.adapters.pzflow.table_flow import (
    example as example,
)
from experts.adapters.pzflow.table_flow import (
    layers_of as layers_of,
)
from experts.adapters.pzflow.table_flow import (
    of_state as of_state,
)
from experts.adapters.pzflow.table_flow import (
    read as read,
)
