"""The left column of the page: which experts, how loud, which seed."""

from __future__ import annotations

from functools import partial

from nicegui import ui

from poe.studio import digits, words
from poe.studio.draw import Settings
from poe.studio.model import FAMILIES, PRESETS, Preset, formula
from poe.studio.offer import Choice, Offer

LARGEST_EXPONENT = 3.0
FIRST = next(iter(PRESETS.values()))
DEFAULT_LABELS = {one.name: one.label for one in FIRST.choices}
CORRECTED, UNADJUSTED = "corrected", "unadjusted"


class ExpertRow:
    """An expert on the page: whether it is chosen, given which label, to which exponent."""

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        with ui.row().classes("expert"):
            self.box = ui.checkbox(offer.name).props(f"dense size=sm data-testid=box-{offer.name}")
            self.box.tooltip(offer.about)
            with ui.row().classes("dials").bind_visibility_from(self.box, "value"):
                self.label: ui.select | None = None
                if offer.labels:
                    self.label = ui.select(
                        list(offer.labels), value=DEFAULT_LABELS[offer.name]
                    ).props(f"dense borderless options-dense data-testid=label-{offer.name}")
                self.slider = ui.slider(
                    min=-LARGEST_EXPONENT, max=LARGEST_EXPONENT, step=0.1, value=1.0
                ).props(f"dense data-testid=slider-{offer.name}")
                ui.label().classes("exponent").bind_text_from(
                    self.slider, "value", lambda value: f"{value:+.1f}".replace("-", "\u2212")
                )

    @property
    def is_chosen(self) -> bool:
        """Whether its box is ticked."""
        return bool(self.box.value)

    @property
    def choice(self) -> Choice:
        """As it stands."""
        label = "" if self.label is None else str(self.label.value)
        return Choice(self.offer.name, round(float(self.slider.value), 2), label)

    def show(self, choice: Choice | None) -> None:
        """Choose it as given, or not at all."""
        self.box.set_value(choice is not None)
        if choice is not None:
            self.slider.set_value(choice.exponent)
            if self.label is not None:
                self.label.set_value(choice.label)


class Controls:
    """All rows, the seed, the number of draws, and whether steps are corrected."""

    def __init__(self) -> None:
        with ui.row().classes("presets"):
            for name, preset in PRESETS.items():
                ui.chip(name, on_click=partial(self.show, preset)).props(
                    f'outline clickable dense data-testid="preset-{name}"'
                )
        self.rows: dict[str, ExpertRow] = {}
        for family in FAMILIES:
            ui.label(family.name).classes("family")
            for offer in family.offers():
                self.rows[offer.name] = ExpertRow(offer)
        self.formula = ui.label().classes("formula").props("data-testid=formula")
        with ui.row().classes("settings"):
            self.seed = ui.number("Seed", value=0, min=0, precision=0).props(
                "dense outlined data-testid=seed"
            )
            self.num_draws = ui.number("Draws", value=FIRST.num_draws, min=1, precision=0).props(
                "dense outlined data-testid=num-draws"
            )
            self.sampler = ui.select([CORRECTED, UNADJUSTED], value=CORRECTED, label="Steps").props(
                "dense outlined options-dense data-testid=sampler"
            )
        self.show(FIRST)
        for row in self.rows.values():
            row.box.on_value_change(self._on_choice)
            row.slider.on_value_change(self._write)
            if row.label is not None:
                row.label.on_value_change(self._write)
        self._write()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What is chosen, in the order of the page."""
        return tuple(row.choice for row in self.rows.values() if row.is_chosen)

    @property
    def settings(self) -> Settings:
        """The rest; an empty box counts as its default."""
        return Settings(
            seed=int(self.seed.value or 0),
            num_draws=int(self.num_draws.value or Settings().num_draws),
            is_corrected=self.sampler.value == CORRECTED,
        )

    def show(self, preset: Preset) -> None:
        """Choose exactly that."""
        chosen = {one.name: one for one in preset.choices}
        self.num_draws.set_value(preset.num_draws)
        for name, row in self.rows.items():
            row.show(chosen.get(name))
        for name, one in chosen.items():  # after the prior followed the others
            self.rows[name].slider.set_value(one.exponent)

    def _on_choice(self) -> None:
        """The prior follows Bayes' rule when an attribute comes or goes."""
        names = [name for name, row in self.rows.items() if row.is_chosen]
        if any(name in digits.ATTRIBUTES for name in names):
            self.rows[digits.PRIOR].slider.set_value(digits.bayes_exponent(names))
        self._write()

    def _write(self) -> None:
        text = words.typeset(formula(self.choices)) if self.choices else "nothing"
        self.formula.set_text(f"p(x) \u221d {text}")
