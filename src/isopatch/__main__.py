"""`python -m isopatch`: the command line, where the `isopatch` script is not on the path."""

from isopatch.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
