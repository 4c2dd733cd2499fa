import pytest
import torch
from torch import nn

from mmrs.models.adaptors.st_dasegnet_release import rename_release
from mmrs.models.teacher import EMATeacher, borrowed_as_teacher
from mmrs.utils import ConfigError


class Bag(nn.Module):
    """Parameters with given names and values."""

    def __init__(self, values):
        super().__init__()
        self.names = list(values)
        self.values = nn.ParameterList(nn.Parameter(value.clone()) for value in values.values())


@pytest.mark.parametrize('case', ['decoder_only_t', 'single_t'])
@pytest.mark.parametrize('iteration', [0, 1, 5, 5000])
def test_update_matches_the_release(golden, case, iteration):
    recorded = golden('ema.pt')[case]
    teacher_names = list(recorded['after'][iteration])
    student_of = {
        'cross_EMA_decoder_s.': 'decode_head_s.',
        'cross_EMA_decoder_t.': 'decode_head_t.',
        'cross_EMA_backbone.': 'backbone_t.',
        'cross_EMA_decoder.': 'decode_head_t.',
    }
    prefix = {name: next(p for p in student_of if name.startswith(p)) for name in teacher_names}
    before = recorded['before']
    student = Bag({n: before[n.replace(prefix[n], student_of[prefix[n]], 1)].float() for n in teacher_names})
    teacher = EMATeacher({'bag': student})
    for value, name in zip(teacher.bag.values, teacher_names):
        value.data.copy_(before[name])
    teacher.update({'bag': student}, recorded['alpha'][iteration])
    for value, name in zip(teacher.bag.values, teacher_names):
        torch.testing.assert_close(value, recorded['after'][iteration][name], rtol=1e-6, atol=1e-6, msg=name)
    assert all(rename_release(name) for name in teacher_names)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.9))


def test_teaching_uses_batch_statistics_without_dropout():
    student = network()
    teacher = EMATeacher({'net': student}).train()
    x = torch.randn(4, 3, 5, 5)
    expected = nn.functional.batch_norm(student[0](x), None, None, *student[1].parameters(), training=True)
    torch.testing.assert_close(teacher.net(x), expected)
    assert not any(p.requires_grad for p in teacher.parameters())

    running = EMATeacher({'net': student}, batch_statistics=False).train()
    torch.testing.assert_close(running.net(x), student.eval()(x))


@pytest.mark.parametrize('buffers', ['student', 'own'])
def test_running_statistics(buffers):
    student = network()
    teacher = EMATeacher({'net': student}, buffers=buffers).train()
    teacher.net(torch.randn(4, 3, 5, 5) + 7)
    drifted = not torch.equal(teacher.net[1].running_mean, student[1].running_mean)
    assert drifted == (buffers == 'own')
    student.train()(torch.randn(4, 3, 5, 5) - 3)
    teacher.update({'net': student}, 0.5)
    assert torch.equal(teacher.net[1].running_mean, student[1].running_mean) == (buffers == 'student')


def test_a_borrowed_student_keeps_its_mode_and_statistics():
    student = network().train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    x = torch.randn(4, 3, 5, 5)
    with borrowed_as_teacher(student, batch_statistics=True):
        torch.testing.assert_close(student(x), student(x))  # no dropout
    assert all(module.training for module in student.modules())
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name]), name
    student(x)
    assert not torch.equal(student[1].running_mean, before['1.running_mean'])


def test_unknown_buffers():
    with pytest.raises(ConfigError, match="expected 'student' or 'own'"):
        EMATeacher({}, buffers='mine')


def test_statistics_that_nothing_moves():
    with pytest.raises(ConfigError, match="'own' and batch_statistics is False"):
        EMATeacher({'net': nn.BatchNorm2d(2)}, batch_statistics=False, buffers='own')
