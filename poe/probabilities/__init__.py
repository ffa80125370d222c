"""What becomes a number once log Z is known: ratios, evidence, bounds, compatibility."""
