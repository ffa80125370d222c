"""`python -m examples.text_by_agreement`."""

from examples.text_by_agreement.run import main

if __name__ == "__main__":
    main()
