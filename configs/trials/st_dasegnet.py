"""ST-DASegNet in a trial: it starts from its two branches after half of the iterations, and self-training wakes up."""

_base_ = '../st_dasegnet/method.py'

load_from = 'work_dirs/two_branch/iter_300.pth'
