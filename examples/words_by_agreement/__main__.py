"""`python -m examples.words_by_agreement`."""

from examples.words_by_agreement.run import main

if __name__ == "__main__":
    main()
