"""Your own data: two folders in the standard layout, made by tools/dataset_converters/color_masks.py.

`data/source` has images and labels in `train`; `data/target` has images in `train` and, for evaluation alone, images
and labels in `val`. For other folders, set `train_dataloader.dataset.source.data_root` and so on, or copy this file.
"""

_base_ = '../datasets/loaders.py'

own = dict(type='RemoteSensingDataset', classes_file='classes.yaml')

train_dataloader = dict(
    dataset=dict(
        type='DomainAdaptationDataset',
        source=dict(**own, data_root='data/source', **_base_.labelled),
        target=dict(**own, data_root='data/target', **_base_.unlabelled),
    )
)
val_dataloader = dict(dataset=dict(**own, data_root='data/target', **_base_.evaluation))
test_dataloader = val_dataloader
