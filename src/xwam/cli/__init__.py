"""The command line: one verb, one function. Nothing heavy is imported until a verb runs."""

import logging
import sys
from collections.abc import Sequence

import tyro

from xwam.cli.acting import demo, evaluate, imagine, view
from xwam.cli.bench import bench
from xwam.cli.check import check
from xwam.cli.data import annotate, collect, stats
from xwam.cli.serving import serve
from xwam.cli.training import convert, train, train_vae
from xwam.train.options import memory_advice

ABOUT = "Train, run and look at a robot policy that also imagines the future. `xwam VERB --help` explains a verb."
VERBS = {
    "demo": demo,
    "collect": collect,
    "stats": stats,
    "annotate": annotate,
    "train": train,
    "train-vae": train_vae,
    "evaluate": evaluate,
    "imagine": imagine,
    "view": view,
    "convert": convert,
    "serve": serve,
    "bench": bench,
    "check": check,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``xwam`` command. User mistakes end in one line and exit code 2."""
    # diffusers imports it, and it then warns of 4-bit kernels that nothing here uses
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        tyro.extras.subcommand_cli_from_dict(VERBS, prog="xwam", description=ABOUT, args=arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"xwam: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except RuntimeError as error:
        advice = memory_advice(error)
        if advice is None:
            raise
        print(f"xwam: {error}\nxwam: {advice}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("xwam: interrupted; everything finished is kept. Repeat the command to continue.", file=sys.stderr)
        raise SystemExit(130) from None
