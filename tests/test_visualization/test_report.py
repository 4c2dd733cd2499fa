"""The blocks of a report page as a reader, a screen reader and a browser get them."""

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmrs.visualization.report import (
    Bars,
    Code,
    Grid,
    Legend,
    Lines,
    Matrix,
    Pictures,
    Section,
    Table,
    Text,
    render,
)
from tests.browser import MISSING, browser
from tests.tiny_runs import REPOSITORY

EVIL = '<script>alert("1")</script> & \'co\''
CLASSES, COLOURS = ['built-up', EVIL, 'water'], [(255, 0, 0), (255, 255, 0), (0, 0, 255)]
COUNTS = np.array([[90, 5, 5], [0, 0, 0], [30, 0, 70]])
STEPS = np.arange(5) * 100
LOSS = np.array([2.5, 2.0, np.nan, 0.75, 0.5])
SHARES = dict(source=[0.25, 0.0, 0.75], adapted=[0.5, 0.125, 0.375])
RANDOM = np.random.default_rng(0)
LAYERS = {name: np.full((64, 48, 3), value, np.uint8) for name, value in (('image', 30), ('plain', 120), ('dacs', 250))}


def page() -> str:
    long = 'a_very_long_name_of_a_candidate/seed_0/iter_600.pth' * 2
    return render(
        f'Report: {EVIL}',
        [f'{long} is chosen.'],
        [
            Section(
                'Scores', [Text(EVIL), Table(EVIL, ['', *[EVIL] * 12], [[long, *['86.9 ± 1.9 (84.8–88.4)'] * 12]])]
            ),
            Section('Maps', [Legend(CLASSES, COLOURS), Grid([Pictures('a', LAYERS), Pictures('b', LAYERS)])]),
            Section('Plots', [Bars('areas', CLASSES, COLOURS, SHARES), Matrix('errors', CLASSES, COUNTS)]),
            Section('Curves', [Grid([Lines('loss', [EVIL, long], {long: (STEPS, LOSS)})], 'more')]),
            Section('Code', [Code([f'python {long} {EVIL}']), Table('set', ['key', 'a'], [[long, long]], code=True)]),
            Section('Absent', absent='there is nothing.'),
        ],
    )


class Reader(HTMLParser):
    """Elements with their attributes and the text that stands directly in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), []))
        if tag not in ('meta', 'link', 'img', 'input'):
            self.open.append(self.found[-1])

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][2].append(data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], str]]:
        return [
            (own, ''.join(text))
            for name, own, text in self.found
            if name == tag and all(own.get(key.rstrip('_')) == value for key, value in attributes.items())
        ]


def drawn(block) -> Reader:
    text = render('', [], [Section('A', [block])])
    return Reader(text[text.index('<main') : text.index('</main>')])


def test_points_of_a_line_are_where_the_ticks_say():
    reader = drawn(Lines('loss', ['other', 'own'], dict(own=(STEPS, LOSS))))
    (path,) = (own['d'] for own, _ in reader.all('path', class_='line s1') if own['d'] != 'M1 5H29')
    words = [(float(own['x']), text) for own, text in reader.all('text', **{'text-anchor': 'middle'})][:-1]
    rules = [float(re.split('[ H]', own['d'])[1]) for own, _ in reader.all('path', class_='rule')]
    heights = zip(rules, (text for _, text in reader.all('text', **{'text-anchor': 'end'})))
    scales = [np.polyfit(*zip(*((at, float(text)) for at, text in known)), 1) for known in (words, heights)]
    assert scales[0][0] > 0 > scales[1][0]  # larger values are further right and higher up
    points = np.array([tuple(map(float, point.split())) for point in re.split('[ML]', path)[1:]])
    np.testing.assert_allclose(np.polyval(scales[0], points[:, 0]), [0, 100, 300, 400], atol=0.5)
    np.testing.assert_allclose(np.polyval(scales[1], points[:, 1]), [2.5, 2.0, 0.75, 0.5], atol=0.01)
    assert re.sub('[^ML]', '', path) == 'MLML'  # NaN is a gap
    assert reader.all('desc')[0][1] == 'own: 2.5 at 0, 0.5 at 400'


def test_a_constant_has_an_axis():
    reader = drawn(Lines('IoU', ['a'], dict(a=(STEPS, np.zeros(5)))))
    values = [float(text) for _, text in reader.all('text', **{'text-anchor': 'end'})]
    assert (min(values), max(values)) == (0, 1)


def test_bars_and_matrices_hold_the_shares():
    reader = drawn(Bars('areas', CLASSES, COLOURS, SHARES))
    widths = np.array([float(own['width']) for own, _ in reader.all('rect', class_='part')])
    np.testing.assert_allclose(widths / Bars.width, [0.25, 0.75, 0.5, 0.125, 0.375], atol=0.001)
    assert [own['fill'] for own, _ in reader.all('rect', class_='part')][:2] == ['rgb(255,0,0)', 'rgb(0,0,255)']
    assert 'adapted: built-up 50.0 %' in reader.all('desc')[0][1]

    reader = drawn(Matrix('errors', CLASSES, COUNTS))
    cells = [text for own, text in reader.all('text', **{'text-anchor': 'middle'})]
    assert cells == ['90.0', '5.0', '5.0', '–', '–', '–', '30.0', '0.0', '70.0']
    opacity = [float(own['fill-opacity']) for own, _ in reader.all('rect')]
    np.testing.assert_allclose(opacity, [0.9, 0.05, 0.05, 0, 0, 0, 0.3, 0, 0.7])
    assert 'water is mapped as 70 % water, 30 % built-up' in reader.all('desc')[0][1]


def test_pictures_are_in_the_page():
    picture = np.repeat(RANDOM.integers(0, 255, (8, 8, 3)).astype(np.uint8), 8, 0).repeat(8, 1)
    reader = drawn(Pictures('a place', dict(image=picture, map=LAYERS['dacs'][:, :40])))
    (own, _), (other, _) = reader.all('img')
    assert own['alt'] == 'image: a place'
    assert other['alt'] == 'map: a place'
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(own['src'].partition('base64,')[2]))))
    assert np.abs(seen.astype(float) - picture).mean() < 25
    (slider, _), *more = reader.all('input')
    assert not more
    assert (slider['type'], slider['min'], slider['max']) == ('range', '0', '1')


@pytest.mark.slow
def test_templates_are_installed(tmp_path):
    command = [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    folder = Path('mmrs/visualization/report/templates')
    there = {file.name for file in (REPOSITORY / folder).iterdir()}
    assert 'page.html' in there
    assert {file.name for file in (tmp_path / folder).iterdir()} == there


def test_the_page_is_sound_and_whatever_it_is_given_is_text():
    text = page()
    assert text == page()
    reader = Reader(text)
    assert not reader.open
    assert len(reader.all('script')) == 1
    assert 'alert' not in reader.all('script')[0][1]
    assert reader.all('h1') == [({}, f'Report: {EVIL}')]
    ids = [own['id'] for _, own, _ in reader.found if 'id' in own]
    assert len(set(ids)) == len(ids)
    assert {own['href'] for own, _ in reader.all('a')} <= {f'#{name}' for name in ids}
    assert {name for name, _, _ in reader.found if re.fullmatch('h[1-6]', name)} == {'h1', 'h2'}
    assert all(own['aria-labelledby'] in ids for own, _ in reader.all('section'))
    assert all({'alt', 'width', 'height'} <= own.keys() for own, _ in reader.all('img'))
    assert all(own.get('scope') in ('col', 'row') for own, _ in reader.all('th'))
    assert len(reader.all('caption')) == len(reader.all('table'))
    assert all(own.get('role') == 'img' or own.get('aria-hidden') for own, _ in reader.all('svg'))
    links = [own[key] for _, own, _ in reader.found for key in ('src', 'href') if key in own]
    assert all(link.startswith(('data:', '#')) for link in links)
    assert 'url(' not in reader.all('style')[0][1]
    assert 'Left out: there is nothing.' in text


# What follows is for a real browser ---------------------------------------------------------------------------------

#: Text in front of what is behind it: the worst ratio of contrast, and where (WCAG 2, relative luminance).
CONTRAST = """
const probe = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = colour => { probe.clearRect(0, 0, 1, 1); probe.fillStyle = colour; probe.fillRect(0, 0, 1, 1);
  return [...probe.getImageData(0, 0, 1, 1).data].map(value => value / 255); };
const light = ([r, g, b]) => [r, g, b].map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const over = (top, below) => below.map((v, i) => i < 3 ? top[i] * top[3] + v * (1 - top[3]) : 1);
const behind = (node, text) => {
  let colour = [1, 1, 1, 1];
  const chain = [];
  for (let own = node; own; own = own.parentElement) chain.unshift(own);
  for (const own of chain) colour = over(rgba(getComputedStyle(own).backgroundColor), colour);
  const cell = text && node.previousElementSibling;
  if (cell && cell.matches('rect.cell')) {
    const fill = rgba(getComputedStyle(cell).fill);
    colour = over([...fill.slice(0, 3), Number(cell.getAttribute('fill-opacity'))], colour);
  }
  return colour;
};
let worst = [99, ''];
for (const node of document.querySelectorAll('main *, header *, nav *')) {
  const words = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
  if (!words || node.matches('title, desc') || !node.getClientRects().length) continue;
  const svg = node.matches('text'), style = getComputedStyle(node);
  const [a, b] = [light(rgba(svg ? style.fill : style.color)), light(behind(node, svg))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < worst[0]) worst = [ratio, node.outerHTML.slice(0, 200)];
}
return worst;
"""


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
    folder = tmp_path_factory.mktemp('page')
    (folder / 'report.html').write_text(page(), encoding='utf-8')
    with browser(folder / 'profile') as chromium:
        yield chromium, folder / 'report.html'


@pytest.mark.slow
@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
class TestInChromium:
    @pytest.mark.parametrize('dark', [False, True])
    @pytest.mark.parametrize('width', [380, 1200])
    def test_it_is_quiet_fits_and_can_be_read(self, shown, width, dark):
        chromium, file = shown
        chromium.requested()
        chromium.open(file, width, dark)
        assert chromium.complaints() == []
        assert chromium.requested() == [file.as_uri()]
        assert chromium.run('return innerWidth') == width
        assert chromium.run('return document.documentElement.scrollWidth') == width
        assert chromium.run('return [...document.querySelectorAll(".scroll")].some(e => e.scrollWidth > e.clientWidth)')
        chromium.run('document.querySelectorAll("details").forEach(part => part.open = true)')
        ratio, where = chromium.run(CONTRAST)
        assert ratio >= 4.5, where
        background = chromium.run('return getComputedStyle(document.body).backgroundColor')
        assert (np.mean([int(v) for v in re.findall(r'\d+', background)]) < 128) == dark

    def test_the_slider_wipes_by_keyboard(self, shown):
        chromium, file = shown
        chromium.open(file)

        def state():
            return chromium.run(
                'const figure = document.querySelector(".pictures"), input = figure.querySelector("input");'
                'return [document.activeElement === input, input.getAttribute("aria-valuetext"),'
                ' [...figure.querySelectorAll("img")].map(p => p.checkVisibility() ? p.style.clipPath : "")]'
            )

        while not chromium.run('return document.activeElement.matches("input")'):
            chromium.press('Tab')
        assert chromium.run('return getComputedStyle(document.activeElement).outlineStyle') == 'solid'
        assert state() == [True, 'dacs on the left 50 %, plain on the right',
                           ['', 'inset(0px 0px 0px 50%)', 'inset(0px 50% 0px 0px)']]  # fmt: skip
        chromium.press('ArrowRight')
        assert state()[2] == ['', 'inset(0px 0px 0px 60%)', 'inset(0px 40% 0px 0px)']
        chromium.press('Home')
        assert state()[1] == 'image'
        assert [bool(clip) for clip in state()[2]] == [True, False, False]
        chromium.press('End')
        assert state()[1] == 'dacs'
        assert [bool(clip) for clip in state()[2]] == [False, False, True]

    def test_the_first_key_leads_to_the_content(self, shown):
        chromium, file = shown
        chromium.open(file)
        chromium.press('Tab')
        assert chromium.run('return document.activeElement.className') == 'skip'
        assert chromium.run('return document.activeElement.getBoundingClientRect().left >= 0')
        chromium.press('Enter')
        assert chromium.run('return document.activeElement.id') == 'content'

    def test_all_pictures_are_printed(self, shown):
        chromium, file = shown
        chromium.open(file, 800)
        chromium.devtools('Emulation.setEmulatedMedia', media='print')
        seen = chromium.run(
            'return [...document.querySelectorAll("img")].map(p => [p.checkVisibility(), p.width > 50])'
        )
        assert seen == [[True, True]] * 6
        clips = 'return [...document.querySelectorAll("img")].map(p => getComputedStyle(p).clipPath)'
        assert set(chromium.run(clips)) == {'none'}
        chromium.devtools('Emulation.setEmulatedMedia', media='')
