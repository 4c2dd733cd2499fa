import hashlib
import io
import tarfile
import threading
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from mmrs.preparation import download as module
from mmrs.preparation.download import download, unpack
from mmrs.preparation.sources import SOURCES, Archive, Source, describe
from mmrs.utils.errors import ConfigError, DataError, OutputError
from tools import download_dataset

CHUNK = 1 << 16
FOLDERS = {'Val/Rural/images_png': 3, 'Val/Rural/masks_png': 3}
# No PNG compresses any further, and neither does this.
NAMES = [f'{folder}/{i}.png' for folder in FOLDERS for i in range(3)]
FILES = {name: np.random.default_rng(seed).bytes(100_000 + seed) for seed, name in enumerate(NAMES)}


class Server(ThreadingHTTPServer):
    """Serves one file of bytes, with faults to order."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.content = content
        self.supports_range = True
        self.cut_after: list[int] = []  # bytes that each of the next answers sends before the connection is lost
        self.status = 200
        self.ranges: list[str | None] = []  # of the requests

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}/files/Val.zip?download=1'


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers['Range'])
        if server.status != 200:
            self.send_error(server.status)
            return
        start = 0
        if server.supports_range and self.headers['Range']:
            start = int(self.headers['Range'].removeprefix('bytes=').removesuffix('-'))
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {start}-{len(server.content) - 1}/{len(server.content)}')
        else:
            self.send_response(200)
        self.send_header('Content-Length', str(len(server.content) - start))
        self.end_headers()
        end = start + server.cut_after.pop(0) if server.cut_after else None
        self.wfile.write(server.content[start:end])

    def log_message(self, *args):
        pass


def zipped(files: dict[str, bytes], links: dict[str, str] | None = None, kind: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', kind) as archive:
        for name, target in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o120777 << 16  # Unix, a symbolic link
            archive.writestr(info, target)
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], links: dict[str, str] | None = None, kind: bytes = tarfile.SYMTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def describe_archive(content: bytes, url: str = 'http://127.0.0.1:9/Val.zip') -> Archive:
    return Archive(url=url, size=len(content), md5=hashlib.md5(content).hexdigest(), folders=FOLDERS)


@pytest.fixture
def server(monkeypatch):
    server = Server(zipped(FILES))
    # A short poll: shutting down waits for it.
    threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()
    source = Source('Small', 'the page', 'the terms', 'nothing', dict(val=describe_archive(server.content, server.url)))
    monkeypatch.setitem(SOURCES, 'small', source)
    yield server
    server.shutdown()
    server.server_close()


def unpacked(folder, content: bytes, name: str = 'Val.zip') -> dict[str, bytes]:
    """What is in a folder after an archive was unpacked into `out` below it, without the archive itself."""
    path = folder / 'out' / name
    path.parent.mkdir()
    path.write_bytes(content)
    try:
        unpack(path, describe_archive(content), path.parent)
    finally:
        found = contents(folder)
        assert found.pop(f'out/{name}') == content
        assert not [path for path in folder.rglob('*') if path.is_symlink()]
    return found


def contents(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


WHOLE = {f'out/{name}': content for name, content in FILES.items()}


def test_archives_are_described_as_published():
    archives = SOURCES['loveda'].archives
    for split, title, rural, urban in (
        ('train', 'Train', 1366, 1156),
        ('val', 'Val', 992, 677),
        ('test', 'Test', 976, 820),
    ):
        kinds = ('images_png',) if split == 'test' else ('images_png', 'masks_png')
        expected = {f'{title}/{s}/{kind}': n for s, n in (('Rural', rural), ('Urban', urban)) for kind in kinds}
        assert (archives[split].name, archives[split].top, archives[split].folders) == (f'{title}.zip', title, expected)
    assert 'zenodo.org/records/5706578/files/Val.zip' in describe('loveda')
    (voc,) = SOURCES['voc2012'].archives.values()
    assert (voc.name, voc.top, voc.size) == ('VOCtrainval_11-May-2012.tar', 'VOCdevkit', 1999639040)
    # One label map for each of the 1464 training and 1449 validation images.
    assert voc.folders['VOCdevkit/VOC2012/SegmentationClass'] == 1464 + 1449


def test_whole_run(server, tmp_path, capsys):
    out = tmp_path / 'data'
    assert download_dataset.main(['small', '-o', str(out), '--dry-run']) == 0
    assert server.url in capsys.readouterr().err
    assert not out.exists()
    assert server.ranges == []
    assert download_dataset.main(['small', '-o', str(out)]) == 0
    assert contents(out) == FILES
    assert server.ranges == [None]
    assert 'the terms' in capsys.readouterr().err
    assert download_dataset.main(['small', '-o', str(tmp_path / 'kept'), '--keep-archives']) == 0
    assert contents(tmp_path / 'kept') == {**FILES, 'Val.zip': server.content}
    # Once more: everything is there.
    assert download_dataset.main(['small', '-o', str(out)]) == 0
    assert server.ranges == [None, None]
    assert 'complete' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('present', 'supports_range', 'cut_after', 'begins'),
    [
        # In chunks of 64 KiB, of which the last stays incomplete each time.
        (0, True, [150_000, 70_000, 200_000], [0, 2 * CHUNK, 3 * CHUNK, 6 * CHUNK]),
        (1000, True, [], [1000]),
        (1000, False, [], [1000]),  # it begins anew
        (None, True, [], []),
    ],
)
def test_what_has_arrived_counts(server, tmp_path, present, supports_range, cut_after, begins):
    server.supports_range, server.cut_after = supports_range, cut_after
    if present != 0:
        (tmp_path / 'Val.zip.part').write_bytes(server.content[:present])
    download('small', tmp_path)
    assert server.ranges == [f'bytes={begin}-' if begin else None for begin in begins]
    assert contents(tmp_path) == FILES


def test_a_stopped_run_goes_on_where_it_was(server, tmp_path, capsys):
    server.cut_after = [150_000, 0]
    assert download_dataset.main(['small', '-o', str(tmp_path)]) == 2
    assert contents(tmp_path) == {'Val.zip.part': server.content[: 2 * CHUNK]}
    message = capsys.readouterr().err
    assert f'{2 * CHUNK} of {len(server.content)} bytes arrived' in message
    assert f'put them into {tmp_path}' in message
    assert describe_archive(server.content).md5 in message
    assert download_dataset.main(['small', '-o', str(tmp_path)]) == 0
    assert server.ranges[2:] == [f'bytes={2 * CHUNK}-']
    assert contents(tmp_path) == FILES


def test_wrong_checksum(server, tmp_path):
    (tmp_path / 'Val.zip.part').write_bytes(b'x' * 1000)  # of another file
    with pytest.raises(DataError, match=f'Val.zip.*expected md5:{describe_archive(server.content).md5}'):
        download('small', tmp_path)
    assert contents(tmp_path) == {}
    download('small', tmp_path)
    assert contents(tmp_path) == FILES


@pytest.mark.parametrize('status', [404, 429, 503])
def test_server_says_no(server, tmp_path, status):
    server.status = status
    with pytest.raises(DataError, match=f'cannot be downloaded: {status}'):
        download('small', tmp_path)
    assert len(server.ranges) == 1
    assert contents(tmp_path) == {}


def test_without_network_everything_missing_is_listed(tmp_path, monkeypatch):
    content = zipped(FILES)
    archives = {name: describe_archive(content, f'http://127.0.0.1:9/{name}.zip') for name in ('a', 'b', 'c')}
    monkeypatch.setitem(SOURCES, 'small', Source('Small', '', '', '', archives))
    (tmp_path / 'a.zip').write_bytes(content)
    with pytest.raises(DataError, match=r'0 of \d+ bytes arrived \(ConnectionError\)') as error:
        download('small', tmp_path, ['b', 'c'])
    for name in ('b', 'c'):
        assert f'http://127.0.0.1:9/{name}.zip (' in str(error.value)
    assert 'a.zip (' not in str(error.value)


@pytest.mark.parametrize('change', ['', 'cut', 'changed'])
def test_an_archive_put_there_by_hand(server, tmp_path, change):
    right = describe_archive(server.content)
    content = server.content[:-1] + {'': server.content[-1:], 'cut': b'', 'changed': b'x'}[change]
    (tmp_path / 'Val.zip').write_bytes(content)
    if change:
        with pytest.raises(
            DataError, match=rf'Val\.zip has {len(content)} bytes.* {right.size} .* {right.md5}'
        ) as error:
            download('small', tmp_path)
        assert (hashlib.md5(content).hexdigest() in str(error.value)) is (change == 'changed')
    else:
        download('small', tmp_path)
    # It stays, and is not overwritten.
    assert contents(tmp_path) == {**({} if change else FILES), 'Val.zip': content}
    assert server.ranges == []


def damaged(content: bytes) -> bytes:
    at = content.index(FILES['Val/Rural/masks_png/1.png'])
    return content[:at] + b'xxx' + content[at + 3 :]


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('Val.zip', zipped(dict(list(FILES.items())[:-1])), 'Val/Rural/masks_png 2 of 3'),
        ('Val.zip', zipped(FILES)[:-5000], r'\d+ bytes\) is damaged: .* an archive of'),
        ('Val.zip', damaged(zipped(FILES)), 'Val.zip .* is damaged: .*masks_png/1.png'),
        ('Val.zip', b'<html>', r'6 bytes\) is damaged'),
        (
            'Val.zip',
            zipped({n: bytes(10**7) for n in FILES}, kind=zipfile.ZIP_DEFLATED),
            'would unpack to 60000000 bytes',
        ),
        ('Val.tar', tarred(FILES)[:300_000], r'Val\.tar .* is damaged'),
    ],
    ids=['missing member', 'truncated', 'damaged member', 'no zip', 'far more than its size', 'truncated tar'],
)
def test_bad_archives(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        unpacked(tmp_path, content, name)
    assert contents(tmp_path) == {f'out/{name}': content}


STRAY = ('../evil.png', 'Val/../../evil.png', '/tmp/evil.png', 'Val/Rural/images_png/../evil.png', 'Val/x.sh')


@pytest.mark.parametrize(('name', 'pack'), [('Val.zip', zipped), ('Val.tar', tarred)])
def test_only_what_is_wanted_gets_out_of_an_archive(tmp_path, name, pack):
    stray = (*STRAY, 'Val/Rural/images_png/..', 'Val/Rural/images_png/notes.xml')
    assert unpacked(tmp_path, pack({**FILES, **dict.fromkeys(stray, b'evil')}), name) == WHOLE


def test_links_in_a_zip_file_are_not_made(tmp_path):
    """A link to a folder outside, through which a later member is to be written."""
    (tmp_path / 'outside').mkdir()
    names = ('Val', 'Val/Rural', 'Val/Rural/images_png', 'Val/Rural/link.png')
    assert unpacked(tmp_path, zipped(FILES, dict.fromkeys(names, str(tmp_path / 'outside')))) == WHOLE


@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_tar_file_makes_files_only(kind, tmp_path):
    (tmp_path / 'secret').write_bytes(b'mine')
    names = ('Val/Rural/link', 'Val/Rural/images_png', 'Val/Rural/images_png/9.png')
    content = tarred(FILES, dict.fromkeys(names, str(tmp_path / 'secret')), kind)
    assert unpacked(tmp_path, content, 'Val.tar') == {**WHOLE, 'secret': b'mine'}


@pytest.mark.parametrize('name', ['C:/evil.png', 'C:evil.png', '..\\evil.png', 'Val/Rural/images_png/..\\..\\evil.png'])
def test_names_of_other_systems_stay_in_the_folder(name, tmp_path):
    with suppress(DataError):  # of one file too many, where this system takes it for a name
        unpacked(tmp_path, zipped({**FILES, name: b'evil'}))
    assert {path.name for path in tmp_path.iterdir()} == {'out'}
    assert {path.name for path in (tmp_path / 'out').iterdir()} <= {'Val', 'Val.zip'}


def test_what_a_killed_run_left_is_replaced(server, tmp_path):
    rest = tmp_path / '.Val.part/Val/Rural/images_png'
    rest.mkdir(parents=True)
    (rest / '0.png').write_bytes(b'half')
    download('small', tmp_path)
    assert contents(tmp_path) == FILES


def test_incomplete_folder_is_reported_and_left_alone(server, tmp_path):
    (tmp_path / 'Val/Rural/images_png').mkdir(parents=True)
    (tmp_path / 'Val/Rural/images_png/0.png').write_bytes(b'mine')
    with pytest.raises(DataError, match=r'Val is not complete.*images_png 1 of 3, Val/Rural/masks_png 0 of 3'):
        download('small', tmp_path)
    assert contents(tmp_path) == {'Val/Rural/images_png/0.png': b'mine'}


@pytest.mark.parametrize('below', ['', 'folder'])
def test_a_file_in_place_of_the_folder(server, tmp_path, below):
    (tmp_path / 'file').write_text('x')
    with pytest.raises(OutputError, match=r'file is a file; a folder is needed here'):
        download('small', tmp_path / 'file' / below)
    assert server.ranges == []


def test_no_room(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda path: type('Usage', (), dict(free=len(server.content))))
    with pytest.raises(OutputError, match=r'0.0 GB of free space'):
        download('small', tmp_path / 'new' / 'folder')
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda path: type('Usage', (), dict(free=2 * len(server.content))))
    download('small', tmp_path / 'new' / 'folder')


def test_names_and_splits(server, tmp_path, capsys):
    with pytest.raises(ConfigError, match="split of Small is 'train'; one of val"):
        download('small', tmp_path, ['train'])
    for name in SOURCES:
        assert download_dataset.main([name]) == 0
        assert SOURCES[name].page in capsys.readouterr().out
    assert download_dataset.main(['potsdam', '-o', str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert 'has to be downloaded by hand' in message
    assert 'tools/dataset_converters/potsdam.py' in message
    with pytest.raises(ConfigError, match="'lovda'; one of loveda, potsdam"):
        describe('lovda')
