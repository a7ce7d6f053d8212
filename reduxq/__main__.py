"""``python -m reduxq``: the command line."""

from reduxq.cli import main

if __name__ == "__main__":
    main()
