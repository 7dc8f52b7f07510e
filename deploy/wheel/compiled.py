"""A build hook that compiles what sees every request, with mypyc and a C compiler.

Off unless it is asked for: `HATCH_BUILD_HOOK_ENABLE_CUSTOM=true pip wheel --no-deps .` makes a
wheel for the interpreter and the platform at hand. Without it the wheel is Python alone, does the
same, and takes more CPU for it: `benchmarks/run.py allow` measures both.

Not hatch-mypyc, which writes what it compiles among the sources and hides `pyproject.toml` then.
"""

import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from mypyc.build import mypycify
from setuptools import Distribution
from setuptools.command.build_ext import build_ext

# Types were checked before; here they are only read, and whatever versions are installed will do.
_MYPY = """[mypy]
plugins = pydantic.mypy
mypy_path = {source}
explicit_package_bases = True
namespace_packages = True
follow_imports = silent
ignore_missing_imports = True
"""


class CompiledHook(BuildHookInterface[Any]):
    """Puts the compiled modules beside the sources that they were made of."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the modules that `pyproject.toml` names."""
        if version == "editable":
            return
        # It is gone when this process is, after everything was packed.
        self._folder = tempfile.TemporaryDirectory(prefix="fleetlimit-compiled-")
        folder, source = Path(self._folder.name), Path(self.root, "app")
        config = folder / "mypy.ini"
        config.write_text(_MYPY.format(source=source), "utf-8")
        paths = [str(source / "fleetlimit" / f"{name}.py") for name in self.config["modules"]]
        extensions = mypycify(
            [f"--config-file={config}", *paths],
            opt_level="3",
            target_dir=str(folder / "c"),
            group_name="fleetlimit",
        )
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
