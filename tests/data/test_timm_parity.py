"""What needs timm or torchvision (8 s to import), in one file: equality with them, and their seeding."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from isopatch.data import colours, geometry, mixing
from isopatch.data.augment import TrainTransform, make_erasing
from isopatch.data.crops import RandomResizedCrop, as_image
from isopatch.data.loader import TrainLoader
from isopatch.data.mixing import mix, smooth_targets
from isopatch.data.policies import timm_rand_augment
from isopatch.data.sampler import EpochSampler
from isopatch.data.seeding import derive_seed, restored_generators, seeded
from isopatch.image import native
from isopatch.image.contract import InputContract
from isopatch.training.config import AugmentConfig, MixConfig

timm_data = pytest.importorskip("timm.data")
transforms = pytest.importorskip("torchvision.transforms")

PAPERS = "rand-m9-mstd0.5-inc1"
CONTRACT = InputContract(height=40, width=48, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def picture(seed=0, height=70, width=90):
    """Noise over a gradient, so that every geometric and colour operation shows."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 180, width)[None, :, None] + rng.integers(0, 76, (height, width, 3))
    return Image.fromarray(ramp.astype(np.uint8))


def global_states():
    _, keys, position, *rest = np.random.get_state()
    return random.getstate(), (keys.tolist(), position, *rest), torch.get_rng_state().tolist()


def timm_pipeline(interpolation, **options):
    """timm's training transform in its three parts: crop and flip, policy, tensor and erasing.

    Its ratio is the crop's own aspect, ours is relative to the contract's.
    """
    aspect = CONTRACT.width / CONTRACT.height
    return timm_data.create_transform(
        (3, CONTRACT.height, CONTRACT.width),
        is_training=True,
        color_jitter=None,
        interpolation=interpolation,
        ratio=(3 / 4 * aspect, 4 / 3 * aspect),
        mean=CONTRACT.mean,
        std=CONTRACT.std,
        separate=True,
        **options,
    )


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
def test_the_random_crop_is_timms(interpolation):
    ours = RandomResizedCrop(CONTRACT, interpolation=interpolation)
    theirs = timm_pipeline(interpolation)[0].transforms[0]
    for seed in range(60):
        size = [(70, 90), (300, 20), (9, 200), (48, 40)][seed % 4]
        with seeded(seed):
            expected = theirs(picture(seed, *size))
        np.testing.assert_array_equal(ours(picture(seed, *size), random.Random(seed)), np.asarray(expected))


@pytest.mark.parametrize("interpolation", ["bicubic", "random"])
def test_the_whole_pipeline_is_timms_stage_by_stage(interpolation):
    """DeiT's and ConvMixer's: the seed of each stage given, samples are equal to the bit."""
    settings = AugmentConfig(rand_augment=PAPERS, erasing=0.5, interpolation=interpolation)
    ours = TrainTransform(settings, CONTRACT)
    primary, policy, final = timm_pipeline(interpolation, auto_augment=PAPERS, re_prob=0.5, re_mode="pixel")
    to_tensor, normalize, erase = final.transforms
    for seed in range(40):
        with restored_generators() as reseed:
            reseed(seed)
            image = primary.transforms[0](picture(seed))
            if random.random() < 0.5:  # timm's flip draws from torch; ours goes on where the crop ended
                image = transforms.functional.hflip(image)
            reseed(derive_seed(seed, "policy"))
            image = policy(image)
            reseed(derive_seed(seed, "erasing"))
            expected = erase(normalize(to_tensor(image)))
        assert torch.equal(ours(picture(seed), seed=seed), expected), seed


def test_rand_augment_has_timms_operations_and_parameters():
    ours = timm_rand_augment(PAPERS, CONTRACT, "bicubic")
    theirs = timm_pipeline("bicubic", auto_augment=PAPERS)[1].transforms[0]
    assert repr(ours) == repr(theirs)
    assert [op.hparams for op in ours.ops] == [op.hparams for op in theirs.ops]
    assert [op.kwargs for op in ours.ops] == [op.kwargs for op in theirs.ops]
    assert len(ours.ops) == 15 and ours.num_layers == 2


def test_torchvisions_rand_augment_then_jitter_as_in_the_convmixer_script():
    settings = AugmentConfig(
        crop="none", flip=0, torchvision_ops=2, torchvision_magnitude=12, color_jitter=0.2
    )
    contract = InputContract(height=70, width=90, crop_fraction=1.0)
    ours = TrainTransform(settings, contract)
    theirs = transforms.Compose(
        [
            transforms.RandAugment(num_ops=2, magnitude=12),
            transforms.ColorJitter(0.2, 0.2, 0.2),
            transforms.ToTensor(),
            transforms.Normalize(contract.mean, contract.std),
        ]
    )
    for seed in range(20):
        with seeded(derive_seed(seed, "policy")):
            expected = theirs(picture(seed))
        assert torch.equal(ours(picture(seed), seed=seed), expected)


@pytest.mark.parametrize("mode", ["pixel", "zero"])
def test_erasing_fills_one_rectangle(mode):
    erase = make_erasing(1.0, mode)
    for seed in range(30):
        image = torch.full((3, 40, 48), 7.0)
        with seeded(seed):
            erase(image)
        changed = (image != 7).all(dim=0)
        rows, columns = changed.any(dim=1).nonzero(), changed.any(dim=0).nonzero()
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert int(changed.sum()) == height * width
        assert 0.015 < height * width / (40 * 48) < 0.35
        values = image[:, changed]
        if mode == "zero":
            assert not values.any()
        else:
            assert values.unique().numel() > values.numel() * 0.99
            assert abs(float(values.mean())) < 0.6 and 0.7 < float(values.std()) < 1.4


EVERYTHING = [
    AugmentConfig(rand_augment=PAPERS, erasing=0.5, interpolation="random"),
    AugmentConfig(crop="padded", torchvision_ops=2, color_jitter=0.3, erasing=0.5, erasing_mode="zero"),
    AugmentConfig(crop="simple-random", three_augment=True, color_jitter=0.3),
]


@pytest.mark.parametrize("settings", EVERYTHING, ids=["timm", "torchvision", "three-augment"])
def test_libraries_leave_the_global_generators_alone(settings):
    transform = TrainTransform(settings, CONTRACT)
    before = global_states()
    transform.batch([picture(seed) for seed in range(16)], range(16))
    assert global_states() == before


def test_without_the_scope_the_libraries_change_the_generators():
    before = global_states()
    policy = timm_rand_augment(PAPERS, CONTRACT, "random")
    jitter = transforms.ColorJitter(0.3, 0.3, 0.3)
    for seed in range(16):
        jitter(as_image(policy(picture(seed))))
    after = global_states()
    assert all(old != new for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("settings", EVERYTHING, ids=["timm", "torchvision", "three-augment"])
def test_a_sample_does_not_depend_on_its_neighbours_or_on_the_generators(settings):
    transform = TrainTransform(settings, CONTRACT)
    alone = [transform(picture(seed), seed=seed) for seed in range(12)]
    random.seed(99)
    np.random.seed(99)
    together = transform.batch([picture(seed) for seed in reversed(range(12))], range(11, -1, -1))
    assert torch.equal(together.flip(0), torch.stack(alone))


class Pictures:
    """48 times the same picture."""

    classes = ("a", "b")
    fingerprint = "f00"
    labels = np.arange(48, dtype=np.int64) % 2

    def __len__(self):
        return 48

    def name(self, index):
        return str(index)

    def read(self, index):
        return picture()


def test_workers_epochs_and_copies_share_no_draws_and_change_no_bit():
    transform = TrainTransform(EVERYTHING[0], CONTRACT)
    runs = []
    for workers in (0, 2):
        sampler = EpochSampler(48, global_batch=16, data_seed=1, repeats=3)
        arguments = {"workers": workers, "data_seed": 1, "start": 0, "stop": 9}
        with TrainLoader(Pictures(), transform, sampler, **arguments) as loader:
            runs.append(torch.cat([batch.images for batch in loader]))
    assert torch.equal(*runs)
    samples = {sample.numpy().tobytes() for sample in runs[0]}
    assert len(samples) == 9 * 16


MIXES = {
    "mixup": MixConfig(mixup=0.8),
    "cutmix": MixConfig(cutmix=1.0),
    "both": MixConfig(mixup=0.8, cutmix=1.0, switch_probability=0.5),
    "sometimes": MixConfig(mixup=0.5, cutmix=0.5, probability=0.5),
}


@pytest.mark.parametrize("name", MIXES)
def test_mixing_is_timms(name):
    setting = MIXES[name]
    mixer = timm_data.Mixup(
        mixup_alpha=setting.mixup,
        cutmix_alpha=setting.cutmix,
        prob=setting.probability,
        switch_prob=setting.switch_probability,
        label_smoothing=0.1,
        num_classes=5,
    )
    images, labels = torch.randn(8, 3, 12, 14), torch.arange(8) % 5
    before = global_states()
    for seed in range(40):
        mixed, targets = mix(images.clone(), labels, 5, setting, label_smoothing=0.1, seed=seed)
        assert global_states() == before
        with seeded(seed):
            expected_images, expected_targets = mixer(images.clone(), labels)
        assert torch.equal(mixed, expected_images)
        assert torch.equal(targets, expected_targets)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))


@pytest.mark.parametrize("name", MIXES)
def test_large_pictures_are_mixed_in_place_and_alike(name, monkeypatch):
    images, labels = torch.randn(6, 3, 20, 16), torch.arange(6) % 5
    for seed in range(20):
        whole = mix(images.clone(), labels, 5, MIXES[name], label_smoothing=0.1, seed=seed)
        with monkeypatch.context() as patched:
            patched.setattr(mixing, "PAIR_BYTES", 1)
            given = images.clone()
            before = global_states()
            mixed, targets = mix(given, labels, 5, MIXES[name], label_smoothing=0.1, seed=seed)
            assert global_states() == before
        assert mixed is given
        assert torch.equal(mixed, whole[0]) and torch.equal(targets, whole[1])


def test_mixup_blends_each_picture_with_its_mirror_in_the_batch():
    images, labels = torch.randn(6, 3, 8, 8), torch.arange(6)
    mixed, targets = mix(images.clone(), labels, 6, MixConfig(mixup=1.0), label_smoothing=0, seed=4)
    share = float(targets[0, 0])
    assert 0 < share < 1
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0))
    torch.testing.assert_close(targets, share * torch.eye(6) + (1 - share) * torch.eye(6).flip(0))


def test_cutmix_counts_the_box_as_it_lies_in_the_picture():
    images, labels = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 10, 10), torch.arange(4)
    for seed in range(30):
        mixed, targets = mix(images.clone(), labels, 4, MixConfig(cutmix=1.0), label_smoothing=0, seed=seed)
        own = float((mixed[0] == 0).float().mean())
        assert float(targets[0, 0]) == pytest.approx(own, abs=1e-6)


def test_steps_that_are_not_mixed_have_the_targets_of_no_mixing():
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 2, 1, 1])
    setting = MixConfig(mixup=0.8, probability=0.5)
    unmixed = 0
    for seed in range(40):
        mixed, targets = mix(images.clone(), labels, 3, setting, label_smoothing=0.1, seed=seed)
        if torch.equal(mixed, images):
            assert torch.equal(targets, smooth_targets(labels, 3, 0.1))
            unmixed += 1
    assert 7 < unmixed < 33  # 20 +- 4 standard deviations


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
def test_compiled_and_plain_pixel_work_give_the_same_samples(interpolation, monkeypatch):
    if native.load() is None:
        pytest.skip("built without the pixel library (native/data)")
    settings = AugmentConfig(rand_augment="rand-m9-n4-p1.0-mstd0.5-inc1", interpolation=interpolation)
    transform = TrainTransform(settings, CONTRACT)
    pictures = [picture(seed, *[(70, 90), (40, 48), (300, 2)][seed % 3]) for seed in range(60)]
    ours = transform.batch(pictures, range(60))
    monkeypatch.setattr(native, "load", lambda: None)
    assert torch.equal(transform.batch(pictures, range(60)), ours)


def test_the_twins_are_timms_operations_at_special_angles():
    from timm.data import auto_augment

    for degrees in (0.0, 90.0, 180.0, -90.0, 360.0, 1e-9):
        for size in ((40, 40), (30, 50)):
            options = {"fillcolor": (1, 2, 3), "resample": Image.Resampling.BICUBIC}
            expected = auto_augment.rotate(picture(0, *size), degrees, **dict(options))
            turned = geometry.TWINS["Rotate"](picture(0, *size), degrees, **options)
            np.testing.assert_array_equal(np.asarray(turned), np.asarray(expected))


def test_the_twins_of_colour_operations_are_timms():
    from timm.data import auto_augment

    if native.load() is None:
        pytest.skip("built without the pixel library (native/data)")
    names = {*auto_augment._RAND_TRANSFORMS, *auto_augment._RAND_INCREASING_TRANSFORMS}
    ours = timm_rand_augment("rand-m9-mstd0.5-inc1", CONTRACT, "bicubic")
    assert {op.name for op in ours.ops} <= names
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 256, (50, 40, 3), dtype=np.uint8),
        rng.integers(90, 130, (1, 9, 3), dtype=np.uint8),
        rng.choice(np.array([0, 13, 255], dtype=np.uint8), (20, 2, 3)),
        np.full((30, 30, 3), 77, dtype=np.uint8),
        np.zeros((5, 5, 3), dtype=np.uint8),
        np.asarray(picture(1)),
    ]
    draws = random.Random(0)
    plain = auto_augment.rand_augment_ops(magnitude=9, hparams={"img_mean": (1, 2, 3)}, transforms=names)
    for op in plain:
        if op.name in geometry.TWINS:
            continue
        twin = colours.twin_of(op.name, lambda image, *arguments, **options: pytest.fail("no twin"))
        if op.name in colours._POINTWISE:
            twin = colours.twin_of(op.name, op.aug_fn)
        for pixels in pictures:
            for _ in range(12):
                amount = draws.uniform(0, 10)
                arguments = op.level_fn(amount, op.hparams) if op.level_fn else ()
                expected = np.asarray(op.aug_fn(Image.fromarray(pixels), *arguments, **op.kwargs))
                got = np.asarray(twin(pixels, *arguments, **op.kwargs))
                np.testing.assert_array_equal(got, expected, err_msg=f"{op.name} {arguments} {pixels.shape}")
