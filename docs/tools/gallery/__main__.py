"""`python -m docs.tools.gallery`, from the root of the repository."""

import sys

from . import main

sys.exit(main(sys.argv[1:]))
