"""Handwritten words are labelled better with a chain."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from examples.label_sequences.run import read_words
from tests.examples.conftest import Run

pytestmark = pytest.mark.example


def write_letters(folder: Path) -> None:
    """Words of consonants and vowels in turn, drawn in glyphs that noise makes hard to tell."""
    random = np.random.default_rng(0)
    glyphs = random.random((26, 128)) < 0.5
    words = ["".join(random.choice(list(part)) for part in ("aeiou", "bdglmnrst") * 2)
             for _ in range(900)]  # fmt: skip
    (folder / "words").write_text("\n".join(f"x{word}" for word in words))
    tags = [
        [ord(c) - ord("a") for c in word] for word in sorted(set(words))[:24] for _ in range(40)
    ]
    noisy = [glyphs[row] ^ (random.random((len(row), 128)) < 0.32) for row in tags]
    held = {"labels": [np.array(row) for row in tags], "data": [x.astype(np.uint8) for x in noisy]}
    (folder / "letters.pickle").write_bytes(pickle.dumps(held, protocol=4))


def test_sequences_are_labelled_better_with_a_chain(run: Run, tmp_path: Path) -> None:
    write_letters(tmp_path)
    ran = run("label_sequences", "--fast", "--letters", "letters.pickle", "--words", "words")
    cells = r" +([\d.]+)% +([\d.]+)% +([\d.]+)" * 2
    names = "tagger|chain|tagger x chain|tagger x chain / letters|random field.*?"
    table = ran.table(names, cells)
    assert list(table)[:4] == ["tagger", "chain", "tagger x chain", "tagger x chain / letters"]
    # 1,200 letters of unseen words: a difference of 2 points is some two standard errors.
    assert table["tagger x chain"][0] > table["tagger"][0] + 2, ran.printed
    assert table["tagger x chain"][2] < table["tagger"][2], ran.printed
    assert "simplifies to a LinearChain, log Z by closed form" in ran.printed
    mended = ran.figure.axes[:4]
    assert mended[0].get_title().startswith("mended: ")
    word = mended[0].get_title().removeprefix("mended: ")
    assert mended[3].get_title() == f"product: {word}"
    for axis in mended[1:]:  # marginals of each letter
        np.testing.assert_allclose(np.asarray(axis.images[0].get_array()).sum(0), 1, atol=1e-5)


def test_a_pickle_of_anything_but_arrays_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letters.pickle").write_bytes(pickle.dumps(os.getcwd))
    with pytest.raises(pickle.UnpicklingError, match="expected arrays alone, got posix"):
        read_words(tmp_path / "letters.pickle")
