"""Each command on small compositions: what it prints, writes and returns; and an interruption."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import experts
import poe
from poe.cli import main
from poe.cli.composition import read
from poe.cli.sample import FORMAT, forget
from poe.cli.terminal import ExitCode
from poe.core.doubt import Doubt, Kind
from poe.density.normalized import LogPartition
from poe.files.tensor_file import write

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples" / "compositions"
GAUSSIANS, NOT = str(EXAMPLES / "gaussians.toml"), str(EXAMPLES / "not.toml")
FEW = ["--kernel", "MALA(step_size=0.01)", "--num", "400", "--warmup", "20"]
IMPROPER = """
[experts.a]
kind = "Gaussian"
loc = [0.0]
scale = [1.0]
exponent = -1
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default checkpoints lie in the working directory."""
    monkeypatch.chdir(tmp_path)


def answer(capsys: pytest.CaptureFixture[str], *words: str, code: ExitCode = ExitCode.OK) -> Any:
    """The JSON on stdout, on which there is nothing else."""
    capsys.readouterr()
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], code: ExitCode, *words: str) -> str:
    """The message on stderr; nothing is on stdout."""
    capsys.readouterr()
    assert main(list(words)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_draws_are_those_of_poe_sample(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = ExitCode.DOUBTFUL  # by so small steps
    words = ["sample", NOT, *FEW, "--seed", "3", "--output", "x.safetensors"]
    facts = answer(capsys, *words, code=code)
    draws = poe.sample(
        read(NOT).product(),
        400,
        kernel=poe.samplers.MALA(step_size=0.01),
        warmup=20,
        generator=torch.Generator().manual_seed(3),
        progress=False,
    )
    assert torch.equal(load_file("x.safetensors")["samples"], draws.samples)
    assert facts["mean"] == draws.summary().mean.tolist()
    assert facts["guarantee"] == "asymptotically exact"
    assert not facts["is_trusted"]
    assert any("R-hat" in words or "ESS" in words for words in facts["remarks"])
    assert any("another kernel (--kernel)" in words for words in facts["remarks"])
    assert not any("kernel=" in words for words in facts["remarks"])
    assert facts["verdict"].startswith("not arrived: ")
    assert (facts["chains"], facts["draws"], facts["event_shape"]) == (4, 100, [2])
    assert (facts["kernel"], facts["seed"], facts["warmup"]) == ("MALA", 3, 20)
    assert draws.acceptance_rate is not None
    assert facts["acceptance_rate"] == draws.acceptance_rate.mean().item()
    assert facts["outputs"] == ["x.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"], "a checkpoint is left"


def test_few_exact_draws_are_not_doubtful(capsys: pytest.CaptureFixture[str]) -> None:
    facts = answer(capsys, "sample", GAUSSIANS, "--num", "40")
    assert facts["guarantee"] == "exact"
    assert facts["is_trusted"]
    assert facts["remarks"] == []
    assert facts["kernel"] is None


def test_either_or_has_its_weights(capsys: pytest.CaptureFixture[str]) -> None:
    facts = answer(capsys, "sample", str(EXAMPLES / "either_or.toml"), "--num", "4000")
    # Sides at -2 and 2 of weight 1/4 and 3/4, shrunk by N(0, 3^2): precisions 4 and 1/9. Above,
    # N(0, 1) times N(1, 0.5^2): precisions 1 and 4.
    expected = [(0.75 - 0.25) * 2 * 4 / (4 + 1 / 9), 4 / 5]
    for found, error, value in zip(facts["mean"], facts["mcse"], expected, strict=True):
        assert abs(found - value) < 4 * error
    assert facts["guarantee"] == "exact"


def test_the_summary_for_a_reader(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", NOT, *FEW]) == ExitCode.DOUBTFUL
    printed = capsys.readouterr()
    assert printed.out.split()[:2] == ["mean", "sd"]
    assert "sampler: MALA, as given" in printed.out
    assert "poe.sample: MALA (as given), 4 chains x 100 draws" in printed.err


def test_quiet_says_nothing_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", NOT, *FEW, "--quiet", "--output", "x.safetensors"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_a_number_of_draws_is_positive(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["sample", NOT, "--num", count])
    assert stopped.value.code == ExitCode.BAD_INPUT


def test_pictures_become_a_grid(capsys: pytest.CaptureFixture[str]) -> None:
    zeros = str([[0.0] * 5] * 6)
    Path("picture.toml").write_text(f'[experts.a]\nkind = "Normal"\nloc = {zeros}\nscale = 1.0\n')
    facts = answer(capsys, "sample", "picture.toml", "--num", "8", "--output", "grid.png")
    assert facts["event_shape"] == [6, 5]
    assert Path("grid.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["none.toml"], "none.toml: cannot be read"),
        ([GAUSSIANS, "--kernel", "Walk"], "expected one of AdaptiveStepHMC, "),
        ([GAUSSIANS, "--output", "x.pt"], "x.pt: expected an output that ends in .safetensors or"),
        ([GAUSSIANS, "--output", "no/x.safetensors"], "expected a file in a folder that exists"),
        ([GAUSSIANS, "--output", "x.png"], "a .png shows draws that are pictures"),
        ([GAUSSIANS, "--checkpoint", "no/x"], "no/x: expected a file in a folder that exists"),
    ],
)
def test_bad_input_is_told_before_anything_is_drawn(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert told in refusal(capsys, ExitCode.BAD_INPUT, "sample", *words)
    assert list(tmp_path.iterdir()) == []


def test_a_ladder_of_noise_ends_at_the_composition(capsys: pytest.CaptureFixture[str]) -> None:
    Path("slant.toml").write_text('[experts.a]\nshipped = "digits-slant"\ngiven = "left"\n')
    words = ["sample", "slant.toml", "--num", "2", "--chains", "2", "--warmup", "1", "--quiet"]
    words += ["--noise-ladder", "0.6,0.3", "--steps-per-level", "2", "--output", "x.safetensors"]
    facts = answer(capsys, *words, code=ExitCode.DOUBTFUL)
    assert (facts["kernel"], facts["warmup"]) == ("AnnealedLangevin", 5)
    tensors = load_file("x.safetensors")
    with torch.no_grad():
        log_density = read("slant.toml").product()(tensors["samples"])
    torch.testing.assert_close(log_density, tensors["log_density"])
    told = refusal(capsys, ExitCode.BAD_INPUT, "sample", GAUSSIANS, "--noise-ladder", "0.6")
    assert "--noise-ladder: expected an expert with noise levels" in told


@pytest.mark.parametrize("command", ["sample", "partition"])
def test_an_improper_product_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("improper.toml").write_text(IMPROPER)
    told = refusal(capsys, ExitCode.FAILED, command, "improper.toml")
    assert told.startswith(f"python -m poe {command}: ")
    assert "a ** -1 takes away more" in told


def test_a_checkpoint_of_another_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    poe.sample(
        read(NOT).product(),
        8,
        kernel=poe.samplers.MALA(0.5),
        warmup=2,
        generator=torch.Generator().manual_seed(0),
        progress=False,
        checkpoint="kept",
    )
    words = ["sample", NOT, *FEW, "--checkpoint", "kept", "--quiet"]
    assert "expected a checkpoint of this run" in refusal(capsys, ExitCode.FAILED, *words)


def test_interrupted_before_the_first_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(poe, "sample", interrupt)
    told = refusal(capsys, ExitCode.INTERRUPTED, "sample", GAUSSIANS, "--num", "9")
    assert "nothing to go on from" in told
    assert f"python -m poe sample {GAUSSIANS} --num 9" in told
    monkeypatch.setattr(poe, "log_ratio_contributions", interrupt)
    points = [str(EXAMPLES / name) for name in ("points.csv", "origin.csv")]
    assert "interrupted" in refusal(capsys, ExitCode.INTERRUPTED, "ratio", GAUSSIANS, *points)


@pytest.mark.process
def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    kernel = ["--kernel", "HMC(num_steps=3)", "--num", "24000", "--warmup", "200", "--seed", "5"]
    words = [sys.executable, "-m", "poe", "sample", NOT, *kernel, "--output", "x.safetensors"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    # Background jobs of a shell ignore SIGINT, and so do their children.
    with subprocess.Popen(words, cwd=tmp_path, preexec_fn=heed_interrupts, **pipes) as process:
        assert process.stderr is not None
        seen = b""
        while b"sampling" not in seen:  # the bar says when the warm-up is over
            more = process.stderr.read1(64)
            assert more, seen.decode()
            seen += more
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate()
    told = (seen + rest).decode()
    assert process.returncode == ExitCode.INTERRUPTED, told
    assert out == b""
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors.checkpoint"]

    [command] = [line.strip() for line in told.splitlines() if line.startswith("    python -m poe")]
    _, *again = command.split("python -m poe ", 1)
    assert main(shlex.split(*again)) in (ExitCode.OK, ExitCode.DOUBTFUL)
    assert f"resumed from {tmp_path / 'x.safetensors.checkpoint'} after" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]

    undisturbed = tmp_path / "y.safetensors"
    main(["sample", NOT, *kernel, "--output", str(undisturbed), "--quiet"])
    assert contents(tmp_path / "x.safetensors") == contents(undisturbed)


def heed_interrupts() -> None:
    """As a command that is typed at a terminal does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def contents(path: Path) -> tuple[Any, ...]:
    """What a file of draws holds, bit for bit, save the seconds that it took."""
    draws = poe.load_draws(path)
    bits = [tensor.numpy().tobytes() for tensor in (draws.samples, draws.log_density)]
    return (*bits, draws.guarantee, draws.seed, draws.choice, repr(draws.kernel))


def test_ratios_expert_by_expert(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", np.array([[0.5, 1.0], [2.0, -1.0]]))
    np.save("y.npy", np.array([[0.0, 1.0], [1.0, -2.0]]))
    facts = answer(capsys, "ratio", GAUSSIANS, "x.npy", "y.npy", "--at-once", "1")
    product = read(GAUSSIANS).product()
    x, y = (torch.tensor(np.load(name), dtype=torch.float32) for name in ("x.npy", "y.npy"))
    torch.testing.assert_close(
        torch.tensor(facts["log_ratio"]), poe.log_ratio(product, x, y), rtol=1e-5, atol=1e-6
    )
    parts = torch.tensor(facts["contributions"])
    torch.testing.assert_close(parts, poe.log_ratio_contributions(product, x, y))
    assert facts["experts"] == ["wide", "tilted"]
    main(["ratio", GAUSSIANS, "x.npy", "y.npy"])
    header, first, _ = capsys.readouterr().out.splitlines()
    assert header.split() == ["row", "log", "ratio", "wide", "tilted"]
    assert [float(cell) for cell in first.split()] == pytest.approx(
        [0, facts["log_ratio"][0], *facts["contributions"][0]], abs=1e-4
    )


def test_one_row_is_compared_with_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    points, origin = str(EXAMPLES / "points.csv"), str(EXAMPLES / "origin.csv")
    forth = answer(capsys, "ratio", GAUSSIANS, points, origin)["log_ratio"]
    back = answer(capsys, "ratio", GAUSSIANS, origin, points)["log_ratio"]
    assert len(forth) == 3
    assert forth == [-value for value in back]
    np.save("two.npy", np.zeros((2, 2)))
    told = refusal(capsys, ExitCode.BAD_INPUT, "ratio", GAUSSIANS, points, "two.npy")
    assert "got 3 and 2" in told


def test_a_ratio_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("unit.toml").write_text('[experts.u]\nkind = "Uniform"\nlow = [0.0]\nhigh = [1.0]\n')
    Path("in.csv").write_text("0.5\n0.5\n")
    Path("out.csv").write_text("0.25\n2\n")
    assert answer(capsys, "ratio", "unit.toml", "in.csv", "out.csv")["log_ratio"] == [0.0, "inf"]
    assert "does not exist" in refusal(
        capsys, ExitCode.FAILED, "ratio", "unit.toml", "out.csv", "out.csv"
    )


def test_log_z_in_closed_form(capsys: pytest.CaptureFixture[str]) -> None:
    facts = answer(capsys, "partition", GAUSSIANS)
    wide = experts.Gaussian([-1.0, 0.0], scale=[1.0, 2.0])
    tilted = experts.Gaussian([1.0, 1.0], covariance=[[1.0, 0.6], [0.6, 1.0]])
    expected = poe.log_partition(wide * tilted**0.5).value.item()
    assert facts["value"] == pytest.approx(expected, abs=1e-6)
    assert (facts["std_error"], facts["method"], facts["ess"]) == (0.0, "closed form", "inf")
    assert facts["is_trusted"]


def test_log_z_by_a_method_of_ones_choice(capsys: pytest.CaptureFixture[str]) -> None:
    exact = answer(capsys, "partition", NOT)
    words = ["partition", NOT, "--method", "MBAR(num_samples=512)", "--quiet"]
    found = answer(capsys, *words)
    assert abs(found["value"] - exact["value"]) < 4 * found["std_error"]
    assert answer(capsys, *words)["value"] == found["value"]
    assert answer(capsys, *words, "--seed", "1")["value"] != found["value"]
    assert "expected one of AIS, Bridge, " in refusal(
        capsys, ExitCode.BAD_INPUT, "partition", NOT, "--method", "Guess"
    )


def test_a_remark_on_log_z_is_told_by_the_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    zero = torch.zeros(())
    doubts = (Doubt(Kind.OTHER, "rough"),)
    doubtful = LogPartition(zero, zero, -torch.inf + zero, zero, "a guess", doubts=doubts)
    monkeypatch.setattr("poe.normalizers.choose.find_log_partition", lambda *_: doubtful)
    assert answer(capsys, "partition", NOT, code=ExitCode.DOUBTFUL)["remarks"] == ["rough"]
    assert main(["partition", NOT]) == ExitCode.DOUBTFUL
    printed = capsys.readouterr().out
    assert "bounds          -inf to 0 (together 100%)" in printed
    assert "! rough" in printed


def test_a_run_goes_on_until_it_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample", NOT, "--num", "40", "--chains", "4", "--quiet", "--until"]
    facts = answer(capsys, *words, "Reached(ess=60, r_hat=1.1)")
    assert min(map(min, (facts["ess_bulk"], facts["ess_tail"]))) >= 60
    assert "until an ESS of 60 and R-hat of 1.1: reached" in facts["choice"]
    facts = answer(capsys, *words, "Reached(ess=1e4, max_gradients=1200)")
    assert "max_gradients=1200 ended the run before" in facts["choice"]
    assert "(max_gradients, max_seconds in --until)" in " ".join(facts["remarks"])
    told = refusal(capsys, ExitCode.BAD_INPUT, *words, "Reached(ess=0)")
    assert "expected a finite ess > 0, got 0" in told
    told = refusal(capsys, ExitCode.BAD_INPUT, *words, "Reached(enough=9)")
    assert "Reached has the settings ess, r_hat, max_gradients, max_seconds" in told


def test_inspect_tells_what_sample_will_do(capsys: pytest.CaptureFixture[str]) -> None:
    facts = answer(capsys, "inspect", NOT)
    g = torch.Generator().manual_seed(0)
    draws = poe.sample(read(NOT).product(), 8, warmup=200, generator=g, progress=False)
    assert facts["sampler"]["why"].startswith(draws.choice)
    assert facts["sampler"]["why"].endswith("started at draws of expert 'disc'")
    assert facts["sampler"]["guarantee"] == draws.guarantee
    assert facts["sampler"]["name"] == "IndependenceMetropolisHastings"
    assert facts["space"] == "Real(2)"
    assert facts["experts"]["middle"]["exponent"] == -1
    assert facts["experts"]["disc"]["has_exact_log_partition"]
    assert not facts["product"]["has_exact_log_partition"]
    closed = answer(capsys, "inspect", GAUSSIANS)
    assert closed["sampler"]["guarantee"] == "exact"
    assert closed["product"]["is_normalized"]


def test_inspect_prints_a_table_and_the_tree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(EXAMPLES / "digits.toml")]) == ExitCode.OK
    printed = capsys.readouterr().out
    assert printed.startswith("space: Real((16, 16))\n")
    assert "PixelMixture given 7" in printed
    assert "DensityRatio given 2" in printed
    assert "started at draws of expert 'class'" in printed
    assert "names=['class', 'slant', 'thickness']" in printed


def test_inspect_shows_an_improper_product(capsys: pytest.CaptureFixture[str]) -> None:
    Path("improper.toml").write_text(IMPROPER)
    facts = answer(capsys, "inspect", "improper.toml")
    assert facts["sampler"]["guarantee"] is None
    assert "a ** -1 takes away more" in facts["sampler"]["why"]
    assert not facts["product"]["is_normalized"]
    assert facts["experts"]["a"]["is_normalized"], "without its exponent it is a Gaussian"


def test_the_shipped_experts_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "experts")
    assert tuple(found) == experts.available()
    assert found["digits-slant"]["labels"] == ["left", "upright", "right", "between"]
    main(["experts"])
    printed = capsys.readouterr().out
    assert "\n    given: thin, medium, thick, between, any" in printed
    for name in experts.available():
        assert f"{name}\n    " in printed
    main(["experts", "digits-vae"])
    card = ROOT / "experts" / "pretrained" / "digits-vae.md"
    assert capsys.readouterr().out == card.read_text(encoding="utf-8")


def test_an_unknown_expert_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = refusal(capsys, ExitCode.BAD_INPUT, "experts", "digits")
    assert "digits-class, digits-prior" in told


# Files are the user's


CHAINS = """
[experts.a]
kind = "Gaussian"
loc = [0.0, 0.0]
scale = [1.0, 1.0]
[experts.b]
kind = "Laplace"
loc = [0.0, 0.0]
scale = 1.0
"""
EXACT = '[experts.a]\nkind = "Gaussian"\nloc = [0.0, 0.0]\nscale = [1.0, 1.0]\n'
SOME = ["--num", "40", "--warmup", "20", "--quiet"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "chains.toml").write_text(CHAINS)
    (tmp_path / "exact.toml").write_text(EXACT)
    return tmp_path


@pytest.mark.parametrize("composition", ["chains.toml", "exact.toml"])
@pytest.mark.parametrize("option", ["--checkpoint", "--output"])
def test_a_file_of_the_users_is_refused_and_left_as_it_was(
    option: str, composition: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thesis = here / "thesis.safetensors"
    thesis.write_text("precious")
    words = ["sample", composition, *SOME, option, thesis.name]
    assert thesis.name in refusal(capsys, ExitCode.BAD_INPUT, *words)
    assert thesis.read_text() == "precious"


ONE_FILE = {
    "the same": ["--output", "d.safetensors", "--checkpoint", "d.safetensors"],
    "another way there": ["--output", "d.safetensors", "--checkpoint", "./x/../d.safetensors"],
    "absolute": ["--output", "d.safetensors", "--checkpoint", "{}/d.safetensors"],
    "through a link": ["--output", "d.safetensors", "--checkpoint", "link"],
    "through a linked folder": ["--output", "d.safetensors", "--checkpoint", "y/d.safetensors"],
    "upper case": ["--output", "d.safetensors", "--checkpoint", "D.safetensors"],
    "twice": ["--output", "d.safetensors", "--output", "d.safetensors"],
    "the composition, and an output": ["--output", "d.safetensors", "--checkpoint", "chains.toml"],
    "the composition": ["--checkpoint", "chains.toml"],
}


@pytest.mark.parametrize("name", sorted(ONE_FILE))
def test_files_that_are_one_are_refused(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "x").mkdir()
    (here / "y").symlink_to(here)
    (here / "link").symlink_to(here / "d.safetensors")
    before = {path.name for path in here.iterdir()}
    words = [word.format(here) for word in ONE_FILE[name]]
    refusal(capsys, ExitCode.BAD_INPUT, "sample", "chains.toml", *SOME, *words)
    assert {path.name for path in here.iterdir()} == before
    assert (here / "chains.toml").read_text() == CHAINS


def test_a_checkpoint_that_was_not_written_is_not_removed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exact draws need none: one of another run, of that name, stays."""
    with pytest.raises(RuntimeError):
        poe.sample(
            read("chains.toml").product(), 40, warmup=20, progress=False, checkpoint="kept",
            callback=raises, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    before = Path("kept").read_bytes()
    main(["sample", "exact.toml", *SOME, "--checkpoint", "kept"])
    assert Path("kept").read_bytes() == before
    main(["sample", "chains.toml", "--quiet", "--num", "40", "--warmup", "20", "--checkpoint", "w"])
    assert {path.name for path in here.iterdir()} == {"chains.toml", "exact.toml", "kept"}


def test_only_a_checkpoint_is_removed_after_a_run(here: Path) -> None:
    """What others put in its place while it ran is theirs."""
    before: dict[Path, tuple[int, int] | None] = {}
    for name in ("text", "pipe", "link", "folder", "run", "linked run"):
        before[here / name] = None
    (here / "text").write_text("mine")
    os.mkfifo(here / "pipe")
    (here / "link").symlink_to(here / "text")
    (here / "folder").mkdir()
    for name in ("run", "far"):
        write(here / name, {"format": FORMAT}, {})
    (here / "linked run").symlink_to(here / "far")
    forget(before)
    left = {"chains.toml", "exact.toml", "text", "pipe", "link", "folder", "linked run"}
    assert {path.name for path in here.iterdir()} == left
    assert (here / "text").read_text() == "mine"


def raises(progress: poe.Progress) -> None:
    raise RuntimeError


def test_compositions_of_one_name_have_checkpoints_of_their_own(here: Path) -> None:
    from poe.cli.command_line import parser
    from poe.cli.sample import default_checkpoint

    places = set()
    for folder in ("a", "b"):
        (here / folder).mkdir()
        (here / folder / "x.toml").write_text(CHAINS)
        places.add(default_checkpoint(parser().parse_args(["sample", f"{folder}/x.toml"])))
    assert len(places) == 2


def test_pictures_and_draws_of_before_are_written_over(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    text = '[experts.a]\nkind = "Bernoulli"\nlogits = [[0.0, 1.0, 0.0, 1.0]]\n'
    (here / "picture.toml").write_text(text.replace("[[0.0, 1.0, 0.0, 1.0]]", str([[0.0] * 4] * 4)))
    words = ["sample", "picture.toml", "--num", "8", "--quiet"]
    words += ["--output", "x.png", "--output", "x.safetensors"]
    for _ in range(2):
        assert main(words) in (ExitCode.OK, ExitCode.DOUBTFUL)
    (here / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n a photograph")
    assert "x.png" in refusal(capsys, ExitCode.BAD_INPUT, *words)
    assert b"a photograph" in (here / "x.png").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"x = " + b"[" * 100_000,
        b"a." * 100_000,
        b"\xff\xfe",
        b"[experts.a]\nkind = \x00",
        b"[" * 99,
    ],
)
def test_a_composition_without_end_is_refused(
    content: bytes, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "odd.toml").write_bytes(content)
    assert "odd.toml" in refusal(capsys, ExitCode.BAD_INPUT, "sample", "odd.toml", *SOME)


def test_points_that_are_not_there_take_no_memory(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 2), }"
    padded = header.ljust(117) + b"\n"
    (here / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded)
    np.save("y.npy", np.zeros((1, 2)))
    np.savez("z.npz", np.zeros(2))
    Path("z.npz").rename("z.npy")
    Path("w.csv").write_text("1" * 200_000 + ",2\n")
    os.mkfifo("v.csv")
    for name in ("x.npy", "z.npy", "w.csv", "v.csv"):
        assert name in refusal(capsys, ExitCode.BAD_INPUT, "ratio", "exact.toml", name, "y.npy")
