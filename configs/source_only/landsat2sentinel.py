"""Landsat-5 to Sentinel-2 reflectance: the two-branch network with its two source losses alone."""

_base_ = '../st_dasegnet/landsat2sentinel.py'

model = dict(
    discriminator=None,
    self_training=None,
    # Nothing of the target is known: the source's statistics, for the target too.
    data_preprocessor=dict(
        mean=_base_.model.data_preprocessor.source_mean,
        std=_base_.model.data_preprocessor.source_std,
        source_mean=None,
        source_std=None,
    ),
)
custom_hooks = []
optim_wrapper = dict(discriminator=None)
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.train_dataloader.dataset.source))
