"""`python -m examples.compose_2d`."""

from examples.compose_2d.run import main

if __name__ == "__main__":
    main()
