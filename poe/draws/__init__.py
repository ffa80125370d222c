"""Draws: samples with the guarantee they carry."""

from __future__ import annotations

from poe.draws.draws import Draws as Draws
from poe.draws.record import MIN_DRAWS_TO_BE_STUCK as MIN_DRAWS_TO_BE_STUCK
from poe.draws.summary import Summary as Summary
