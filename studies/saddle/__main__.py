"""`python -m studies.saddle COMMAND`: what is said of saddle searches alone."""

import sys

from studies.saddle.commands import main

if __name__ == "__main__":
    sys.exit(main())
