# What all runs share. Iteration counts everywhere: adaptation has no epochs, for the two data sets differ in length.
custom_imports = dict(imports=['mmrs.registry'], allow_failed_imports=False)
default_scope = 'mmrs'
runner_type = 'AdaptationRunner'

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),  # gloo where there is no GPU
)
# Seeded, but not bit for bit on a GPU: there the backward pass of bilinear resizing has no deterministic kernel, so
# that `randomness.deterministic=True` works on CPUs only.
randomness = dict(seed=0)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # The last checkpoint counts: picking the best one takes target labels, which adaptation does not have. Where there
    # are some, default_hooks.checkpoint.save_best=mIoU keeps the best one too.
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1000, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # A step with a NaN or an infinity is skipped; after this many of them the run stops.
    non_finite=dict(type='NonFiniteHook', max_skipped=10),
    discriminator=dict(type='DiscriminatorWatchHook'),
)

# Losses, accuracies and shares of pixels are logged as means since the last line; learning rates as they are, as are
# results of validations, some of which have a slash: regression/loss.
log_processor = dict(
    by_epoch=False, window_size=50, mean_pattern=r'^[^/]*(loss|time|grad_norm|acc_|accuracy|share|confident)[^/]*$'
)
log_level = 'INFO'

visualizer = dict(type='OverlayVisualizer', vis_backends=[dict(type='LocalVisBackend')])

# A run starts from the weights of `load_from`; `tools/train.py --resume` continues one.
load_from = None
resume = False

tta_model = dict(type='SegTTAModel')
