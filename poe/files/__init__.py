"""What lies on disk: written whole or not at all, sealed, and told apart by what is in it."""
