import subprocess
import sys

import pytest

from core_server.engines.endpoint.engine import OpenAIEngine
from core_server.engines.offline import OfflineEngine
from core_server.engines.opening import DEFAULT_OPENAI_MODEL, build_engine

URL = "http://127.0.0.1:8000/v1"


def test_the_offline_engine_needs_nothing() -> None:
    engine = build_engine("offline", model=None, environ={})

    assert isinstance(engine, OfflineEngine)
    assert engine.provider == "offline"
    assert [model.id for model in engine.models] == ["offline"]
    assert build_engine("offline", model="echo", environ={}).models[0].id == "echo"


@pytest.mark.parametrize(
    "environ",
    [
        {"OPENAI_BASE_URL": URL},
        {"OPENAI_API_KEY": "sk-x"},
        {"OPENAI_BASE_URL": f" {URL} ", "OPENAI_API_KEY": "sk-x\n"},
    ],
)
def test_the_openai_engine_needs_a_key_or_an_address(environ: dict[str, str]) -> None:
    engine = build_engine("openai", model=None, environ=environ)

    assert isinstance(engine, OpenAIEngine)
    assert engine.provider == "openai"
    assert [model.id for model in engine.models] == [DEFAULT_OPENAI_MODEL]
    assert repr(engine) == f"<OpenAIEngine model='{DEFAULT_OPENAI_MODEL}' path=/responses>"
    assert build_engine("openai", model="m", environ=environ).models[0].id == "m"


@pytest.mark.parametrize(
    ("name", "environ", "message"),
    [
        ("gpt", {}, "unknown engine 'gpt': use one of offline, openai"),
        (
            "openai",
            {"OPENAI_API_KEY": " "},
            (
                "the engine openai needs OPENAI_API_KEY (for api.openai.com) "
                "or OPENAI_BASE_URL (for another endpoint, e.g. http://127.0.0.1:8000/v1)"
            ),
        ),
        (
            "openai",
            {"OPENAI_API_KEY": "sk-ü"},
            "OPENAI_API_KEY holds a character that no HTTP header can carry",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    name: str, environ: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=r"engine|OPENAI") as caught:
        build_engine(name, model=None, environ=environ)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://h/v1", "http://", "http://h:99999", "http://[", "/v1"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^OPENAI_BASE_URL is not an http or https URL: "):
        build_engine("openai", model=None, environ={"OPENAI_BASE_URL": url})


def test_no_engine_loads_the_openai_package_before_it_is_asked() -> None:
    """It costs most of a second, and the first answer is due 0.4 s after the start."""
    code = (
        "import sys; from core_server.engines.opening import build_engine; "
        f"build_engine('openai', model=None, environ={{'OPENAI_BASE_URL': '{URL}'}}); "
        "sys.exit('openai' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
