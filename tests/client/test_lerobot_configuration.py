"""What LeRobot's command may say of our policy. LeRobot itself is not installed here: a stand-in of its base class."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "packages/lerobot_policy_xwam/src/lerobot_policy_xwam/configuration_xwam.py"


@dataclass
class PreTrainedConfig:
    """As LeRobot's: without a device it takes what the computer has, here a Mac's."""

    device: str | None = None

    def __post_init__(self) -> None:
        self.device = self.device or "mps"

    @classmethod
    def register_subclass(cls, name):
        return lambda found: found


@pytest.fixture
def configuration(monkeypatch):
    """The class XWAMConfig."""
    policies, types = ModuleType("lerobot.configs.policies"), ModuleType("lerobot.configs.types")
    vars(policies).update(PreTrainedConfig=PreTrainedConfig)
    vars(types).update(NormalizationMode=str)
    for module in (ModuleType("lerobot"), ModuleType("lerobot.configs"), policies, types):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location("configuration_xwam", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module.XWAMConfig


@pytest.mark.parametrize(
    "address",
    ["ws://gpu-box:8000", "wss://robots.example.org/", "ws://10.0.0.7", "ws://[::1]:8000", "ws://[fe80::1]/one"],
)
def test_addresses(configuration, address):
    assert configuration(server=address).server == address


@pytest.mark.parametrize("address", ["gpu-box:8000", "ws://", "ws://gpu-box:8000:8000", "ws://::1:8000", "ws://[::1"])
def test_what_is_no_address_is_refused_in_words(configuration, address):
    with pytest.raises(
        ValueError, match=r"policy.server='.*': must be an address as ws://gpu-box:8000 or ws://\[::1\]"
    ):
        configuration(server=address)


def test_a_mac_computes_on_its_cpu_and_says_so(configuration, caplog):
    assert configuration(checkpoint="runs/mine").device == "cpu"
    assert "policy.device='mps': has no float64, in which noise levels are kept: cpu is used." in caplog.text
    caplog.clear()
    assert configuration(server="ws://gpu-box").device == "cpu", "whose networks are elsewhere"
    assert configuration(checkpoint="runs/mine", device="cuda").device == "cuda"
    assert not caplog.text


def test_either_a_folder_or_an_address(configuration):
    for both_or_none in ({}, {"checkpoint": "runs/mine", "server": "ws://gpu-box:8000"}):
        with pytest.raises(ValueError, match="give one of them, a folder or an address"):
            configuration(device="cpu", **both_or_none)
