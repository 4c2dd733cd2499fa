import pytest
import yaml
from mmengine.config import Config

from mmrs.apis.filling import fill_model
from mmrs.utils.errors import ConfigError, DataError

MIT = dict(type='EfficientMiT', embed_dims=8, num_layers=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])
TABLE = dict(classes=[dict(name=name, id=i) for i, name in enumerate(('water', 'land', 'cloud'))])


def config(dataset, **model):
    model = {'type': 'EncoderDecoder', 'decode_head': dict(num_classes=None), **model}
    return Config(dict(model=model, train_dataloader=dict(dataset=dataset)))


@pytest.fixture
def own(tmp_path):
    (tmp_path / 'classes.yaml').write_text(yaml.safe_dump(TABLE))
    return dict(type='RemoteSensingDataset', data_root=str(tmp_path), classes_file='classes.yaml')


# Classes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('dataset', 'expected'),
    [
        (dict(type='PotsdamDataset', data_root='nowhere'), 6),
        (dict(type='LoveDADataset', data_root='nowhere', class_map=dict(water='water', rest=['road', 'barren'])), 2),
        (dict(type='RemoteSensingDataset', metainfo=dict(classes=('a', 'b', 'c', 'd'))), 4),
        (dict(type='RepeatDataset', times=2, dataset=dict(type='GIDDataset', data_root='nowhere')), 5),
    ],
)
def test_classes_are_the_data_sets(dataset, expected):
    pair = dict(type='DomainAdaptationDataset', source=dataset, target=dict(type='CityOSMDataset'))
    for training in (dataset, pair):
        cfg = config(training, auxiliary_head=[dict(num_classes=None), dict(num_classes=9), dict()])
        fill_model(cfg)
        assert cfg.model.decode_head.num_classes == expected
        assert [head.get('num_classes') for head in cfg.model.auxiliary_head] == [expected, 9, None]


def test_classes_of_a_table(own):
    cfg = config(own)
    fill_model(cfg)
    assert cfg.model.decode_head.num_classes == 3


def test_a_test_needs_no_training_data(own):
    cfg = config(dict(own, data_root='nowhere'))
    with pytest.raises(DataError, match=r'nowhere.classes\.yaml'):
        fill_model(cfg)
    cfg.test_dataloader = dict(dataset=own)
    fill_model(cfg)
    assert cfg.model.decode_head.num_classes == 3


def test_known_classes_and_numbers_go_first(own):
    cfg = config(dict(own, data_root='nowhere'), auxiliary_head=dict(num_classes=7))
    fill_model(cfg, ('a', 'b'))
    assert (cfg.model.decode_head.num_classes, cfg.model.auxiliary_head.num_classes) == (2, 7)


def test_classes_that_nobody_says():
    with pytest.raises(ConfigError, match=r'model\.decode_head\.num_classes is None'):
        fill_model(config(dict(type='RemoteSensingDataset', data_root='nowhere')))


def test_class_weights_are_checked_against_the_data():
    head = dict(num_classes=None, loss_decode=dict(class_weight=[1.0, 2.0]))
    with pytest.raises(ConfigError, match=r'class_weight has 2 entries for 6 classes'):
        fill_model(config(dict(type='PotsdamDataset', data_root='nowhere'), decode_head=head))


def test_one_output_for_two_classes():
    cfg = config(
        dict(type='RemoteSensingDataset', metainfo=dict(classes=('no', 'yes'))),
        decode_head=dict(num_classes=None, out_channels=1, loss_decode=dict(class_weight=[3.0])),
    )
    fill_model(cfg)
    assert cfg.model.decode_head == dict(num_classes=2, out_channels=1, loss_decode=dict(class_weight=[3.0]))


# Discriminators ------------------------------------------------------------------------------------------------------


def discriminating(*steps, backbone=None, **dataset):
    own = dict(type='PotsdamDataset', pipeline=[dict(type='LoadRasterImage'), *steps], **dataset)
    return config(
        dict(source=own, target=dict(own)),
        type='STDASegNet',
        backbone=dict(backbone or MIT),
        decode_head=dict(num_classes=6),
        discriminator=dict(type='PatchDiscriminator', in_channels=None, num_conv=None),
    )


@pytest.mark.parametrize(
    ('steps', 'dataset', 'expected'),
    [
        ([dict(type='RandomCrop', crop_size=(192, 192))], {}, 1),  # a map of 6 px, of which one convolution leaves 3
        ([dict(type='RandomCrop', crop_size=(384, 352))], {}, 1),
        ([dict(type='RandomCrop', crop_size=(384, 384))], {}, 2),  # 12 px, 6 px, 3 px
        ([dict(type='RandomCrop', crop_size=384)], {}, 2),
        ([dict(type='Resize', scale=(2048, 2048))], {}, 3),  # the most
        ([dict(type='Resize', scale=(2048, 2048)), dict(type='RandomCrop', crop_size=256)], {}, 1),
        ([], dict(windows=dict(size=384)), 2),
    ],
)
def test_convolutions_follow_from_the_crop(steps, dataset, expected):
    cfg = discriminating(*steps, **dataset)
    fill_model(cfg)
    assert cfg.model.discriminator == dict(type='PatchDiscriminator', in_channels=8, num_conv=expected)


def test_convolutions_follow_from_the_stride():
    head = dict(type='ResNetV1c', depth=18, base_channels=4, strides=(1, 2, 1, 1))  # a stride of 8
    cfg = discriminating(dict(type='RandomCrop', crop_size=192), backbone=head)
    fill_model(cfg)
    assert cfg.model.discriminator.num_conv == 3


def test_the_smaller_crop_counts():
    cfg = discriminating(dict(type='RandomCrop', crop_size=384))
    cfg.train_dataloader.dataset.target.pipeline = [dict(type='RandomCrop', crop_size=192)]
    fill_model(cfg)
    assert cfg.model.discriminator.num_conv == 1


def test_crops_that_are_unknown_or_too_small():
    with pytest.raises(ConfigError, match=r'model\.discriminator\.num_conv is None'):
        fill_model(discriminating())
    with pytest.raises(ConfigError, match=r'crops of 160 px give a last map of 5 px'):
        fill_model(discriminating(dict(type='RandomCrop', crop_size=160)))
