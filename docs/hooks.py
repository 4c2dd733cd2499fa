"""What the site has beside the pages of docs/: the home page, the API reference, links to files of the repository."""

import logging
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / 'mmrs'
ROOT_PAGES = {'README.md': 'index.md', 'CONTRIBUTING.md': 'contributing.md', 'CHANGELOG.md': 'changelog.md'}
LINK = re.compile(r'\[([^\[\]]*)\]\((?!\w+:|#)([^()\s#]+)(#[^()\s]*)?\)')

log = logging.getLogger('mkdocs.hooks')


def rooms() -> list[str]:
    """Names of the packages directly below mmrs, after `mmrs` itself for the modules beside them."""
    return ['mmrs', *sorted(f'mmrs.{path.parent.name}' for path in PACKAGE.glob('*/__init__.py'))]


def modules(room: str) -> list[str]:
    """Names of the public modules of a room, at any depth."""
    pattern = '*.py' if room == 'mmrs' else f'{room.removeprefix("mmrs.")}/**/*.py'
    names = ('.'.join(path.relative_to(REPOSITORY).with_suffix('').parts) for path in PACKAGE.glob(pattern))
    return sorted(name for name in names if '._' not in name)


def on_config(config: MkDocsConfig) -> None:
    """Lists the rooms in the navigation."""
    (reference,) = (part for part in config.nav or [] if 'Reference' in part)
    reference['Reference'] = [f'api/{room}.md' for room in rooms()]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the pages that docs/ does not hold."""
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(REPOSITORY / name).read_text(encoding='utf-8')))
    for room in rooms():
        content = '\n\n'.join([f'# {room}', *(f'::: {module}' for module in modules(room))])
        files.append(File.generated(config, f'api/{room}.md', content=content))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository, as GitHub follows them, into links of the site."""
    folder = REPOSITORY if page.file.src_uri in ROOT_PAGES.values() else REPOSITORY / 'docs'

    def rewrite(match: re.Match[str]) -> str:
        text, path, anchor = match[1], (folder / match[2]).resolve(), match[3] or ''
        name = path.relative_to(REPOSITORY).as_posix()
        if not path.exists():
            log.warning('%s links to %s, which is not there', page.file.src_uri, match[2])
        if name in ROOT_PAGES or name.startswith('docs/'):
            return f'[{text}]({ROOT_PAGES.get(name, name.removeprefix("docs/"))}{anchor})'
        kind = 'tree' if path.is_dir() else 'blob'
        return f'[{text}]({config.repo_url.rstrip("/")}/{kind}/main/{name}{anchor})' if config.repo_url else text

    return LINK.sub(rewrite, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Takes away the roles of Sphinx (``:class:``) that docstrings put before a name."""
    return re.sub(r':(class|func|meth|mod|attr|data):(?=<code>)', '', html)
