from pathlib import Path

import pytest
from mmengine.config import Config

from mmrs.utils.config import load_config
from mmrs.utils.errors import ConfigError
from tests.tiny_runs import REPOSITORY

CONFIGS = REPOSITORY / 'configs'
BASES = """\
_base_ = [
    '{configs}/_base_/tasks/{task}.py',
    '{configs}/_base_/networks/segformer_mit-b0.py',
    '{configs}/{method}/method.py',
    '{configs}/_base_/schedules/adamw_40k.py',
]
"""


@pytest.fixture
def leaf(tmp_path):
    """A function that loads a leaf with some text of its own."""

    def load(text, method='st_dasegnet', task='potsdam2vaihingen', **options):
        path = tmp_path / 'leaf.py'
        path.write_text(BASES.format(configs=CONFIGS, method=method, task=task) + text)
        return load_config(path, options or None)

    return load


def compose(method, **axes):
    return load_config(CONFIGS / method / 'method.py', **axes)


# Models --------------------------------------------------------------------------------------------------------------


def test_method_and_leaf_add_to_the_network(leaf):
    model = leaf('model = dict(self_training=dict(weight=0.5), backbone=dict(drop_path_rate=0.2))').model
    assert (model.type, model.decode_head.type) == ('STDASegNet', 'EfficientSegformerHead')
    assert model.self_training.weight == 0.5
    assert model.self_training.threshold == 0.975
    assert model.backbone.drop_path_rate == 0.2


def test_a_leaf_can_switch_parts_off_and_replace_them(leaf):
    text = "model = dict(discriminator=None, gan_loss=dict(_delete_=True, type='GANLoss', gan_type='lsgan'))"
    model = leaf(text).model
    assert model.discriminator is None
    assert model.gan_loss == dict(type='GANLoss', gan_type='lsgan')


def test_a_method_changes_only_backbones_that_have_the_key():
    axes = dict(task='voc_synthetic', schedule='adamw_600')
    assert compose('feature_regression', network='segformer_mit-b0', **axes).model.backbone.drop_path_rate == 0.0
    assert 'drop_path_rate' not in compose('feature_regression', network='deeplabv3plus_r50', **axes).model.backbone


def test_two_necks_are_refused(leaf):
    with pytest.raises(ConfigError, match=r'adaptor\.neck\.type=DomainDisentangledNeck.*FPN'):
        leaf("network = dict(neck=dict(type='FPN', in_channels=None, out_channels=8, num_outs=4))")
    assert leaf("model = dict(neck=dict(_delete_=True, type='MyNeck'))").model.neck == dict(type='MyNeck')


def test_values_of_the_task_go_where_they_are_asked_for(leaf):
    model = leaf('').model
    assert model.decode_head.loss_decode.class_weight == [1.0, 1.0, 1.0, 1.25, 1.5, 1.5]
    assert model.self_training.class_weight == [1.01, 1.01, 1.51, 1.51, 2.01, 2.01]
    assert 'class_weight' not in leaf('', task='own_data').model.decode_head.loss_decode
    assert leaf('', task='dubai').model.decode_head.num_classes == 5
    several = (
        "model = dict(auxiliary_head=[dict(num_classes=None, loss_decode=dict(class_weight='task.class_weight'))])"
    )
    (head,) = leaf(several, task='dubai').model.auxiliary_head
    assert head == dict(num_classes=5, loss_decode={})


# Data ----------------------------------------------------------------------------------------------------------------


def test_the_source_alone(leaf):
    both, config = leaf('', task='landsat2sentinel'), leaf('', 'source_only', 'landsat2sentinel')
    assert config.train_dataloader.dataset == both.train_dataloader.dataset.source
    assert config.val_dataloader == both.val_dataloader
    # Of the target nothing is known, its statistics included.
    preprocessor = both.model.data_preprocessor
    assert config.model.data_preprocessor.mean == preprocessor.source_mean != preprocessor.mean
    assert 'source_mean' not in config.model.data_preprocessor


def test_the_target_alone(leaf):
    config = leaf('', 'target_supervised')
    assert config.train_dataloader.dataset.type == 'VaihingenDataset'
    assert config.train_dataloader.dataset.data_prefix.seg_map_path == 'ann_dir/train'
    with pytest.raises(ConfigError, match=r'no labels of the target.*task\.target_labels'):
        leaf('', 'target_supervised', 'loveda-rural2urban')


def test_pairs_say_where_their_labels_are(leaf):
    config = leaf('', 'source_only', 'dubai_synthetic')
    assert 'CameraChange' not in str(config.train_dataloader)
    assert config.train_dataloader.batch_size == 4
    assert config.val_dataloader is None
    assert 'CameraChange' in str(leaf('', 'target_supervised', 'dubai_synthetic').train_dataloader)


def test_what_would_be_lost_is_refused(leaf):
    with pytest.raises(ConfigError, match=r'train_dataloader\.dataset\.data_root.*dataset\.source\.data_root'):
        leaf("train_dataloader = dict(dataset=dict(data_root='elsewhere'))", 'source_only')
    moved = leaf("train_dataloader = dict(dataset=dict(source=dict(data_root='elsewhere')))", 'source_only')
    assert moved.train_dataloader.dataset.data_root == 'elsewhere'
    own = "train_dataloader = dict(dataset=dict(_delete_=True, type='PotsdamDataset', data_root='own'))"
    assert leaf(own, 'source_only').train_dataloader.dataset == dict(type='PotsdamDataset', data_root='own')


def test_what_labels_of_one_domain_replace_is_refused(leaf):
    moved = "train_dataloader = dict(dataset=dict(source=dict(data_root='elsewhere')))"
    with pytest.raises(ConfigError, match=r'train_dataloader\.dataset .*task\.source_labels\.train_dataloader'):
        leaf(moved, 'source_only', 'dubai_synthetic')
    evaluator = "val_evaluator = dict(_delete_=True, type='IoUMetric', iou_metrics=['mFscore'])"
    with pytest.raises(ConfigError, match=r'task\.source_labels\.val_evaluator'):
        leaf(evaluator, 'source_only', 'voc_synthetic')
    # What stands beside is kept.
    assert (
        leaf('train_dataloader = dict(batch_size=3)', 'source_only', 'voc_synthetic').train_dataloader.batch_size == 3
    )
    # Of a data set of its own, validation is as for the labels.
    own = "train_dataloader = dict(dataset=dict(_delete_=True, type='PotsdamDataset', data_root='own'))"
    config = leaf(own, 'source_only', 'voc_synthetic')
    assert config.train_dataloader.dataset == dict(type='PotsdamDataset', data_root='own')
    assert config.val_evaluator.type == 'IoUMetric'


# Optimizers ----------------------------------------------------------------------------------------------------------


def test_parts_have_optimizers_of_their_own(leaf):
    wrapper = leaf('optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=1.0))').optim_wrapper
    assert wrapper.keys() == {'constructor', 'segmentor', 'discriminator'}
    assert wrapper.segmentor.optimizer == dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01, fused=True)
    assert set(wrapper.segmentor.paramwise_cfg.custom_keys) == {'pos_block', 'norm'}
    assert wrapper.segmentor.clip_grad.max_norm == 1.0
    assert wrapper.discriminator.optimizer == dict(type='Adam', lr=1e-5, betas=(0.9, 0.99), fused=True)


@pytest.mark.parametrize(
    'text',
    [
        'optim_wrapper = dict(discriminator=None, segmentor=dict(optimizer=dict(lr=0.5)))',
        'optim_wrapper = dict(optimizer=dict(lr=0.5))\noptim_parts = dict(discriminator=None)',
    ],
)
def test_a_leaf_names_parts_or_the_whole(leaf, text):
    wrapper = leaf(text).optim_wrapper
    assert wrapper.segmentor.optimizer.lr == 0.5
    assert wrapper.segmentor.optimizer.type == 'AdamW'
    assert wrapper.discriminator is None


def test_optimizers_of_a_leaf_stay(leaf):
    text = "optim_wrapper = dict(_delete_=True, constructor='Own', segmentor=dict(optimizer=dict(type='SGD', lr=1.0)))"
    assert leaf(text).optim_wrapper == dict(constructor='Own', segmentor=dict(optimizer=dict(type='SGD', lr=1.0)))


def test_what_all_optimizers_have_in_common_stands_beside_them(leaf):
    wrapper = leaf(
        "optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16', accumulative_counts=2)"
    ).optim_wrapper
    assert (wrapper.type, wrapper.dtype, wrapper.accumulative_counts) == ('AmpOptimWrapper', 'bfloat16', 2)
    assert not {'type', 'dtype', 'accumulative_counts'} & {*wrapper.segmentor, *wrapper.discriminator}


def test_a_part_without_a_rate(leaf):
    with pytest.raises(ConfigError, match=r'no part_lr.*optim_parts\.discriminator'):
        leaf('part_lr = None')
    assert leaf('part_lr = None\noptim_wrapper = dict(discriminator=None)').optim_wrapper.discriminator is None


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('task = dict(class_weights=[1.0] * 6)', r'task\.class_weights; did you mean task\.class_weight\?'),
        ('task = dict(num_clases=6)', r'task\.num_clases; did you mean task\.num_classes\?'),
        ('task = dict(target_label=dict())', r'did you mean task\.target_labels\?'),
        ('part_lrs = 1e-4', r'part_lrs; did you mean part_lr\?'),
        ("trains_on = 'soruce'", "trains_on is 'soruce'; one of source, target"),
        ('train_dataloader = dict(dataset=None)', 'no train_dataloader.dataset'),
    ],
)
def test_what_nothing_would_read_is_refused(leaf, text, message):
    with pytest.raises(ConfigError, match=message):
        leaf(text, 'source_only')


def test_names_go_with_a_configuration_in_memory():
    method = CONFIGS / 'st_dasegnet' / 'method.py'
    axes = dict(task='dubai', network='segformer_r18')
    expected = load_config(method, **axes).to_dict()
    assert load_config(Config.fromfile(method), **axes).to_dict() == expected
    assert load_config(dict(config=method, network='segformer_r18'), task='dubai').to_dict() == expected
    with pytest.raises(ConfigError, match='is whole already: --task'):
        load_config(Config.fromfile(CONFIGS / 'st_dasegnet' / 'dubai.py'), task='dubai')


def test_a_configuration_in_memory_is_folded_in_place():
    config = Config.fromfile(CONFIGS / 'st_dasegnet/demo.py')
    assert load_config(config) is config
    assert config.model.type == 'STDASegNet'
    before = config.to_dict()
    assert load_config(config).to_dict() == before


def test_what_is_written_down_is_read_alike(tmp_path):
    config = compose('st_dasegnet', task='dubai', network='segformer_r18')
    assert config.filename == 'st_dasegnet_dubai_segformer_r18.py'
    config.dump(tmp_path / 'written.py')
    assert load_config(tmp_path / 'written.py').to_dict() == Config(config.to_dict()).to_dict()


def test_schedules_are_the_networks_unless_named():
    axes = dict(task='dubai', network='deeplabv3plus_r50')
    assert compose('source_only', **axes).optim_wrapper.optimizer.type == 'SGD'
    named = compose('source_only', schedule='adamw_600', **axes)
    assert named.train_cfg.max_iters == 600
    assert Path(named.filename).stem == 'source_only_dubai_deeplabv3plus_r50_adamw_600'


def test_files_of_ones_own(tmp_path):
    (tmp_path / 'mine.py').write_text(f"_base_ = '{CONFIGS}/_base_/tasks/dubai.py'\ntask = dict(num_classes=9)\n")
    config = compose('source_only', task=str(tmp_path / 'mine.py'), network='segformer_r18')
    assert config.model.decode_head.num_classes == 9
    assert Path(config.filename).stem == 'source_only_mine_segformer_r18'
    with pytest.raises(ConfigError, match=r'--task nowhere\.py does not exist'):
        compose('source_only', task='nowhere.py', network='segformer_r18')
    (tmp_path / 'mine.py').write_text('train_cfg = dict()\n')
    with pytest.raises(ConfigError, match='train_cfg'):
        compose('source_only', task=str(tmp_path / 'mine.py'), network='segformer_r18')


@pytest.mark.parametrize(
    ('axes', 'first', 'others'),
    [
        ({}, '--task', ['potsdam2vaihingen', 'voc_synthetic']),
        (dict(task='dubai'), '--network', ['deeplabv3plus_r50', 'segformer_r18']),
        (dict(task='dubay', network='segformer_r18'), 'dubai, ', ['potsdam2vaihingen']),
        (dict(task='dubai', network='segformer_r81'), 'segformer_r18, ', ['deeplabv3plus_r50']),
        (dict(task='dubai', network='segformer_r18', schedule='sgd_80k'), 'sgd_40k, ', ['adamw_600']),
    ],
)
def test_unknown_names_list_those_that_there_are(axes, first, others):
    with pytest.raises(ConfigError, match=rf'({"there are " + first if first.endswith(", ") else first})') as error:
        compose('st_dasegnet', **axes)
    assert all(name in str(error.value) for name in others)


def test_whole_configurations_take_no_names():
    with pytest.raises(ConfigError, match=r'demo\.py is whole already: --network'):
        load_config(CONFIGS / 'st_dasegnet/demo.py', network='segformer_r18')


def test_options_name_what_the_axes_have_become(leaf):
    with pytest.raises(ConfigError, match=r'--cfg-options adaptor\.self_training\.weight.*model'):
        leaf('', **{'adaptor.self_training.weight': 0.5})
    assert leaf('', **{'model.self_training.weight': 0.5}).model.self_training.weight == 0.5


def test_the_reference_of_a_composition_has_its_axes():
    config = compose('feature_regression', task='voc_synthetic', network='segformer_mit-b0', schedule='adamw_600')
    reference = load_config(config.reference_config, {'train_cfg.max_iters': 7})
    assert (reference.model.type, reference.train_cfg.max_iters) == ('EncoderDecoder', 7)
    assert reference.model.backbone.embed_dims == config.model.backbone.embed_dims == 32
    with pytest.raises(ConfigError, match=r"'net': 'x'"):
        load_config(dict(config='a.py', net='x'))
    assert 'SegmentationClass' in reference.train_dataloader.dataset.data_prefix.seg_map_path


# Rare-class sampling -------------------------------------------------------------------------------------------------


def test_a_method_samples_rare_classes_of_any_task():
    for task, crop in (('potsdam2vaihingen', 384), ('trial_gid5', 192)):
        cfg = compose('daformer', task=task, network='segformer_r18')
        loader = cfg.train_dataloader
        assert loader.sampler == dict(type='RareClassSampler')
        assert loader.dataset.source.rare_class_sampling == dict(min_pixels=3000)
        (found,) = [step for step in loader.dataset.source.pipeline if 'Crop' in step.type]
        expected = dict(type='RareClassCrop', crop_size=(crop, crop), cat_max_ratio=0.75, min_pixels=1500)
        assert {**found, 'crop_size': tuple(found.crop_size)} == expected
        assert 'RareClass' not in str(loader.dataset.target)
        assert 'rare_class_sampling' not in cfg


def test_rare_classes_are_an_option():
    axes = dict(task='dubai', network='segformer_r18')
    cfg = compose('daformer', options={'rare_class_sampling': None}, **axes)
    assert cfg.train_dataloader == compose('dacs', **axes).train_dataloader
    cfg = compose('dacs', options={'rare_class_sampling.temperature': 0.5}, **axes)
    assert cfg.train_dataloader.dataset.source.rare_class_sampling == dict(temperature=0.5)


def test_rare_classes_of_what_cannot_be_drawn_from(leaf):
    text = "train_dataloader = dict(dataset=dict(source=dict(_delete_=True, type='ConcatDataset', datasets=[])))"
    with pytest.raises(ConfigError, match=r'rare_class_sampling is set.*ConcatDataset'):
        leaf(text, method='daformer')
    with pytest.raises(ConfigError, match='rare_class_sampling is 3'):
        leaf('rare_class_sampling = 3', method='dacs')


# Labelled images of the target ---------------------------------------------------------------------------------------


def labelled(leaf, value, task='own_data', method='few_labels', text=''):
    return leaf(text, method, task, labelled_images=value).train_dataloader.dataset.labelled


def test_streams_of_a_method(leaf, tmp_path):
    config = leaf('', 'few_labels', labelled_images=['area1'])
    dataset = config.train_dataloader.dataset
    assert dataset.type == 'DomainAdaptationDataset'
    assert (dataset.labelled.data_root, dataset.labelled.only) == (dataset.target.data_root, ['area1'])
    assert dataset.labelled.data_prefix == dict(img_path='img_dir/train', seg_map_path='ann_dir/train')
    # The target's own pipeline, with labels behind the image.
    steps = [dict(step) for step in dataset.target.pipeline]
    assert dataset.labelled.pipeline == [steps[0], dict(type='LoadRasterAnnotations'), *steps[1:]]
    assert 'seg_map_path' not in dataset.target.data_prefix
    assert 'reads_target' not in dataset
    bar = leaf('', 'source_and_labelled', labelled_images=['area1']).train_dataloader.dataset
    assert (bar.reads_target, bar.labelled) == (False, dataset.labelled)
    # Without a source all statistics are the target's.
    alone = leaf('', 'semi_supervised', 'landsat2sentinel', labelled_images=['area1'])
    assert alone.train_dataloader.dataset.source is None
    both = leaf('', 'few_labels', 'landsat2sentinel', labelled_images=['area1']).model.data_preprocessor
    assert alone.model.data_preprocessor.mean == both.mean != both.source_mean
    assert 'source_mean' not in alone.model.data_preprocessor
    # What a run has written down says the same.
    config.dump(tmp_path / 'written.py')
    assert load_config(tmp_path / 'written.py').train_dataloader == config.train_dataloader
    assert leaf('', 'few_labels').train_dataloader.dataset.labelled is None


def test_which_images_are_labelled(leaf, tmp_path):
    masks, polygons, names = tmp_path / 'masks', tmp_path / 'fields.gpkg', tmp_path / 'names.txt'
    masks.mkdir()
    polygons.touch()
    names.write_text('area1\narea2\n')
    found = labelled(leaf, str(masks))
    assert (found.only, found.data_prefix.seg_map_path, found.type) == (str(masks), str(masks), 'RemoteSensingDataset')
    found = labelled(leaf, str(polygons))
    assert (found.data_prefix.seg_map_path, found.type) == (str(polygons), 'RasterDataset')
    assert 'only' not in found
    found = labelled(leaf, dict(names=['area1'], labels=str(polygons), label_attribute='kind'))
    assert (found.only, found.label_attribute, found.data_prefix.img_path) == (['area1'], 'kind', 'img_dir/train')
    found = labelled(leaf, str(names))
    assert (found.ann_file, found.data_prefix.seg_map_path) == (str(names), 'ann_dir/train')
    assert labelled(leaf, dict(number=5), text='randomness = dict(seed=7)').draw == dict(number=5, seed=7)
    own = dict(type='RasterDataset', data_root='mine', data_prefix=dict(img_path='a', seg_map_path='b'), pipeline=[])
    assert labelled(leaf, own) == own
    loveda = labelled(leaf, ['4'], 'loveda-rural2urban')
    assert loveda.data_prefix.seg_map_path == 'Train/Urban/masks_png'


def test_pairs_are_taken_apart_for_labels(leaf):
    """Source and target of pairs are unlabelled images; the source's labels stand elsewhere."""
    config = leaf('', 'few_labels', 'own_geotiffs', labelled_images=['north'])
    dataset = config.train_dataloader.dataset
    assert (dataset.type, dataset.source.data_prefix.seg_map_path) == ('DomainAdaptationDataset', 'ann_dir/train')
    assert (dataset.target.data_root, dataset.target.windows) == ('data/after', dataset.source.windows)
    assert [step.type for step in dataset.target.pipeline] == [
        step.type for step in dataset.source.pipeline if step.type != 'LoadRasterAnnotations'
    ]
    assert 'cat_max_ratio' not in str(dataset.target.pipeline)  # which looks at labels
    assert 'seg_map_path' not in dataset.target.data_prefix
    assert config.val_dataloader == config.test_dataloader
    assert config.val_evaluator.type == 'IoUMetric'


@pytest.mark.parametrize(
    ('method', 'value', 'named'),
    [
        ('dacs', ['area1'], r'labelled_images.*learns from no labelled'),
        ('source_only', ['area1'], r'labelled_images.*learns from no labelled'),
        ('few_labels', 'area1', r'no file or folder area1.*\[area1\]'),
        ('few_labels', dict(labels='nowhere'), r'labels.*nowhere'),
        ('few_labels', 3, r'labelled_images is 3; a list of names'),
        ('few_labels', {}, r'labelled_images is \{\}'),
    ],
)
def test_labelled_images_that_cannot_be(leaf, method, value, named):
    with pytest.raises(ConfigError, match=named):
        leaf('', method, labelled_images=value)


def test_label_maps_of_no_layout_must_be_named(leaf):
    images = "train_dataloader = dict(dataset=dict(target=dict(data_prefix=dict(img_path='scenes'))))"
    with pytest.raises(ConfigError, match=r'label maps of scenes.*labels=FOLDER'):
        leaf(images, 'few_labels', 'own_data', labelled_images=['area1'])
    prefix = labelled(leaf, dict(names=['area1'], labels=str(REPOSITORY)), text=images).data_prefix
    assert prefix == dict(img_path='scenes', seg_map_path=str(REPOSITORY))
