"""`python -m examples.faces`."""

from examples.faces.run import main

if __name__ == "__main__":
    main()
