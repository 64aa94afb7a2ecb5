"""`python -m benchmarks` is `python -m benchmarks.bench`."""

import sys

from benchmarks.bench import main

sys.exit(main())
