import pytest
import torch

from isopatch.errors import UsageError
from isopatch.nn.layout import as_map, as_tokens


def test_tokens_and_map_share_memory() -> None:
    tokens = torch.randn(2, 6, 5)
    feature_map = as_map(tokens, (2, 3))
    assert feature_map.shape == (2, 5, 2, 3)
    assert feature_map.is_contiguous(memory_format=torch.channels_last)
    assert feature_map.data_ptr() == tokens.data_ptr()
    back = as_tokens(feature_map)
    assert back.data_ptr() == tokens.data_ptr()
    assert back.is_contiguous()
    assert torch.equal(back, tokens)


def test_rows_come_before_columns() -> None:
    tokens = torch.arange(6.0).reshape(1, 6, 1)
    assert as_map(tokens, (2, 3))[0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_prefix_tokens_have_no_place_on_the_map() -> None:
    with pytest.raises(UsageError, match=r"7 tokens are not the 2 x 3 patches.*prefix tokens"):
        as_map(torch.randn(2, 7, 5), (2, 3))


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_map_of_any_batch_is_channels_last_for_convolutions_too(pictures: int) -> None:
    feature_map = as_map(torch.randn(pictures, 64, 16), (8, 8))
    convolved = torch.nn.Conv2d(16, 16, 3, padding=1, groups=16)(feature_map)
    assert convolved.stride()[1:] == (1, 8 * 16, 16)


@pytest.mark.parametrize("pictures", [1, 2])
def test_batch_norm_between_maps_and_tokens_has_the_right_gradient(pictures: int) -> None:
    """PyTorch's is wrong for a gradient whose batch of one has an odd stride."""
    norm = torch.nn.BatchNorm2d(16).eval()
    convolution = torch.nn.Conv2d(16, 16, 1)
    tokens = as_tokens(norm(convolution(as_map(torch.randn(pictures, 64, 16), (8, 8)))))
    direction = torch.randn(pictures, 64, 16)
    tokens.backward(direction)
    assert norm.bias.grad is not None
    assert torch.allclose(norm.bias.grad, direction.sum((0, 1)), atol=1e-4)
