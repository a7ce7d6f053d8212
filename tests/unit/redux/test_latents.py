"""Packing: which numbers of the latents make up which token."""

import torch

from shared.sizes import Size
from worker.redux.latents import noise, pack, positions, unpack


def test_unpacking_undoes_packing() -> None:
    cells = torch.arange(2 * 16 * 6 * 10, dtype=torch.float32).reshape(2, 16, 6, 10)
    assert torch.equal(unpack(pack(cells), Size(80, 48)), cells)


def test_a_token_holds_two_by_two_cells_of_every_channel() -> None:
    cells = torch.arange(16 * 4 * 6, dtype=torch.float32).reshape(1, 16, 4, 6)
    token = pack(cells)[0, 1 * 3 + 2]
    assert torch.equal(token.reshape(16, 2, 2), cells[0, :, 2:4, 4:6])


def test_positions_count_rows_before_columns() -> None:
    assert positions(Size(48, 32)).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]


def test_noise_depends_on_its_own_seed_alone() -> None:
    both = noise([1, 2], channels=16, size=Size(64, 32))
    assert torch.equal(both[1:], noise([2], channels=16, size=Size(64, 32)))
    assert not torch.equal(both[0], both[1])


def test_rounded_noise_is_what_bfloat16_would_have_drawn() -> None:
    drawn = torch.randn(1, 16, 4, 8, generator=torch.Generator().manual_seed(3), dtype=torch.bfloat16)
    assert torch.equal(noise([3], channels=16, size=Size(64, 32)).bfloat16(), pack(drawn))
