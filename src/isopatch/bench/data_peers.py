"""The peers' loaders at their best setting, with our settings: timm's `create_loader`, torchvision's v2."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from isopatch.data.augment import AugmentSettings
from isopatch.errors import UsageError
from isopatch.image.contract import InputContract

Opener = Callable[[int], AbstractContextManager[Iterator[Tensor]]]


class Settings(Protocol):
    """What a peer is given."""

    @property
    def augment(self) -> AugmentSettings:
        """The random changes."""
        ...

    @property
    def contract(self) -> InputContract:
        """The model's input."""
        ...

    @property
    def batch_size(self) -> int:
        """Pictures in a batch."""
        ...

    @property
    def workers(self) -> int:
        """Loader processes."""
        ...


def timm_loader(folder: Path, settings: Settings) -> Opener:
    """timm: PIL in the workers, uint8 batches, normalised and erased on arrival (its prefetcher)."""
    from timm.data.dataset_factory import create_dataset
    from timm.data.loader import create_loader

    augment, contract = settings.augment, settings.contract
    _only_random_resized(augment, "timm")
    if augment.torchvision_ops or augment.three_augment:
        raise UsageError("--peers timm: it has neither torchvision's RandAugment nor DeiT III's policy")
    dataset = create_dataset("", root=str(folder))

    def opened(turn: int) -> AbstractContextManager[Iterator[Tensor]]:
        torch.manual_seed(turn)
        loader = create_loader(
            dataset,
            input_size=(3, contract.height, contract.width),
            batch_size=settings.batch_size,
            is_training=True,
            re_prob=augment.erasing,
            re_mode="pixel" if augment.erasing_mode == "pixel" else "const",
            scale=augment.scale,
            ratio=augment.ratio,
            hflip=augment.flip,
            color_jitter=augment.color_jitter,
            auto_augment=augment.rand_augment,
            interpolation=augment.interpolation,
            mean=contract.mean,
            std=contract.std,
            num_workers=settings.workers,
            device=torch.device("cpu"),
            persistent_workers=settings.workers > 0,
        )
        return _endless(loader)

    return opened


def torchvision_loader(folder: Path, settings: Settings, *, tensors: bool = False) -> Opener:
    """torchvision: decoded, cropped and flipped as uint8 tensors, its fastest way; normalised in the workers.

    tensors: the policy on tensors too, which interpolates bilinearly at best; else on PIL images, bicubic as
        the recipes have it. Its RandAugment always applies an operation, timm's with probability 0.5: here it
        has that probability, so that as much is done to a picture.
    """
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image, read_file
    from torchvision.transforms import InterpolationMode, v2

    augment, contract = settings.augment, settings.contract
    _only_random_resized(augment, "torchvision")
    if augment.three_augment:
        raise UsageError("--peers torchvision: it has no transform of DeiT III's policy")
    bilinear = augment.interpolation == "bilinear"
    crop_filter = InterpolationMode.BILINEAR if bilinear else InterpolationMode.BICUBIC
    policy_filter = InterpolationMode.BILINEAR if tensors else crop_filter
    fill = [round(255 * value) for value in contract.mean]
    policy: list[Any] = []
    if augment.rand_augment is not None:
        one = v2.RandAugment(num_ops=1, magnitude=9, interpolation=policy_filter, fill=fill)
        policy = [v2.RandomApply([one], p=0.5), v2.RandomApply([one], p=0.5)]
    if augment.torchvision_ops:
        policy = [v2.RandAugment(num_ops=augment.torchvision_ops, magnitude=augment.torchvision_magnitude)]
    if augment.color_jitter:
        policy.append(v2.ColorJitter(augment.color_jitter, augment.color_jitter, augment.color_jitter))
    if policy and not tensors:
        policy = [v2.ToPILImage(), *policy, v2.PILToTensor()]
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(
                (contract.height, contract.width), augment.scale, augment.ratio, interpolation=crop_filter
            ),
            v2.RandomHorizontalFlip(augment.flip),
            *policy,
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(contract.mean, contract.std),
            v2.RandomErasing(augment.erasing, value="random" if augment.erasing_mode == "pixel" else 0),
        ]
    )

    def decode(path: str) -> Tensor:
        image: Tensor = decode_image(read_file(path), mode=ImageReadMode.RGB, apply_exif_orientation=True)
        return image

    dataset = ImageFolder(str(folder), transform=transform, loader=decode)

    def opened(turn: int) -> AbstractContextManager[Iterator[Tensor]]:
        generator = torch.Generator().manual_seed(turn)
        loader = torch.utils.data.DataLoader(
            dataset,
            batch_size=settings.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=settings.workers,
            persistent_workers=settings.workers > 0,
            generator=generator,
        )
        return _endless(loader)

    return opened


@contextmanager
def _endless(loader: Any) -> Iterator[Iterator[Tensor]]:
    """Yield the batches of one epoch after another."""

    def batches() -> Iterator[Tensor]:
        while True:
            for images, _ in loader:
                yield images

    iterator = batches()
    try:
        yield iterator
    finally:
        iterator.close()  # type: ignore[attr-defined]


def _only_random_resized(augment: AugmentSettings, peer: str) -> None:
    if augment.crop != "random-resized":
        raise UsageError(f"--peers {peer}: compared with crop random-resized only, not with {augment.crop}")


PEERS: dict[str, Callable[[Path, Settings], Opener]] = {
    "timm": timm_loader,
    "torchvision": torchvision_loader,
    "torchvision-bilinear": functools.partial(torchvision_loader, tensors=True),
}
