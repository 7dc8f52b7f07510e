"""Pins of the images: base images by digest, packages by version and hash."""

import re
import tomllib
from collections.abc import Iterable
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.tool import ROOT

IMAGE: Final = ROOT / "deploy/image"
REQUIREMENTS: Final = IMAGE / "requirements.txt"
BUILD_REQUIREMENTS: Final = IMAGE / "build-requirements.txt"
VALKEY: Final = ROOT / "deploy/images/valkey"
LOCKED: Final = (REQUIREMENTS, BUILD_REQUIREMENTS, VALKEY / "requirements.txt")
EXTRAS: Final = ("otel", "jwt", "server")
_PINNED_IMAGE: Final = re.compile(r"python:3\.11(-slim)?@sha256:[0-9a-f]{64}")


def _read(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def _pins(text: str) -> dict[str, str]:
    """Return the version of each pinned package."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def _names(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(each).name) for each in requirements}


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    """Return the content of `pyproject.toml`."""
    return tomllib.loads(_read("pyproject.toml"))


@pytest.mark.parametrize("file", LOCKED, ids=lambda file: "/".join(file.parts[-2:]))
def test_locked_versions_are_the_constraints(file: Any) -> None:
    """Each package has the version in `constraints.txt`, and a hash; no index is named."""
    text = file.read_text(encoding="utf-8")
    constraints = _pins(_read("constraints.txt"))
    pins = _pins(text)
    assert pins
    assert pins == {name: constraints.get(name) for name in pins}
    for block in re.split(r"\n(?=[\w.-]+==)", text)[1:]:
        first, *hashes = block.strip().split(" \\\n")
        assert hashes, first
        assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}", each) for each in hashes), first
    assert "://" not in text


def test_locked_requirements_are_complete(pyproject: dict[str, Any]) -> None:
    """The files have every dependency of the image, and every one of the wheel's build."""
    project = pyproject["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    assert _names(wanted) <= _pins(REQUIREMENTS.read_text(encoding="utf-8")).keys()
    hook = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    build = [*pyproject["build-system"]["requires"], *hook["dependencies"]]
    assert _names(build) <= _pins(BUILD_REQUIREMENTS.read_text(encoding="utf-8")).keys()
    for each in map(Requirement, (*wanted, *build)):
        version = _pins(_read("constraints.txt"))[canonicalize_name(each.name)]
        assert each.specifier.contains(version, prereleases=True), each


def test_base_images_have_one_digest() -> None:
    """Both Dockerfiles and the kind cluster have the same base images, each with its digest."""
    found = {
        file: dict(re.findall(r"^(?:ARG )?(BASE_IMAGE|BUILD_IMAGE)=(\S+)$", text, re.MULTILINE))
        for file, text in (
            ("Dockerfile", _read("Dockerfile")),
            ("images.env", _read("deploy", "kind", "images.env")),
            ("valkey", (VALKEY / "Dockerfile").read_text(encoding="utf-8")),
        )
    }
    images = found["Dockerfile"]
    assert found["images.env"] == images
    assert found["valkey"] == {"BASE_IMAGE": images["BASE_IMAGE"]}
    assert all(_PINNED_IMAGE.fullmatch(each) for each in images.values())


def test_images_have_one_version() -> None:
    """Compose file, manifests, chart and script of CI name the versions of the kind cluster."""
    pinned = dict(
        re.findall(r"=([\w./-]+):(v?\d[\w.-]*)$", _read("deploy/kind/images.env"), re.MULTILINE)
    )
    files = [
        ROOT / "deploy/compose.yaml",
        ROOT / "charts/fleetlimit/Chart.yaml",
        ROOT / ".ci/offline",
        *(ROOT / "deploy/observability").glob("*.yaml"),
        *(ROOT / "deploy/kind").rglob("*.yaml"),
    ]
    image = re.compile(rf"({'|'.join(map(re.escape, pinned))}):(v?\d[\w.-]*)")
    named = [(file.name, *found) for file in files for found in image.findall(file.read_text())]
    assert {name for _, name, _ in named} >= {"valkey/valkey", "quay.io/prometheus/prometheus"}
    assert [each for each in named if each[2] != pinned[each[1]]] == []


@pytest.mark.parametrize("path", ["Dockerfile", "deploy/images/valkey/Dockerfile"])
def test_images_install_from_hashed_files_only(path: str) -> None:
    """Each pip command verifies hashes, or installs the wheel that was built before."""
    text = re.sub(r"^#.*\n|\\\n", "", _read(path), flags=re.MULTILINE)
    commands = re.findall(r"bin/pip (?!&)[^&;]*", text)
    installs = [each for each in commands if re.search(r" (install|download|wheel) ", each)]
    assert installs
    for each in installs:
        assert "--require-hashes" in each or "--no-deps" in each, each
        assert "--require-hashes" in each or re.search(r" \.\s*$|/wheels/\*\.whl", each), each
