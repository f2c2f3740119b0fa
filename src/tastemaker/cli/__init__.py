"""The command line: reads the arguments, calls one function, and turns a mistake into one clear line and an exit code.

Commands import what they need when they run, so that help, version and a mistake in a config take less than a second.
Exit codes: 0 done, 2 the user's mistake, 3 a service we depend on failed, 4 the monitor's alarm ended the run,
75 stopped and resumable, 1 anything else: a training that diverged, a damaged file.
"""

from __future__ import annotations

import signal
import warnings

from tastemaker.cli import about, judges, models, prompts, training  # noqa: F401  they put their commands into app
from tastemaker.cli.app import app


def main() -> None:
    """The `tastemaker` command. Outside the training loop, which stops at safe points, SIGTERM acts as Ctrl-C does."""
    python, own = warnings.formatwarning, f"{__name__.partition('.')[0]}"
    warnings.formatwarning = lambda message, category, filename, *where: (
        f"warning: {message}\n" if category is UserWarning and own in filename else python(message, category, filename, *where)
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()
