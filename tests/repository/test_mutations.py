"""The list of mistakes is about lines and tests that are there; the mistakes are made elsewhere."""

from __future__ import annotations

import pytest

from tests.repository.mutations import MUTATIONS, SOURCES, Mutation, node, only_file_with


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_mistake_has_one_line_and_one_test(mutation: Mutation) -> None:
    only_file_with(mutation.original, SOURCES)
    node(mutation.test)
    assert mutation.changed != mutation.original


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(LookupError, match="got it in"):
        only_file_with("no line says " + "this", SOURCES)
