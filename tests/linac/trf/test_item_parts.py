"""The table of item parts: consistent with itself, and the same both ways."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linac.trf.item_parts import MLC_STATUS, STANDARD, STANDARD_PARTS, UNITY_PARTS, find

KNOWN = (*STANDARD, MLC_STATUS)


def test_there_are_350_and_one_more_in_version_4() -> None:
    assert len(STANDARD) == len(STANDARD_PARTS) == 350
    assert len(UNITY_PARTS) == 351


@pytest.mark.parametrize("attribute", ["name", "column"])
def test_names_are_unique(attribute: str) -> None:
    assert len({getattr(item, attribute) for item in KNOWN}) == len(KNOWN)


def test_columns_end_with_their_unit() -> None:
    for item in KNOWN:
        suffix = {"": "", "MU/min": "_mu_per_min", "MU": "_mu", "deg": "_deg", "mm": "_mm"}[item.unit]
        assert item.column.endswith(suffix)
        assert item.column.isidentifier()
        assert item.evidence


def test_every_row_is_found_by_its_numbers() -> None:
    for item in KNOWN:
        assert find(item.part, item.subpart) is item
        assert item.known


def test_only_y2_leaf_positions_change_sign() -> None:
    assert {item.name.partition(" Leaf")[0] for item in KNOWN if item.sign < 0} == {"Y2"}
    assert sum(item.sign < 0 for item in KNOWN) == 80


@given(st.integers(-32768, 32767), st.integers(-32768, 32767))
def test_every_pair_has_a_name(part: int, subpart: int) -> None:
    item = find(part, subpart)
    assert item.name
    assert item.column.isidentifier()
    if not item.known:
        assert str(subpart) in item.name or item.name.split("/")[1]
        assert item.divisor == item.sign == item.export_divisor == 1


@given(st.sampled_from(KNOWN), st.lists(st.integers(-32768, 32767), min_size=1))
def test_counts_become_physical_values_and_counts_again(item: object, counts: list[int]) -> None:
    assert item.to_counts(item.to_physical(counts)).tolist() == counts  # type: ignore[attr-defined]


def test_raw_dose_wraps_and_has_no_marker() -> None:
    raw = find(2162, 101)
    assert raw.to_physical([0, 64, -1, -32767]).tolist() == [0, 1, 65535 / 64, 32769 / 64]
    assert raw.to_counts([1024 + 1]).tolist() == [64]


def test_no_value_is_not_a_number() -> None:
    assert np.isnan(find(2224, 129).to_physical([-32767])[0])
    assert find(2224, 129).to_counts([float("nan")]).tolist() == [-32767]
