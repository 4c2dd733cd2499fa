import pytest
import yaml

from mmrs.geo.classes import load_classes, parse_classes
from mmrs.preparation.converters.recipe import load_recipe
from mmrs.utils.errors import ConfigError, DataError

TABLE = """
classes:
  - {name: road, color: '#010203', id: 7}
  - {name: "farmer's field", color: [[4, 5, 6], '#070809'], id: [2, 3]}
  - {name: unknown, colour: [0, 0, 0], id: -1, ignore: true}
  - {name: 'no', color: 'FFffFF', id: 0}
images: left alone here
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / 'classes.yaml'
    path.write_text(TABLE)
    return load_classes(path)


def test_indices_names_and_colours(table):
    assert table.names == ('road', "farmer's field", 'no')
    assert table.palette == [(1, 2, 3), (4, 5, 6), (255, 255, 255)]
    assert table.index_of_id == {7: 0, 2: 1, 3: 1, -1: 255, 0: 2}
    assert table.index_of_colour == {(1, 2, 3): 0, (4, 5, 6): 1, (7, 8, 9): 1, (0, 0, 0): 255, (255, 255, 255): 2}


def test_yaml_round_trip(table):
    assert parse_classes(yaml.safe_load(table.to_yaml()), 'copy') == table
    converted = parse_classes(yaml.safe_load(table.converted().to_yaml()), 'converted')
    assert converted.names == table.names
    assert converted.index_of_id == {0: 0, 1: 1, 255: 255, 2: 2}
    assert converted.index_of_colour == table.index_of_colour


def test_classes_without_ids_stand_under_their_position():
    table = parse_classes({'classes': [{'name': 'a'}, {'name': 'x', 'ignore': True}, {'name': 'b'}]}, 'here')
    assert table.index_of_id == {0: 0, 255: 255, 1: 1}
    assert table.palette == []
    assert parse_classes(yaml.safe_load(table.to_yaml()), 'copy') == table


def test_an_ignored_class_without_id_does_not_take_the_id_255_from_a_class():
    classes = [{'name': 'b', 'id': 0}, {'name': 'w', 'id': 255}, {'name': 'x', 'ignore': True}]
    assert parse_classes({'classes': classes}, 'here').index_of_id == {0: 0, 255: 1}


@pytest.mark.parametrize(
    ('by_colour', 'first', 'others'),
    [
        (True, "color: '#000000'", "color: '#FFFFFF'"),
        (False, "color: '#000000', id: 0", "color: '#FFFFFF', id: 1"),
        (False, "color: '#000000'", 'ignore: false'),
        (False, 'id: 0', 'id: 1'),
    ],
)
def test_masks_are_by_colour_where_all_classes_have_colours_and_none_an_id(by_colour, first, others):
    classes = yaml.safe_load(f'classes: [{{name: a, {first}}}, {{name: b, {others}}}, {{name: c, ignore: true}}]')
    assert parse_classes(classes, 'here').by_colour is by_colour


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        ('[]', 'no list `classes`'),
        ('[road]', "class 1 is 'road'; a mapping with a `name`"),
        ('[{name: a, color: #3C1098}]', 'is not YAML'),
        ('[{name: no}]', 'class 1: name is False; text'),
        ('\n  - name: a\n    color: #3C1098', r'class 1 \(a\): color is None; .#RRGGBB. .in quotes.'),
        ('[{name: a, color: "#3C10"}]', r"class 1 \(a\): color is '#3C10'; '#RRGGBB'"),
        ('[{name: a, color: [1, 2, 256]}]', r'color is \[1, 2, 256\]'),
        ('[{name: a, id: 1.5}]', 'id is 1.5; a whole number'),
        ('[{name: a, id: true}]', 'id is True; a whole number'),
        ('[{name: a, id: [1, 99999999999999999999]}]', r'id is \[1, 9{20}\]; .* below 2\*\*53'),
        ('[{name: a, id: 1, id: 2}]', "is not YAML: line 1 has the key 'id' again"),
        ('[{name: a}]\nclasses: [{name: b}]', "is not YAML: line 2 has the key 'classes' again"),
        ('[{name: a, ignore: 1}]', 'ignore is 1; true or false'),
        ('[{name: a, colours: 1}]', r"keys \['colours'\] are unknown; known are name, id, color, ignore"),
        ('[{name: a}, {name: a}]', 'name a appears twice'),
        ('[{name: a, id: 1}, {name: b, id: 1}]', 'id 1 appears twice'),
        ('[{name: a, id: 1}, {name: b, id: 1, ignore: true}]', 'id 1 belongs to a class and to an ignored one'),
        ('[{name: a, id: 1}, {name: b}]', 'some classes have an `id` and some have none'),
        ('[{name: a, color: "#000000"}, {name: b, color: [0, 0, 0]}]', 'color #000000 appears twice'),
        ('[{name: a, ignore: true}]', 'every class is ignored'),
        ('[{name: a, id: 052}]', 'line 1 has 052, which is an octal number'),
        ("[{name: a, id: '052'}]", "id is '052'; a whole number"),
    ],
)
def test_bad_tables(tmp_path, classes, message):
    path = tmp_path / 'bad.yaml'
    path.write_text(f'classes: {classes}\n')
    with pytest.raises(ConfigError, match=message) as caught:
        load_classes(path)
    assert 'bad.yaml' in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r'none\.yaml: no such file; a table of classes'):
        load_classes(tmp_path / 'none.yaml')


LAUGHS = 'a: &a [x, x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'{new}: &{new} [{", ".join([f"*{old}"] * 10)}]\n' for old, new in zip('abcdefgh', 'bcdefghi')
)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            "classes: !!python/object/apply:os.system ['touch attacked']",
            'is not YAML: could not determine a constructor',
        ),
        ('classes: !!python/name:os.system', 'is not YAML'),
        ('classes: !!python/object/new:subprocess.Popen [[touch, attacked]]', 'is not YAML'),
        (LAUGHS + 'classes: *i', r'has an alias \(\*name\)'),
        ('classes: &a [*a]', 'alias'),
        ('classes: ' + '[' * 2000, 'is not YAML'),
        ('classes: 2001-99-99', 'is not YAML: month must be in'),
        ('classes: !!bool maybe', 'is not YAML'),
        ('{[a]: b}', 'is not YAML'),
        ('classes: [{1: a, x: b, name: c}]', 'are unknown; known are name'),
        ('classes: ' + '1' * 10000, 'is not YAML'),
    ],
)
def test_yaml_is_plain_data(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'classes.yaml'
    path.write_text(text)
    for load in (load_classes, load_recipe):
        with pytest.raises(ConfigError, match=message) as raised:
            load(path)
        assert len(str(raised.value)) < 2000
    assert not (tmp_path / 'attacked').exists()
