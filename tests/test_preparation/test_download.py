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


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
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


def contents(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def test_loveda_is_described_as_published():
    archives = SOURCES['loveda'].archives
    assert [archive.name for archive in archives.values()] == ['Train.zip', 'Val.zip', 'Test.zip']
    assert archives['train'].folders == {
        'Train/Rural/images_png': 1366,
        'Train/Rural/masks_png': 1366,
        'Train/Urban/images_png': 1156,
        'Train/Urban/masks_png': 1156,
    }
    assert archives['test'].folders == {'Test/Rural/images_png': 976, 'Test/Urban/images_png': 820}
    assert archives['val'].top == 'Val'
    assert 'zenodo.org/records/5706578/files/Val.zip' in describe('loveda')


def test_whole_run(server, tmp_path, capsys):
    out = tmp_path / 'data'
    assert download_dataset.main(['small', '-o', str(out)]) == 0
    assert contents(out) == FILES
    assert server.ranges == [None]
    assert 'the terms' in capsys.readouterr().err
    # Once more: everything is there.
    assert download_dataset.main(['small', '-o', str(out)]) == 0
    assert server.ranges == [None]
    assert 'complete' in capsys.readouterr().err


def test_archives_are_kept_on_demand(server, tmp_path):
    download('small', tmp_path, keep_archives=True)
    assert contents(tmp_path) == {**FILES, 'Val.zip': server.content}


def test_a_lost_connection_is_taken_up_again(server, tmp_path):
    server.cut_after = [150_000, 70_000, 200_000]
    download('small', tmp_path)
    # In chunks of 64 KiB, the last one incomplete each time.
    kept = [2 * CHUNK, 3 * CHUNK, 6 * CHUNK]
    assert server.ranges == [None, *(f'bytes={n}-' for n in kept)]
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


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.supports_range = False
    (tmp_path / 'Val.zip.part').write_bytes(b'x' * 1000)
    download('small', tmp_path)
    assert server.ranges == ['bytes=1000-']
    assert contents(tmp_path) == FILES


def test_a_whole_part_needs_no_server(server, tmp_path):
    (tmp_path / 'Val.zip.part').write_bytes(server.content)
    download('small', tmp_path)
    assert server.ranges == []
    assert contents(tmp_path) == FILES


def test_wrong_checksum(server, tmp_path):
    (tmp_path / 'Val.zip.part').write_bytes(b'x' * 1000)  # of another file
    with pytest.raises(DataError, match=r'Val.zip.*expected md5:') as error:
        download('small', tmp_path)
    assert describe_archive(server.content).md5 in str(error.value)
    assert contents(tmp_path) == {}
    download('small', tmp_path)
    assert contents(tmp_path) == FILES


@pytest.mark.parametrize('status', [404, 429, 503])
def test_server_says_no(server, tmp_path, status):
    server.status = status
    with pytest.raises(OSError, match=f'cannot be downloaded: {status}'):
        download('small', tmp_path)
    assert len(server.ranges) == 1
    assert contents(tmp_path) == {}


def test_without_network_everything_missing_is_listed(tmp_path, monkeypatch):
    content = zipped(FILES)
    archives = {name: describe_archive(content, f'http://127.0.0.1:9/{name}.zip') for name in ('a', 'b', 'c')}
    monkeypatch.setitem(SOURCES, 'small', Source('Small', '', '', '', archives))
    (tmp_path / 'a.zip').write_bytes(content)
    with pytest.raises(OSError, match=r'0 of \d+ bytes arrived \(ConnectionError\)') as error:
        download('small', tmp_path, ['b', 'c'])
    for name in ('b', 'c'):
        assert f'http://127.0.0.1:9/{name}.zip (' in str(error.value)
    assert 'a.zip (' not in str(error.value)


def test_an_archive_put_there_by_hand_is_used_and_stays(server, tmp_path):
    (tmp_path / 'Val.zip').write_bytes(server.content)
    download('small', tmp_path)
    assert server.ranges == []
    assert contents(tmp_path) == {**FILES, 'Val.zip': server.content}


@pytest.mark.parametrize('same_size', [True, False])
def test_another_archive_put_there_by_hand(server, tmp_path, same_size):
    content = server.content[:-1] + (b'x' if same_size else b'')
    (tmp_path / 'Val.zip').write_bytes(content)
    with pytest.raises(DataError) as error:
        download('small', tmp_path)
    right = describe_archive(server.content)
    assert f'Val.zip has {len(content)} bytes' in str(error.value)
    assert f'expected: {right.size} bytes, md5 {right.md5}' in str(error.value)
    assert (hashlib.md5(content).hexdigest() in str(error.value)) is same_size
    assert contents(tmp_path) == {'Val.zip': content}  # not overwritten


def damaged(content: bytes) -> bytes:
    at = content.index(FILES['Val/Rural/masks_png/1.png'])
    return content[:at] + b'xxx' + content[at + 3 :]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (zipped(dict(list(FILES.items())[:-1])), 'Val/Rural/masks_png 2 of 3'),
        (zipped(FILES)[:-5000], r'\d+ bytes\) is damaged: File is not a zip file. Expected: an archive of'),
        (damaged(zipped(FILES)), 'Val.zip .* is damaged: .*masks_png/1.png'),
        (b'<html>', r'6 bytes\) is damaged'),
    ],
    ids=['missing member', 'truncated', 'damaged member', 'no zip'],
)
def test_bad_archives(tmp_path, content, message):
    path = tmp_path / 'Val.zip'
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        unpack(path, describe_archive(zipped(FILES)), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['Val.zip']


def test_no_member_gets_out_of_the_folder(tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    stray = ('../evil.png', 'Val/../../evil.png', '/tmp/evil.png', 'Val/Rural/images_png/../evil.png', 'Val/x.sh')
    content = zipped({**FILES, **dict.fromkeys((*stray, 'Val/Rural/images_png/..'), b'evil')})
    (out / 'Val.zip').write_bytes(content)
    unpack(out / 'Val.zip', describe_archive(content), out)
    assert contents(tmp_path) == {f'out/{name}': data for name, data in FILES.items()} | {'out/Val.zip': content}


def test_tar_files(tmp_path):
    files = {**FILES, 'Val/Rural/images_png/notes.xml': b'not wanted', 'Val/../../evil.png': b'evil'}
    content = tarred(files)
    path = tmp_path / 'out' / 'Val.tar'
    path.parent.mkdir()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r'Val.tar .* is damaged'):
        unpack(path, describe_archive(content), path.parent)
    assert contents(tmp_path) == {'out/Val.tar': content[: len(content) // 2]}
    path.write_bytes(content)
    unpack(path, describe_archive(content), path.parent)
    assert contents(tmp_path) == {f'out/{name}': data for name, data in FILES.items()} | {'out/Val.tar': content}


def test_links_in_a_zip_file_are_not_made(tmp_path):
    """A link to a folder outside, through which a later member is to be written."""
    (tmp_path / 'outside').mkdir()
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name in ('Val', 'Val/Rural', 'Val/Rural/images_png', 'Val/Rural/link.png', 'Val/Rural/images_png/0.png'):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o120777 << 16  # Unix, a symbolic link
            archive.writestr(info, str(tmp_path / 'outside'))
        for name, content in FILES.items():
            archive.writestr(name, content)
    content = file.getvalue()
    (tmp_path / 'Val.zip').write_bytes(content)
    unpack(tmp_path / 'Val.zip', describe_archive(content), tmp_path)
    assert contents(tmp_path) == {**FILES, 'Val.zip': content}
    assert not [path for path in tmp_path.rglob('*') if path.is_symlink()]
    assert not list((tmp_path / 'outside').iterdir())


@pytest.mark.parametrize('name', ['C:/evil.png', 'C:evil.png', '..\\evil.png', 'Val/Rural/images_png/..\\..\\evil.png'])
def test_names_of_other_systems_stay_in_the_folder(name, tmp_path):
    content = zipped({**FILES, name: b'evil'})
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'Val.zip').write_bytes(content)
    with suppress(DataError):  # of one file too many, where this system takes it for a name
        unpack(out / 'Val.zip', describe_archive(content), out)
    assert {path.name for path in tmp_path.iterdir()} == {'out'}
    assert {path.name for path in out.iterdir()} <= {'Val', 'Val.zip'}


@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_tar_file_makes_files_only(kind, tmp_path):
    (tmp_path / 'secret').write_text('mine')
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as archive:
        for name in ('Val/Rural/link', 'Val/Rural/images_png', 'Val/Rural/images_png/9.png', *FILES):
            info = tarfile.TarInfo(name)
            if name not in FILES:
                info.type, info.linkname = kind, str(tmp_path / 'secret')
                archive.addfile(info)
            else:
                info.size = len(FILES[name])
                archive.addfile(info, io.BytesIO(FILES[name]))
    path = tmp_path / 'out' / 'Val.tar'
    path.parent.mkdir()
    path.write_bytes(file.getvalue())
    unpack(path, describe_archive(file.getvalue()), path.parent)
    assert contents(tmp_path) == {
        **{f'out/{name}': data for name, data in FILES.items()},
        'out/Val.tar': file.getvalue(),
        'secret': b'mine',
    }


def test_an_archive_that_stands_for_far_more_than_its_size(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            archive.writestr(name, bytes(10**7))
    path = tmp_path / 'Val.zip'
    path.write_bytes(file.getvalue())
    with pytest.raises(DataError, match=r'Val\.zip would unpack to 60000000 bytes'):
        unpack(path, describe_archive(file.getvalue()), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['Val.zip']


def test_voc_is_described_as_published():
    (archive,) = SOURCES['voc2012'].archives.values()
    assert (archive.name, archive.top, archive.size) == ('VOCtrainval_11-May-2012.tar', 'VOCdevkit', 1999639040)
    # One label map for each of the 1464 training and 1449 validation images.
    assert archive.folders['VOCdevkit/VOC2012/SegmentationClass'] == 1464 + 1449


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


def test_dry_run_writes_nothing(server, tmp_path, capsys):
    assert download_dataset.main(['small', '-o', str(tmp_path / 'data'), '--dry-run']) == 0
    assert server.url in capsys.readouterr().err
    assert server.ranges == []
    assert not (tmp_path / 'data').exists()


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
    with pytest.raises(ConfigError, match='no split train; expected val'):
        download('small', tmp_path, ['train'])
    for name in SOURCES:
        assert download_dataset.main([name]) == 0
        assert SOURCES[name].page in capsys.readouterr().out
    assert download_dataset.main(['potsdam', '-o', str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert 'has to be downloaded by hand' in message
    assert 'tools/dataset_converters/potsdam.py' in message
    with pytest.raises(ConfigError, match='expected one of loveda, potsdam'):
        describe('lovda')
