"""``python -m reduxq``: the command line."""

from reduxq.operating.main import main

if __name__ == "__main__":
    main()
