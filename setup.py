from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def requirements(name: str) -> list[str]:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line.split('#')[0].strip() for line in lines if line.split('#')[0].strip()]


def version() -> str:
    scope: dict[str, str] = {}
    exec((ROOT / 'mmrs' / 'version.py').read_text(encoding='utf-8'), scope)
    return scope['__version__']


readme = ROOT / 'README.md'

setup(
    name='mmrs',
    version=version(),
    description='Domain-adaptive semantic segmentation of remote-sensing imagery, on MMSegmentation 1.x',
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='remote sensing, semantic segmentation, unsupervised domain adaptation, MMSegmentation',
    python_requires='>=3.10',
    packages=find_packages(include=['mmrs', 'mmrs.*']),
    package_data={'mmrs': ['py.typed', '.mim/**/*'], 'mmrs.visualization.report': ['templates/*']},
    entry_points={'console_scripts': ['mmrs = mmrs.__main__:main']},
    # Neither mm stack is a hard requirement: two sets of distributions provide the same import names.
    install_requires=requirements('runtime'),
    extras_require={name: requirements(name) for name in ('tests', 'optional')},
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Typing :: Typed',
        'Topic :: Scientific/Engineering :: GIS',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    zip_safe=False,
)
