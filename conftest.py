"""What the doctests of both packages may take as imported."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import experts
import poe


@pytest.fixture(autouse=True)
def _names_for_doctests(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(torch=torch, poe=poe, experts=experts)
