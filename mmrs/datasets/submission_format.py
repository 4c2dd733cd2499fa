"""What a test server takes of a data set without public labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmrs.utils.errors import DataError

__all__ = ['SubmissionFormat', 'listed']


@dataclass(frozen=True)
class SubmissionFormat:
    """What a test server takes: a zip file of 8-bit PNG label maps of training indices, without folders in it.

    Attributes:
        server: Address of the server.
        image_size: Height and width of every image.
        num_classes: K; the values are 0 to K - 1, there is none for "ignored".
        splits: Numbers of the images of each split, by its name. A label map is called by its image's number.
    """

    server: str
    image_size: tuple[int, int]
    num_classes: int
    splits: Mapping[str, range]

    def check_names(self, names: Iterable[str], where: str) -> None:
        """Whether these are the names of all images of one split or of several, each of them once.

        Args:
            names: Names without suffix.
            where: Where they were found, for the message.

        Raises:
            DataError: They are not.
        """
        names = list(names)
        twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
        if twice:
            raise DataError(f'{where}: {listed(twice)} appear more than once; the server expects each image once')
        rest = set(names)
        for split, numbers in self.splits.items():
            expected = {str(number) for number in numbers}
            missing = expected - rest
            if missing and rest & expected:
                raise DataError(
                    f'{where}: {len(expected) - len(missing)} of the {len(expected)} images of {split} are there; '
                    f'{listed(missing)} are missing. The server scores complete sets only: unpack the archive of the '
                    'data set again, and take ann_file and indices out of the configuration'
                )
            rest -= expected
        if rest or not names:
            sets = ', '.join(f'{split} {numbers[0]} to {numbers[-1]}' for split, numbers in self.splits.items())
            found = listed(rest) + ' do not belong to the test set' if rest else 'there are no images'
            raise DataError(f'{where}: {found}. Expected: {sets}')


def listed(names: Iterable[str]) -> str:
    """The first few of some names in order, for a message."""
    names = sorted(names)
    return ', '.join(names[:5]) + (f' and {len(names) - 5} more' if len(names) > 5 else '')
