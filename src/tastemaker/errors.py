"""The mistakes tastemaker reports, classes by exit code, so that a shell script can tell them apart.

0 done · 2 the user's mistake · 3 a service we depend on failed · 4 the monitor's alarm ended the run · 75 stopped on request
and resumable (EX_TEMPFAIL) · 1 anything else: a training that diverged, a damaged file.
"""

from __future__ import annotations

from collections.abc import Callable


class TastemakerError(Exception):
    """A failure with one clear line for the person at the keyboard; `exit_code` is what the command returns."""

    exit_code = 1


class UserMistake(TastemakerError):
    """Bad input: the message says what, where, which rule and what to do. Several mistakes are one per line."""

    exit_code = 2


class ServiceFailed(TastemakerError):
    """Something training depends on (a reward, its server, a disk) failed for longer, or more often, than it may."""

    exit_code = 3


class Alarmed(TastemakerError):
    """The monitor saw signs that the reward is being bought and ended the run, as its settings say; everything is saved."""

    exit_code = 4


class DiskFull(ServiceFailed):
    """No room to write; names what was needed and what is free. Earlier files are intact."""


class Corrupt(TastemakerError):
    """A stored file is not what was written: names the file and how it differs (checksum, length, missing)."""


class Diverged(TastemakerError):
    """Training produced NaN or inf several times in a row; weights still hold the last finite update."""


class Stopped(TastemakerError):
    """The run was asked to stop (SIGTERM, Ctrl-C) and did so at a safe point; the same command resumes it."""

    exit_code = 75


def together(*checks: Callable[[], object]) -> None:
    """Makes all of them, in order. Raises UserMistake with the mistakes of all."""
    mistakes: list[str] = []
    for one in checks:
        try:
            one()
        except UserMistake as error:
            mistakes += str(error).splitlines()
    if mistakes:
        raise UserMistake("\n".join(dict.fromkeys(mistakes)))
