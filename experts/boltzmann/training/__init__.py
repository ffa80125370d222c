"""Training of Boltzmann machines."""
