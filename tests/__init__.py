"""All tests. They run the sources themselves, and so do the nodes that they start, unless CHRONIK_COMPILED says otherwise."""

from __future__ import annotations

import os

from cli.compiled import loader

os.environ.setdefault(loader.VARIABLE, "0")
loader.choose(os.environ)  # here, because no test can import anything before this
