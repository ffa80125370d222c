"""Flows of pzflow itself, once it is imported: ``poe.as_expert(flow)``."""

from __future__ import annotations

import poe
from experts.adapters.pzflow.table_flow import TableFlow, of_state
from poe.core.imports import missing

try:
    from pzflow import Flow
except ImportError as error:
    raise missing("pzflow", "pzflow") from error


@poe.as_expert.register
def _(flow: Flow) -> TableFlow:
    return of_state(flow.__getstate__())
