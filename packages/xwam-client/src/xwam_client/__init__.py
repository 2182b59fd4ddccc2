"""Ask an xwam server for actions and imagined worlds. The wire is described in ``protocol.py``."""
