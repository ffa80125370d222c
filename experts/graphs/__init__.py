"""Factor graphs, linear chains and constraints on counts, with exact sums over them."""
