"""Arguments to dataclasses, through tyro, in the same manner for every command."""

import difflib
import io
import re
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, TypeVar

import tyro

from undye.errors import UserError

T = TypeVar("T")


def parse(kind: type[T], args: list[str], prog: str, description: str, default: T | None = None) -> T:
    """Read `args` into an instance of the dataclass `kind`.

    Raises:
        UserError: for a wrong argument, in one line.
        SystemExit: with code 0 after printing help.
    """
    options: dict[str, Any] = {"prog": prog, "description": description}
    if default is not None:
        options["default"] = default
    if "-h" in args or "--help" in args:
        return tyro.cli(kind, args=["--help"], **options)
    errors = io.StringIO()
    try:
        with redirect_stdout(errors), redirect_stderr(errors):
            return tyro.cli(kind, args=args, **options)
    except SystemExit as stop:
        if stop.code in (0, None):  # not an error: a completion script, for one
            print(errors.getvalue(), end="")
            raise
        raise UserError(f"{_message(errors.getvalue())} (see {prog.split(' [')[0]} --help)") from None


def _message(box: str) -> str:
    """What a person needs of tyro's error box."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip(" │|") for line in plain.splitlines()]
    # the frame's rules divide the box: the title, what is wrong, hints
    text = " ".join(line for line in lines if line and not re.search("──|---", line))
    if match := re.search(r"Unrecognized (?:or misplaced )?options: *(.+?)(?= Perhaps| Similar| For full|$)", text):
        hint = re.search(r"Perhaps you meant: (--[a-z0-9.-]+)", text)
        return f"unknown option {match[1].strip()!r}" + (f": did you mean {hint[1]}?" if hint else "")
    if match := re.search(r"Missing from [^:]+: (\S+)", text):
        return f"{match[1]} is missing"
    if match := re.search(r"invalid choice '(.*?)' for argument '([^']+)'\. Expected one of \((.*?),?\)", text):
        return _no_choice(*match.groups())
    if match := re.search(
        r"Error parsing ([^:]+): .*input length (\d+) did not match expected argument count (\d+)", text
    ):
        return f"{match[1]} takes {match[3]} values, got {match[2]}"
    if match := re.search(r"Error parsing (.+?)(?= Argument helptext| For full|$)", text):
        return f"cannot read {match[1].strip()}"
    text = re.sub(
        r"^(?:Invalid choice|Missing argument|Value error|Parsing error) ", "", text.split(" For full helptext")[0]
    )
    return text[:1].lower() + text[1:].rstrip(".")


def _no_choice(given: str, flag: str, choices: str) -> str:
    """A word that is none of a flag's, and the one that may have been meant."""
    known = re.findall(r"'([^']*)'", choices)
    if "None" in known:  # the flag may be left out; then they come as a set, in any order
        known = sorted(word for word in known if word != "None")
    near = difflib.get_close_matches(given, known, n=1)
    meant = f": did you mean {near[0]}?" if near else ":"
    return f"{flag} cannot be {given!r}{meant} choose from {', '.join(known)}"
