"""`python -m examples.anomaly_tables`."""

from examples.anomaly_tables.run import main

if __name__ == "__main__":
    main()
