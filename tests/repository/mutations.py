"""Mistakes that tests must notice: each is made in a copy of the tree, and a test has to fail.

    python tests/repository/mutations.py            # all of them, some three minutes
    python tests/repository/mutations.py rate bias  # those whose name has one of these words

Prints a table, and exits with 1 where a mistake survives, where a test fails without any, or where
a line or a test is no longer to be found. Lines and tests are known by their text alone, so that
files may move; whoever changes a line here restates the mistake.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCES = "poe", "experts"
COPIED = (*SOURCES, "tests", "conftest.py", "pyproject.toml")


class Mutation(NamedTuple):
    """``original`` becomes ``changed`` in the one file that has it, and ``test`` has to fail."""

    name: str
    original: str
    changed: str
    test: str


MUTATIONS = (
    Mutation(
        "RBM: weights grow where they should decay",
        "slope.add_(weight, alpha=-schedule.weight_decay)",
        "slope.add_(weight, alpha=schedule.weight_decay)",
        "test_an_rbm_moves_as_worked_out_by_hand",
    ),
    Mutation(
        "RBM: the learning rate never falls",
        "return 1 - (1 - final_share) * update / total",
        "return 1.0",
        "test_an_rbm_moves_as_worked_out_by_hand",
    ),
    Mutation(
        "RBM: parameters are never averaged",
        "if is_averaged(update, total, schedule.averaged):",
        "if False:",
        "test_the_result_is_the_mean_of_those_looked_at",
    ),
    Mutation(
        "DBM: weights grow where they should decay",
        "slope.add_(weight, alpha=-schedule.weight_decay)",
        "slope.add_(weight, alpha=schedule.weight_decay)",
        "test_a_dbm_moves_as_worked_out_by_hand",
    ),
    Mutation(
        "DBM: the latest for the mean",
        "(self.mean if self.num_terms else self.parameters)",
        "self.parameters",
        "test_the_result_is_the_mean_of_those_looked_at",
    ),
    Mutation(
        "pre-training: no doubling",
        "2 - (k == depth - 1), 2 - (k == 0)",
        "1, 1",
        "test_pretraining_without_steps_leaves_what_each_layer_begins_with",
    ),
    Mutation(
        "pre-training: the lower bias for the mean of two",
        "(lower.c + upper.b) / 2",
        "lower.c",
        "test_pretraining_without_steps_leaves_what_each_layer_begins_with",
    ),
    Mutation(
        "growth: no second order",
        "(new / 2 + new.square() / 8)",
        "(new / 2)",
        "test_a_new_layer_takes_from_the_bias_below_what_it_says_of_each_unit_alone",
    ),
    Mutation(
        "growth: no correction of the bias",
        "top = top - (new / 2 + new.square() / 8).sum(1)",
        "top = top - 0 * (new / 2 + new.square() / 8).sum(1)",
        "test_a_new_layer_takes_from_the_bias_below_what_it_says_of_each_unit_alone",
    ),
    Mutation(
        "RBMFeatures: hidden units count from 0",
        "torch.full_like(rbm.c, 0.5)",
        "torch.full_like(rbm.c, 0.0)",
        "test_one_update_is_the_one_worked_out_by_hand",
    ),
    Mutation(
        "detector: whitened in full",
        "variances.pow(0.25)",
        "variances.pow(0.5)",
        "test_half_whitening_divides_by_the_square_root_of_standard_deviations",
    ),
    Mutation(
        "detector: shrunk ten times as much",
        "rows.shape[1] + 2\n",
        "10 * rows.shape[1]\n",
        "test_clusters_weigh_as_many_rows_as_they_have_and_lean_on_the_pooled_covariance",
    ),
    Mutation(
        "detector: clusters weigh alike",
        "[len(cluster) / len(rows) for cluster in members]",
        "[1 / len(members) for cluster in members]",
        "test_clusters_weigh_as_many_rows_as_they_have_and_lean_on_the_pooled_covariance",
    ),
    Mutation(
        "VAE: a lower bound without log 20",
        "value + math.log(1 - CONFIDENCE)",
        "value",
        "test_the_lower_bound_is_at_least_markovs",
    ),
    Mutation(
        "kernel density: the volume of a kernel",
        'case "epanechnikov":\n            return ball + math.log(2 / (size + 2))',
        'case "epanechnikov":\n            return ball + math.log(2 / (size + 1))',
        "test_kernel_density_is_that_of_sklearn",
    ),
    Mutation(
        "principal components: the noise counts twice",
        "(kept - rest).clamp(min=0)",
        "kept.clamp(min=0)",
        "test_the_fit_has_the_largest_likelihood",
    ),
    Mutation(
        "normal scores: ranks off the middle",
        "0.5 * counts",
        "0.4 * counts",
        "test_normal_scores_of_distinct_values_are_normal_quantiles",
    ),
    Mutation(
        "tempered chains: swaps by half the ratio",
        "(uniform.log() < leave - stay)",
        "(uniform.log() < 0.5 * (leave - stay))",
        "test_persistent_particles_come_to_the_model",
    ),
    Mutation(
        "centred gradient: the bias without what the weights do",
        "b = (x * weights).sum(0) - (weighted @ centre.hidden) @ x",
        "b = (x * weights).sum(0)",
        "test_a_centre_changes_the_direction_as_the_centred_parametrisation_does",
    ),
    Mutation(
        "base rates: moves at the lower level",
        "x = path.move(log_odds, upper, generator)\n        report(upper, 1.0)",
        "x = path.move(log_odds, lower, generator)\n        report(upper, 1.0)",
        "test_it_agrees_with_enumeration",
    ),
    Mutation(
        "transitions: twice the weight decay",
        "weight_decay / 2 * decay",
        "weight_decay * decay",
        "test_the_fit_has_the_moments_of_the_sentences",
    ),
    Mutation(
        "noisy conditional: the number of labels is forgotten",
        "own - values.logsumexp(1) + math.log(size)",
        "own - values.logsumexp(1)",
        "test_a_density_ratio_is_the_density_over_the_marginal",
    ),
    Mutation(
        "salt and pepper: a precision for its root",
        "is_kept / self.scale.square()",
        "is_kept / self.scale",
        "test_salt_and_pepper_knows_what_was_kept",
    ),
    Mutation(
        "neighbours: a sum for a mean",
        "self.points_log_density[row].mean(-1)",
        "self.points_log_density[row].sum(-1)",
        "test_relative_density_is_against_the_neighbours_own",
    ),
    Mutation(
        "belief propagation: sites count once more",
        "(1 - degree)[:, None]",
        "(2 - degree)[:, None]",
        "test_exact_on_trees",
    ),
    Mutation(
        "denoiser: the first half of the steps is averaged too",
        "steps[num_steps // 2 :].mean(0)",
        "steps.mean(0)",
        "test_learning_repeats_and_keeps_its_history",
    ),
    Mutation(
        "diffusion: the sign of x in v",
        "(kept.sqrt() * found / noise + x)",
        "(kept.sqrt() * found / noise - x)",
        "test_the_integral_of_the_score_is_the_log_density",
    ),
    Mutation(
        "loop: velocities are forgotten",
        "velocity.mul_(schedule.momentum)",
        "velocity.mul_(0.0)",
        "test_a_dbm_moves_as_worked_out_by_hand",
    ),
    Mutation(
        "loop: biases decay",
        "zip(gradient, state.weights, strict=False)",
        "zip(gradient, state.parameters, strict=False)",
        "test_pretraining_moves_as_worked_out_by_hand",
    ),
    Mutation(
        "loop: later parameters count more in the mean",
        "mean.lerp_(value, 1 / state.num_terms)",
        "mean.lerp_(value, min(1.0, 2 / state.num_terms))",
        "test_the_mean_gives_each_term_the_same_weight",
    ),
    Mutation(
        "loop: all updates are averaged",
        "update % UPDATES_A_LOOK == 0 and 1 - update / total <= averaged",
        "update % UPDATES_A_LOOK == 0",
        "test_every_tenth_of_the_last_updates_is_averaged",
    ),
    Mutation(
        "checkpoint: chains begin anew",
        'state.kept[name] = saved.tensors[f"kept.{name}"].to(value.device)',
        "pass",
        "test_a_run_that_was_stopped_goes_on_to_the_same_bits",
    ),
    Mutation(
        "checkpoint: velocities begin anew",
        '"velocity": state.velocity, "mean": state.mean}',
        '"mean": state.mean}',
        "test_a_run_that_was_stopped_goes_on_to_the_same_bits",
    ),
    Mutation(
        "pre-training: the next layer is restored from this one's file",
        "if saved is None or saved.stage != self.stage:",
        "if saved is None:",
        "test_files_that_are_of_no_use_are_refused",
    ),
    Mutation(
        "RBM: the hidden centre stays where it was",
        'kept["hidden_centre"].lerp_(',
        'kept["hidden_centre"].lerp(',
        "test_an_rbm_moves_as_worked_out_by_hand",
    ),
    Mutation(
        "DBM: the centres stay where they were",
        "centre.lerp_(mean, CENTRE_RATE)",
        "pass",
        "test_a_dbm_moves_as_worked_out_by_hand",
    ),
)


def files_with(text: str, folders: Sequence[str]) -> list[Path]:
    """The Python files under folders of the tree that contain a text, relative to the tree."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    here = Path(__file__).resolve()
    return [p.relative_to(ROOT) for p in paths if p != here and text in p.read_text()]


def only_file_with(text: str, folders: Sequence[str]) -> Path:
    """The one of them. Raises LookupError where there is none, or more than one."""
    found = files_with(text, folders)
    if len(found) != 1 or (ROOT / found[0]).read_text().count(text) != 1:
        raise LookupError(
            f"expected {text!r} once under {folders}, got it in {list(map(str, found))}"
        )
    return found[0]


def node(test: str) -> str:
    """The test as pytest knows it."""
    return f"{only_file_with(f'def {test}(', ['tests'])}::{test}"


@contextmanager
def copied_tree() -> Iterator[Path]:
    """A copy of what the tests need, which goes when it has been used."""
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__")
            if source.is_dir():
                shutil.copytree(source, Path(folder) / name, ignore=ignored)
            else:
                shutil.copy(source, Path(folder) / name)
        yield Path(folder)


def passes(tree: Path, nodes: Sequence[str]) -> bool:
    """Whether the tests pass there. Raises RuntimeError where they could not be run."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *nodes]
    # Sources change within a second, which cached bytecode would not notice.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}"
        )
    return done.returncode == 0


def survives(tree: Path, mutation: Mutation) -> bool:
    """Whether the test passes all the same."""
    path = tree / only_file_with(mutation.original, SOURCES)
    whole = path.read_text()
    path.write_text(whole.replace(mutation.original, mutation.changed))
    try:
        return passes(tree, [node(mutation.test)])
    finally:
        path.write_text(whole)


def main(words: Sequence[str]) -> int:
    """Print the table; 1 where one survives."""
    chosen = [m for m in MUTATIONS if not words or any(word in m.name for word in words)]
    with copied_tree() as tree:
        if not passes(tree, sorted({node(mutation.test) for mutation in chosen})):
            print("the tests fail without any mistake")
            return 1
        survivors = 0
        for mutation in chosen:
            is_alive = survives(tree, mutation)
            survivors += is_alive
            print(
                f"{'SURVIVED' if is_alive else 'killed':9} {mutation.name} ({mutation.test})",
                flush=True,
            )
    print(f"{len(chosen) - survivors} of {len(chosen)} killed")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
