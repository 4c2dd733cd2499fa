from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mmrs.utils import CheckpointError, OutputError
from mmrs.utils.files import atomic_path
from mmrs.weights import read_checkpoint


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers of a module, with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f'{name} {value.dtype} {tuple(value.shape)};'.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class FeatureCache:
    """Feature maps of single images in a folder, one file for each.

    Several processes may share a folder: a file has its name only once it is complete, and names differ wherever
    contents could.

    Args:
        folder: Where the files are; made if needed.
        context: Whatever all feature maps depend on, beside their image.
    """

    def __init__(self, folder: str | Path, context: str) -> None:
        self.folder = Path(folder).expanduser()
        self.context = context

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(f'{self.context}\n{key}'.encode()).hexdigest()
        return self.folder / name[:2] / f'{name}.pt'

    def get(self, key: str) -> dict[str, Tensor] | None:
        """Feature maps ``(C, H, W)`` by name, on the CPU; None if there are none for this key.

        Raises:
            CheckpointError: The file is damaged.
        """
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            raise CheckpointError(f'{path} holds no feature maps ({error}); delete it, it will be made anew') from error

    def put(self, key: str, features: Mapping[str, Tensor]) -> None:
        """Keep the feature maps ``(C, H, W)`` of an image.

        Raises:
            OutputError: The file cannot be written.
        """
        path = self._path(key)
        # A slice of a batch would be saved with the whole batch.
        kept = {name: value.detach().cpu().clone() for name, value in features.items()}
        try:
            with atomic_path(path, overwrite=True) as temporary:
                torch.save(kept, temporary)
        except (OSError, RuntimeError) as error:
            raise OutputError(f'{path} cannot be written ({error}); choose another model.feature_cache') from error

    def of_batch(
        self, keys: Sequence[str], compute: Callable[[list[int]], Mapping[str, Tensor]], device: torch.device
    ) -> dict[str, Tensor]:
        """Feature maps of several images: those that are kept from the folder, the others computed together, and kept.

        Args:
            keys: One for each image.
            compute: Makes feature maps ``(M, C, H, W)`` by name of the M images with the given indices.
            device: Where the maps are wanted.

        Returns:
            Feature maps ``(N, C, H, W)`` by name, in the order of `keys`.

        Raises:
            CheckpointError: A file is damaged.
            OutputError: A file cannot be written.
        """
        found = {i: maps for i, key in enumerate(keys) if (maps := self.get(key)) is not None}
        missing = [i for i in range(len(keys)) if i not in found]
        computed = compute(missing) if missing else {}
        for n, i in enumerate(missing):
            found[i] = {name: maps[n] for name, maps in computed.items()}
            self.put(keys[i], found[i])
        return {name: torch.stack([found[i][name].to(device) for i in range(len(keys))]) for name in found[0]}
