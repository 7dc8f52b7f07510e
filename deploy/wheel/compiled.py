"""Hatchling build hook that compiles the modules of the hot path with mypyc.

It is disabled by default. `HATCH_BUILD_HOOK_ENABLE_CUSTOM=true pip wheel --no-deps .` builds a
wheel for the current interpreter and platform, and needs a C compiler. The default wheel is pure
Python. It behaves the same and needs more CPU: `benchmarks/run.py allow` measures both.

hatch-mypyc is no alternative: it writes its output among the sources and hides `pyproject.toml`
during the build.
"""

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from mypyc.build import mypycify
from setuptools import Distribution
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent))
from native_init import with_native_init

# mypyc only reads the types. `follow_imports = silent` accepts any version of the dependencies.
_MYPY = """[mypy]
plugins = pydantic.mypy
mypy_path = app
explicit_package_bases = True
namespace_packages = True
follow_imports = silent
ignore_missing_imports = True
"""

# Functions of the library call one another directly, and those of Python through one table in place
# of two. A check then touches fewer cache lines.
_FLAGS = ["-fvisibility=hidden", *(["-fno-plt"] if sys.platform == "linux" else [])]


class CompiledHook(BuildHookInterface[Any]):
    """Adds the compiled modules to the wheel, next to their sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the modules listed in `pyproject.toml`."""
        if version == "editable":
            return
        # Deleted at the end of the process: hatchling packs the files after this method returns.
        self._folder = tempfile.TemporaryDirectory(prefix="fleetlimit-compiled-")
        folder = Path(self._folder.name)
        shutil.copytree(Path(self.root, "app"), folder / "app")
        (folder / "mypy.ini").write_text(_MYPY, "utf-8")
        paths = [f"app/fleetlimit/{name}.py" for name in self.config["modules"]]
        for path in paths:
            source = folder / path
            source.write_text(with_native_init(source.read_text("utf-8")), "utf-8")
        # Tracebacks then have paths below `app`, on every machine.
        with contextlib.chdir(folder):
            extensions = mypycify(
                ["--config-file=mypy.ini", *paths],
                opt_level="2",
                target_dir=str(folder / "c"),
                group_name="fleetlimit",
            )
        if sys.platform != "win32":
            for each in extensions:
                each.extra_compile_args += _FLAGS
        command = build_ext(Distribution({"name": "fleetlimit", "ext_modules": extensions}))
        command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "temp")
        command.ensure_finalized()
        command.run()
        library = folder / "lib"
        build_data["force_include"].update(
            {
                str(each): str(each.relative_to(library))
                for each in library.rglob("*.*")
                if each.is_file()
            }
        )
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
