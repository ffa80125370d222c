"""`python -m examples.concepts`."""

from examples.concepts.run import main

if __name__ == "__main__":
    main()
