"""Bad tables, options and files end in one line that says what was wrong, never in a traceback."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from poe.cli import main
from poe.cli.terminal import ExitCode

GAUSSIAN = '[experts.a]\nkind = "Gaussian"\nloc = [0.0, 1.0]\nscale = [1.0, 2.0]\n'
VALUES = (
    "true", '"x"', '""', "[]", "[[]]", "[[1.0], [1.0, 2.0]]", "nan", "inf", "1e400", "-1", '["a"]',
    '[1.0, "a"]', "{}", "{a = 1}", "1979-05-27", "99999999999999999999999", "[true]", "[nan]",
    "[1e308, 1e308]", "[{a = 1}]",
)  # fmt: skip
POWERS = ("-1", "99999999999999999999999")
"""Numbers that may be exponents."""
TABLES = {
    "empty": "",
    "no table": "title = 'x'",
    "no TOML": "=====",
    "brackets": "a = " + "[" * 3000 + "]" * 3000,
    "tables in tables": "[experts.a" + ".and.b" * 400 + ']\nkind = "Gaussian"\n',
    "no kind": "[experts.a]\nloc = [0.0]\n",
    "two kinds": '[experts.a]\nkind = "Gaussian"\nshipped = "digits-class"\n',
    "itself": '[experts.a]\nsaved = "."\n',
    "a zero in a path": '[experts.a]\nsaved = "a\\u0000b"\n',
    "a long path": '[experts.a]\nsaved = "' + "x" * 5000 + '"\n',
    "a file": '[experts.a]\nsaved = "c.toml"\n',
    "no such shipped": '[experts.a]\nshipped = "nothing"\n',
    "a name with a dot": '[experts."a.b"]\nkind = "Nothing"\n',
    "parameters missing": '[experts.a]\nkind = "Gaussian"\n',
    "torch's own switch": '[experts.a]\nkind = "Normal"\nloc = 0.0\nscale = 1.0\nvalidate_args = 1',
    "a number for a vector": '[experts.a]\nkind = "MultivariateNormal"\nloc = 0\n'
    "covariance_matrix = [[1.0]]\n",
    "shapes at odds": '[experts.a]\nkind = "MultivariateNormal"\nloc = [0.0]\n'
    "covariance_matrix = [[1.0, 0.0], [0.0, 1.0]]\n",
    "no columns": '[experts.a]\nkind = "MultivariateNormal"\nloc = [0.0]\nscale_tril = [[]]\n',
    "two spaces": GAUSSIAN + '[experts.b]\nkind = "Gaussian"\nloc = [0.0]\nscale = [1.0]\n',
    **{
        f"exponent = {value}": f"{GAUSSIAN}exponent = {value}\n"
        for value in VALUES
        if value not in POWERS
    },
    **{f"experts = {value}": f"experts = {value}\n" for value in VALUES},
    **{f"a = {value}": f"[experts]\na = {value}\n" for value in VALUES},
    **{f"or = {value}": f"[experts.a.or]\nx = {value}\n" for value in VALUES},
    **{
        f"covariance = {value}": '[experts.a]\nkind = "Gaussian"\nloc = [0.0]\n'
        f"covariance = {value}\n"
        for value in VALUES
    },
    **{
        f"total_count = {value}": f'[experts.a]\nkind = "Multinomial"\nprobs = {value}\n'
        for value in VALUES
    },
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("g.toml").write_text(GAUSSIAN)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said on stderr of a command that is refused for its input: one line."""
    capsys.readouterr()
    try:
        code, most = main(list(words)), 1
    except SystemExit as stopped:
        code, most = stopped.code, 40  # argparse's, after its usage
    told = capsys.readouterr().err
    assert code == ExitCode.BAD_INPUT, told
    assert 1 <= len(told.splitlines()) <= most
    return told


@pytest.mark.parametrize("name", TABLES)
def test_a_bad_table_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.toml").write_text(TABLES[name])
    assert "c.toml: " in refused(capsys, "inspect", "c.toml")


@pytest.mark.parametrize("content", [bytes(range(256)), b"\0", GAUSSIAN.encode("utf-16")])
def test_a_file_that_is_no_text_is_named(
    content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.toml").write_bytes(content)
    assert "c.toml: is no TOML file" in refused(capsys, "partition", "c.toml")


@pytest.mark.parametrize("path", ["", ".", "missing.toml", "x" * 300, "g.toml/x"])
def test_a_composition_that_cannot_be_read_is_named(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cannot be read" in refused(capsys, "inspect", path)


@pytest.mark.parametrize(
    "words",
    [
        ["--num", "0"], ["--num", "1e3"], ["--num", "1000000000000"], ["--num", "abc"],
        ["--seed", "abc"], ["--seed", str(2**70)], ["--seed", "1.5"], ["--chains", "-1"],
        ["--warmup", ""], ["--noise-ladder", "a,b"], ["--noise-ladder", ""],
        ["--noise-ladder", "0.5"], ["--kernel", ""], ["--kernel", "Nothing"],
        ["--kernel", "MALA(0.1)"], ["--kernel", "MALA(step_size=nan)"], ["--kernel", "MALA("],
        ["--kernel", "MALA(step_size=-1)"], ["--kernel", "MALA(step_size='a')"],
        ["--kernel", "MALA(step_size=[1])"], ["--kernel", "HMC(num_steps=1.5)"],
        ["--kernel", "HMC(num_steps=1000000000000)"], ["--kernel", "Preconditioned(kernel=1)"],
        ["--kernel", "Alternating(kernels=1)"], ["--kernel", "AnnealedLangevin(ladder=1)"],
        ["--kernel", "BlockGibbs(conditionals=1)"], ["--kernel", "MCLMC(step_size=1,splitting=1)"],
        ["--kernel", "SurrogateMALA(surrogate=1)"], ["--kernel", "GaussianGibbs(factors=1)"],
        ["--kernel", "MALA(" * 300 + ")" * 300], ["--output", "x"], ["--output", "."],
        ["--output", "nowhere/x.safetensors"], ["--output", "x" * 300 + ".safetensors"],
        ["--output", "x.png"], ["--checkpoint", "."], ["--checkpoint", "x" * 300],
        ["--checkpoint", "\0"], ["--output", "\0.safetensors"], ["--num", "9" * 5000],
        ["--kernel", "MALA(step_size=" + "-" * 5000 + "1)"], ["--kernel", "MALA(" * 5000],
        ["--nonsense"],
    ],
    ids=lambda words: " ".join(words)[:40],
)  # fmt: skip
def test_a_bad_option_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "sample", "g.toml", "--quiet", *words)
    assert sorted(path.name for path in Path().iterdir()) == ["g.toml"]


def _write(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)


POINTS = {
    "empty.csv": b"",
    "blank.csv": b"\n\n",
    "names.csv": b"a,b\n",
    "ragged.csv": b"1,2\n3\n",
    "three.csv": b"1,2,3\n",
    "text.csv": b"1,2\na,b\n",
    "binary.csv": bytes(range(256)),
    "long.csv": b"1" * 200_000 + b",2\n",
    "empty.npy": b"",
    "cut.npy": b"\x93NUMPY\x01\x00",
    "zip.npy": b"PK\x03\x04",
    "empty.safetensors": b"",
    "text.safetensors": b"abc",
    "points.txt": b"1,2\n",
}
ARRAYS = {
    "object": np.array([{}], dtype=object),
    "text": np.array(["a"]),
    "complex": np.array([1j]),
    "long": np.ones((1, 2), np.longdouble),
    "record": np.zeros(2, dtype=[("a", "f4")]),
    "none": np.zeros((0, 2)),
    "scalar": np.array(1.0),
}


@pytest.mark.parametrize("name", POINTS)
def test_points_that_cannot_be_read_are_named(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(name, POINTS[name])
    assert name in refused(capsys, "ratio", "g.toml", name, name)


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_no_points_are_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", ARRAYS[name], allow_pickle=True)
    assert "x.npy: " in refused(capsys, "ratio", "g.toml", "x.npy", "x.npy")


def test_no_rows_of_tensors_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"samples": torch.zeros(0, 2)}, "x.safetensors")
    assert "x.safetensors: " in refused(capsys, "ratio", "g.toml", "x.safetensors", "x.safetensors")


def test_who_reads_may_go_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*words: object, **settings: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", gone)
    monkeypatch.setattr("os.dup2", lambda *files: None)
    monkeypatch.setattr("sys.stdout", SimpleNamespace(fileno=lambda: 1, flush=lambda: None))
    assert main(["experts"]) == ExitCode.FAILED
