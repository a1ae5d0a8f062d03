"""Files of graphical models, by what they are: UAI, libDAI and the format of the paper."""

import os
from pathlib import Path
from typing import Literal

from hpcblaz.bp.libdai import read_fg, write_fg
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.rnbp import read_rnbp, write_rnbp
from hpcblaz.bp.tokens import open_text
from hpcblaz.bp.uai import read_uai, write_uai
from hpcblaz.errors import FileFormatError

__all__ = ["FORMATS", "Format", "format_of", "read_model", "write_model"]

Format = Literal["uai", "fg", "rnbp"]
FORMATS: dict[str, Format] = {".uai": "uai", ".fg": "fg", ".txt": "rnbp"}


def read_model(path: str | os.PathLike[str]) -> FactorGraph | PairwiseModel:
    """Read a model of any format; which one it is, is seen from its first word.

    Parameters
    ----------
    path : str or os.PathLike
        ``MARKOV`` or ``BAYES`` begins a UAI file, ``Nodes:`` one of the paper, a number or a comment one of libDAI.
        Plain, or compressed by gzip or xz.

    Returns
    -------
    FactorGraph or PairwiseModel
        The latter from the format of the paper.

    Raises
    ------
    FileFormatError
        If the file is malformed, or of none of these formats.
    StorageError
        If it cannot be read.

    Examples
    --------
    >>> import os, tempfile
    >>> from hpcblaz.bp import ising
    >>> path = os.path.join(tempfile.mkdtemp(), "grid.uai.gz")
    >>> write_model(path, ising(10, coupling=2.0))
    >>> read_model(path).factors
    280
    """
    path = Path(path)
    with open_text(path) as file:
        head = file.read(4096).split(None, 1)
    word = head[0] if head else b""
    if word.upper() in (b"MARKOV", b"BAYES"):
        return read_uai(path)
    if word == b"Nodes:":
        return read_rnbp(path)[0]
    if word.isdigit() or word.startswith(b"#"):
        return read_fg(path)
    shown = word[:40].decode("utf-8", "replace")
    raise FileFormatError(
        f"{path}, line 1: expected MARKOV, BAYES, 'Nodes:' or a number of factors, got {shown!r}: is it a model?"
    )


def format_of(path: str | os.PathLike[str]) -> Format:
    """Return the format that the name of a file asks for.

    Raises
    ------
    FileFormatError
        If it ends otherwise than with .uai, .fg or .txt, before .gz or .xz.

    Examples
    --------
    >>> format_of("a.uai"), format_of("b.fg.xz")
    ('uai', 'fg')
    """
    name = Path(path)
    suffix = Path(name.stem).suffix if name.suffix in (".gz", ".xz") else name.suffix
    if suffix not in FORMATS:
        raise FileFormatError(
            f"{path}: expected a name that ends with {', '.join(FORMATS)}, maybe with .gz or .xz after it, "
            f"got {name.name!r}"
        )
    return FORMATS[suffix]


def write_model(path: str | os.PathLike[str], model: FactorGraph | PairwiseModel) -> None:
    """Write a model, whole or not at all, in the format that the name of the file asks for.

    Parameters
    ----------
    path : str or os.PathLike
        ``.uai``, ``.fg`` (libDAI) or ``.txt`` (the paper); compressed with ``.gz`` or ``.xz`` after it.
    model : FactorGraph or PairwiseModel

    Raises
    ------
    FileFormatError
        If the name has another ending.
    ModelError
        If the format cannot hold the model.
    StorageError
        If it cannot be written.
    """
    kind = format_of(path)
    if kind == "uai":
        write_uai(path, model)
    elif kind == "fg":
        write_fg(path, model)
    else:
        write_rnbp(path, model)
