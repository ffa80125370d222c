"""Models of coupled spins and labels, and what is exact about them."""
