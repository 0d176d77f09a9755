"""Python imports this at its start where this folder is on PYTHONPATH: `clipseg` then runs with `red`'s network, and
so do Ray's actors."""

import sys

if any("clipseg" in argument or "default_worker" in argument for argument in sys.orig_argv):
    sys.path.insert(1, __file__.rpartition("/swift/")[0])
    import red

    red.install()
