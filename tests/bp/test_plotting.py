"""Pictures of inferences: written whole, in the format of their name."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcblaz.bp import infer, ising, plot
from hpcblaz.errors import ConfigurationError, StorageError


def test_pictures(tmp_path: Path) -> None:
    model = ising(8, 2.5, seed=0)
    result = infer(model, "sweep")
    for name, head in (("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.SVG", b"<?xml")):
        result.plot(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(head)
    plot(tmp_path / "two.png", {"auto": infer(model), "lbp": infer(model, "lbp")})
    assert (tmp_path / "two.png").stat().st_size > 5000
    with pytest.raises(ConfigurationError, match=r"got a\.txt"):
        result.plot(tmp_path / "a.txt")
    with pytest.raises(StorageError):
        result.plot(tmp_path / "none" / "a.png")
