"""Flows of pzflow, read without it."""

from __future__ import annotations

from experts.adapters.pzflow.table_flow import (
    BASES as BASES,
    BIJECTORS as BIJECTORS,
    ERROR_MODEL as ERROR_MODEL,
    EXAMPLE as EXAMPLE,
    Affine as Affine,
    Permutation as Permutation,
    SplineCoupling as SplineCoupling,
    TableFlow as TableFlow,
    example as example,
    layers_of as layers_of,
    of_state as of_state,
    read as read,
)
