from __future__ import annotations

import random
from itertools import chain

import pytest

from textmodel.batching import Batching, Packed, Padded, rounded

BATCHINGS = [Padded(8, 1024, 1024), Packed(16), Packed(4, 1, 64), Packed(64, 4)]
LENGTHS = random.Random(0).choices(range(1, 300), k=400)


@pytest.mark.parametrize("batching", BATCHINGS, ids=repr)
def test_every_text_is_in_one_batch(batching: Batching) -> None:
    batches = batching.cut(LENGTHS)
    assert sorted(chain.from_iterable(batches)) == list(range(len(LENGTHS)))
    assert batching.cut([]) == []


@pytest.mark.parametrize("batching", BATCHINGS, ids=repr)
def test_the_text_that_has_waited_longest_is_in_the_next_batch(batching: Batching) -> None:
    for start in range(len(LENGTHS)):
        places = batching.next(LENGTHS[start : start + 64], streams=2)
        assert 0 in places
        assert len(set(places)) == len(places)


@pytest.mark.parametrize("batching", BATCHINGS, ids=repr)
def test_a_batch_that_was_cut_is_not_cut_again(batching: Batching) -> None:
    for batch in batching.cut(LENGTHS):
        assert len(batching.cut([LENGTHS[place] for place in batch])) == 1


def test_what_waits_is_spread_over_the_streams() -> None:
    assert len(Packed(64, 4).next([30] * 4, streams=2)) == 2
    assert len(Packed(64, 4).next([30] * 4, streams=1)) == 4
    assert len(Packed(64, 4).next([30] * 20, streams=2)) == 8
    assert len(Packed(64, 4).next([30] * 20, streams=1)) == 16


def test_a_batch_has_one_two_or_four_rows() -> None:
    packed = Packed(64, 4)
    for start in range(len(LENGTHS)):
        lengths = [length // 3 + 1 for length in LENGTHS[start : start + 64]]
        for batch in (packed.next(lengths, streams=2), *packed.cut(lengths)):
            rows, width = packed.arranged([lengths[place] for place in batch])
            assert len(rows) in (1, 2, 4)
            assert width <= 128


@pytest.mark.parametrize("batching", [Packed(16), Packed(64, 4)], ids=repr)
def test_what_was_chosen_fits_into_the_rows_of_one_batch(batching: Packed) -> None:
    for start in range(len(LENGTHS)):
        lengths = LENGTHS[start : start + 64]
        for batch in (batching.next(lengths, streams=2), *batching.cut(lengths)):
            tokens = [lengths[place] for place in batch]
            assert batching.fits(tokens)
            rows, width = batching.arranged(tokens)
            assert sorted(chain.from_iterable(rows)) == list(range(len(tokens)))
            assert all(sum(tokens[place] for place in row) <= width for row in rows)
    assert not batching.fits([100] * (batching.rows + 1))
    assert not batching.fits([1] * (batching.texts + 1))


@pytest.mark.parametrize("size", [1, 20, 64, 65, 128, 129, 500])
def test_a_row_holds_no_more_than_fits_it(size: int) -> None:
    packed = Packed(16)
    lengths = [size, *LENGTHS]
    for batch in (packed.next(lengths), *packed.cut(lengths)):
        tokens = [lengths[place] for place in batch]
        assert len(tokens) <= 16
        assert packed.executed(tokens) <= max(128, packed.width(max(tokens)))


def test_a_row_has_no_more_texts_than_slots() -> None:
    assert packed_sizes([1] * 40) == [16, 16, 8]
    assert Packed(16).next([1] * 40) == list(range(16))


def packed_sizes(lengths: list[int]) -> list[int]:
    return [len(batch) for batch in Packed(16).cut(lengths)]


@pytest.mark.parametrize("packed", [Packed(16), Packed(64, 4)], ids=repr)
def test_rows_of_texts_that_are_known_are_nearly_full(packed: Packed) -> None:
    lengths = random.Random(1).choices(range(5, 60), k=1000)
    executed = sum(
        packed.executed([lengths[place] for place in batch]) for batch in packed.cut(lengths)
    )
    assert sum(lengths) > 0.97 * executed


def test_short_rows_have_few_widths() -> None:
    packed = Packed(16)
    assert {packed.width(tokens) for tokens in range(1, 129)} == {64, 128}
    assert len({packed.width(tokens) for tokens in range(1, 513)}) == 8


def test_numbers_are_rounded_up_to_few() -> None:
    numbers = [rounded(number, 3) for number in range(1, 257)]
    assert all(0 <= found - number <= number / 4 for number, found in enumerate(numbers, 1))
    assert len(set(numbers)) == 28
    assert [rounded(number, 16) for number in range(1, 513)] == [*range(1, 513)]
    assert [rounded(number, 2, least=8) for number in (1, 8, 9, 33, 100)] == [8, 8, 16, 48, 128]
