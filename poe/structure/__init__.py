"""What is known of a density without sampling: tails, conditionals, factors, properness."""
