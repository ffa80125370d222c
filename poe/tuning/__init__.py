"""How a run is prepared: where it starts, by what kernel, and how that is warmed up."""
