"""Lists of globs in which a ``!`` takes out again what an earlier one let in: as in a .gitignore, the last decides."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase


def chosen(globs: Sequence[str], *names: str) -> bool:
    """
    Whether a list of globs lets something through; case matters.

    The last glob that fits decides. Where none fits nothing is let through, but everything is by a list that begins
    with an exclusion: ``["!internal_*"]`` is all but those. A name that begins with ``!`` is written with ``\\!``.

    Args:
        globs: ``*``, ``?``, ``[abc]``, ``[!abc]`` (or ``[^abc]``, as Go's filepath.Match writes it).
        names: What the thing is called; one of them fitting is enough.
    """
    let_through = bool(globs) and globs[0].startswith("!")
    for glob in globs:
        excludes = glob.startswith("!")
        pattern = (glob[1:] if excludes or glob.startswith("\\!") else glob).replace("[^", "[!")
        if any(fnmatchcase(name, pattern) for name in names):
            let_through = not excludes
    return let_through
