"""Flows of pzflow itself, once it is imported: ``poe.as_expert(flow)``."""

from __future__ import annotations

from pzflow import Flow

import poe
from experts.adapters.pzflow.table_flow import TableFlow, of_state


@poe.as_expert.register
def _(flow: Flow) -> TableFlow:
    return of_state(flow.__getstate__())
