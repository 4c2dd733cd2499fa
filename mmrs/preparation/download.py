"""Download of the data sets whose files are public; `sources.py` has the table."""

from __future__ import annotations

import errno
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pooch
import requests
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mmrs.preparation.sources import SUFFIXES, Archive, describe, describe_archive, find_source, gigabytes
from mmrs.utils.errors import ConfigError, DataError, OutputError, require_one_of

__all__ = ['ResumingDownloader', 'download', 'unpack']

#: Seconds without a byte after which a connection counts as lost.
TIMEOUT = 30

#: How many times its size an archive may unpack to: images are compressed already.
MOST_GROWTH = 10

# Small: what has arrived of a chunk when a connection is lost is lost too.
_CHUNK = 1 << 16


class ResumingDownloader:
    """A downloader for pooch that goes on where an earlier attempt stopped.

    What has arrived is kept in a file of its own until all of it has. A lost connection is taken up again as long as
    each attempt brings something.

    Args:
        part: Where to keep it.
        size: Bytes of the whole file.
    """

    def __init__(self, part: Path, size: int) -> None:
        self.part = part
        self.size = size

    def __call__(self, url: str, output_file: str, pooch: Any = None) -> None:
        """Download a file; raises the errors of requests."""
        with _progress() as progress:
            bar = progress.add_task(self.part.stem, total=self.size)
            while (before := self._present()) < self.size:
                failure = None
                try:
                    self._append(url, lambda done: progress.update(bar, completed=done))
                except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                    failure = error
                if (present := self._present()) <= before:
                    reason = type(failure).__name__ if failure else 'the server sent no more'
                    raise requests.ConnectionError(f'{present} of {self.size} bytes arrived ({reason})') from failure
        self.part.replace(output_file)

    def _present(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _append(self, url: str, report: Callable[[int], None]) -> None:
        present = self._present()
        headers = {'Accept-Encoding': 'identity', 'User-Agent': 'mmrs'}
        if present:
            headers['Range'] = f'bytes={present}-'
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            response.raise_for_status()
            resumed = response.status_code == requests.codes.partial_content
            with open(self.part, 'ab' if resumed else 'wb') as file:
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    report(file.tell())


def download(
    name: str, out: str | Path, splits: Sequence[str] | None = None, keep_archives: bool = False, dry_run: bool = False
) -> None:
    """Download and unpack a data set. What is there already stays; the same call continues a stopped one.

    Archives that were put into the folder by hand are used, and left there.

    Args:
        name: Key of `SOURCES`.
        out: Folder for the data set.
        splits: Which of its archives; by default all.
        keep_archives: Keep the downloaded archives.
        dry_run: Only say what would be done.

    Raises:
        ConfigError: The name or a split is unknown, or the data set cannot be downloaded.
        DataError: The server cannot be reached, or an archive or an unpacked folder is not what was published.
        OutputError: There is no room.
    """
    source, out = find_source(name), Path(out)
    if not source.archives:
        raise ConfigError(f'{source.title} has to be downloaded by hand.\n{describe(name)}')
    for split in splits or ():
        require_one_of(f'a split of {source.title}', split, source.archives)
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    console.print(f'{source.title}: {source.terms}; see {source.page}')
    todo = {}
    for split in splits or source.archives:
        archive = source.archives[split]
        if (out / archive.top).exists():
            _check_unpacked(out, archive)
            console.print(f'{out / archive.top}: complete')
        else:
            todo[split] = archive
    if dry_run:
        for split, archive in todo.items():
            have = 'is there' if (out / archive.name).exists() else f'to download: {describe_archive(split, archive)}'
            console.print(f'{out / archive.top}: {out / archive.name} {have}')
        return
    _require_room(out, list(todo.values()), keep_archives)
    for archive in todo.values():
        path = out / archive.name
        found = path.exists()
        if found:
            _check_archive(path, archive)
        else:
            _fetch(path, archive, todo)
        unpack(path, archive, out)
        if not found and not keep_archives:
            path.unlink()
        console.print(f'{out / archive.top}: complete')


def _fetch(path: Path, archive: Archive, wanted: Mapping[str, Archive]) -> None:
    downloader = ResumingDownloader(path.with_name(f'{path.name}.part'), archive.size)
    pooch.get_logger().setLevel('WARNING')
    try:
        pooch.retrieve(archive.url, f'md5:{archive.md5}', path.name, path.parent, downloader=downloader)
    except requests.RequestException as error:
        missing = [describe_archive(*item) for item in wanted.items() if not (path.parent / item[1].name).exists()]
        raise DataError(
            f'{archive.url} cannot be downloaded: {error}. Run the same command again to continue. Where there is no '
            f'network, get these files elsewhere and put them into {path.parent}; the same command unpacks them:\n  '
            + '\n  '.join(missing)
        ) from error
    except ValueError as error:  # pooch's word for a wrong checksum
        raise DataError(f'{archive.url}: {error} Run the same command again') from error
    except OSError as error:  # after those of requests, which are of this kind too
        raise OutputError(f'{path} cannot be written: {error}') from error


def _check_archive(path: Path, archive: Archive) -> None:
    size = path.stat().st_size
    found = pooch.file_hash(str(path), alg='md5') if size == archive.size else None
    if found != archive.md5:
        raise DataError(
            f'{path} has {size} bytes'
            + (f' and the md5 checksum {found}' if found else '')
            + f'; expected: {archive.size} bytes, md5 {archive.md5}. It is cut short or another file: remove it, and '
            'run the same command again to download it'
        )


def _require_room(out: Path, archives: Sequence[Archive], keep_archives: bool) -> None:
    """The images are compressed already: unpacked, they take about as much as the archive."""
    missing = [archive.size for archive in archives if not (out / archive.name).exists()]
    needed = sum(archive.size for archive in archives)
    needed += sum(missing) if keep_archives else max(missing, default=0)
    needed -= sum(part.stat().st_size for part in out.glob('*.part') if part.is_file())
    existing = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise OutputError(f'{existing} is a file; a folder is needed here')
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OutputError(
            f'{out} has {gigabytes(free)} of free space; {gigabytes(needed)} are needed. Choose another folder, or '
            'one split after the other'
        )


@contextmanager
def _opened(path: Path) -> Iterator[dict[str, tuple[int, Callable[[], Any]]]]:
    """The files in a zip or tar file by name: their size, and how to open them."""
    if path.suffix == '.tar':
        with tarfile.open(path) as tar:
            # Links and folders have no content to read.
            yield {info.name: (info.size, partial(tar.extractfile, info)) for info in tar if info.isfile()}
    else:
        with zipfile.ZipFile(path) as archive:
            yield {info.filename: (info.file_size, partial(archive.open, info)) for info in archive.infolist()}


def unpack(path: Path, archive: Archive, out: Path) -> None:
    """Unpack an archive. Its folder appears when it is complete.

    Only the files in the folders that it should have are written, so that none can get anywhere else.

    Args:
        path: The zip or tar file.
        archive: What should be in it.
        out: Folder to unpack to.

    Raises:
        DataError: The file is no whole archive, lacks files, or stands for far more than its size.
        OutputError: There is no room or no permission.
    """
    temporary = out / f'.{archive.top}.part'
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    try:
        with _opened(path) as found, _progress() as progress:
            members = {name: member for name, member in found.items() if _is_wanted(name, archive)}
            _compare(path, archive, list(members))
            total = sum(size for size, _ in members.values())
            if total > MOST_GROWTH * archive.size:
                raise DataError(
                    f'{path} would unpack to {total} bytes, where an archive of {archive.size} bytes was expected: it '
                    'is another file. Remove it, and run the same command again'
                )
            for folder in archive.folders:
                (temporary / folder).mkdir(parents=True)
            bar = progress.add_task(f'unpacking {path.name}', total=total)
            for name, (size, open_member) in members.items():
                # Reading a zip file's member to the end compares its checksum.
                with open_member() as source, open(temporary / name, 'wb') as file:
                    shutil.copyfileobj(source, file)
                progress.advance(bar, size)
        (temporary / archive.top).rename(out / archive.top)
    except DataError:
        raise
    except Exception as error:  # zipfile and tarfile have a dozen classes for what a damaged file can lead to
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # those two are about the content
            raise OutputError(f'{path} cannot be unpacked to {out}: {error}') from error
        raise DataError(
            f'{path} ({path.stat().st_size} bytes) is damaged: {error}. Expected: an archive of {archive.size} bytes. '
            'Remove it, and run the same command again'
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_wanted(name: str, archive: Archive) -> bool:
    path = PurePosixPath(name)
    return path.suffix in SUFFIXES and str(path.parent) in archive.folders


def _check_unpacked(out: Path, archive: Archive) -> None:
    found = [file.relative_to(out).as_posix() for folder in archive.folders for file in (out / folder).glob('*')]
    _compare(out / archive.top, archive, [name for name in found if _is_wanted(name, archive)])


def _compare(where: Path, archive: Archive, names: Sequence[str]) -> None:
    """Compare the number of files in each folder with the published number."""
    counts = dict.fromkeys(archive.folders, 0)
    for name in names:
        counts[str(PurePosixPath(name).parent)] += 1
    wrong = [f'{folder} {counts[folder]} of {n}' for folder, n in archive.folders.items() if counts[folder] != n]
    if wrong:
        raise DataError(
            f'{where} is not complete. Files found, of those expected: {", ".join(wrong)}. Remove it, and run the '
            'same command again'
        )


def _progress() -> Progress:
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn('left'),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
