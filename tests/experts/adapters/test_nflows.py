"""nflows is imported when it is asked for, and where it is absent the remedy is said."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ABSENT = "import sys; sys.modules['nflows'] = None; import experts, poe, torch; "


def test_a_flow_that_a_user_made_is_adapted_without_an_import_of_ours() -> None:
    code = """
import torch, experts, poe, sys
assert "nflows" not in sys.modules
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.transforms import MaskedAffineAutoregressiveTransform
class Own(Flow):
    pass
for kind in (Flow, Own):
    made = kind(MaskedAffineAutoregressiveTransform(2, 4), StandardNormal([2]))
    assert isinstance(poe.as_expert(made), experts.Flow)
made = Flow(MaskedAffineAutoregressiveTransform(2, 4, context_features=1), StandardNormal([2]))
assert isinstance(poe.as_expert(made), experts.ContextFlow)
"""
    run(code)


def test_the_names_of_the_package_are_those_of_the_adapter() -> None:
    run(
        "import experts; from experts import Flow; from experts.adapters import nflows; "
        "assert experts.Flow is Flow is nflows.Flow; "
        "assert experts.ContextFlow is nflows.ContextFlow; "
        "assert {'Flow', 'ContextFlow'} <= set(experts.__all__)"
    )


def test_without_nflows_all_else_works_and_the_command_is_said() -> None:
    code = (
        ABSENT
        + "x = torch.zeros(2, 16, 16); print(experts.load('digits-slant').given(0).log_prob(x))\n"
        "for name in ('Flow', 'ContextFlow'):\n"
        "    try:\n        getattr(experts, name)\n"
        "    except ImportError as error:\n        print(error)"
    )
    told = 'expected nflows to be installed, got none: pip install "nflows>=0.14"'
    assert run(code).count(told) == 2


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    run("import experts\ntry: experts.Flows\nexcept AttributeError as e: assert 'Flows' in str(e)")
