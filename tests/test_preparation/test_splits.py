import numpy as np
import pytest

from mmrs.preparation.converters.splits import FixedSplits, RandomSplits, SplitLists, deal
from mmrs.utils.errors import ConfigError, DataError

CLIPS = {f'image{i}': [f'image{i}_{j}' for j in range(3)] for i in range(10)}


def lists(tmp_path, **texts):
    for name, text in texts.items():
        (tmp_path / f'{name}.txt').write_text(text)
    return SplitLists({name: tmp_path / f'{name}.txt' for name in texts})


def test_dealing_gives_each_item_once_and_in_order():
    dealt = deal('abcdefghij', dict(train=0.7, val=0.3), seed=3)
    assert [len(items) for items in dealt.values()] == [7, 3]
    assert sorted(dealt['train'] + dealt['val']) == list('abcdefghij')
    assert dealt['train'] == sorted(dealt['train'])
    assert deal('abcdefghij', dict(train=0.7, val=0.3), seed=3) == dealt
    others = [deal('abcdefghij', dict(train=0.7, val=0.3), seed, group) for seed, group in ((4, ''), (3, 'x'))]
    assert all(other != dealt for other in others)


def test_random_splits_keep_the_clips_of_an_image_together():
    split_of = RandomSplits(0.3, seed=1).assign(CLIPS)
    sides = [{split_of[clip] for clip in clips} for clips in CLIPS.values()]
    assert all(len(side) == 1 for side in sides)
    assert sum(side == {'val'} for side in sides) == 3
    # Whatever the order in which the files were found.
    assert RandomSplits(0.3, seed=1).assign(dict(reversed(CLIPS.items()))) == split_of
    assert RandomSplits(0.3, seed=2).assign(CLIPS) != split_of
    assert set(RandomSplits(0).assign(CLIPS).values()) == {'train'}
    assert RandomSplits(0).names == ('train',)


@pytest.mark.parametrize('share', [-0.1, 1, np.nan])
def test_share_out_of_range(share):
    with pytest.raises(ConfigError, match=f'val_share is {share}'):
        RandomSplits(share)


def test_too_few_images_for_two_splits():
    with pytest.raises(ConfigError, match=r'share of 0\.3 of 1 images leaves none for val.*--val-share'):
        RandomSplits().assign({'a': ['a_0']})


def test_fixed_splits_leave_out_other_tiles():
    split_of = FixedSplits(dict(train=('image1',), val=('image3', 'image9'))).assign(CLIPS)
    assert split_of == {f'image{i}_{j}': 'train' if i == 1 else 'val' for i in (1, 3, 9) for j in range(3)}
    with pytest.raises(ConfigError, match='Tile a is in several splits: train, val'):
        FixedSplits(dict(train=('a', 'b'), val=('a',)))


def test_lists_with_and_without_suffix(tmp_path):
    clips = dict(CLIPS, more=['35JNN_00_20180105_RGB', '35JNN_00_20180115_RGB', 'a.b_0'])
    splits = lists(
        tmp_path,
        train='image1_0\nimage1_2.png\n\n  image7_1.TIF  \nimage1_0\n35JNN_00_20180105\n',
        val='\ufefffolder/image1_1.png\r\n35JNN_00_20180115_RGB.png\r\na.b_0',
    )
    assert splits.assign(clips) == {
        'image1_0': 'train',
        'image1_2': 'train',
        'image7_1': 'train',
        '35JNN_00_20180105_RGB': 'train',
        'image1_1': 'val',
        '35JNN_00_20180115_RGB': 'val',
        'a.b_0': 'val',
    }
    assert {name: own['clips'] for name, own in splits.settings().items()} == dict(train=4, val=3)


def test_settings_tell_lists_apart_but_not_their_order(tmp_path):
    first = lists(tmp_path, train='a\nb\n').settings()
    assert lists(tmp_path, train='b.png\na\n').settings() == first
    assert lists(tmp_path, train='a\nc\n').settings() != first


@pytest.mark.parametrize(
    ('train', 'val', 'message'),
    [
        ('image1_0\nimage1_1\nimage2_0\n', 'image1_0.png\nimage1_1\nimage3_0\n', '2 clips .*: image1_0, image1_1'),
        ('image1_0\n', 'image2_0\n' + '\n'.join(f'image{i}_9' for i in range(5)), r'val\.txt: 5 of .* 6 .*: image0_9'),
        ('image1_0\n', '\n \n', r'val\.txt is empty'),
    ],
)
def test_unusable_lists(tmp_path, train, val, message):
    with pytest.raises(DataError, match=message):
        lists(tmp_path, train=train, val=val).assign(CLIPS)


def test_files_that_are_no_lists(tmp_path):
    (tmp_path / 'image.txt').write_bytes(b'\x89PNG\xff\xfe')
    for name, message in (('nowhere', 'no such file'), ('image', 'is no text')):
        with pytest.raises(DataError, match=rf'{name}\.txt.* {message}'):
            SplitLists(dict(train=tmp_path / f'{name}.txt'))


def test_lists_for_a_part_of_the_images(tmp_path, capsys):
    """A published list names clips of images that one does not have."""
    (tmp_path / 'train.txt').write_text('image0_0\nimage0_1\nimage9_0\n')
    (tmp_path / 'val.txt').write_text('image9_1\n')
    clips = {'image0': ['image0_0', 'image0_1', 'image0_2']}
    splits = SplitLists({'train': tmp_path / 'train.txt'}, allow_missing=True)
    assert splits.assign(clips) == {'image0_0': 'train', 'image0_1': 'train'}
    assert '1 of its 3 names are no clips: image9_0. They are left out.' in ' '.join(capsys.readouterr().err.split())
    with pytest.raises(DataError, match=r'1 of its 1 names are no clips'):
        SplitLists({'val': tmp_path / 'val.txt'}, allow_missing=True).assign(clips)
