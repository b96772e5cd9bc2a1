import numpy as np
import pytest
import torch
from PIL import Image

from isopatch.data.augment import TrainTransform
from isopatch.data.loader import TrainLoader
from isopatch.data.memory import KeptSource, keep_in_memory
from isopatch.data.sampler import EpochSampler
from isopatch.image.contract import InputContract
from isopatch.image.decode import DecodeError
from isopatch.training.config import AugmentConfig


class Pictures:
    """A source over arrays that counts what is decoded."""

    classes = ("a", "b")
    fingerprint = "f00"

    def __init__(self, arrays, bad=()):
        self.arrays = arrays
        self.bad = bad
        self.labels = np.arange(len(arrays), dtype=np.int64) % 2
        self.reads = 0

    def __len__(self):
        return len(self.arrays)

    def name(self, index):
        return f"picture-{index}"

    def read(self, index):
        self.reads += 1
        if index in self.bad:
            raise DecodeError(self.name(index), "damaged")
        return Image.fromarray(self.arrays[index])


def noise(count, *sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*sizes[i % len(sizes)], 3), dtype=np.uint8) for i in range(count)]


@pytest.mark.parametrize("sizes", [[(8, 8)], [(8, 6), (5, 9)]], ids=["one size", "several sizes"])
def test_a_kept_source_is_the_source_without_decoding(sizes):
    source = Pictures(noise(40, *sizes))
    kept = keep_in_memory(source, limit_mb=1)
    assert isinstance(kept, KeptSource)
    reads = source.reads
    assert len(kept) == 40
    for index in range(40):
        assert kept.read(index).tobytes() == source.arrays[index].tobytes()
        assert kept.read(index).mode == "RGB"
        np.testing.assert_array_equal(kept.picture(index), source.arrays[index])
    assert source.reads == reads
    assert (kept.classes, kept.fingerprint, kept.name(3)) == (source.classes, "f00", "picture-3")
    np.testing.assert_array_equal(kept.labels, source.labels)


def test_one_size_is_one_array_and_a_late_other_size_is_kept_too():
    assert keep_in_memory(Pictures(noise(20, (8, 8))), limit_mb=1).picture(3).base is not None
    arrays = noise(40, (8, 8))
    arrays[33] = noise(1, (3, 7))[0]  # between the pictures that are looked at for the estimate
    kept = keep_in_memory(Pictures(arrays), limit_mb=1)
    for index, array in enumerate(arrays):
        np.testing.assert_array_equal(kept.picture(index), array)


def test_kept_pictures_cannot_be_changed_by_accident():
    for sizes in ([(8, 8)], [(8, 6), (5, 9)]):
        kept = keep_in_memory(Pictures(noise(20, *sizes)), limit_mb=1)
        with pytest.raises(ValueError, match="read-only"):
            kept.picture(0)[0] = 1
        kept.read(0).putpixel((0, 0), (1, 2, 3))  # a picture is the caller's own
        np.testing.assert_array_equal(kept.picture(0), noise(20, *sizes)[0])


def test_the_limit_counts_decoded_bytes():
    needed = 40 * 8 * 8 * 3 / 1e6
    assert isinstance(keep_in_memory(Pictures(noise(40, (8, 8))), limit_mb=needed), KeptSource)
    source = Pictures(noise(40, (8, 8)))
    assert keep_in_memory(source, limit_mb=needed * 0.99) is source
    assert source.reads <= 16  # an estimate is enough
    assert keep_in_memory(source, limit_mb=0) is source


def test_a_wrong_estimate_is_given_up_at_the_limit():
    arrays = noise(1000, (8, 8))
    arrays[301] = noise(1, (400, 400))[0]
    source = Pictures(arrays)
    assert keep_in_memory(source, limit_mb=0.3) is source
    assert source.reads < 330


def test_a_picture_that_cannot_be_read_raises_as_the_source_does():
    with pytest.raises(DecodeError, match="picture-7: damaged"):
        keep_in_memory(Pictures(noise(40, (8, 8)), bad={7}), limit_mb=1)


def test_keeping_twice_decodes_once():
    source = Pictures(noise(20, (8, 8)))
    kept = keep_in_memory(source, limit_mb=1)
    reads = source.reads
    assert keep_in_memory(kept, limit_mb=1) is kept
    assert source.reads == reads


def with_one_pixel_changed(arrays):
    changed = [array.copy() for array in arrays]
    changed[11][2, 1, 0] ^= 1
    return changed


def with_two_pictures_swapped(arrays):
    return [*arrays[:5], arrays[6], arrays[5], *arrays[7:]]


def with_one_turned_on_its_side(arrays):
    changed = list(arrays)
    height, width = changed[3].shape[:2]
    changed[3] = changed[3].reshape(width, height, 3)  # the same bytes, another shape
    return changed


@pytest.mark.parametrize("sizes", [[(8, 6)], [(8, 6), (5, 9)]], ids=["one size", "several sizes"])
def test_the_digest_tells_any_other_content_and_nothing_else(sizes):
    arrays = noise(20, *sizes)
    kept = keep_in_memory(Pictures(arrays), limit_mb=1)
    assert keep_in_memory(Pictures(arrays), limit_mb=1).digest() == kept.digest()
    as_list = KeptSource(Pictures(arrays), [array.copy() for array in arrays])
    assert as_list.digest() == kept.digest()  # how it is kept does not matter
    for change in (with_one_pixel_changed, with_two_pictures_swapped, with_one_turned_on_its_side):
        other = keep_in_memory(Pictures(change(arrays)), limit_mb=1)
        assert other.digest() != kept.digest(), change.__name__
        assert other.fingerprint == kept.fingerprint  # which alone would not notice
    relabelled = Pictures(arrays)
    relabelled.labels = relabelled.labels[::-1].copy()
    assert keep_in_memory(relabelled, limit_mb=1).digest() != kept.digest()
    fewer = Pictures(arrays[:19])
    assert keep_in_memory(fewer, limit_mb=1).digest() != kept.digest()


def test_the_digest_is_computed_once(monkeypatch):
    kept = keep_in_memory(Pictures(noise(20, (8, 8))), limit_mb=1)
    first = kept.digest()
    monkeypatch.setattr(kept, "_pixels", None)
    assert kept.digest() == first


@pytest.mark.parametrize("crop", ["random-resized", "padded", "simple-random", "none"])
@pytest.mark.parametrize("sizes", [[(16, 16)], [(20, 31), (16, 16), (9, 40)]], ids=["one size", "several"])
def test_kept_or_not_the_batches_are_the_same(crop, sizes):
    source = Pictures(noise(24, *sizes))
    transform = TrainTransform(AugmentConfig(crop=crop), InputContract(height=16, width=16))
    batches = []
    for limit in (0, 1):
        sampler = EpochSampler(24, global_batch=8, data_seed=0)
        loader = TrainLoader(
            source, transform, sampler, workers=0, data_seed=0, start=0, stop=6, memory_limit_mb=limit
        )
        batches.append(torch.cat([batch.images for batch in loader]))
    assert torch.equal(*batches)
