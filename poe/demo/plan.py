"""What the demo makes, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from poe.demo.attributes import HELD_OUT, TRAINING_COMBINATIONS, Combination
from poe.demo.conjunction import PRIOR_EXPONENT, Schedule

# A column each in the picture: every class once, every slant and thickness several times.
COLUMNS = tuple(
    Combination(digit, slant, thickness)
    for digit, (slant, thickness) in enumerate(
        [(2, 0), (0, 2), (1, 0), (2, 2), (0, 1), (0, 0), (1, 2), (0, 2), (2, 1), (2, 0)]
    )
)

LONG = Schedule(trajectories_per_level=5, warmup=20, draws=20)
SHORT = Schedule(trajectories_per_level=2, warmup=10, draws=1)


@dataclass(frozen=True)
class Plan:
    """Combinations, chains of each, and the length of the chains.

    ``pool`` samples of the class expert are drawn for each class. They are where the chains start.
    Rejection, the alternative, chooses each of its samples among as many of them as a chain of the
    conjunction evaluates the density of that expert. (A sample costs about one evaluation.)
    """

    training: tuple[Combination, ...] = TRAINING_COMBINATIONS
    held_out: tuple[Combination, ...] = HELD_OUT
    columns: tuple[Combination, ...] = COLUMNS
    chains: int = 2
    held_out_chains: int = 8
    schedule: Schedule = LONG
    side_schedule: Schedule = SHORT
    side_chains: int = 3
    pool: int = LONG.evaluations
    prior_exponent: float = PRIOR_EXPONENT
    seed: int = 0

    def chains_seen(self) -> list[Combination]:
        """The combinations of the training sets, one for each chain."""
        return [one for one in self.training for _ in range(self.chains)]

    def chains_held_out(self) -> list[Combination]:
        """The held-out combinations, one for each chain."""
        return [one for one in self.held_out for _ in range(self.held_out_chains)]

    def chains_on_the_side(self) -> list[Combination]:
        """What is asked of each expert alone and of each pair, column by column."""
        return list(self.columns) * self.side_chains

    def only(self, combination: Combination) -> Plan:
        """The same for one combination alone."""
        is_new = combination in HELD_OUT
        return replace(
            self,
            training=() if is_new else (combination,),
            held_out=(combination,) if is_new else (),
            columns=(combination,) * len(COLUMNS),
            chains=20,
            held_out_chains=20,
            side_chains=1,
        )


FAST = Plan(
    training=COLUMNS[:5],
    held_out=HELD_OUT[:3],
    columns=COLUMNS[:5],
    chains=2,
    held_out_chains=2,
    schedule=Schedule(1, 3, 4),
    side_schedule=Schedule(1, 1, 1),
    side_chains=1,
    pool=12,
)
