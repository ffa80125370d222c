"""`python -m examples.label_sequences`."""

from examples.label_sequences.run import main

if __name__ == "__main__":
    main()
