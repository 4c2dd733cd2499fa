"""The floors of the package: nothing imports upwards, or sideways into another room of its floor."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

#: Lowest first. A room may import those of the floors below it, and itself.
FLOORS = (
    ('version',),
    ('utils', 'registry'),
    ('geo', 'weights'),
    ('install',),
    ('datasets',),
    ('models',),
    ('evaluation', 'visualization', 'checks', 'preparation'),
    ('engine',),
    ('prediction',),
    ('apis',),
    ('studies',),
    ('tools',),
)
#: These two are one floor that is not divided: the registry is the ground, and configuration files are read with it.
TOGETHER = {'utils', 'registry'}

#: Above these floors, only what a user calls imports them: nothing that trains or predicts.
ASIDE = {'preparation': ('apis', 'studies', 'tools')}

FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def files() -> list[Path]:
    return sorted([*REPOSITORY.glob('mmrs/**/*.py'), *REPOSITORY.glob('tools/**/*.py')])


def room_of(module: str) -> str:
    """`geo` of `mmrs.geo.grids`, `tools` of `tools.train`, nothing for `mmrs` itself."""
    parts = module.split('.')
    return parts[0] if parts[0] == 'tools' else '.'.join(parts[1:2])


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of each module of the project that a file imports, inside of functions too."""
    package = path.relative_to(REPOSITORY).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(package[: len(package) + 1 - node.level]) if node.level else ''
            module = '.'.join(filter(None, (base, node.module)))
            names = [f'{module}.{alias.name}' for alias in node.names] if module in ('mmrs', 'tools') else [module]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split('.')[0] in ('mmrs', 'tools'))


def crossings(path: Path) -> list[str]:
    own = room_of('.'.join(path.relative_to(REPOSITORY).with_suffix('').parts))
    if own not in FLOOR_OF:
        return []
    found = []
    for line, name in imported(path):
        other = room_of(name)
        if other in ('', own) or {own, other} == TOGETHER or other not in FLOOR_OF:
            continue
        if FLOOR_OF[other] >= FLOOR_OF[own] or own not in ASIDE.get(other, (own,)):
            found.append(f'{path.relative_to(REPOSITORY)}:{line}: {own} imports {name}')
    return found


def test_every_room_has_a_floor():
    rooms = {path.name for path in (REPOSITORY / 'mmrs').iterdir() if (path / '__init__.py').is_file()}
    assert rooms <= FLOOR_OF.keys()


def test_nothing_imports_upwards_or_sideways():
    assert [crossing for path in files() for crossing in crossings(path)] == []


@pytest.mark.parametrize(
    ('room', 'line'),
    [
        ('geo', 'from mmrs.datasets.base import RemoteSensingDataset'),
        ('models', 'import mmrs.engine.runner'),
        ('evaluation', 'from mmrs.visualization import curves'),
        ('datasets', 'from ..models.teacher import EMATeacher'),
        ('prediction', 'from mmrs.preparation.converters.clips import Clip'),
        ('utils', 'def later():\n    from mmrs import apis'),
    ],
)
def test_a_crossing_is_noticed(room, line, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), 'REPOSITORY', tmp_path)
    path = tmp_path / 'mmrs' / room / 'new.py'
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert len(crossings(path)) == 1
