import pytest


@pytest.fixture
def warned(monkeypatch):
    """What runs warn of, each with a logger of its own."""
    lines = []
    monkeypatch.setattr('mmengine.logging.MMLogger.warning', lambda self, message, *_: lines.append(str(message)))
    return lines
