"""The mark is read from extraConfig, which any user may have changed."""

from dataclasses import replace

import pytest

from gpuvm.ownership import Mark

MARK = Mark("gpuvm", 7, "digest", "generation", "{}")
MADE = replace(MARK, operator="alice@desk", created="2026-11-27T09:15:00+00:00")


def test_mark_round_trip() -> None:
    assert Mark.read(MARK.extra_config()) == MARK, "as older versions write it"
    assert Mark.read(MADE.extra_config()) == MADE


@pytest.mark.parametrize("index", ["", "x", "-1", "1.0", " 1", "²", "9" * 5000])
def test_non_numeric_index_is_no_mark(index: str) -> None:
    assert Mark.read({**MARK.extra_config(), "gpuvm.index": index}) is None
