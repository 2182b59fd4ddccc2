"""How much memory does each preset need? Prints the README's table: ``python benchmarks/memory.py [PRESET …]``."""

import sys

from xwam.evaluate.memory import markdown
from xwam.presets import preset

if __name__ == "__main__":
    print("\n\n".join(markdown(preset(name)) for name in sys.argv[1:] or ["tiny", "wan22_5b"]))
